"""The table of trials on disk: a CSV that is appended to and survives what happens to files.

A row is written with its line end in one piece, flushed and synced before the next trial starts. What a crash can leave
is a last line without its end: it is read over, and moved to a file beside the CSV before the next row is written. Two
programs that append to one CSV take turns by a lock on a file of the same name with `.lock` added.
"""

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from mnist_minimal.errors import UserError

if TYPE_CHECKING:
    import pandas

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
MEASURES = ("saved", "best", "test")


@dataclass(frozen=True)
class Trial:
    """One trained model; the fields are the columns of the CSV. A failed trial has None where it has no figure.

    Attributes:
        model: Name of the model.
        params: Number of trainable parameters.
        dataset: Name of the data set.
        protocol: "source" or "holdout".
        trainer: "keras" or "native".
        seed: The seed of weights, order and dropout.
        epochs: Epochs trained.
        best_epoch: The first epoch with the highest monitored accuracy, counted from 1; its weights were kept if the
            recipe stops early, else the last epoch's.
        saved_accuracy: The last epoch's monitored accuracy, in [0, 1] (the source's word for it).
        best_accuracy: The best epoch's monitored accuracy, in [0, 1].
        test_correct: How many test images the kept weights classify rightly.
        test_size: Number of test images.
        train_seconds: Wall-clock time of the training.
        cpu_seconds: Processor time of the training.
        finished_at: When it ended, ISO 8601, UTC.
        version: Version of this package.
        weights: The saved model, relative to the CSV's folder.
        max_epochs: The cap on the epochs.
        backend: What the trainer ran on.
        reason: Why the trial was stopped or failed, or "".
        status: "finished"; "stopped", where the rule of `mnist_minimal.worse_half` ended it early; or "failed". It
            stands last so that a row cut short is known by it.
    """

    model: str
    params: int
    dataset: str
    protocol: str
    trainer: str
    seed: int
    epochs: int | None
    best_epoch: int | None
    saved_accuracy: float | None
    best_accuracy: float | None
    test_correct: int | None
    test_size: int
    train_seconds: float | None
    cpu_seconds: float | None
    finished_at: str
    version: str
    weights: str
    max_epochs: int
    backend: str
    reason: str = ""
    status: str = FINISHED


COLUMNS = tuple(field.name for field in fields(Trial))
HEADER = ",".join(COLUMNS)
_INTEGERS = {"params", "seed", "epochs", "best_epoch", "test_correct", "test_size", "max_epochs"}
_FLOATS = {"saved_accuracy", "best_accuracy", "train_seconds", "cpu_seconds"}
_MAY_BE_EMPTY = {
    "epochs",
    "best_epoch",
    "saved_accuracy",
    "best_accuracy",
    "test_correct",
    "train_seconds",
    "cpu_seconds",
}


def read(path: Path) -> list[Trial]:
    """All trials of a CSV, failed ones too, in the order in which they ended; [] where there is no CSV yet.

    A last line without its end, as a crash leaves it, is left out. Windows line ends are as good as others.

    Raises:
        UserError: if the file can't be read, has other columns, or has a row that is no trial; with its line's number.
    """
    return [_parse(path, number, row) for number, row in _rows(path, _read_text(path))]


def frame(path: Path) -> "pandas.DataFrame":
    """`read` as a pandas table, one row a trial, the columns as in the CSV."""
    import pandas

    return pandas.DataFrame([astuple(trial) for trial in read(path)], columns=list(COLUMNS))


