"""Which trials end before their time: those in the worse half of their study at one epoch, `recipes.MedianStopping`.

A trial's figure is the mean number of monitored images that it got right in the `window` epochs that end with `epoch`.
A trial is compared with trials of lower seeds alone: all those of its job, and those of others that are in the CSV. As
soon as `trials` of them have a figure, it is stopped where its own is less than their median. Stopped trials have come
that far and count like others. A trial that its recipe ended before `epoch` counts with its last `window` epochs; one
that failed before has no figure, and is not counted until it has been trained again.

What is decided of a seed is thus the same in whatever order and beside whatever others the seeds of a job are trained:
a trial that comes to `epoch` before one of a lower seed waits for it. No trial ever waits for one of a higher seed.
"""

import csv
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from statistics import median

from filelock import FileLock, Timeout

from mnist_minimal.errors import UserError, one_line
from mnist_minimal.files import read_text
from mnist_minimal.recipes import MedianStopping
from mnist_minimal.study import ledger
from mnist_minimal.study.study import Study


class LeftError(Exception):
    """A trial of a lower seed that is needed for a comparison is neither at its end nor being trained by anybody."""

    def __init__(self, seed: int) -> None:
        super().__init__(f"seed {seed} is not trained")
        self.seed = seed


class Comparison:
    """Compares the trials of a study at the epoch of its rule, by their recorded histories.

    Args:
        study: The study.
        rule: Its recipe's rule.
        images: Number of monitored images.
    """

    def __init__(self, study: Study, rule: MedianStopping, images: int) -> None:
        self.study, self.rule, self.images = study, rule, images
        self.known: dict[int, Fraction] = {}

    def reason_to_stop(self, seed: int, job: Iterable[int], wait: Callable[[], None]) -> str:
        """Why a trial that has come to the rule's epoch is to stop there, or "" where it is to go on.

        Args:
            seed: The trial's seed; its history holds the epoch.
            job: Seeds of its job; those above `seed` do not matter.
            wait: Called again and again while a trial of a lower seed is on its way to the epoch.

        Raises:
            LeftError: if nobody trains a lower seed of the job, which no row tells of either.
            UserError: if a history is damaged.
        """
        lower = {trial.seed for trial in ledger.read(self.study.csv)}.union(job)
        lower = {other for other in lower if other < seed}
        own = self._figure(seed, self.rule.epoch)
        if own is None or len(lower) < self.rule.trials:
            return ""
        figures = [figure for other in sorted(lower) if (figure := self._awaited(other, wait)) is not None]
        if len(figures) < self.rule.trials or own >= (middle := median(figures)):
            return ""
        return (
            f"median stopping at epoch {self.rule.epoch}: {float(own / self.images):.6f} < "
            f"{float(middle / self.images):.6f} (median of {len(figures)})"
        )

    def _awaited(self, seed: int, wait: Callable[[], None]) -> Fraction | None:
        """A trial's figure as soon as it has one, or None where it ended without."""
        while seed not in self.known:
            # Looked at first: whoever held the claim before that has written all that follows.
            claimed = _is_held(self.study.claim(seed))
            rows = [trial for trial in ledger.read(self.study.csv) if trial.seed == seed]
            done = ledger.done(rows)
            # A trial that its recipe ended before the epoch has the figure of its last epochs.
            last = min([self.rule.epoch, *(trial.epochs or 0 for trial in done)])
            figure = self._figure(seed, last)
            if figure is not None:
                self.known[seed] = figure
            elif done or (rows and not claimed):
                return None
            elif not claimed:
                raise LeftError(seed)
            else:
                wait()
        return self.known[seed]

    def _figure(self, seed: int, last: int) -> Fraction | None:
        """The mean number of images right in the window that ends with epoch `last`, if the history holds all of it."""
        correct = _correct(self.study.history(seed), last, self.images)
        window = range(max(last - self.rule.window, 0) + 1, last + 1)
        if not window or not all(epoch in correct for epoch in window):
            return None
        return Fraction(sum(correct[epoch] for epoch in window), len(window))


def _correct(history: Path, last: int, images: int) -> dict[int, int]:
    """How many monitored images a trial got right, by epoch from 1 to at most `last`; {} where there is no history."""
    try:
        # A line that is being written has no end yet.
        lines = [line for line in read_text(history).splitlines(keepends=True)[: 1 + last] if line.endswith("\n")]
        # Trainers write the ratio with more or fewer digits; the count of images is exact.
        correct = {int(row["epoch"]) + 1: float(row["val_accuracy"]) * images for row in csv.DictReader(lines)}
        if not all(0 <= count <= images for count in correct.values()):
            raise ValueError("an accuracy that is not in [0, 1]")
        return {epoch: round(count) for epoch, count in correct.items()}
    except FileNotFoundError:
        return {}
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(
            f"{history}: expected the history of a trial, to compare others with it, found none ({one_line(error)}); "
            "restore the file, or remove it to leave that trial out"
        ) from error


def _is_held(claim: Path) -> bool:
    """Whether a runner holds this lock."""
    if not claim.exists():
        return False
    try:
        with FileLock(claim, timeout=0):
            return False
    except Timeout:
        return True
