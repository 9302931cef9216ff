"""Who owns a study: the one process that may change its files, by a lock that ends with the process.

What would stop a job at its first row is found when it begins: a CSV that can't be appended to, a folder that takes no
new file, a disk without room.
"""

import errno
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from mnist_minimal.errors import UserError, one_line, plain
from mnist_minimal.files import atomic_write, read_json, reject_symlink
from mnist_minimal.study.study import Study


@contextmanager
def owned(study: Study, **job: int | None) -> Iterator[None]:
    """Holds a study for the time of the block, with its folder made; nothing is waited for.

    Args:
        study: The study.
        **job: What others may learn of the job, for `study.watching`: `runs`, `seed` and `jobs`.

    Raises:
        UserError: if another process holds it, naming that; or if its CSV or its folders can't be written to.
    """
    try:
        reject_symlink(study.folder).mkdir(parents=True, exist_ok=True)
        lock = FileLock(reject_symlink(study.lock))
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"{study.csv}: {_owner(study)} is training this study; wait for its end, or give another folder with --out"
        ) from error
    # A file system without locks raises NotImplementedError.
    except (OSError, NotImplementedError) as error:
        raise _not_usable(study, error) from error
    try:
        try:
            _try_to_append(study.csv)
            # What a user's edit or a crash has taken out of the CSV is kept there.
            if reject_symlink(study.torn).exists() and not study.torn.is_file():
                raise OSError(errno.EINVAL, "it is no file", str(study.torn))
            _try_to_append(study.torn)
            for folder in (study.out, study.folder):
                _try_to_write(folder, 1)
        except OSError as error:
            raise _not_usable(study, error) from error
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with atomic_write(study.owner) as temporary:
            owner = {"process": os.getpid(), "host": socket.gethostname(), "since": since, **job}
            temporary.write_text(json.dumps(owner))
        yield
    finally:
        with suppress(OSError):
            study.owner.unlink()
        lock.release()


def add_to_owner(study: Study, **job: int) -> None:
    """Adds to what others may learn of the job, as of `owned`.

    Raises:
        UserError: if it can't be written.
    """
    owner = {**read_json(study.owner), **job}
    with atomic_write(study.owner) as temporary:
        temporary.write_text(json.dumps(owner))


def check_room(study: Study, size: int) -> None:
    """Makes sure that the folder of a study has room, before anything is trained that could not be saved.

    Args:
        study: The study, owned by this process.
        size: Bytes of the files that its trials have at once.

    Raises:
        UserError: if there is less.
    """
    try:
        _try_to_write(study.folder, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _not_usable(study, error) from error
        raise UserError(
            f"{study.folder}: found no room for {size:,} bytes, which the models and checkpoints of this job take "
            f"({error.strerror}); make room or choose another folder with --out"
        ) from error


def _try_to_append(path: Path) -> None:
    # What is no file is refused when it is read, and a pipe would be waited for here.
    if path.is_file():
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def _try_to_write(folder: Path, size: int) -> None:
    """Writes a file that has gone when this returns, also after a kill where the system can do that."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for start in range(0, size, 1 << 20):
                file.write(bytes(min(size - start, 1 << 20)))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(folder)
        raise


def _not_usable(study: Study, error: Exception) -> UserError:
    where, why = getattr(error, "filename", None) or study.out, getattr(error, "strerror", None) or one_line(error)
    return UserError(f"{where}: can't be written or read ({why}); choose another folder with --out")


def _owner(study: Study) -> str:
    """The process that holds a study, in words."""
    try:
        owner = read_json(study.owner)
        return plain(f"process {owner['process']} on {owner['host']}, since {owner['since']},", 200)
    # It is just beginning or ending.
    except (OSError, UserError, KeyError, TypeError):
        return "another process"
