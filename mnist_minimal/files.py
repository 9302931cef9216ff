"""Files that are there whole or not at all, and where their names say."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_minimal.errors import UserError


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


def read_whole(path: Path, most: int) -> bytes:
    """A file's content, if it is a file and not larger than it can rightly be.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        OSError: if it can't be read.
        UserError: if it is a folder, a pipe or a device, or larger.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: expected a file, found a folder, a pipe or a device; check the name")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"{path}: expected a file of at most {most:,} bytes, found a larger one; check the name")
    return content


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary name in the same folder to write to, and moves it to `path` when that went well.

    The content is on disk before the name is: after a crash there is the old file or the new one, never a part. The
    temporary name is always the same, so that what a crash left under it goes with the next writing, and ends like
    `path`, for writers that go by the ending. Two writers of one path must take turns. A symbolic link under either
    name is replaced and not followed.

    Raises:
        UserError: if it can't be written.
    """
    temporary = path.with_name(f".{path.name}")
    if temporary.is_symlink():
        temporary.unlink()
    try:
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
