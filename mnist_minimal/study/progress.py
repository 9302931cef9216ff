"""What a running job shows: bars on a terminal and in a notebook, plain lines elsewhere."""

import html
import math
import sys
import time
from collections.abc import Callable

from mnist_minimal.engines.policy import Policy
from mnist_minimal.trial import FAILED, STOPPED, EpochReport, Trial

SECONDS_BETWEEN_LINES = 30
SECONDS_BETWEEN_UPDATES = 0.5

# Of more trials at once a terminal and a notebook show the first ones alone.
MOST_SHOWN = 16

# For so long epochs are watched before it is said how long the job will take.
SECONDS_TO_ESTIMATE = 1


class Display(Policy):
    """Shows a job's events.

    Args:
        pace: Estimates the time left.
        done: Trials of the job that are finished or stopped already.
        line: What is said of a trial that ended, in one line; `trial_line` where it is None.
        name: What a running trial is called, by its seed; "seed 3" where it is None.
    """

    def __init__(
        self,
        pace: "Pace",
        done: int,
        line: Callable[[Trial], str] | None = None,
        name: Callable[[int], str] | None = None,
    ) -> None:
        self.pace, self.done, self.line, self.name = pace, done, line or trial_line, name or "seed {}".format
        self.estimated = False

    def trial_started(self, seed: int) -> None:
        self.pace.trial_started(seed)

    def epoch_ended(self, report: EpochReport) -> None:
        self.pace.epoch_ended(report)
        if not self.estimated and (estimate := self.pace.estimate(report)):
            self.estimated = True
            self._print(estimate)

    def trial_ended(self, trial: Trial) -> bool:
        self.pace.trial_ended(trial.seed)
        self.done += trial.status != FAILED
        return False

    def _print(self, line: str) -> None:
        """Prints a line."""

    def close(self) -> None:
        """Ends the display."""


class Pace:
    """Estimates how long a job will go on.

    Args:
        to_go: Trials to run, or None where there is no end.
        jobs: Trials that run side by side.
    """

    def __init__(self, to_go: int | None, jobs: int) -> None:
        self.to_go, self.jobs = to_go, jobs
        self.started: dict[int, float] = {}
        self.reports: dict[int, EpochReport] = {}
        self.first_epochs: dict[int, tuple[float, int]] = {}
        self.durations: list[float] = []

    def trial_started(self, seed: int) -> None:
        self.started[seed] = time.monotonic()

    def epoch_ended(self, report: EpochReport) -> None:
        self.reports[report.seed] = report
        self.first_epochs.setdefault(report.seed, (time.monotonic(), report.epoch))

    def trial_ended(self, seed: int) -> None:
        self.durations.append(time.monotonic() - self.started.pop(seed))
        self.reports.pop(seed, None)
        self.first_epochs.pop(seed, None)
        if self.to_go is not None:
            self.to_go -= 1

    def estimate(self, report: EpochReport) -> str:
        """How long an epoch takes, by those since the trial's first, and the job at most; "" as long as that is open.

        What comes before the end of a trial's first epoch, such as compiling, comes once.
        """
        start, first = self.first_epochs[report.seed]
        seconds, epochs = time.monotonic() - start, report.epoch - first
        if not epochs or seconds < SECONDS_TO_ESTIMATE:
            return ""
        trial = seconds / epochs * report.max_epochs
        said = f"An epoch takes about {seconds / epochs:.2g} s here: a trial at most {duration(trial)} "
        said += f"({report.max_epochs} epochs)"
        if self.to_go is None:
            return said
        rounds = math.ceil(self.to_go / self.jobs)
        return f"{said}, the {self.to_go} of this job at most {duration(trial * rounds)}"

    def left(self) -> str:
        """The time left in words: by the mean of finished trials, before there is one at most that of all epochs."""
        if self.to_go is None:
            return ""
        spent = sum(time.monotonic() - start for start in self.started.values())
        if self.durations:
            seconds = self.to_go * sum(self.durations) / len(self.durations) - spent
            return f"about {duration(max(seconds, 0) / self.jobs)} left"
        epochs = sum(report.trained for report in self.reports.values())
        if not epochs:
            return ""
        max_epochs = max(report.max_epochs for report in self.reports.values())
        return f"at most {duration((spent / epochs * max_epochs * self.to_go - spent) / self.jobs)} left"


def duration(seconds: float) -> str:
    """Seconds in words: "42 s", "3 min", "1 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def trial_line(trial: Trial) -> str:
    """One line about a trial that ended."""
    if trial.status == FAILED:
        return f"seed {trial.seed} failed: {trial.reason}"
    stopped = f" stopped, {trial.reason}" if trial.status == STOPPED else ""
    return (
        f"seed {trial.seed}{stopped}: last epoch {trial.saved_accuracy:.4f}, best {trial.best_accuracy:.4f} at epoch "
        f"{trial.best_epoch} of {trial.epochs}, kept model {(trial.test_correct or 0) / trial.test_size:.4f}, "
        f"{duration(trial.train_seconds or 0)}"
    )


def accuracies(report: EpochReport) -> str:
    """A running trial's accuracies in words."""
    return f"{report.monitored} {report.accuracy:.4f}, best {report.best_accuracy:.4f}"


