"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary name in the same folder to write to, and moves it to `path` when that went well.

    The content is on disk before the name is: after a crash there is the old file or the new one, never a part. The
    temporary name is always the same, so that what a crash left under it goes with the next writing, and ends like
    `path`, for writers that go by the ending. Two writers of one path must take turns.
    """
    temporary = path.with_name(f".{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
