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
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal import content, files
from mnist_minimal.errors import UserError
from mnist_minimal.files import reject_symlink
from mnist_minimal.study import table
from mnist_minimal.study.study import Study
from mnist_minimal.study.table import COLUMNS, HEADER, ForeignError, HeaderError, Layout, RowError
from mnist_minimal.trial import FAILED, FINISHED, STOPPED, Trial

if TYPE_CHECKING:
    import pandas

MEASURES = ("saved", "best", "test")

# Ten million trials; a larger file is none of ours, and is refused unread.
MAX_BYTES = 2_000_000_000


# More than a header has, columns of the user's own among its.
MAX_HEADER_BYTES = 10_000


# A file that is as it was so many seconds ago is not being saved right now.
MOMENT = 0.1
MOST_MOMENTS = 50


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
    counts; the row is kept beside the CSV, and reported. So is a row whose model is still there when a job begins.

    Args:
        study: The study.

    Raises:
        UserError: if the CSV is not what `read` takes.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._state = _file_state(study.csv)
        self._others: set[int] = set()  # Seeds that another program has added since.
        self._take(_content(study.csv))
        removed = self._without_rows()
        if removed:
            print(
                f"{study.csv}: found no row of {_seeds(removed)} and the models in {study.name}/: another program has "
                "removed the rows; put them back, or they are trained again",
                file=sys.stderr,
            )

    def _take(self, found: _Content) -> None:
        self._content = found
        self._done = {trial.seed for trial in done(found.trials)}

    def _without_rows(self) -> list[int]:
        """The seeds whose trials came to their end, as their models tell, and of which there is no row."""
        rows = {trial.seed for trial in self._content.trials}
        names = [path.stem for path in self.study.folder.glob("*.h5")]
        saved = {int(name) for name in names if name.isascii() and name.isdecimal()}
        # A checkpoint is kept until the row is on disk.
        return [seed for seed in sorted(saved - rows) if not self.study.checkpoint(seed).exists()]

    def _refresh(self) -> None:
        """Reads the CSV again where another program has changed it; what that has removed is kept, and reported."""
        if _file_state(self.study.csv) == self._state:
            return
        state = _settled_state(self.study.csv)
        before, done_before = self._content.trials, self._done
        self._take(_content(self.study.csv))
        self._state = state
        self._others |= self._done - done_before
        found = {(trial.seed, trial.status == FAILED) for trial in self._content.trials}
        lost = [trial for trial in before if (trial.seed, trial.status == FAILED) not in found]
        if lost:
            self._keep(lost, "has removed the rows of", "put them back, or the next job trains them again")

    def _keep(self, lost: list[Trial], what: str, step: str) -> None:
        """Writes rows beside the CSV, as they can be put back into it, and says so."""
        layout, torn = self._content.layout, self.study.torn
        rows = [table.format_row(trial, layout, decimal_comma=self._content.decimal_comma) for trial in lost]
        try:
            _write_at_end(reject_symlink(torn), "".join(rows).encode())
            where = f"these are kept in {torn.name}: {step}"
        except UserError as error:
            where = f"these can't be kept ({error}) and are\n{''.join(rows)}"
        seeds = _seeds([trial.seed for trial in lost])
        print(f"{self.study.csv}: another program {what} {seeds}; {where}".rstrip(), file=sys.stderr)

    def trials(self) -> list[Trial]:
        """All trials of the CSV as `read` gives them."""
        self._refresh()
        return list(self._content.trials)

    def has_done(self, seed: int) -> bool:
        """Whether a seed is there as finished or stopped."""
        self._refresh()
        return seed in self._done

    def append(self, trial: Trial) -> bool:
        """Adds one row, on disk when this returns.

        White space in its texts becomes single spaces, and what a terminal would obey is written as an escape. The row
        has the delimiter and the order of the file's columns; those of the user's own are empty in it. A symbolic link
        under the name of the CSV or of what is moved aside is refused, wherever it leads.

        Returns:
            False where the seed is already there as finished or stopped. That row stays; where another program has
            added it meanwhile, this one is kept beside the CSV.

        Raises:
            UserError: if the file is not what `read` takes or can't be written, or the trial has a figure out of its
                range; the file is then as it was before.
        """
        while True:
            path = reject_symlink(self.study.csv)
            self._refresh()
            found = self._content
            row = table.format_row(trial, found.layout, found.line_end, found.decimal_comma)
            parsed = self._read_again(row)
            if trial.seed in self._done:
                if trial.seed in self._others:
                    self._keep([parsed], "has written a row of", "one of them has to be left out")
                return False
            if found.torn and not self._move_torn_aside():
                continue
            missing_end = "" if found.ended else found.line_end
            header = "" if found.whole else HEADER + found.line_end
            added = f"{missing_end}{header}{row}".encode()
            # Where another program writes in between, the row may have to look otherwise.
            state = _write_at_end(path, added, self._state)
            if state is None:
                continue
            found.trials.append(parsed)
            self._others.discard(parsed.seed)
            if parsed.status != FAILED:
                self._done.add(parsed.seed)
            self._content = replace(found, whole=found.whole + len(added), torn=b"", ended=True)
            self._state = state
            return True

    def _read_again(self, row: str) -> Trial:
        """The trial in a row that is to be appended: one that could not be read again would spoil the file."""
        try:
            parsed = table.read_row(row, self._content.layout)
        except RowError as error:
            raise UserError(
                f"{self.study.csv}, a row to append: expected a trial, found {error}; fix or remove it"
            ) from error
        assert parsed is not None
        return parsed

    def _move_torn_aside(self) -> bool:
        """Moves a last line without its end to a file beside the CSV; False where another program writes meanwhile."""
        path, torn, found = self.study.csv, self.study.torn, self._content
        _write_at_end(reject_symlink(torn), found.torn + b"\n")
        state = _cut(path, found.whole, self._state)
        if state is None:
            return False
        self._content, self._state = replace(found, torn=b""), state
        print(f"{path}: its last line was torn, no whole row, and is kept in {torn.name} now", file=sys.stderr)
        return True


