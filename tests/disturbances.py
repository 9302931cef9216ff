"""What a test does to a job from inside its process: at one of its steps that change a file, real harm is done.

All are called in the process of the job before it starts (`tests.jobs.Job.start`) and are sent there by pickling.
"""

import functools
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STEPS = ("write", "fsync", "replace", "unlink", "truncate", "ftruncate", "mkdir")

NOBODY = 65534


@dataclass
class AtStep:
    """Calls `harm` just before the step of this number, counted from 1, of those whose last file is called `name`.

    Attributes:
        number: The step.
        harm: What is done then.
        name: The file's name; any file if "".
        functions: The functions of `os` that are steps.
    """

    number: int
    harm: Callable[[], None]
    name: str = ""
    functions: tuple[str, ...] = STEPS

    def __call__(self) -> None:
        for function in self.functions:
            setattr(os, function, self._watched(getattr(os, function)))

    def _watched(self, step: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(step)
        def watched(*arguments: object, **options: object) -> object:
            last = arguments[1] if step.__name__ == "replace" else arguments[0]
            if not self.name or Path(str(last)).name == self.name:
                self.number -= 1
                if self.number == 0:
                    self.harm()
            return step(*arguments, **options)

        return watched


def kill() -> None:
    """Ends the process as a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class KillHalfwayThroughARow:
    """Ends the process when it has written half of the row of this number, counted from 1 (a header counts as well)."""

    number: int

    def __call__(self) -> None:
        write = os.write

        def half(descriptor: int, content: bytes) -> int:
            self.number -= 1
            if self.number == 0:
                write(descriptor, content[: len(content) // 2])
                os.fsync(descriptor)
                kill()
            return write(descriptor, content)

        os.write = half


@dataclass
class FillDisk:
    """Writes until nothing more fits on the disk of this folder."""

    folder: Path

    def __call__(self) -> None:
        with (self.folder / "fill").open("wb", buffering=0) as file:
            for size in (65536, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue


@dataclass
class ReadOnly:
    """Takes the right to write away from a folder and all in it."""

    folder: Path

    def __call__(self) -> None:
        for path in (*self.folder.rglob("*"), self.folder):
            path.chmod(0o555 if path.is_dir() else 0o444)


@dataclass
class Unprivileged:
    """Gives up root's rights, which no read-only folder stops, and goes on with another disturbance."""

    then: Callable[[], None] | None = None

    def __call__(self) -> None:
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        if self.then:
            self.then()


@dataclass
class Edit:
    """Writes a file anew with other content, as an editor does."""

    path: Path
    change: Callable[[bytes], bytes]

    def __call__(self) -> None:
        self.path.write_bytes(self.change(self.path.read_bytes()))


@dataclass
class Signal:
    """Sends the process a signal."""

    number: signal.Signals

    def __call__(self) -> None:
        os.kill(os.getpid(), self.number)
