"""How a command ends: whatever happens in it becomes one line and an exit status."""

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence

from mnist_minimal.cli.parser import debug
from mnist_minimal.errors import UserError, plain

# What to do about an error of the system that no code closer to it has put into words.
REMEDIES = {
    errno.EACCES: "get access to it or choose another place",
    errno.EPERM: "get access to it or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "make room or choose another place",
    errno.EDQUOT: "make room or choose another place",
    errno.EMFILE: "name fewer files at once",
    errno.EIO: "check the disk",
}


def run(main: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None) -> int:
    """Runs a command's `main` and turns whatever ends it into one line and an exit status.

    With `--debug` the traceback comes before the line.

    Returns:
        The command's own status; 2 after what the user can fix; 1 where memory or a package of others failed, or this
        one has a defect; 130 after Ctrl-C, 141 where the reader of the output went away.
    """
    # TensorFlow greets with lines about what its build could have used; its errors come as exceptions anyway.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Where the user's home can't be written to, Matplotlib says so twice and does without its cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    _prepare_streams()
    debug.set(False)
    with warnings.catch_warnings():
        # What a user must know is said by the commands; the warnings of libraries speak to programmers.
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        try:
            try:
                return main(arguments)
            finally:
                # At the interpreter's end a failing flush could no longer be reported in one line.
                if sys.stdout is not None:
                    sys.stdout.flush()
        except UserError as error:
            return _end(2, f"error: {error}")
        except BrokenPipeError:
            _drop_output()
            return _end(141)
        except MemoryError:
            return _end(1, "error: there is not enough memory; end other programs, or do less at once (--jobs)")
        except KeyboardInterrupt:
            return _end(130, "stopped")
        except Exception as error:
            package = _package_being_imported(error)
            if package:
                return _end(
                    1,
                    f"error: the package {package} can't be imported ({_named(error)}); install it again, and look at "
                    "what configures it, as the variable KERAS_BACKEND does Keras",
                )
            if isinstance(error, OSError):
                _drop_output()
                return _end(2, f"error: {_said_by_system(error)}")
            return _end(
                1,
                f"error: {_named(error)}; this is a defect of mnist_minimal: run the command again with --debug and "
                "report what it prints",
            )


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Makes what asks a program to end raise KeyboardInterrupt in the block, and gives an event that is set then.

    The exception alone is not enough: Python drops one that is raised while an object is being deleted. A batch system
    asks with SIGTERM, a closed terminal with SIGHUP; they get what Ctrl-C gets.
    """
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield interrupted
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _end(status: int, line: str = "") -> int:
    # Where nothing can be reported, the status tells.
    with contextlib.suppress(OSError):
        if debug.get():
            traceback.print_exc()
        if line:
            print(plain(line, 3000), file=sys.stderr)
    return status


def _named(error: Exception) -> str:
    return plain(f"{type(error).__name__}: {error}", 500)


def _said_by_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    remedy = REMEDIES.get(error.errno or 0, "check the names and files that you gave")
    return f"{where}{error.strerror or error}; {remedy}"


def _package_being_imported(error: Exception) -> str | None:
    """The package of others that an error comes from, if it was raised while that was being imported."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if frame.f_code.co_name == "<module>" and package not in ("__main__", "mnist_minimal"):
            return package
    return error.name if isinstance(error, ImportError) else None


def _prepare_streams() -> None:
    """Makes the standard streams such that nothing that is printed can fail or go astray."""
    # A file opened under the number of a closed stream would get what libraries print there.
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        # Names and reasons may have characters that the terminal's encoding lacks.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Keeps Python from writing what is left of the output when it ends, which would fail once more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
