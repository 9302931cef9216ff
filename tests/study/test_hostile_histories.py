"""Damaged and hostile histories and study files: one plain line that names the file, and nothing waited for."""

import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from mnist_minimal import files, recipes
from mnist_minimal.analysis import figures, summaries
from mnist_minimal.errors import UserError
from mnist_minimal.study.policies import MedianStopping
from mnist_minimal.study.study import Study
from mnist_minimal.trial import EpochReport
from tests.study.test_ledger import TRIAL

HEADER = "epoch,accuracy,learning_rate,loss,val_accuracy,val_loss"


def history(*rows: str) -> bytes:
    return "\n".join([HEADER, *rows, ""]).encode()


VALID = history("0,0.5,0.01,1.5,0.6,1.4", "1,0.7,0.01,1.0,0.8,0.9")

HOSTILE = {
    "bytes": bytes(range(256)) * 10,
    "NUL bytes": VALID.replace(b"0.6", b"\0\0\0"),
    "one huge field": history("0,0.5,0.01,1.5,0." + "6" * 200_000 + "x,1.4"),
    "an open quote": history('0,0.5,0.01,1.5,"0.6,1.4'),
    "words": history("0,0.5,0.01,1.5,high,1.4"),
    "no number": history("0,0.5,0.01,1.5,nan,1.4"),
    "endless": history("0,0.5,0.01,1.5,inf,1.4"),
    "more than all": history("0,0.5,0.01,1.5,1e300,1.4"),
    "other columns": b"epoch,\x1b[31mloss\n0,1\n",
    "too few fields": history("0,0.5"),
}


def compare(path: Path) -> None:
    """What the median stopping rule reads when seed 5 comes to its epoch: the history of seed 4."""
    study = Study.at(path.parent.with_suffix(".csv"))
    assert study.history(4) == path
    rule = MedianStopping(recipes.MedianStopping(trials=1, epoch=1, window=1), study, [replace(TRIAL, seed=4)], 100)
    rule.trial_started(5)
    report = EpochReport(5, 1, 1, 2, 0.5, 0.5, Fraction(50))
    rule.epoch_ended(report)
    rule.reason_to_stop(report)


READERS = {"plots": figures.read_history, "median stopping": compare}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "sep997").mkdir()
    return tmp_path / "sep997" / "4.csv"


def refused(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith((f"{path}: expected ", f"{path}: found "))
    assert message.isprintable()
    assert len(message) < 700
    return message


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_valid_history_is_read(read, path):
    path.write_bytes(VALID)
    read(path)
    path.write_bytes(VALID.replace(b"\n", b"\r\n"))
    read(path)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_history_is_refused_with_its_name(read, content, path):
    path.write_bytes(content)
    refused(read, path)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_huge_history_is_refused_and_not_read(read, path):
    path.write_bytes(VALID)
    os.truncate(path, 10**12)
    assert "expected a file of at most 10,000,000 bytes, found a larger one" in refused(read, path)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_folder_in_place_of_a_history_is_refused(read, path):
    path.mkdir()
    assert "expected a file, found a folder, a pipe or a device" in refused(read, path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with named pipes")
@pytest.mark.parametrize("read", [*READERS.values(), files.read_json], ids=[*READERS, "JSON"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(read, path):
    os.mkfifo(path)
    assert "expected a file, found a folder, a pipe or a device" in refused(read, path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff", b"1" * 10_000, b""])
def test_a_hostile_json_is_refused_with_its_name(content, path):
    path.write_bytes(content)
    refused(files.read_json, path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with named pipes")
def test_pipes_folders_and_other_files_among_the_results_are_passed_over(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 10)
    with (tmp_path / "one_line.csv").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(UserError, match=r"found no CSV of trials but .*, expected CSVs with finished trials"):
        summaries.find_studies(tmp_path)
