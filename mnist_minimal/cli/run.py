"""How a command begins and ends: what its process inherits is pinned, and what ends it becomes a line and a status."""

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

from mnist_minimal.cli import blame, streams
from mnist_minimal.cli.parser import debug
from mnist_minimal.errors import UserError, plain
from mnist_minimal.models.defaults import pin_keras_defaults
from mnist_minimal.models.silence import silence_tensorflow

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

# Variables with a folder that libraries make, under the very name ~ if it begins so.
FOLDERS = ("KERAS_HOME", "MPLCONFIGDIR")


def run(main: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None) -> int:
    """Runs a command's `main` and turns whatever ends it into one line and an exit status.

    With `--debug` the traceback comes before the line.

    Returns:
        The command's own status; 2 after what the user can fix, or where not all of its output could be written; 1
        where memory or a package of others failed, or this one has a defect; 130 after Ctrl-C, 141 where the reader of
        the output went away.
    """
    _pin_environment()
    streams.prepare()
    debug.set(False)
    with warnings.catch_warnings():
        # What a user must know is said by the commands; the warnings of libraries speak to programmers.
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        try:
            try:
                status = main(arguments)
            finally:
                # At the interpreter's end a failing flush could no longer be reported in one line.
                sys.stdout.flush()
        except UserError as error:
            return _end(2, f"error: {error}")
        except BrokenPipeError:
            streams.drop_output()
            return _end(141)
        except MemoryError:
            return _end(1, "error: there is not enough memory; end other programs, or do less at once (--jobs)")
        except KeyboardInterrupt:
            return _end(130, "stopped")
        except Exception as error:
            hidden = blame.hiding_file(error)
            if hidden:
                return _end(1, f"error: {_named(error)}; {hidden}")
            package = blame.package_being_imported(error)
            if package:
                set_here = ", ".join(blame.settings())
                advice = (
                    f"look at what is set here ({set_here}), or install it again" if set_here else "install it again"
                )
                return _end(1, f"error: the package {package} can't be imported ({_named(error)}); {advice}")
            if isinstance(error, OSError):
                streams.drop_output()
                return _end(2, f"error: {_said_by_system(error)}")
            return _end(
                1, f"error: {_named(error)}; {blame.defect(error, sys.argv[1:] if arguments is None else arguments)}"
            )
    dropped = streams.failure()
    if dropped:
        line = f"error: standard output: {dropped.strerror}; all the rest was done; make room or send it elsewhere"
        return _end(status or 2, line)
    return status


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Makes what asks a program to end raise KeyboardInterrupt in the block, and gives an event that is set then.

    The exception alone is not enough: Python drops one that is raised while an object is being deleted. A batch system
    asks with SIGTERM, a closed terminal with SIGHUP; they get what Ctrl-C gets. A signal that was ignored when the
    program began, as nohup and a shell's `&` see to, stays so; and only the main thread can be asked.
    """
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        # A handler that was not installed by Python is None, and could not be put back.
        handlers = {
            number: handler
            for number in signals
            if (handler := signal.getsignal(number)) is not None and handler != signal.SIG_IGN
        }
    try:
        for number in handlers:
            signal.signal(number, interrupt)
        yield interrupted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _pin_environment() -> None:
    """Sets what a command's process inherits and no figure or file may depend on; the user's choices stay his."""
    # Who ignores it is never told how a program that he started has ended, as git when it is asked for the version.
    if (
        threading.current_thread() is threading.main_thread()
        and hasattr(signal, "SIGCHLD")
        and signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
    ):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A warning that is made an error ends a trial, though the code that it is about is not the user's.
    if any("error" in option for option in sys.warnoptions):
        sys.warnoptions.clear()
        os.environ.pop("PYTHONWARNINGS", None)
    # A notebook hands down its own, which may not be installed here; the commands draw into files alone.
    os.environ["MPLBACKEND"] = "agg"
    for name in FOLDERS:
        if name in os.environ:
            os.environ[name] = os.path.expanduser(os.environ[name])
    pin_keras_defaults()
    silence_tensorflow()
    # Where the user's home can't be written to, Matplotlib says so twice and does without its cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


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
