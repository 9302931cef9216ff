"""Who owns a study: the one process that may change its files, by a lock that ends with the process."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone

from filelock import FileLock, Timeout

from mnist_minimal.errors import UserError, one_line, plain
from mnist_minimal.files import atomic_write, read_json, reject_symlink
from mnist_minimal.study.study import Study


@contextmanager
def owned(study: Study) -> Iterator[None]:
    """Holds a study for the time of the block, with its folder made.

    Raises:
        UserError: if another process holds it, naming that; or if its folder can't be written to.
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
        where, why = getattr(error, "filename", None) or study.out, getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{where}: can't be written or read ({why}); choose another folder with --out") from error
    try:
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with atomic_write(study.owner) as temporary:
            temporary.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        with suppress(OSError):
            study.owner.unlink()
        lock.release()


def _owner(study: Study) -> str:
    """The process that holds a study, in words."""
    try:
        owner = read_json(study.owner)
        return plain(f"process {owner['process']} on {owner['host']}, since {owner['since']},", 200)
    # It is just beginning or ending.
    except (OSError, UserError, KeyError, TypeError):
        return "another process"
