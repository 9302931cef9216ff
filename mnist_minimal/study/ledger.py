"""The table of trials on disk: a CSV that is appended to and survives what happens to files.

A row is written with its line end in one piece, flushed and synced before the next trial starts. What a crash can leave
is a last line without its end: it is read over, and moved to a file beside the CSV before the next row is written. Who
appends owns the study (`study.ownership`).

A CSV may have been edited, or come from anywhere (`study.table`): it is read whole or refused with the number of the
line that is no trial, and no byte of it is ever lost. A seed comes to its end once: a file in which it does twice is
refused, since no statistic could say which of the two counts.
"""

import errno
import io
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal import files
from mnist_minimal.errors import UserError
from mnist_minimal.files import reject_symlink
from mnist_minimal.study import table
from mnist_minimal.study.study import Study
from mnist_minimal.study.table import COLUMNS, HEADER, HeaderError, Layout, RowError
from mnist_minimal.trial import FAILED, FINISHED, STOPPED, Trial

if TYPE_CHECKING:
    import pandas

MEASURES = ("saved", "best", "test")

# Ten million trials; a larger file is none of ours, and is refused unread.
MAX_BYTES = 2_000_000_000


# More than a header has, columns of the user's own among its.
MAX_HEADER_BYTES = 10_000


_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class _Content:
    """A CSV as it was found.

    Attributes:
        trials: Its rows.
        layout: How they are written.
        decimal_comma: Whether any figure has one.
        whole: How many of its bytes are whole lines, a last one that lacks only its end among them.
        torn: What comes after them.
        line_end: What ends its lines.
        ended: Whether the last whole line has its end.
    """

    trials: list[Trial]
    layout: Layout
    decimal_comma: bool
    whole: int
    torn: bytes
    line_end: str
    ended: bool


def read(path: Path) -> list[Trial]:
    """All trials of a CSV, failed ones too, in the order in which they ended; [] where there is no CSV yet.

    The columns are known by their names. Others, another order and other delimiters, the line ends of Windows and of
    old Macs, a byte order mark, quoted fields, empty lines and rows of empty fields are as good as none. A last line
    without its end, as a crash leaves it, is left out.

    Raises:
        UserError: if the file can't be read, is larger than MAX_BYTES, lacks a column, has a row that is no trial, or
            one seed finished or stopped twice; with the column's name or the line's number.
    """
    return _content(path).trials


def frame(path: Path) -> "pandas.DataFrame":
    """`read` as a pandas table, one row a trial, the columns COLUMNS in their order."""
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
        beginning = file.read(MAX_HEADER_BYTES)
    return table.is_header(_header(beginning.decode("utf-8", "replace")))


def find(folder: Path) -> list[Path]:
    """The CSVs in a folder, by name, without those whose names begin with a dot.

    Those are other programs' own: what macOS writes beside a file on a foreign disk, what an editor keeps.
    """
    return sorted((path for path in folder.glob("*.csv") if path.name[0] != "."), key=lambda path: path.stem)


