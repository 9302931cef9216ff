"""TensorFlow imported without its log, which no setting of its own keeps from a command's standard error.

It is for processes that are this package's own. What was written to descriptor 2 is shown after all where the import
fails, and where the process dies of it, as on a processor without the instructions that TensorFlow was built for.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from mnist_minimal.models.import_hook import around_import


def silence_tensorflow() -> None:
    """Keeps TensorFlow's log of its import off the standard error of this process and of those that it starts.

    Who has set TF_CPP_MIN_LOG_LEVEL to less than 3 wants to see the log. Where TensorFlow has been imported already,
    nothing is changed.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3":
        around_import("tensorflow", _errors_withheld)


@contextlib.contextmanager
def _errors_withheld() -> Iterator[None]:
    """Sends what is written to descriptor 2 in the block to a file, to be shown where the block fails."""
    with contextlib.ExitStack() as stack:
        try:
            log = stack.enter_context(tempfile.TemporaryFile(buffering=0))
            shown = stack.enter_context(os.fdopen(os.dup(2), "wb", buffering=0))
        except OSError:  # Without room for a file the log is shown.
            yield
            return
        with _shown_at_death(log, shown):
            sys.stderr.flush()
            os.dup2(log.fileno(), 2)
            try:
                yield
            except Exception:
                _copy(log, shown)
                raise
            finally:
                with contextlib.suppress(OSError):
                    sys.stderr.flush()
                os.dup2(shown.fileno(), 2)


@contextlib.contextmanager
def _shown_at_death(log: BinaryIO, shown: BinaryIO) -> Iterator[None]:
    """Has another process show the log if this one dies in the block: whoever aborts runs no more Python."""
    if not hasattr(os, "fork"):
        yield
        return
    ended, end = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever comes, as Ctrl-C, this process must not go on with the other's work.
        try:
            os.close(end)
            if not os.read(ended, 1):
                _copy(log, shown)
        finally:
            os._exit(0)
    os.close(ended)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # The other process may have been killed, or its end be nobody's business.
            os.write(end, b".")
        os.close(end)
        with contextlib.suppress(OSError):
            os.waitpid(child, 0)


def _copy(log: BinaryIO, shown: BinaryIO) -> None:
    with contextlib.suppress(OSError):
        log.seek(0)
        shutil.copyfileobj(log, shown)
