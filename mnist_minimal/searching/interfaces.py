"""What a search asks of those who evaluate candidates for it and who show it, and what they are given."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import optuna
from optuna.trial import FrozenTrial

from mnist_minimal.models.searched import Candidate
from mnist_minimal.searching.evaluation import Score

if TYPE_CHECKING:
    import numpy as np


class Evaluate(Protocol):
    """Evaluates a candidate elsewhere: `evaluation.evaluate` but for the images, which are there."""

    def __call__(
        self,
        candidate: dict[str, Any],
        seed: int,
        fold: int | None,
        epochs: int,
        probabilities: "np.ndarray | None",
        look: Callable[[], None],
    ) -> Score:
        """`look` is called now and then, and what it raises ends the evaluation."""


@dataclass(frozen=True)
class Slot:
    """A training beside others.

    Attributes:
        candidate: What is trained.
        seed: Its seed.
        fold: The part of the training images that is held out and judges.
    """

    candidate: Candidate
    seed: int
    fold: int


class EvaluateTogether(Protocol):
    """Evaluates many trainings side by side on one device, each as `evaluation.evaluate` does up to rounding.

    Attributes:
        settings: How many candidates of one network, which differ in numbers alone, suit it.
    """

    settings: int

    def __call__(
        self,
        slots: Sequence[Slot],
        epochs: int,
        probabilities: "Callable[[int], np.ndarray | None]",
        after_epoch: Callable[[int, int, int], None],
    ) -> Iterator[tuple[int, Score]]:
        """Yields the place among the slots and the score of each as soon as it is known.

        Args:
            slots: The trainings.
            epochs: Epochs of each.
            probabilities: What the teacher gives the training images that has not seen those of a fold.
            after_epoch: Called before the first and after every epoch with how many trainings were done before, how
                many run side by side now, and their epochs; what it raises ends the evaluation.
        """


@dataclass(frozen=True)
class Training:
    """A training that runs, or several side by side.

    Attributes:
        what: What is trained, such as "candidate 12, rung 2 of 3".
        place: Which of its trainings at that rung this is, counted from 1; of several the first one.
        seeds: How many there are.
        epochs: Its epochs.
        epoch: How many of them are done; None where a cluster trains, which does not say.
        slots: How many run side by side on one device.
    """

    what: str
    place: int
    seeds: int
    epochs: int
    epoch: int | None = None
    slots: int = 1


# What says how much of the budget is left whenever it is called.
Left = Callable[[], str]


class Display(Protocol):
    """What shows a search; its methods are called from several threads, one at a time."""

    def begun(self, study: optuna.Study, left: Left) -> None:
        """The search is begun or resumed."""

    def training(self, job: int, training: Training | None) -> None:
        """What a job trains now; None where it has come to its end."""

    def judged(self, trial: FrozenTrial, study: optuna.Study, left: Left) -> None:
        """A candidate has come to its end."""

    def final(self, name: str, score: Score, left: int) -> None:
        """A finalist was tested once; so many trainings are left."""
