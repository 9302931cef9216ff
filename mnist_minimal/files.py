"""Files that are there whole or not at all, written where their names say and read as far as they can be right."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnist_minimal import content
from mnist_minimal.content import TEXT_STEPS
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
            data = b"" if too_large else file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}); get access or name another") from error
    if too_large or len(data) > max_bytes:
        raise UserError(f"{path}: expected a file of at most {max_bytes:,} bytes, found a larger one; check the name")
    return data


def first_bytes(path: Path) -> bytes:
    """As many of a file's first bytes as tell what it is.

    Raises:
        UserError: if it can't be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(content.FIRST_BYTES)
    except OSError as error:
        raise UserError(
            f"{path}: can't be read ({error.strerror or one_line(error)}); get access or name another"
        ) from error


def read_text(path: Path, expected: str, step: str) -> str:
    """All of a text file in UTF-8 of at most MAX_TEXT_BYTES, without the byte order mark that Windows' editors add.

    Args:
        path: The file.
        expected: What it is, in words, for an error.
        step: What the user can do where it is something else.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is no text; or as of `read`.
    """
    data = read(path, MAX_TEXT_BYTES)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: {content.refusal(data[: content.FIRST_BYTES], expected, step, TEXT_STEPS)}"
        ) from error


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is no JSON, or is nested too deeply for Python; or as of `read_text`.
    """
    step = "restore or remove the file"
    text = read_text(path, "JSON", step)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        beginning = text.encode()[: content.FIRST_BYTES]
        found = content.refusal(beginning, "JSON", step, TEXT_STEPS)
        if content.kind_of(beginning) == content.JSON:
            found = f"found JSON that can't be read ({one_line(error)}), expected a whole text; {step}"
        raise UserError(f"{path}: {found}") from error


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
