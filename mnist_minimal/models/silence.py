"""TensorFlow imported without its log, which no setting of its own keeps from a command's standard error.

It is for processes that are this package's own. What was written to descriptor 2 is shown after all where the import
fails, and where the process dies of it, as on a processor without the instructions that TensorFlow was built for.
"""

import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import BinaryIO


def silence_tensorflow() -> None:
    """Keeps TensorFlow's log of its import off the standard error of this process and of those that it starts.

    Who has set TF_CPP_MIN_LOG_LEVEL to less than 3 wants to see the log. Where TensorFlow has been imported already,
    nothing is changed.
    """
    wanted = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "3"
    if wanted or "tensorflow" in sys.modules or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds TensorFlow where it is, once, and withholds what its import writes."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_silently(module: ModuleType) -> None:
            with _errors_withheld():
                execute(module)

        spec.loader.exec_module = execute_silently  # type: ignore[method-assign]
        return spec


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
