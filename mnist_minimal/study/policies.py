"""What ends a trial or a job before its time: an accuracy reached, failures, the median stopping rule, a signal."""

import threading
from collections.abc import Iterable, Sequence
from fractions import Fraction
from statistics import median

from mnist_minimal import recipes
from mnist_minimal.engines.policy import Policy
from mnist_minimal.errors import UserError
from mnist_minimal.study import history
from mnist_minimal.study.study import Study
from mnist_minimal.trial import FAILED, EpochReport, Trial

# So many new failures one after the other are no accident of training, and a job without end would go on failing; of
# trials that run side by side all may fail before one can come to its end.
MAX_FAILURES_IN_A_ROW = 3


class OnlyFailuresError(UserError):
    """The trials of a job fail one after the other."""


class Until(Policy):
    """Ends a job at the first trial whose best accuracy is at least `accuracy`, in [0, 1]."""

    def __init__(self, accuracy: float) -> None:
        self.accuracy = accuracy

    def trial_ended(self, trial: Trial) -> bool:
        return trial.best_accuracy is not None and trial.best_accuracy >= self.accuracy


class FailuresInARow(Policy):
    """Ends a job with an error when several trials in a row fail for the first time.

    Args:
        failed: Seeds that failed before: when they fail again they must not keep the job from the seeds behind them.
    """

    def __init__(self, failed: Iterable[int]) -> None:
        self.failed, self.running, self.most = set(failed), set[int](), MAX_FAILURES_IN_A_ROW
        self.in_a_row = 0

    def trial_started(self, seed: int) -> None:
        self.running.add(seed)
        self.most = max(self.most, len(self.running))

    def trial_ended(self, trial: Trial) -> bool:
        self.running.discard(trial.seed)
        if trial.status != FAILED:
            self.in_a_row = 0
        elif trial.seed not in self.failed:
            self.in_a_row += 1
        if self.in_a_row == self.most:
            raise OnlyFailuresError(f"{self.in_a_row} trials in a row failed, the last one with: {trial.reason}")
        return False


class Interruption(Policy):
    """Ends a job at the next event after a signal: Python drops an exception that is raised while an object is deleted.

    Args:
        interrupted: Set by the signal's handler.
    """

    def __init__(self, interrupted: threading.Event) -> None:
        self.interrupted = interrupted

    def epoch_ended(self, report: EpochReport) -> None:
        if self.interrupted.is_set():
            raise KeyboardInterrupt

    def trial_ended(self, trial: Trial) -> bool:
        if self.interrupted.is_set():
            raise KeyboardInterrupt
        return False


class MedianStopping(Policy):
    """The median stopping rule of a recipe: a trial below the median of its study at one epoch ends there.

    A trial's figure is the mean number of monitored images that it got right in the `window` epochs that end with the
    rule's `epoch`. It is compared with the trials of lower seeds alone: all those of its job, and those of others that
    are in the CSV. As soon as `trials` of them have a figure, it stops where its own is less than their median. Stopped
    trials have come that far and count like others; one that its recipe ended before the epoch counts with its last
    `window` epochs; one that failed before has no figure, and is not counted until it has been trained again.

    What is decided of a seed is thus the same in whatever order and beside whatever others the seeds of a job are
    trained: a trial that comes to the epoch before one of a lower seed waits for it, and none waits for a higher one.

    The rule is Vizier's and Optuna's (D. Golovin et al., "Google Vizier", KDD 2017, section 3.2.2), in the form of
    sep697's source.

    Args:
        rule: Of the recipe.
        study: Where the histories of its trials lie.
        trials: The rows that are there when the job begins.
        images: Number of monitored images.
    """

    def __init__(self, rule: recipes.MedianStopping, study: Study, trials: Iterable[Trial], images: int) -> None:
        self.rule, self.study, self.images = rule, study, images
        # The number of epochs of every seed that came to an end; one that failed may have come past the rule's.
        self.ended = {trial.seed: trial.epochs or rule.epoch for trial in trials}
        self.running: set[int] = set()
        self.figures: dict[int, Fraction | None] = {}

    def trial_started(self, seed: int) -> None:
        self.running.add(seed)
        self.ended.pop(seed, None)

    def epoch_ended(self, report: EpochReport) -> None:
        if report.milestone is not None:
            self.figures.setdefault(report.seed, report.milestone)

    def trial_ended(self, trial: Trial) -> bool:
        self.running.discard(trial.seed)
        self.ended[trial.seed] = trial.epochs or self.rule.epoch
        return False

    def reason_to_stop(self, report: EpochReport) -> str | None:
        lower = sorted(seed for seed in self.running | self.ended.keys() if seed < report.seed)
        if len(lower) < self.rule.trials:
            return ""
        if any(seed in self.running and seed not in self.figures for seed in lower):
            return None
        figures = [figure for seed in lower if (figure := self._figure(seed)) is not None]
        own = self.figures[report.seed]
        assert own is not None
        if len(figures) < self.rule.trials or own >= (middle := median(figures)):
            return ""
        return (
            f"median stopping at epoch {self.rule.epoch}: {float(own / self.images):.6f} < "
            f"{float(middle / self.images):.6f} (median of {len(figures)})"
        )

    def _figure(self, seed: int) -> Fraction | None:
        """A trial's figure; None where it ended without, or its history is gone."""
        if seed not in self.figures:
            self.figures[seed] = self._recorded(seed, min(self.rule.epoch, self.ended[seed]))
        return self.figures[seed]

    def _recorded(self, seed: int, epochs: int) -> Fraction | None:
        path = self.study.history(seed)
        if not history.exists(path):
            return None
        accuracies = history.read(path)["val_accuracy"][:epochs]
        return milestone(accuracies, self.rule, self.images) if len(accuracies) == epochs else None


def milestone(accuracies: Sequence[float], rule: recipes.MedianStopping, images: int) -> Fraction:
    """The mean number of images right in the last `rule.window` epochs.

    Args:
        accuracies: The monitored accuracies by epoch, in [0, 1]; one or more.
        rule: The rule.
        images: Number of monitored images.
    """
    # Trainers write the ratio with more or fewer digits; the count of images is exact.
    correct = [round(accuracy * images) for accuracy in accuracies[-rule.window :]]
    return Fraction(sum(correct), len(correct))
