"""`merge`: studies of several folders joined, what does not belong together refused by name, nothing overwritten."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mnist_minimal import merge, trials
from mnist_minimal.cli.run import run
from mnist_minimal.study import history, ledger, packed, table
from mnist_minimal.study.study import Study
from mnist_minimal.training import core
from tests.jobs import without_times
from tests.study.test_ledger import FAILED, append_row

pytestmark = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")

NAME = "sep697-digits"
OPTIONS = ("--model", "sep697", "--dataset", "digits", "--epochs", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Seeds 0 and 1 in `a`, 1 and 2 in `b`, and all three in `whole`, each trained by a command of its own."""
    folder = tmp_path_factory.mktemp("trained")
    for out, seed, runs in (("a", "0", "2"), ("b", "1", "2"), ("whole", "0", "3")):
        assert run(trials.main, [*OPTIONS, "--seed", seed, "--runs", runs, "--out", str(folder / out)]) == 0
    return folder


@pytest.fixture
def folders(trained, tmp_path) -> list[Path]:
    """Copies of `a` and `b`, to be tampered with."""
    import shutil

    return [Path(shutil.copytree(trained / name, tmp_path / name)) for name in ("a", "b")]


def contents(folder: Path) -> dict[Path, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def edit_row(study: Study, seed: int, **changed) -> None:
    rows = [replace(trial, **changed) if trial.seed == seed else trial for trial in ledger.read(study.csv)]
    study.csv.write_text(table.HEADER + "\n" + "".join(map(table.format_row, rows)))


def test_joined_trials_are_those_of_one_machine(run_main, folders, trained, tmp_path):
    before = [contents(folder) for folder in folders]
    done = run_main(merge.main, *folders, "--out", tmp_path / "c")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{tmp_path}/c/{NAME}.csv: 3 trials, 3 with a model, of {folders[0]} (2), {folders[1]} (2), 1 of them the same "
        "in more than one\n"
    )
    joined, whole = Study(tmp_path / "c", NAME), Study(trained / "whole", NAME)
    assert [trial.seed for trial in ledger.read(joined.csv)] == [0, 1, 2]
    rows = [list(map(without_times, ledger.read(study.csv))) for study in (joined, whole)]
    assert rows[0] == rows[1]
    for seed in range(3):
        assert joined.weights(seed).read_bytes() == whole.weights(seed).read_bytes()
        assert joined.history(seed).read_bytes() == whole.history(seed).read_bytes()
    assert json.loads(joined.json.read_text()) == json.loads(whole.json.read_text())
    assert [contents(folder) for folder in folders] == before
    # What is joined is a study like any other: the next trials go on in it.
    assert run(trials.main, [*OPTIONS, "--runs", "4", "--out", str(tmp_path / "c")]) == 0
    assert [trial.seed for trial in ledger.read(joined.csv)] == [0, 1, 2, 3]


