"""Jobs of trials on the digits in processes of their own, to be disturbed, and what is left of them in the end.

The processes are forked off a server that has imported Keras and loaded the digits already: a job of some short trials
takes a second or two.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mnist_minimal import trials
from mnist_minimal.cli.run import run
from mnist_minimal.study import ledger
from mnist_minimal.trial import Trial

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["mnist_minimal.training.trainers", "mnist_minimal.evaluate", "tests.digits", "mnist_minimal.analysis.figures"]
)

SECONDS_UNTIL_HUNG = 300


@dataclass(frozen=True)
class Job:
    """A command `trials` on the digits, and where its results go.

    Attributes:
        folder: Where the command runs; modules of own models lie there.
        options: Its options but `--out`, `--dataset`.
        out: The folder of results.
    """

    folder: Path
    options: tuple[str, ...] = ("--runs", "3", "--epochs", "2", "--trainer", "native")
    model: str = "sep997"
    out: Path = field(default=Path("runs"))

    @property
    def results(self) -> Path:
        return self.folder / self.out

    @property
    def study(self) -> Path:
        """The folder of single trials."""
        return self.results / f"{self.model.replace(':', '.')}-digits"

    @property
    def csv(self) -> Path:
        return self.study.with_name(f"{self.study.name}.csv")

    def start(self, disturb: Callable[[], None] | None = None) -> "Running":
        """Starts the command; `disturb` is called in its process before, with the working folder set."""
        arguments = ["--model", self.model, "--dataset", "digits", "--out", str(self.out), *self.options]
        output = self.folder / "output"
        process = SERVER.Process(target=_command, args=(self.folder, output, arguments, disturb))
        process.start()
        return Running(process, output)

    def run(self, disturb: Callable[[], None] | None = None) -> tuple[int, str]:
        """Runs the command to its end; its exit status and all it printed."""
        return self.start(disturb).ended()

    def rows(self) -> list[Trial]:
        """What is in the CSV, by seed."""
        return sorted(ledger.read(self.csv), key=lambda trial: trial.seed)


@dataclass(frozen=True)
class Running:
    process: multiprocessing.process.BaseProcess
    output: Path

    def ended(self) -> tuple[int, str]:
        """Waits for the end; the exit status and all that was printed."""
        self.process.join(SECONDS_UNTIL_HUNG)
        assert self.process.exitcode is not None, f"hangs; it has printed:\n{self.output.read_text()}"
        return self.process.exitcode, self.output.read_text()


def _command(folder: Path, output: Path, arguments: Sequence[str], disturb: Callable[[], None] | None) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if disturb:
        disturb()
    sys.exit(run(trials.main, arguments))


def without_times(trial: Trial) -> Trial:
    """A row without what differs each time, and without the version, which follows a checkout that is worked on."""
    return replace(trial, train_seconds=0.0, cpu_seconds=0.0, finished_at="", version="")


def differences(job: Job, undisturbed: Job, before: Sequence[Trial] = ()) -> list[str]:
    """What of a job's results is not as an undisturbed job leaves it, in words; [] if all is.

    Args:
        job: A job that was disturbed and came to its end.
        undisturbed: The same job, undisturbed.
        before: Rows that were there when the fault came, and have to be there untouched.
    """
    found = [f"the row of seed {trial.seed} was lost or written again" for trial in before if trial not in job.rows()]
    rows, expected = ([without_times(trial) for trial in each.rows()] for each in (job, undisturbed))
    if rows != expected:
        found.append(f"rows {rows} instead of {expected}")
    for path in sorted(undisturbed.study.iterdir()):
        other = job.study / path.name
        if not other.exists() or other.read_bytes() != path.read_bytes():
            found.append(f"{other} differs")
    return found + [f"{path} was left behind" for path in job.study.glob("*.checkpoint.npz")]