def finished(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that came to their end, without those that were stopped early and the failed ones."""
    return [trial for trial in trials if trial.status == FINISHED]


def done(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that are not trained again: the finished ones and those that were stopped early."""
    return [trial for trial in trials if trial.status in (FINISHED, STOPPED)]


def append(path: Path, trial: Trial) -> bool:
    """Adds one row, on disk when this returns.

    Returns:
        False, with nothing written, where the seed is already there as finished or stopped: another runner was faster.

    Raises:
        UserError: if the file has other columns or can't be written, or the trial has a figure out of its range; the
            file is then as it was before.
    """
    with FileLock(f"{path}.lock"):
        _repair(path)
        text = _read_text(path)
        if any(row.seed == trial.seed for row in done(_parse(path, *row) for row in _rows(path, text))):
            return False
        fields = [_written(value) for value in astuple(trial)]
        _parse(path, 0, fields)  # A row that could not be read again would spoil the file.
        row = io.StringIO(newline="")
        writer = csv.writer(row, lineterminator="\r\n" if "\r\n" in text else "\n")
        if not text:
            writer.writerow(COLUMNS)
        writer.writerow(fields)
        _write_at_end(path, row.getvalue().encode())
    return True


def accuracies(trials: Iterable[Trial], measure: str) -> list[float]:
    """One accuracy of each finished trial, in [0, 1].

    Args:
        trials: Trials; those that are not finished have no accuracy and are left out.
        measure: One of MEASURES: "saved" for the last epoch's on the monitored images, "best" for the best epoch's on
            them, "test" for that of the kept weights on the test set.
    """
    done = finished(trials)
    if measure == "test":
        return [(trial.test_correct or 0) / trial.test_size for trial in done]
    return [getattr(trial, f"{measure}_accuracy") for trial in done]


def _write_at_end(path: Path, content: bytes) -> None:
    before = path.stat().st_size if path.exists() else 0
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.write(descriptor, content) != len(content):
                os.ftruncate(descriptor, before)
                raise OSError(28, "no space left for a whole row", str(path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(
            f"{path}: the row of a finished trial can't be written ({error.strerror}); make room or access"
        ) from error


def _repair(path: Path) -> None:
    """Ends a last line that lacks only its end, and moves one that was cut short to `<name>.torn`."""
    text = _read_text(path)
    start = text.rfind("\n") + 1
    torn = text[start:]
    if not torn:
        return
    if start and _is_whole(path, torn):
        _write_at_end(path, b"\n")
        return
    with path.with_name(f"{path.name}.torn").open("a", encoding="utf-8", newline="") as kept:
        kept.write(f"{torn}\n")
        kept.flush()
        os.fsync(kept.fileno())
    os.truncate(path, len(text[:start].encode()))


def _is_whole(path: Path, line: str) -> bool:
    try:
        _parse(path, 0, next(csv.reader([line])))
    except (UserError, csv.Error):
        return False
    return True


def _read_text(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: expected a CSV of trials in UTF-8, found a file that can't be read ({error})"
        ) from error


def _rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """The rows under the header with their line numbers, without a torn last one and without empty lines."""
    end = text.rfind("\n") + 1
    if not end or (text[end:] and _is_whole(path, text[end:])):
        end = len(text)
    lines = text[:end].splitlines()
    if not lines or (len(lines) == 1 and HEADER.startswith(lines[0]) and not text.endswith("\n")):
        return []
    if lines[0].lstrip("\ufeff") != HEADER:
        raise UserError(
            f"{path}: expected the columns {HEADER}, found {lines[0][:300]}; rename the file or use another --out"
        )
    try:
        return [(number, row) for number, row in enumerate(csv.reader(lines[1:], strict=True), start=2) if row]
    except csv.Error as error:
        raise UserError(
            f"{path}: expected rows of {len(COLUMNS)} fields, found text that is no CSV ({error}); mend it"
        ) from error


def _parse(path: Path, number: int, row: list[str]) -> Trial:
    try:
        if len(row) != len(COLUMNS):
            raise ValueError(f"{len(row)} fields instead of {len(COLUMNS)}")
        values = {name: _value(name, text) for name, text in zip(COLUMNS, row, strict=True)}
        trial = Trial(**values)  # type: ignore[arg-type]
        if trial.status not in (FINISHED, STOPPED, FAILED):
            raise ValueError(f"status {trial.status!r} instead of {FINISHED}, {STOPPED} or {FAILED}")
        if trial.status != FAILED and any(getattr(trial, name) is None for name in _MAY_BE_EMPTY):
            raise ValueError(f"a {trial.status} trial with an empty field")
    except ValueError as error:
        raise UserError(f"{path}, line {number}: expected a trial, found {error}; mend or remove the line") from error
    return trial


def _value(name: str, text: str) -> str | int | float | None:
    if name in _MAY_BE_EMPTY and not text:
        return None
    try:
        if name in _INTEGERS:
            return int(text)
        value = float(text) if name in _FLOATS else None
    except ValueError:
        raise ValueError(f"{name} {text!r} instead of a number") from None
    if value is not None and name.endswith("accuracy") and not 0 <= value <= 1:
        raise ValueError(f"{name} {text!r} instead of a number in [0, 1]")
    return text if value is None else value


def _written(value: str | int | float | None) -> str:
    if value is None:
        return ""
    # One row is one line, whatever an error's message contains.
    return " ".join(value.split()) if isinstance(value, str) else str(value)