def test_what_is_in_one_folder_is_kept_and_failures_too(run_main, folders, tmp_path):
    append_row(folders[0] / "other.csv", replace(FAILED, seed=7))
    append_row(folders[1] / f"{NAME}.csv", failed := replace(ledger.read(folders[1] / f"{NAME}.csv")[0], **FAILURE))
    Study(folders[1], NAME).weights(2).unlink()
    done = run_main(merge.main, *folders, "--out", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    assert f"{NAME}.csv: 3 trials, 2 with a model" in done.stdout
    assert ledger.read(tmp_path / "c/other.csv") == [replace(FAILED, seed=7)]
    assert failed in ledger.read(tmp_path / f"c/{NAME}.csv")


FAILURE = {
    **dict.fromkeys(("epochs", "best_epoch", "saved_accuracy", "best_accuracy", "test_correct")),
    **{"train_seconds": None, "cpu_seconds": None, "weights": "", "backend": "", "seed": 9, "status": "failed"},
}


def with_fact(**changed):
    def change(study: Study) -> None:
        facts = json.loads(study.json.read_text())
        facts |= {name: value(facts[name]) if callable(value) else value for name, value in changed.items()}
        study.json.write_text(json.dumps(facts))

    return change


def without_json(study: Study) -> None:
    study.json.unlink()


def without_numerics(study: Study) -> None:
    facts = json.loads(study.json.read_text())
    del facts["numerics"]
    study.json.write_text(json.dumps(facts))


def with_rows(**changed):
    def change(study: Study) -> None:
        for trial in ledger.read(study.csv):
            edit_row(study, trial.seed, **changed)

    return change


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (with_fact(recipe=lambda found: found | {"batch_size": 32}), "recipe.batch_size 16, found 32"),
        (with_fact(data=lambda found: found | {"x_train": 64 * "0"}), f"found {64 * '0'}"),
        (with_fact(layers=lambda found: found | {"1 Conv2D": {"filters": 9}}), "layers."),
        (with_fact(trainer="keras"), "trainer native, found keras"),
        (with_fact(numerics=core.NUMERICS + 1), f"numerics {core.NUMERICS}, found {core.NUMERICS + 1}"),
        (with_fact(max_epochs=2), "max_epochs 1, found 2"),
        (with_fact(callbacks=["Mine"]), "callbacks [], found ['Mine']"),
        (with_fact(future="x"), "future nothing recorded, found x"),
        (without_numerics, f"numerics {core.NUMERICS}, found 0"),
        (without_json, "found nothing recorded"),
        (with_rows(params=698), "params 697, found 698"),
    ],
)
def test_what_does_not_belong_together_is_refused_by_name(run_main, folders, tmp_path, change, differing):
    change(Study(folders[1], NAME))
    refused = run_main(merge.main, *folders, "--out", tmp_path / "c")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: {folders[1]}/{NAME}.csv: expected a study that belongs to {folders[0]}")
    assert differing in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_seed_with_two_rows_is_refused_by_its_number(run_main, folders, tmp_path):
    study = Study(folders[1], NAME)
    row = next(trial for trial in ledger.read(study.csv) if trial.seed == 1)
    # What the machine and the day decide may differ.
    edit_row(study, 1, train_seconds=9.0, cpu_seconds=9.0, finished_at="2020-01-01", version="0", backend="c++ neon")
    assert run_main(merge.main, *folders, "--out", tmp_path / "same").returncode == 0
    edit_row(study, 1, test_correct=row.test_correct + 1)
    refused = run_main(merge.main, *folders, "--out", tmp_path / "c")
    assert refused.returncode == 2
    assert "expected the same row of seed 1 as the study joined before has, found another in test_correct" in (
        refused.stderr
    )
    assert not (tmp_path / "c").exists()


def test_packed_histories_are_joined_with_files(run_main, folders, trained, tmp_path):
    study = Study(folders[0], NAME)
    texts = {seed: history.text(study.history(seed)) for seed in (0, 1)}
    for seed in texts:
        study.history(seed).unlink()
    (study.folder / packed.NAME).write_bytes(packed.pack(texts))
    assert run_main(merge.main, *folders, "--out", tmp_path / "c").returncode == 0
    for seed in range(3):
        joined, whole = (Study(folder, NAME).history(seed) for folder in (tmp_path / "c", trained / "whole"))
        assert joined.read_bytes() == whole.read_bytes()


def test_nothing_is_overwritten(run_main, folders, tmp_path):
    for out, kept in ((folders[0], contents(folders[0])), (tmp_path / "file", None)):
        if kept is None:
            out.write_text("mine")
        refused = run_main(merge.main, *folders, "--out", out)
        assert refused.returncode == 2
        assert f"{out}: expected a new or empty folder, found something in its place" in refused.stderr
        assert out.read_text() == "mine" if kept is None else contents(out) == kept
    (tmp_path / "empty").mkdir()
    assert run_main(merge.main, *folders, "--out", tmp_path / "empty").returncode == 0


def test_a_folder_without_a_study_is_refused(run_main, folders, tmp_path):
    (tmp_path / "nothing").mkdir()
    for name in ("nothing", "absent"):
        refused = run_main(merge.main, folders[0], tmp_path / name, "--out", tmp_path / "c")
        assert refused.returncode == 2
        assert f"{tmp_path / name}: found no study in this folder, expected one or more" in refused.stderr
