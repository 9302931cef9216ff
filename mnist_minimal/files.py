"""Files that are there whole or not at all, written where their names say and read as far as they can be right."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnist_minimal.errors import UserError, one_line

# Of a text that is read whole: the history of a trial has about 90 bytes an epoch, a study's JSON is a page long.
MAX_TEXT_BYTES = 10_000_000

# How all pictures end.
PICTURE = ".png"


def read(path: Path, max_bytes: int) -> bytes:
    """The whole content of a file.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is a folder, a device or a pipe, which would be waited for without end; if it is larger, or
            can't be read.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: expected a file, found a folder, a pipe or a device; check the name")
    try:
        with path.open("rb") as file:
            too_large = os.fstat(file.fileno()).st_size > max_bytes
            content = b"" if too_large else file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}); get access or name another") from error
    if too_large or len(content) > max_bytes:
        raise UserError(f"{path}: expected a file of at most {max_bytes:,} bytes, found a larger one; check the name")
    return content


def read_text(path: Path) -> str:
    """All of a text file in UTF-8 of at most MAX_TEXT_BYTES.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is no text; or as of `read`.
    """
    try:
        return read(path, MAX_TEXT_BYTES).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected a text in UTF-8, found what is none ({one_line(error)})") from error


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is no JSON, or is nested too deeply for Python; or as of `read_text`.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: expected JSON, found what can't be read as that ({one_line(error)}); restore or remove the file"
        ) from error


def reject_symlink(path: Path) -> Path:
    """The path, if what is written under it stays where it is: in a shared folder a link may lead to others' files.

    Raises:
        UserError: if it is a symbolic link, wherever that leads.
    """
    if path.is_symlink():
        raise UserError(
            f"{path}: expected a file or folder of its own, found a symbolic link; remove it or use another --out"
        )
    return path


def check_output(path: Path, ending: str = "") -> Path:
    """The path, if a file can be written under it as far as its name tells; to be asked before any work is done.

    Args:
        path: The file to write.
        ending: What its name must end in, as ".png"; "" for anything.

    Raises:
        UserError: if it ends otherwise, or something that is no file has the name.
    """
    if ending and path.suffix != ending:
        raise UserError(f"{path}: expected a file that ends in {ending}; give it such a name")
    if path.is_dir():
        raise UserError(f"{path}: expected a file to write, found a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: expected a file to write, found a device or a pipe; name a file")
    return path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary name in the same folder to write to, and moves it to `path` when that went well.

    The content is on disk before the name is: after a crash there is the old file or the new one, never a part. The
    temporary name is always the same, so that what a crash left under it goes with the next writing, and ends like
    `path`, for writers that go by the ending. Two writers of one path must take turns. A link under either name is
    replaced and not followed, and no pipe is waited for.

    Raises:
        UserError: if it can't be written.
    """
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.unlink(missing_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise UserError(not_written(path, error)) from error
        raise


def not_written(path: Path, error: OSError) -> str:
    """What to tell the user of a file that could not be written."""
    return (
        f"{path}: can't be written ({error.strerror or error}); make room or access, then give the same command again"
    )


@contextmanager
def output(path: Path, ending: str = "") -> Iterator[Path]:
    """`atomic_write` for a name that the user gave: makes its folder, and tells errors by that name.

    Raises:
        UserError: if it can't be written.
    """
    check_output(path, ending)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(not_written(path, error)) from error
    with atomic_write(path) as temporary:
        yield temporary
