"""How far a trial that JAX trained may be from the core's of the same seed, which differs from it by rounding alone.

In the first epoch rounding has not grown much: its monitored figures are close. After some epochs more the two are no
nearer to each other than two seeds are, so that the accuracies in the end are compared as those of two seeds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnist_minimal.study import ledger
from mnist_minimal.trial import Trial

# Of the first epoch: the monitored loss, relative to it, and the monitored accuracy, in its binomial deviations. Where
# each initial weight of sep997 was moved by a unit in its last place, the core's own trials differed after an epoch of
# MNIST by up to 2.3 % and 0.9 deviations (7 seeds).
FIRST_LOSS, FIRST_DEVIATIONS = 0.1, 3.0

# Of the end: the accuracy, in deviations of the difference of two seeds. One of 1.7 million pairs is farther apart.
DEVIATIONS = 5.0


@dataclass(frozen=True)
class Tolerance:
    """The tolerance for the trials of one study.

    Attributes:
        spread: Deviation of a trial's test accuracy, from seed to seed; the binomial one if that is more.
        monitored: Number of monitored images.
    """

    spread: float
    monitored: int

    @property
    def difference(self) -> float:
        """The largest difference of two trials' test accuracies."""
        return DEVIATIONS * math.sqrt(2) * self.spread

    def words(self) -> str:
        """The tolerance in sentences."""
        return (
            "JAX trained this study, and promises no bits; its trials are compared with the core's of the same seed: "
            f"in the first epoch the monitored loss within {FIRST_LOSS:.0%} and the monitored accuracy within "
            f"{FIRST_DEVIATIONS:g} binomial deviations, in the end the test accuracy within {self.difference:.4f}, "
            f"{DEVIATIONS:g} deviations of the difference of two seeds."
        )

    def compare(
        self, trials: tuple[Trial, Trial], histories: Sequence[Mapping[str, Sequence[float]]] | None
    ) -> tuple[bool, str]:
        """Whether two trials are close, and how close.

        Args:
            trials: The recorded one and the core's, both of them finished or stopped.
            histories: Theirs, as `history.read` gives them; None where the recorded one's was not kept.
        """
        said = []
        close = True
        if histories is not None:
            loss, other = (figures["val_loss"][0] for figures in histories)
            right, others = (figures["val_accuracy"][0] for figures in histories)
            near = abs(loss - other) <= FIRST_LOSS * abs(other)
            # With accuracies near 0 or 1 an image or two may always differ.
            deviation = _binomial(others, self.monitored)
            near = near and abs(right - others) <= max(FIRST_DEVIATIONS * deviation, 2 / self.monitored)
            close = near
            said.append(
                f"first epoch {'close' if near else 'not close'} to the core's (loss {loss:.6g} and {other:.6g}, "
                f"accuracy {right:.4f} and {others:.4f})"
            )
        accuracies = [(trial.test_correct or 0) / trial.test_size for trial in trials]
        near = abs(accuracies[0] - accuracies[1]) <= self.difference
        said.append(
            f"test accuracy {accuracies[0]:.4f} and {accuracies[1]:.4f}, "
            f"{'within' if near else 'not within'} {self.difference:.4f}"
        )
        if trials[0].status != trials[1].status:
            near = False
            said.append(f"{trials[0].status} and {trials[1].status}")
        return close and near, "; ".join(said)


def of_study(rows: Sequence[Trial], monitored: int) -> Tolerance:
    """The tolerance for a study with so many monitored images, of whose trials one or more are finished or stopped."""
    trials = ledger.done(rows)
    accuracies = [(trial.test_correct or 0) / trial.test_size for trial in trials]
    size = trials[0].test_size
    # That of an accuracy of 1 would be 0.
    spread = max(_binomial(min(statistics.fmean(accuracies), 1 - 1 / size), size), _deviation(accuracies))
    return Tolerance(spread, monitored)


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _binomial(share: float, size: int) -> float:
    return math.sqrt(share * (1 - share) / size)
