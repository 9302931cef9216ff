"""The standard streams of a command, such that nothing that is printed can end a job: a log's disk may be full."""

import contextlib
import io
import os
import select
import shutil
import sys
from typing import TextIO


class _Output(io.FileIO):
    """The file behind a stream. What can't be written is dropped, and the first reason is kept.

    Who reads a pipe and goes away has seen enough, so that this one error is raised.
    """

    failure: OSError | None = None

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                written = super().write(left)
                # Another program that shares the terminal or the pipe may have set it not to wait.
                if written is None:
                    select.select([], [self], [])
                else:
                    left = left[written:]
        except BrokenPipeError:
            raise
        except OSError as error:
            self.failure = self.failure or error
        return size


def prepare() -> None:
    """Makes the standard streams such that nothing that is printed can fail or go astray."""
    # A file opened under the number of a closed stream would get what libraries print there.
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout, sys.stderr = _lenient(sys.stdout), _lenient(sys.stderr)


def terminal_width() -> int | None:
    """Characters in a line of the terminal that the standard output goes to; None where it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def failure() -> OSError | None:
    """Why not all of the standard output could be written; None where it was."""
    return getattr(_file(sys.stdout), "failure", None)


def drop_output() -> None:
    """Keeps Python from writing what is left of the output when it ends, which would fail once more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _file(stream: TextIO) -> object:
    """The file behind a stream, with no buffer where Python has been told so."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _lenient(stream: TextIO | None) -> TextIO:
    """A stream to the same file that a full disk does not end; what is no stream of the system stays as it is."""
    # Python has none where the descriptor is closed, and is asked whether it is a terminal.
    if stream is None:
        return open(os.devnull, "w")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    # Names and reasons may have characters that the terminal's encoding lacks.
    stream.reconfigure(errors="backslashreplace")
    # Under Windows a console is no file.
    if type(_file(stream)) is not io.FileIO or os.name != "posix":
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    file = _Output(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(file) if isinstance(stream.buffer, io.BufferedWriter) else file,  # type: ignore[type-var]
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
