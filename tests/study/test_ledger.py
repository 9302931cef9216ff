"""The CSV of trials: what is appended stays, whatever happens to the file."""

import multiprocessing
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from mnist_minimal import files
from mnist_minimal.errors import UserError
from mnist_minimal.study import ledger, table
from mnist_minimal.study.ledger import COLUMNS, HEADER, Ledger
from mnist_minimal.study.ownership import owned
from mnist_minimal.study.study import Study
from mnist_minimal.trial import Trial

TRIAL = Trial(
    model="sep997",
    params=997,
    dataset="mnist",
    protocol="source",
    trainer="keras",
    seed=0,
    epochs=71,
    best_epoch=46,
    saved_accuracy=0.9876,
    best_accuracy=0.9881,
    test_correct=9881,
    test_size=10_000,
    train_seconds=1234.5,
    cpu_seconds=2345.6,
    finished_at="2026-01-02T03:04:05+00:00",
    version="0.1.0",
    weights="sep997/0.h5",
    max_epochs=200,
    backend="tensorflow on cpu, keras 3.15.1",
)
FAILED = replace(
    TRIAL,
    epochs=None,
    best_epoch=None,
    saved_accuracy=None,
    best_accuracy=None,
    test_correct=None,
    train_seconds=None,
    cpu_seconds=None,
    weights="",
    backend="",
    reason='MemoryError: no room for 7 "GB", sorry',
    status="failed",
)

STOPPED = replace(
    TRIAL, epochs=100, reason="median stopping at epoch 100: 0.979870 < 0.981200 (median of 30)", status="stopped"
)


def append_row(path: Path, trial: Trial) -> bool:
    """Appends a trial to a CSV as the process that owns its study does."""
    return Ledger(Study.at(path)).append(trial)


def append(path: Path, *seeds: int) -> None:
    for seed in seeds:
        assert append_row(path, replace(TRIAL, seed=seed))


