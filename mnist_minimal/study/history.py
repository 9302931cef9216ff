"""The history of a trial, a CSV of its figures by epoch: written as it is trained, and read again.

It is what Keras' CSVLogger writes: a header, `epoch` counted from 0 and the other columns by name, Windows' line ends.
Of a published study the histories are packed in one file (`study.packed`), where a seed has no file of its own.
"""

import contextlib
import csv
import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_minimal import content, files
from mnist_minimal.errors import UserError, one_line, plain
from mnist_minimal.study import packed
from mnist_minimal.training.history import History

if TYPE_CHECKING:
    import pandas

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")

# The loss of a trial that went astray may be anything.
HIGHEST = {"accuracy": 1.0, "val_accuracy": 1.0, "learning_rate": 1e6}

EXPECTED = "the history of a trial"

RESTORE = "restore the file, or remove the trial's row and train it again"


class HistoryFile(History):
    """A history that is on disk after every epoch, or whenever it is flushed.

    A checkpoint remembers how far the file went and its checksum, so that neither has to hold all epochs: what was
    written is never written again.

    Args:
        path: The file; what is there is written over, unless a checkpoint resumes from it.
        buffered: Whether epochs wait in memory until `flush`.
    """

    def __init__(self, path: Path, *, buffered: bool = False) -> None:
        super().__init__()
        self.path, self.buffered = path, buffered
        self.size, self.checksum, self.pending = 0, hashlib.sha256(), b""

    def append(self, logs: dict[str, float]) -> None:
        """Adds an epoch; on disk when this returns, unless it is buffered.

        Raises:
            UserError: if the file can't be written, or is a symbolic link.
        """
        super().append(logs)
        names = sorted(self.figures)
        text = io.StringIO(newline="")
        if len(self) == 1:
            csv.writer(text).writerow(["epoch", *names])
        csv.writer(text).writerow([len(self) - 1, *(self.figures[name][-1] for name in names)])
        self.pending += text.getvalue().encode()
        if not self.buffered:
            self.flush()

    def flush(self, *, sync: bool = True) -> None:
        """Writes the epochs that wait in memory.

        Args:
            sync: Whether they are on the disk itself when this returns, also if the system crashes.

        Raises:
            UserError: as of `append`.
        """
        if not self.pending and not self.size:
            return
        files.reject_symlink(self.path)
        try:
            with self.path.open("ab" if self.size else "wb") as file:
                if self.buffered:
                    # A writing that failed for want of room, and is tried again, may have left a part.
                    file.truncate(self.size)
                file.write(self.pending)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
        except OSError as error:
            raise UserError(files.not_written(self.path, error)) from error
        self.size += len(self.pending)
        self.checksum.update(self.pending)
        self.pending = b""

    def position(self) -> dict[str, Any]:
        return {"bytes": self.size, "sha256": self.checksum.hexdigest()}

    def resume(self, position: dict[str, Any], epochs: int) -> None:
        """Takes up the epochs that the file had at a position, and cuts off what came after it.

        Raises:
            UserError: if the file has not these bytes any more.
        """
        size = position["bytes"]
        try:
            data = files.read(self.path, files.MAX_TEXT_BYTES)[:size]
        except FileNotFoundError:
            data = b""
        checksum = hashlib.sha256(data)
        if checksum.hexdigest() != position["sha256"]:
            raise UserError(f"expected the history {self.path.name} as it was written, found it changed")
        figures = _figures(self.path, data.decode())
        if len(figures.pop("epoch")) != epochs:
            raise UserError(f"expected {epochs} epochs in the history {self.path.name}, found others")
        try:
            os.truncate(files.reject_symlink(self.path), size)
        except OSError as error:
            raise UserError(files.not_written(self.path, error)) from error
        self.figures, self.size, self.checksum = figures, size, checksum


def text(path: Path) -> str:
    """A trial's history as it was written: the file, or where there is none what the study's packed file has of it.

    Args:
        path: The file, OUT/<study>/<seed>.csv.

    Raises:
        UserError: if it is in neither, or the one that has it can't be read.
    """
    with contextlib.suppress(FileNotFoundError):
        return files.read_text(path, EXPECTED, RESTORE)
    if (found := _packed(path)) is None:
        raise UserError(f"{path}: found no such file, expected {EXPECTED}; {RESTORE}")
    return found


def exists(path: Path) -> bool:
    """Whether there is anything for `text` to read or to refuse: under this name, or in the study's packed file.

    Raises:
        UserError: if the packed file can't be read.
    """
    return path.exists() or _packed(path) is not None


def read(path: Path) -> dict[str, list[float]]:
    """A trial's figures by column: `epoch`, counted from 0, and at least those of COLUMNS, of one epoch or more.

    Raises:
        UserError: if `text` can't be read as that.
    """
    return _figures(path, text(path))


def read_history(path: Path) -> "pandas.DataFrame":
    """`read` as a pandas table, one row an epoch, with epochs counted from 1."""
    import pandas

    figures = pandas.DataFrame(read(path))
    return figures.assign(epoch=figures["epoch"].astype(int) + 1)


def _packed(path: Path) -> str | None:
    """What the packed file beside a history's has of it."""
    seed = path.stem
    return packed.read(path.with_name(packed.NAME)).get(int(seed)) if seed.isascii() and seed.isdecimal() else None


def _figures(path: Path, text: str) -> dict[str, list[float]]:
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True) if text else [[]]
        if not set(COLUMNS) & set(header):
            beginning = text.encode()[: content.FIRST_BYTES]
            raise UserError(f"{path}: {content.refusal(beginning, EXPECTED, RESTORE, content.TEXT_STEPS)}")
        if not set(COLUMNS) <= set(header) or not rows:
            raise UserError(
                f"{path}: found the columns {plain(', '.join(header), 100)} and {len(rows)} epochs, expected "
                f"{', '.join(COLUMNS)} and an epoch or more; {RESTORE}"
            )
        columns = zip(*(map(float, row) for row in rows), strict=True)
        figures = {name: list(values) for name, values in zip(header, columns, strict=True)}
    except UserError:
        raise
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: found a row that is no epoch ({one_line(error)}), expected {EXPECTED}; {RESTORE}"
        ) from error
    for column, highest in HIGHEST.items():
        wrong = next((value for value in figures[column] if not 0 <= value <= highest), None)
        if wrong is not None:
            raise UserError(f"{path}: found {wrong:g} in {column}, expected numbers from 0 to {highest:g}; {RESTORE}")
    if figures["epoch"] != list(range(len(rows))):
        raise UserError(f"{path}: found other epochs than 0, 1, 2, ..., expected each once; {RESTORE}")
    return figures