class Lines(Display):
    """Plain lines: one for every trial, and one for a running trial now and then."""

    def __init__(
        self,
        pace: Pace,
        done: int,
        line: Callable[[Trial], str] | None = None,
        name: Callable[[int], str] | None = None,
    ) -> None:
        super().__init__(pace, done, line, name)
        self.last = time.monotonic()

    def epoch_ended(self, report: EpochReport) -> None:
        super().epoch_ended(report)
        epoch = f"epoch {report.epoch} (of at most {report.max_epochs})"
        if not report.trained:
            self._print(f"{self.name(report.seed)}: resumed after {epoch}")
        elif time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self._print(f"{self.name(report.seed)}: {epoch}, {accuracies(report)}", self.pace.left())

    def trial_ended(self, trial: Trial) -> bool:
        super().trial_ended(trial)
        self._print(f"{self.line(trial)}; {self.done} done", self.pace.left())
        return False

    def _print(self, line: str, left: str = "") -> None:
        self.last = time.monotonic()
        print(f"{line}, {left}" if left else line, flush=True)


class Bars(Display):
    """A bar for the trials and one for the epochs of each that runs, with rich."""

    def __init__(
        self,
        pace: Pace,
        done: int,
        total: int | None,
        line: Callable[[Trial], str] | None = None,
        name: Callable[[int], str] | None = None,
    ) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        super().__init__(pace, done, line, name)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.trials = self.progress.add_task("trials", total=total, completed=done, figures="")
        self.epochs: dict[int, TaskID] = {}
        # The terminal writes ^C where the cursor is. At the end of a full line that would begin another one, of which
        # rich knows nothing and above which it would draw again; so the cursor rests in an empty line.
        self.live = Live(Group(self.progress, ""), console=Console(highlight=False))
        self.live.start()

    def trial_started(self, seed: int) -> None:
        super().trial_started(seed)
        if len(self.epochs) < MOST_SHOWN:
            self.epochs[seed] = self.progress.add_task(self.name(seed), total=None, figures="")

    def epoch_ended(self, report: EpochReport) -> None:
        super().epoch_ended(report)
        if report.seed in self.epochs:
            self.progress.update(
                self.epochs[report.seed],
                completed=report.epoch,
                total=report.max_epochs,
                figures=accuracies(report),
            )
            if not report.trained:
                resumed = f"{self.name(report.seed)}, resumed after epoch {report.epoch}"
                self.progress.update(self.epochs[report.seed], description=resumed)
        self.progress.update(self.trials, figures=self.pace.left())

    def trial_ended(self, trial: Trial) -> bool:
        super().trial_ended(trial)
        if trial.seed in self.epochs:
            self.progress.remove_task(self.epochs.pop(trial.seed))
        self._print(self.line(trial))
        self.progress.update(self.trials, completed=self.done, figures=self.pace.left())
        return False

    def _print(self, line: str) -> None:
        self.live.console.print(line, markup=False)

    def close(self) -> None:
        self.live.stop()


class Notebook(Display):
    """A bar in a notebook's output, written over as the job goes on, and the last trials and the running ones below."""

    def __init__(
        self,
        pace: Pace,
        done: int,
        total: int | None,
        line: Callable[[Trial], str] | None = None,
        name: Callable[[int], str] | None = None,
    ) -> None:
        from IPython.display import display as show

        super().__init__(pace, done, line, name)
        self.total, self.shown, self.ended = total, time.monotonic(), ""
        self.output = show(self._content(), raw=True, display_id=True)

    def epoch_ended(self, report: EpochReport) -> None:
        super().epoch_ended(report)
        # Each update goes to the browser, and the core has several epochs a second.
        if time.monotonic() - self.shown >= SECONDS_BETWEEN_UPDATES:
            self._show()

    def trial_ended(self, trial: Trial) -> bool:
        super().trial_ended(trial)
        self.ended = self.line(trial)
        self._show()
        return False

    def close(self) -> None:
        self.pace.reports.clear()
        self._show()

    def _show(self) -> None:
        self.shown = time.monotonic()
        self.output.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        """What a notebook shows, by MIME type."""
        of, left = "" if self.total is None else f" of {self.total}", self.pace.left()
        first = f"{self.done}{of} trials done" + (f", {left}" if left and self.done != self.total else "")
        running = [
            f"{self.name(report.seed)}: epoch {report.epoch} (of at most {report.max_epochs}), {accuracies(report)}"
            for report in list(self.pace.reports.values())[:MOST_SHOWN]
        ]
        lines = [first, *([f"last: {self.ended}"] if self.ended else []), *running]
        text = "\n".join(lines)
        bar = "" if self.total is None else f'<progress value="{self.done}" max="{self.total}"></progress>'
        return {"text/html": f"{bar}<pre>{html.escape(text)}</pre>", "text/plain": text}


def display(
    total: int | None,
    done: int,
    jobs: int,
    line: Callable[[Trial], str] | None = None,
    name: Callable[[int], str] | None = None,
) -> Display:
    """The display that suits where the output goes.

    Args:
        total: Trials in the job, or None where there is no end.
        done: Trials that are finished or stopped already.
        jobs: Trials that run side by side.
        line: As of `Display`.
        name: As of `Display`.
    """
    pace = Pace(None if total is None else total - done, jobs)
    if _in_notebook():
        return Notebook(pace, done, total, line, name)
    return Bars(pace, done, total, line, name) if sys.stdout.isatty() else Lines(pace, done, line, name)


def silent(
    total: int | None,
    done: int,
    jobs: int,
    line: Callable[[Trial], str] | None = None,
    name: Callable[[int], str] | None = None,
) -> Display:
    """A display that shows nothing; the arguments are those of `display`."""
    return Display(Pace(None if total is None else total - done, jobs), done)


def _in_notebook() -> bool:
    """Whether the output goes to a notebook, whose shell has a kernel; one in a terminal has none."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
