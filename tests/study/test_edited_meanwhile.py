"""The CSV edited in a spreadsheet while a job runs and between two jobs: no row and no edit is lost unsaid."""

import csv
import io
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mnist_minimal.study import ledger, table
from tests.jobs import Job
from tests.whole import whole_only

RUNS = 8
OPTIONS = ("--epochs", "2", "--trainer", "native", "--runs")
MARK = "mine"

Rows = list[list[str]]


def written(rows: Rows, delimiter: str = ",", line_end: str = "\n", quoting: int = csv.QUOTE_MINIMAL) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting).writerows(rows)
    return text.getvalue()


def as_excel_does(path: Path, rows: Rows) -> None:
    rows = [[*row, MARK] for row in rows]
    path.write_text(written(rows, ";", "\r\n"), encoding="utf-8-sig", newline="")


def as_pandas_does(path: Path, rows: Rows) -> None:
    """With whole numbers as 7.0."""
    whole = [rows[0].index(name) for name in ("seed", "epochs", "best_epoch", "test_correct")]
    for row in rows[1:]:
        for index in whole:
            row[index] += ".0"
    path.write_text(written(rows))


def all_quoted(path: Path, rows: Rows) -> None:
    path.write_text(written(rows, quoting=csv.QUOTE_ALL))


def in_another_order_by_another_file(path: Path, rows: Rows) -> None:
    other = path.with_name("saved.tmp")
    other.write_text(written([rows[0], *rows[:0:-1]]))
    other.replace(path)


def with_rows_of_commas(path: Path, rows: Rows) -> None:
    empty = [""] * len(rows[0])
    path.write_text(written([rows[0], empty, *rows[1:], empty, empty]))


def with_another_note(path: Path, rows: Rows) -> None:
    rows[1][rows[0].index("reason")] = MARK
    path.write_text(written(rows))


def without_its_first_row(path: Path, rows: Rows) -> None:
    path.write_text(written([rows[0], *rows[2:]]))


def as_it_was_opened_before(path: Path, rows: Rows) -> None:
    path.write_text(written(rows[:2]))


def removed(path: Path, rows: Rows) -> None:
    path.unlink()


def with_a_row_of_its_own(path: Path, rows: Rows) -> None:
    row = list(rows[1])
    row[rows[0].index("seed")], row[rows[0].index("version")] = str(RUNS - 1), MARK
    path.write_text(written([*rows, row]))


def in_utf16(path: Path, rows: Rows) -> None:
    path.write_text(written(rows), encoding="utf-16")


@dataclass(frozen=True)
class Edit:
    """What is done to a CSV of some rows.

    Attributes:
        change: Given the file and its rows, the header first.
        marks: How many marks of the user's there are for a file of two rows.
        removed: How many of its first two rows go, and are to be reported.
        error: What a job says that can't go on.
    """

    change: Callable[[Path, Rows], None]
    marks: int = 0
    removed: int = 0
    error: str = ""


EDITS = [
    Edit(as_excel_does, marks=3),
    Edit(as_pandas_does),
    Edit(all_quoted),
    Edit(in_another_order_by_another_file),
    Edit(with_rows_of_commas),
    Edit(with_another_note, marks=1),
    Edit(without_its_first_row, removed=1),
    Edit(as_it_was_opened_before, removed=1),
    Edit(removed, removed=2),
    Edit(with_a_row_of_its_own, marks=1),
    Edit(in_utf16, error="found a text that is not in UTF-8, expected a CSV of trials"),
]
# The others are made between two jobs; with MNIST_MINIMAL_WHOLE=1 all are, both ways.
WHILE_IT_RUNS = (as_excel_does, removed, as_it_was_opened_before, without_its_first_row)


def rows_of(path: Path) -> Rows:
    """The first two rows, behind the header; what a spreadsheet shows that has opened the file then."""
    lines = path.read_bytes().decode().splitlines(keepends=True) if path.exists() else []
    return list(csv.reader(line for line in lines[:3] if line.endswith("\n")))


def seeds_aside(job: Job) -> list[int]:
    """The seeds of the rows beside the CSV."""
    path = job.csv.with_name(f"{job.csv.name}.torn")
    text = path.read_text() if path.exists() else ""
    layout = table.Layout(delimiter=";") if ";" in text else table.Layout()
    return [trial.seed for line in text.splitlines() if (trial := table.read_row(line, layout))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(edit, id=edit.change.__name__, marks=() if edit.change in WHILE_IT_RUNS else whole_only)
        for edit in EDITS
    ],
)
def test_while_a_job_runs(tmp_path, edit):
    job = Job(tmp_path, (*OPTIONS, str(RUNS)), model="sep697")
    running = job.start()
    while len(rows := rows_of(job.csv)) < 3:
        assert running.process.is_alive(), running.output.read_text()
        time.sleep(0.01)
    os.kill(running.process.pid, signal.SIGSTOP)
    try:
        # Those that the user has not seen are removed too.
        before = {trial.seed for trial in ledger.read(job.csv)}
        edit.change(job.csv, rows)
        content = job.csv.read_bytes() if job.csv.exists() else b""
    finally:
        os.kill(running.process.pid, signal.SIGCONT)
    status, output = running.ended()
    if edit.error:
        assert status == 2
        assert edit.error in output
        assert job.csv.read_bytes() == content
        job.csv.write_text(written(rows))
    else:
        assert status == 0, output
        there = {trial.seed for trial in ledger.read(job.csv)}
        assert there | set(seeds_aside(job)) == set(range(RUNS))
        gone = before - there
        assert len(gone & {0, 1}) == edit.removed
        for seed in gone:
            assert seed in seeds_aside(job)
        assert ("another program has removed the rows of seed" in output) == bool(gone)
        assert content in job.csv.read_bytes()
    # The same command trains what is missing.
    status, output = job.run()
    assert status == 0, output
    assert {trial.seed for trial in ledger.read(job.csv)} == set(range(RUNS))
    marks = job.csv.read_bytes().count(MARK.encode())
    assert marks == edit.marks


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(edit, id=edit.change.__name__, marks=whole_only if edit.change in WHILE_IT_RUNS else ())
        for edit in EDITS
    ],
)
def test_between_two_jobs(tmp_path, edit):
    first = Job(tmp_path, (*OPTIONS, "2"), model="sep697")
    status, output = first.run()
    assert status == 0, output
    before = first.csv.read_bytes()
    edit.change(first.csv, rows_of(first.csv))
    content = first.csv.read_bytes() if first.csv.exists() else b""
    job = Job(tmp_path, (*OPTIONS, str(RUNS)), model="sep697")
    status, output = job.run()
    if edit.error:
        assert status == 2
        assert edit.error in output
        assert job.csv.read_bytes() == content
        job.csv.write_bytes(before)
        status, output = job.run()
    assert status == 0, output
    assert ("found no row of seed" in output) == bool(edit.removed)
    assert {trial.seed for trial in ledger.read(job.csv)} == set(range(RUNS))
    assert job.csv.read_bytes().count(MARK.encode()) == edit.marks
