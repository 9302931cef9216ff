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
