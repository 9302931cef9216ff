"""The table of trials on disk: a CSV that is appended to and survives what happens to files.

A row is written with its line end in one piece, flushed and synced before the next trial starts. What a crash can leave
is a last line without its end: it is read over, and moved to a file beside the CSV before the next row is written. Who
appends owns the study (`study.ownership`).

A CSV may have been edited, or come from anywhere: it is read whole or refused with the number of the line that is no
trial, and no byte of it is ever lost. One row is one line. A seed comes to its end once: a file in which it does twice
is refused, since no statistic could say which of the two counts.
"""

import csv
import errno
import io
import math
import os
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal import files
from mnist_minimal.errors import UserError, plain
from mnist_minimal.files import reject_symlink
from mnist_minimal.study.study import Study

if TYPE_CHECKING:
    import pandas
from mnist_minimal.trial import FAILED, FINISHED, STOPPED, Trial

MEASURES = ("saved", "best", "test")


# Ten million trials; a larger file is none of ours, and is refused unread.
MAX_BYTES = 2_000_000_000


# No count here comes near it, and all arithmetic with it is exact.
MAX_INTEGER = 10**12


COLUMNS = tuple(field.name for field in fields(Trial))


HEADER = ",".join(COLUMNS)


# What an integer may be, both ends included.
_INTEGERS = {
    "params": (1, MAX_INTEGER),
    "seed": (0, 2**32 - 1),
    "epochs": (1, MAX_INTEGER),
    "best_epoch": (1, MAX_INTEGER),
    "test_correct": (0, MAX_INTEGER),
    "test_size": (1, MAX_INTEGER),
    "max_epochs": (1, MAX_INTEGER),
}


# The largest that another number may be; none is negative.
_FLOATS = {"saved_accuracy": 1.0, "best_accuracy": 1.0, "train_seconds": math.inf, "cpu_seconds": math.inf}


_MAY_BE_EMPTY = {
    "epochs",
    "best_epoch",
    "saved_accuracy",
    "best_accuracy",
    "test_correct",
    "train_seconds",
    "cpu_seconds",
}


# Python's own int() and float() take `1_000`, digits of other scripts, and "nan".
_INTEGER = re.compile(r"[0-9]{1,13}")


DECIMAL = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class _Content:
    """A CSV as it was found.

    Attributes:
        trials: Its rows.
        whole: How many of its bytes are whole lines, a last one that lacks only its end among them.
        torn: What comes after them.
        line_end: What ends its lines.
        ended: Whether the last whole line has its end.
    """

    trials: list[Trial]
    whole: int
    torn: bytes
    line_end: str
    ended: bool


def read(path: Path) -> list[Trial]:
    """All trials of a CSV, failed ones too, in the order in which they ended; [] where there is no CSV yet.

    A last line without its end, as a crash leaves it, is left out. The line ends of Windows and of old Macs, a byte
    order mark, quoted fields and empty lines are as good as none.

    Raises:
        UserError: if the file can't be read, is larger than MAX_BYTES, has other columns, has a row that is no trial,
            or one seed finished or stopped twice; with the line's number.
    """
    return _content(path).trials


def frame(path: Path) -> "pandas.DataFrame":
    """`read` as a pandas table, one row a trial, the columns as in the CSV."""
    import pandas

    return pandas.DataFrame([astuple(trial) for trial in read(path)], columns=list(COLUMNS))


def is_ledger(path: Path) -> bool:
    """Whether a file begins as a CSV of trials does; other tables, folders and pipes do not.

    Raises:
        OSError: if it can't be read: then nobody knows.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        beginning = file.read(2 * len(HEADER))
    lines = io.StringIO(beginning.decode("utf-8", "replace").removeprefix("\ufeff"), newline="")
    return is_header(next(lines, ""))


def is_header(line: str) -> bool:
    """Whether a line names the columns of a CSV of trials, quoted or not."""
    try:
        return next(csv.reader([line.rstrip("\r\n")], strict=True), []) == list(COLUMNS)
    except csv.Error:
        return False


def finished(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that came to their end, without those that were stopped early and the failed ones."""
    return [trial for trial in trials if trial.status == FINISHED]


