"""Histories packed in one file: the same text comes out, everything that reads histories finds it, damage is named."""

import gzip
import re

import pandas
import pytest

import mnist_minimal as mm
from mnist_minimal.analysis.summaries import read_study
from mnist_minimal.errors import UserError
from mnist_minimal.page import charts
from mnist_minimal.recipes import MedianStopping
from mnist_minimal.study import history, ledger, packed, policies
from mnist_minimal.study.history import HistoryFile
from mnist_minimal.study.study import Study
from mnist_minimal.trial import EpochReport

EPOCHS = [
    {"loss": 2.25, "accuracy": 0.1, "val_loss": 2.0, "val_accuracy": 0.30000000000000004, "learning_rate": 1e-08},
    {
        "loss": 1 / 3,
        "accuracy": 0.5,
        "val_loss": float("inf"),
        "val_accuracy": 0.5,
        "learning_rate": 0.009999999776482582,
    },
]


@pytest.fixture
def study(tmp_path) -> Study:
    """A study of which two histories are packed and have no files of their own."""
    study = Study(tmp_path, "sep997")
    study.folder.mkdir()
    for seed in (10, 9):
        file = HistoryFile(study.history(seed))
        for epoch in EPOCHS[: 2 if seed == 9 else 1]:
            file.append(epoch)
    texts = {seed: study.history(seed).read_bytes().decode() for seed in (10, 9)}
    (study.folder / packed.NAME).write_bytes(packed.pack(texts))
    for seed in texts:
        study.history(seed).rename(tmp_path / f"{seed}.csv")
    return study


def test_each_seed_has_its_own_text(study):
    for seed in (9, 10):
        assert history.text(study.history(seed)).encode() == (study.out / f"{seed}.csv").read_bytes()
        assert history.exists(study.history(seed))
    assert history.read(study.history(9))["val_loss"] == [2.0, float("inf")]


def test_pandas_reads_it(study):
    table = pandas.read_csv(study.folder / packed.NAME)
    assert list(table["seed"]) == [9, 9, 10]
    assert list(table["learning_rate"]) == pytest.approx([1e-08, 0.009999999776482582, 1e-08], rel=1e-15)


def test_the_same_histories_are_the_same_bytes(study):
    data = (study.folder / packed.NAME).read_bytes()
    texts = packed.read(study.folder / packed.NAME)
    assert packed.pack(dict(sorted(texts.items(), reverse=True))) == data
    # Neither name nor time stands in the header, by RFC 1952.
    assert data[:8] == b"\x1f\x8b\x08\0\0\0\0\0"


def test_a_file_of_its_own_comes_before_the_packed_one(study):
    HistoryFile(study.history(9)).append(EPOCHS[1])
    assert history.read(study.history(9))["loss"] == [1 / 3]
    study.history(9).unlink()
    assert history.read(study.history(9))["loss"] == [2.25, 1 / 3]


def test_a_seed_that_is_in_neither_is_told_as_before(study):
    assert not history.exists(study.history(11))
    with pytest.raises(UserError, match=r"11\.csv: found no such file, expected the history of a trial"):
        history.read(study.history(11))


def test_a_packed_file_that_is_written_again_is_read_again(study):
    assert history.exists(study.history(10))
    texts = packed.read(study.folder / packed.NAME)
    (study.folder / packed.NAME).write_bytes(packed.pack({9: texts[9]}))
    assert not history.exists(study.history(10))


def test_histories_of_other_columns_are_not_packed_together():
    with pytest.raises(UserError, match="found epoch,loss of seed 1 and epoch,accuracy of seed 2; leave one out"):
        packed.pack({1: "epoch,loss\r\n0,1\r\n", 2: "epoch,accuracy\r\n0,1\r\n"})


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda data: data[:-9], "Compressed file ended before"),
        (lambda data: data[:40] + b"????" + data[44:], "expected the packed histories of a study; restore the file"),
        (lambda data: b"", "found an empty file"),
        (lambda data: gzip.decompress(data), "found a table as text (CSV) that begins with 'seed,epoch,"),
        (lambda data: gzip.compress(b"a,b\r\n1,2\r\n"), "found the columns a,b"),
        (lambda data: gzip.compress(b"seed,epoch\r\nx,2\r\n"), "invalid literal for int()"),
        (lambda data: gzip.compress(b"\xff\xfe"), "can't decode byte 0xff"),
    ],
)
def test_damage_is_named(study, damage, found):
    path = study.folder / packed.NAME
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as error:
        history.read(study.history(9))
    assert str(error.value).startswith(f"{path}: ")
    assert found in str(error.value)


@pytest.fixture
def trained(tmp_path) -> Study:
    """Five short trials on the digits, all of whose histories are packed."""
    mm.run_trials("sep697", runs=5, epochs=2, data="digits", out=tmp_path, progress=False)
    study = Study(tmp_path, "sep697-digits")
    texts = {seed: history.text(study.history(seed)) for seed in range(5)}
    (study.folder / packed.NAME).write_bytes(packed.pack(texts))
    for seed in texts:
        study.history(seed).unlink()
    return study


def test_all_that_read_histories_find_those_packed(trained, tmp_path):
    from mnist_minimal.analysis.figures import draw_study

    missing: list[str] = []
    curves = charts.curves(read_study(trained), missing)
    assert missing == []
    assert sorted(run["seed"] for run in curves["runs"]) == [0, 1, 2, 3, 4]
    assert [path.name for path in draw_study(read_study(trained), tmp_path)] == [
        "sep697-digits-distribution.png",
        "sep697-digits-curves.png",
    ]
    table = mm.read_trials(trained.csv).history(3)
    assert list(table["epoch"]) == [1, 2]
    rows = ledger.read(trained.csv)
    (trial,) = (trial for trial in rows if trial.seed == 3)
    assert table["val_accuracy"].iloc[-1] == trial.saved_accuracy
    # The median stopping rule compares with the recorded trials of lower seeds.
    rule = policies.MedianStopping(MedianStopping(trials=5, epoch=2, window=1), trained, rows, 297)
    rule.trial_started(7)
    milestone = policies.milestone([0.0], rule.rule, 297)
    report = EpochReport(7, 2, 2, 5, accuracy=0.0, best_accuracy=0.0, milestone=milestone)
    rule.epoch_ended(report)
    assert re.search(r"0\.000000 < 0\.\d+ \(median of 5\)", rule.reason_to_stop(report))


def test_a_study_with_packed_histories_goes_on(trained):
    study = mm.run_trials("sep697", runs=6, epochs=2, data="digits", out=trained.out, progress=False)
    assert len(study) == 6
    assert trained.history(5).is_file()
    assert [len(study.history(seed)) for seed in range(6)] == [2] * 6