def seeds(path: Path) -> list[int]:
    return [trial.seed for trial in ledger.read(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sep997.csv"


def test_the_first_columns_are_those_that_were_agreed():
    assert HEADER.startswith(
        "model,params,dataset,protocol,trainer,seed,epochs,best_epoch,saved_accuracy,best_accuracy,test_correct,test_size,"
        "train_seconds,cpu_seconds,finished_at,version,weights"
    )


def test_what_is_appended_is_read_again(path):
    append_row(path, TRIAL)
    append_row(path, replace(FAILED, seed=1))
    assert ledger.read(path) == [TRIAL, replace(FAILED, seed=1)]


def test_pandas_reads_the_file_as_it_is(path):
    append(path, 0, 1, 2)
    table = pandas.read_csv(path)
    assert list(table.columns) == list(COLUMNS)
    assert table["seed"].tolist() == [0, 1, 2]
    assert table["best_accuracy"].tolist() == [0.9881] * 3
    pandas.testing.assert_frame_equal(ledger.frame(path)[["seed", "best_accuracy"]], table[["seed", "best_accuracy"]])


def test_no_csv_is_no_trials(path):
    assert ledger.read(path) == []


def test_a_finished_seed_is_not_appended_twice(path):
    append(path, 4)
    before = path.read_bytes()
    assert not append_row(path, replace(TRIAL, seed=4, saved_accuracy=0.5))
    assert path.read_bytes() == before


def test_a_failed_seed_may_finish_later(path):
    append_row(path, FAILED)
    assert append_row(path, TRIAL)
    assert ledger.finished(ledger.read(path)) == [TRIAL]


def test_a_stopped_seed_is_done_and_not_finished(path):
    append_row(path, replace(FAILED, seed=1))
    append_row(path, replace(STOPPED, seed=2))
    append(path, 3)
    assert not append_row(path, replace(TRIAL, seed=2))
    rows = ledger.read(path)
    assert rows[1] == replace(STOPPED, seed=2)
    assert [trial.seed for trial in ledger.finished(rows)] == [3]
    assert [trial.seed for trial in ledger.done(rows)] == [2, 3]


def test_an_error_of_several_lines_stays_one_row(path):
    append_row(path, replace(FAILED, reason="first\nsecond\r\nthird, fourth"))
    assert len(path.read_text().splitlines()) == 2
    assert ledger.read(path)[0].reason == "first second third, fourth"


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_row_cut_short_is_read_over_and_moved_aside_by_the_next_append(path, kept, capsys):
    append(path, 0, 1)
    whole = path.read_bytes()
    row = whole.splitlines(keepends=True)[-1]
    cut = row[: len(row) * kept // 12]
    path.write_bytes(whole[: -len(row)] + cut)
    assert seeds(path) == [0]
    append(path, 2, 1)
    assert seeds(path) == [0, 2, 1]
    assert path.with_name("sep997.csv.torn").read_bytes() == cut + b"\n"
    assert (
        capsys.readouterr().err == f"{path}: its last line was torn, no whole row, and is kept in sep997.csv.torn now\n"
    )


def test_what_is_moved_aside_comes_behind_what_is_there(path):
    append(path, 0)
    path.with_name("sep997.csv.torn").write_text("before\n")
    path.write_bytes(path.read_bytes() + b"sep997,99")
    append(path, 1, 2)
    assert path.with_name("sep997.csv.torn").read_text() == "before\nsep997,99\n"
    assert seeds(path) == [0, 1, 2]


@pytest.mark.parametrize("place", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_where_nothing_can_be_moved_aside_the_csv_stays_as_it_is(path, place):
    append(path, 0)
    path.write_bytes(path.read_bytes() + b"sep997,99")
    before = path.read_bytes()
    place(path.with_name("sep997.csv.torn"))
    with pytest.raises(UserError, match=r"sep997\.csv\.torn: "):
        append(path, 1)
    assert path.read_bytes() == before
    # It is found before anything is trained.
    with pytest.raises(UserError, match=r"sep997\.csv\.torn: "), owned(Study.at(path)):
        pass


def test_a_row_that_lacks_only_its_end_is_kept(path):
    append(path, 0, 1)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert seeds(path) == [0, 1]
    append(path, 2)
    assert seeds(path) == [0, 1, 2]


@pytest.mark.parametrize("kept", [0, 1, 40, len(HEADER)])
def test_a_header_cut_short_is_written_anew(path, kept):
    path.write_text(HEADER[:kept])
    assert seeds(path) == []
    append(path, 5)
    assert seeds(path) == [5]


def test_windows_line_ends_are_read_and_kept(path):
    append(path, 0)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    append(path, 1)
    assert seeds(path) == [0, 1]
    assert path.read_bytes().count(b"\r\n") == path.read_bytes().count(b"\n") == 3


def test_a_spreadsheet_s_byte_order_mark_does_no_harm(path):
    append(path, 0)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    append(path, 1)
    assert seeds(path) == [0, 1]


def test_other_columns_are_refused_and_nothing_is_written(path):
    path.write_text("model,seed\nsep997,3\n")
    with pytest.raises(UserError, match=r"sep997\.csv: found no column params, dataset, .* and 14 more of a table"):
        append_row(path, TRIAL)
    assert path.read_text() == "model,seed\nsep997,3\n"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (",0.9876,", ",1.9876,", r"line 3.*saved_accuracy '1\.9876'"),
        (",71,", ",many,", "line 3.*epochs 'many'"),
        (",finished", ",done", "line 3.*status 'done'"),
        (",997,", ",", "line 3.*20 fields instead of 21"),
        (",0.9876,", ",,", "line 3.*a finished trial with an empty field"),
    ],
)
def test_a_row_edited_by_hand_into_no_trial_is_named_by_its_line(path, old, new, complaint):
    append(path, 0, 1, 2)
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(old, new)
    path.write_text("".join(lines))
    with pytest.raises(UserError, match=complaint):
        ledger.read(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=complaint):
        append_row(path, replace(TRIAL, seed=9))
    assert path.read_bytes() == before


def test_bytes_that_are_no_text_are_refused(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(UserError, match=r"sep997\.csv: found a picture \(PNG\), expected a CSV of trials"):
        ledger.read(path)


def test_what_another_program_writes_meanwhile_is_read_and_kept(path):
    kept = Ledger(Study.at(path))
    for seed in range(3):
        kept.append(replace(TRIAL, seed=seed))
    with path.open("ab") as file:
        file.write(table.format_row(replace(TRIAL, seed=7)).encode())
    assert not kept.append(replace(TRIAL, seed=7))
    assert kept.append(replace(TRIAL, seed=8))
    assert [trial.seed for trial in kept.trials()] == seeds(path) == [0, 1, 2, 7, 8]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert [trial.seed for trial in kept.trials()] == [0]
    assert kept.append(replace(TRIAL, seed=1))
    assert seeds(path) == [0, 1]


def test_as_many_bytes_are_read_for_the_last_row_as_for_the_first(path, monkeypatch):
    table = Ledger(Study.at(path))
    read: list[Path] = []
    really_read = files.read
    monkeypatch.setattr(files, "read", lambda path, most: (read.append(path), really_read(path, most))[1])
    for seed in range(50):
        table.append(replace(TRIAL, seed=seed))
    assert read == []
    assert seeds(path) == list(range(50))


def _append_without_room(path: Path) -> None:
    # The kernel takes the first bytes of a write that crosses the limit, and refuses the rest.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, resource.RLIM_INFINITY))
    with pytest.raises(UserError, match=r"sep997\.csv: the row of a finished trial can't be written"):
        append_row(path, replace(TRIAL, seed=1))


def test_a_full_disk_leaves_the_csv_as_it_was(path):
    append(path, 0)
    before = path.read_bytes()
    process = multiprocessing.get_context("fork").Process(target=_append_without_room, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert path.read_bytes() == before


def test_a_trial_that_could_not_be_read_again_is_not_written(path):
    append(path, 0)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"saved_accuracy '1\.5'"):
        append_row(path, replace(TRIAL, seed=1, saved_accuracy=1.5))
    assert path.read_bytes() == before


def test_a_row_is_on_disk_when_append_returns(path, monkeypatch):
    synced = []
    really_sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), really_sync(descriptor))[1])
    append(path, 0)
    assert synced


def test_accuracies_are_those_of_finished_trials():
    trials = [TRIAL, FAILED, replace(TRIAL, saved_accuracy=0.98, test_correct=9700)]
    assert ledger.accuracies(trials, "saved") == [0.9876, 0.98]
    assert ledger.accuracies(trials, "best") == [0.9881, 0.9881]
    assert ledger.accuracies(trials, "test") == [0.9881, 0.97]
