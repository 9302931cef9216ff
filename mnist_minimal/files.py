"""Files that are there whole or not at all, and where their names say; text and JSON read without trust."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnist_minimal.errors import UserError, one_line

# Of a text that is read whole; the history of a trial has about 90 bytes an epoch.
MAX_TEXT_BYTES = 10_000_000


def refuse_link(path: Path) -> Path:
    """The path, if what is written under it stays where it is: in a shared folder a link may lead to others' files.

    Raises:
        UserError: if it is a symbolic link, wherever that leads.
    """
    if path.is_symlink():
        raise UserError(
            f"{path}: expected a file or folder of its own, found a symbolic link; remove it or use another --out"
        )
    return path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary name in the same folder to write to, and moves it to `path` when that went well.

    The content is on disk before the name is: after a crash there is the old file or the new one, never a part. The
    temporary name is always the same, so that what a crash left under it goes with the next writing, and ends like
    `path`, for writers that go by the ending. Two writers of one path must take turns. A symbolic link under either
    name is replaced and not followed.
    """
    temporary = path.with_name(f".{path.name}")
    if temporary.is_symlink():
        temporary.unlink()
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def read_text(path: Path) -> str:
    """All of a text file in UTF-8.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is a folder, a device or a pipe, which would be waited for without end; if it can't be read,
            has more than MAX_TEXT_BYTES, or is no text.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: expected a file, found a folder, a device or a pipe; move it away")
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise UserError(f"{path}: expected a text of at most {MAX_TEXT_BYTES:,} bytes, found a larger file")
        return content.decode()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a text in UTF-8, found what can't be read ({one_line(error)})") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is no JSON, or is nested too deeply for Python; or as of `read_text`.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, found what can't be read as that ({one_line(error)})") from error