def finished(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that came to their end, without those that were stopped early and the failed ones."""
    return [trial for trial in trials if trial.status == FINISHED]


def done(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that are not trained again: the finished ones and those that were stopped early."""
    return [trial for trial in trials if trial.status in (FINISHED, STOPPED)]


class Ledger:
    """A study's CSV in the process that owns the study: read once, and again where another program has changed it.

    A spreadsheet that had opened the CSV before a row was added writes it without that row. What the user did there
    counts; the row is kept beside the CSV, and reported.

    Args:
        study: The study.

    Raises:
        UserError: if the CSV is not what `read` takes.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        # The rows that this process wrote and has not missed yet, each without its end, by whether it is a failure.
        self._written: dict[tuple[int, bool], str] = {}
        self._read()

    def _read(self) -> None:
        self._state = _file_state(self.study.csv)
        self._content = _content(self.study.csv)
        self._done = {trial.seed for trial in done(self._content.trials)}
        self._keep_what_was_lost()

    def _keep_what_was_lost(self) -> None:
        """Puts the rows of this process that are in the CSV no more beside it, and says so."""
        found = {(trial.seed, trial.status == FAILED) for trial in self._content.trials}
        lost = [key for key in self._written if key not in found]
        if not lost:
            return
        rows = [self._written.pop(key) for key in lost]
        _write_at_end(reject_symlink(self.study.torn), "".join(f"{row}\n" for row in rows).encode())
        seeds = ", ".join(str(seed) for seed, _ in lost[:10]) + (", ..." if len(lost) > 10 else "")
        print(
            f"{self.study.csv}: another program has removed what this job wrote of seed {seeds}; the rows are kept in "
            f"{self.study.torn.name}: put them back, or the next job trains them again",
            file=sys.stderr,
        )

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

        White space in its texts becomes single spaces, and what a terminal would obey is written as an escape. The row
        has the delimiter and the order of the file's columns; those of the user's own are empty in it. A symbolic link
        under the name of the CSV or of what is moved aside is refused, wherever it leads.

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
        row = table.format_row(trial, content.layout, content.line_end, content.decimal_comma)
        try:
            parsed = table.read_row(row, content.layout)  # A row that could not be read again would spoil the file.
        except RowError as error:
            raise UserError(f"{path}, a row to append: expected a trial, found {error}; fix or remove it") from error
        assert parsed is not None
        if content.torn:
            _write_at_end(reject_symlink(torn), content.torn + b"\n")
            os.truncate(path, content.whole)
            self._state = _file_state(path)
            print(f"{path}: its last line was torn, no whole row, and is kept in {torn.name} now", file=sys.stderr)
        missing_end = "" if content.ended else content.line_end
        header = "" if content.whole else HEADER + content.line_end
        added = f"{missing_end}{header}{row}".encode()
        before, after = _write_at_end(path, added)
        content.trials.append(parsed)
        if parsed.status != FAILED:
            self._done.add(parsed.seed)
        self._written[parsed.seed, parsed.status == FAILED] = row.rstrip("\r\n")
        self._content = replace(content, whole=content.whole + len(added), torn=b"", ended=True)
        # Where another program wrote in between, the file is read again.
        self._state = after if before == self._state or (not self._state and not before[1]) else ()
        return True


def _file_state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written; () where there is none."""
    try:
        return _state(path.stat())
    except OSError:
        return ()


def _state(found: os.stat_result) -> tuple[int, ...]:
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


def _write_at_end(path: Path, content: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Adds to a file, on disk when this returns; the states of the file before and after."""
    # A pipe would be waited for.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(errno.EINVAL, "it is no file", str(path))
            if os.write(descriptor, content) != len(content):
                os.ftruncate(descriptor, before.st_size)
                raise OSError(errno.ENOSPC, "no space left for a whole row", str(path))
            os.fsync(descriptor)
            return _state(before), _state(os.fstat(descriptor))
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
    # A cut may have gone through a character, and columns of the user's own may have another encoding.
    text = data[:whole].decode("utf-8", "surrogateescape")
    tail = data[whole:].decode("utf-8", "surrogateescape")
    try:
        layout = _layout(text, tail)
        ended = not (tail and _is_whole(text, tail, layout))
        if not ended:
            text, whole = text + tail, len(data)
        trials, commas = _trials(text, layout)
    except HeaderError as error:
        if not _is_utf8(text + tail):
            raise UserError(
                f"{path}, line 1: expected a CSV of trials in UTF-8, found bytes that are none; save it as UTF-8"
            ) from error
        raise UserError(f"{path}: {error}") from error
    except RowError as error:
        raise UserError(
            f"{path}, line {error.line}: expected a trial, found {error}; fix or remove the line"
        ) from error
    return _Content(trials, layout, commas, whole, data[whole:], "\r\n" if "\r\n" in text else "\n", ended)


def _header(text: str) -> str:
    """The first line, without its end."""
    # This splits at the ends of lines alone, and not at all the characters that Python takes for some.
    return next(io.StringIO(text.removeprefix(_BYTE_ORDER_MARK), newline=""), "").rstrip("\r\n")


def _layout(text: str, tail: str) -> Layout:
    """How a table of some whole lines and what comes after them is written."""
    header = _header(text or tail)
    # A crash may have cut the very first line.
    return Layout() if not text and HEADER.startswith(header) else table.read_header(header)


def _is_whole(text: str, tail: str, layout: Layout) -> bool:
    """Whether a last line lacks nothing but its end."""
    if not text:
        return table.is_header(tail.removeprefix(_BYTE_ORDER_MARK)) and not HEADER.startswith(_header(tail))
    try:
        table.read_row(tail, layout)
    except RowError:
        return False
    return True


def _is_utf8(text: str) -> bool:
    """Whether a text that was decoded with "surrogateescape" has no bytes of another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _trials(text: str, layout: Layout) -> tuple[list[Trial], bool]:
    """The trials of whole lines, the header among them, and whether any figure has a decimal comma."""
    lines = io.StringIO(text.removeprefix(_BYTE_ORDER_MARK), newline="")
    next(lines, "")
    found: list[Trial] = []
    ends: dict[int, int] = {}
    decimal_comma = False
    for number, trial, commas in table.read_rows(lines, layout, first_line=2):
        found.append(trial)
        decimal_comma |= commas
        if trial.status != FAILED and ends.setdefault(trial.seed, number) != number:
            raise RowError(f"seed {trial.seed}, which came to its end on line {ends[trial.seed]} already", number)
    return found, decimal_comma