def done(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that are not trained again: the finished ones and those that were stopped early."""
    return [trial for trial in trials if trial.status in (FINISHED, STOPPED)]


class Ledger:
    """A study's CSV in the process that owns the study: read once, and again where another program has changed it.

    Args:
        study: The study.

    Raises:
        UserError: if the CSV is not what `read` takes.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._read()

    def _read(self) -> None:
        self._state = _file_state(self.study.csv)
        self._content = _content(self.study.csv)
        self._done = {trial.seed for trial in done(self._content.trials)}

    def trials(self) -> list[Trial]:
        """All trials of the CSV as `read` gives them."""
        if _file_state(self.study.csv) != self._state:
            self._read()
        return list(self._content.trials)

    def has_done(self, seed: int) -> bool:
        """Whether a seed is there as finished or stopped."""
        return seed in self._done

    def append(self, trial: Trial) -> bool:
        """Adds one row, on disk when this returns.

        White space in its texts becomes single spaces, and what a terminal would obey is written as an escape. A
        symbolic link under the name of the CSV or of what is moved aside is refused, wherever it leads.

        Returns:
            False, with nothing written, where the seed is already there as finished or stopped.

        Raises:
            UserError: if the file is not what `read` takes or can't be written, or the trial has a figure out of its
                range; the file is then as it was before.
        """
        path, torn = reject_symlink(self.study.csv), self.study.torn
        if _file_state(path) != self._state:
            self._read()
        content = self._content
        if trial.seed in self._done:
            return False
        row = _line(trial, content.line_end)
        parsed = _parse(path, 0, row)  # A row that could not be read again would spoil the file.
        if content.torn:
            _write_at_end(reject_symlink(torn), content.torn + b"\n")
            os.truncate(path, content.whole)
        missing_end = "" if content.ended else content.line_end
        header = "" if content.whole else HEADER + content.line_end
        added = f"{missing_end}{header}{row}".encode()
        _write_at_end(path, added)
        content.trials.append(parsed)
        if parsed.status != FAILED:
            self._done.add(parsed.seed)
        self._content = replace(content, whole=content.whole + len(added), torn=b"", ended=True)
        self._state = _file_state(path)
        return True


def _file_state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written; () where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


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
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, content) != len(content):
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, "no space left for a whole row", str(path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(
            f"{path}: the row of a finished trial can't be written ({error.strerror}); make room or access"
        ) from error


def _content(path: Path) -> _Content:
    """What there is in a CSV; nothing where there is none."""
    try:
        data = files.read(path, MAX_BYTES)
    except FileNotFoundError:
        data = b""
    whole = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    # A cut may have gone through a character, so what is torn can't be taken for text.
    try:
        text = data[:whole].decode("utf-8")
    except UnicodeDecodeError as error:
        line = len(re.findall(b"\r\n|\r|\n", data[: error.start])) + 1
        raise UserError(
            f"{path}, line {line}: expected a CSV of trials in UTF-8, found bytes that are none ({error.reason}); save "
            "it as UTF-8"
        ) from error
    ended = True
    if whole and data[whole:] and _is_whole(path, data[whole:]):
        text, whole, ended = text + data[whole:].decode(), len(data), False
    torn = data[whole:]
    if not whole and not HEADER.encode().startswith(torn.removeprefix(b"\xef\xbb\xbf")):
        raise _other_columns(path, torn.decode("utf-8", "replace"))
    return _Content(_trials(path, text), whole, torn, "\r\n" if "\r\n" in text else "\n", ended)


def _trials(path: Path, text: str) -> list[Trial]:
    """The trials of whole lines, the header among them; empty lines say nothing."""
    # This splits at the ends of lines alone, and not at all the characters that Python takes for some.
    lines = io.StringIO(text.removeprefix("\ufeff"), newline="")
    header = next(lines, HEADER)
    if not is_header(header):
        raise _other_columns(path, header)
    trials: list[Trial] = []
    ends: dict[int, int] = {}
    for number, line in enumerate(lines, start=2):
        if not line.rstrip("\r\n"):
            continue
        trial = _parse(path, number, line)
        trials.append(trial)
        if trial.status != FAILED and ends.setdefault(trial.seed, number) != number:
            raise UserError(
                f"{path}, line {number}: expected every seed to come to its end once, found seed {trial.seed}, which "
                f"did on line {ends[trial.seed]} already; remove the line that does not count"
            )
    return trials


def _other_columns(path: Path, found: str) -> UserError:
    return UserError(
        f"{path}: expected the columns {HEADER}, found {plain(found, 300) or 'an empty line'}; rename the file or use "
        "another --out"
    )


def _is_whole(path: Path, line: bytes) -> bool:
    try:
        _parse(path, 0, line.decode("utf-8"))
    except (UserError, UnicodeDecodeError):
        return False
    return True


def _parse(path: Path, number: int, line: str) -> Trial:
    """The trial in one line of a CSV; its number is 0 where it is not there yet."""
    try:
        try:
            row = next(csv.reader([line.rstrip("\r\n")], strict=True), [])
        except csv.Error as error:
            raise ValueError(f"text that is no CSV ({error})") from error
        if len(row) != len(COLUMNS):
            raise ValueError(f"{len(row)} fields instead of {len(COLUMNS)}")
        values = {name: _value(name, text) for name, text in zip(COLUMNS, row, strict=True)}
        trial = Trial(**values)  # type: ignore[arg-type]
        if trial.status not in (FINISHED, STOPPED, FAILED):
            raise ValueError(f"status {trial.status[:100]!r} instead of {FINISHED}, {STOPPED} or {FAILED}")
        if trial.status != FAILED and any(getattr(trial, name) is None for name in _MAY_BE_EMPTY):
            raise ValueError(f"a {trial.status} trial with an empty field")
        if (trial.test_correct or 0) > trial.test_size:
            raise ValueError(f"{trial.test_correct} of {trial.test_size} test images right")
    except ValueError as error:
        where = f"line {number}" if number else "a row to append"
        raise UserError(f"{path}, {where}: expected a trial, found {error}; fix or remove the line") from error
    return trial


def _value(name: str, text: str) -> str | int | float | None:
    if name in _MAY_BE_EMPTY and not text:
        return None
    if name in _INTEGERS:
        low, high = _INTEGERS[name]
        if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(f"{name} {text[:100]!r} instead of a whole number from {low} to {high}")
        return int(text)
    if name in _FLOATS:
        end = _FLOATS[name]
        if not DECIMAL.fullmatch(text) or not (math.isfinite(float(text)) and float(text) <= end):
            expected = f"in [0, {end:g}]" if math.isfinite(end) else "of at least 0"
            raise ValueError(f"{name} {text[:100]!r} instead of a number {expected}")
        return float(text)
    return text


def _line(trial: Trial, line_end: str) -> str:
    """A trial as one line of a CSV, whatever its texts contain."""
    row = io.StringIO(newline="")
    csv.writer(row, lineterminator=line_end).writerow(
        "" if value is None else plain(value) if isinstance(value, str) else str(value) for value in astuple(trial)
    )
    return row.getvalue()