def _seeds(seeds: Sequence[int]) -> str:
    """Seeds in words."""
    return f"seed {', '.join(map(str, seeds[:10]))}{', ...' if len(seeds) > 10 else ''}"


def _file_state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written; () where there is none."""
    try:
        return _state(path.stat())
    except OSError:
        return ()


def _settled_state(path: Path) -> tuple[int, ...]:
    """The state of a file that nobody has written for a moment: other programs save it piece by piece."""
    state = _file_state(path)
    for _ in range(MOST_MOMENTS):
        time.sleep(MOMENT)
        before, state = state, _file_state(path)
        if before == state:
            break
    return state


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


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file's descriptor, to write at its end; it is made where there is none.

    Raises:
        UserError: if it can't be opened, or what is done to it in the block fails.
    """
    # A pipe would be waited for.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no file", str(path))
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(
            f"{path}: the row of a finished trial can't be written ({error.strerror}); make room or access"
        ) from error


def _write_at_end(path: Path, data: bytes, expected: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
    """Adds to a file, on disk when this returns; the file's state then, () where others have written to it too.

    It is None, and nothing was written, where the file is not in the state that was expected, () for no file.
    """
    with _opened(path) as descriptor:
        before = _state(os.fstat(descriptor))
        # One that was made just now is empty.
        if expected is not None and before != expected and (expected or before[1]):
            return None
        if os.write(descriptor, data) != len(data):
            os.ftruncate(descriptor, before[1])
            raise OSError(errno.ENOSPC, "no space left for a whole row", str(path))
        # Before it is waited for the disk, when others may write.
        after = _state(os.fstat(descriptor))
        os.fsync(descriptor)
        return after if after[:2] == (before[0], before[1] + len(data)) else ()


def _cut(path: Path, size: int, expected: tuple[int, ...]) -> tuple[int, ...] | None:
    """Cuts a file; its state then, or None where it is not in the state that was expected and was left alone."""
    with _opened(path) as descriptor:
        if _state(os.fstat(descriptor)) != expected:
            return None
        os.ftruncate(descriptor, size)
        return _state(os.fstat(descriptor))


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
    except ForeignError as error:
        found = content.refusal(
            data[: content.FIRST_BYTES],
            f"a CSV of trials, its first line {HEADER[:28]}...",
            "name another file, or use another --out",
            content.TEXT_STEPS,
        )
        if any(map(table.is_header, (text + tail).splitlines())):
            found = "found other lines above its header, expected a CSV of trials; remove these lines"
        raise UserError(f"{path}: {found}") from error
    except HeaderError as error:
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
