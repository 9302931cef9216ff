"""Files that a user names: read as far as they can be what they should be, and written whole or not at all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnist_minimal.errors import UserError
from mnist_minimal.files import not_written, read_whole, written_whole

# What lies as JSON beside a CSV is a page long.
MAX_JSON_BYTES = 1_000_000

# How all pictures end.
PICTURE = ".png"


def read(path: Path, max_bytes: int) -> bytes:
    """The whole content of a file.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is no plain file, is larger, or can't be read.
    """
    try:
        return read_whole(path, max_bytes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}); get access or name another") from error


def read_json(path: Path) -> Any:
    """What a file of at most MAX_JSON_BYTES says.

    Raises:
        FileNotFoundError: if there is none.
        UserError: as `read`.
        ValueError: if it is no JSON, or nested deeper than any sense.
    """
    try:
        return json.loads(read(path, MAX_JSON_BYTES))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


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
def output(path: Path, ending: str = "") -> Iterator[Path]:
    """`files.written_whole` for a name that the user gave: makes its folder, and tells errors by that name.

    Raises:
        UserError: if it can't be written.
    """
    check_output(path, ending)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(not_written(path, error)) from error
    with written_whole(path) as temporary:
        yield temporary
