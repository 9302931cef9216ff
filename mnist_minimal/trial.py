"""The records that everything above speaks of: a trial's row, and what a trial says while it is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


@dataclass(frozen=True)
class Trial:
    """One trained model; the fields are the columns of the CSV. A failed trial has None where it has no figure.

    Attributes:
        model: Name of the model.
        params: Number of trainable parameters.
        dataset: Name of the data set.
        protocol: "source" or "holdout".
        trainer: "keras", "native" or "jax".
        seed: The seed of weights, order and dropout.
        epochs: Epochs trained.
        best_epoch: The first epoch with the highest monitored accuracy, counted from 1; its weights were kept if the
            recipe stops early, else the last epoch's.
        saved_accuracy: The last epoch's monitored accuracy, in [0, 1] (the source's word for it).
        best_accuracy: The best epoch's monitored accuracy, in [0, 1].
        test_correct: How many test images the kept weights classify rightly.
        test_size: Number of test images.
        train_seconds: Wall-clock time of the training.
        cpu_seconds: Processor time of the training.
        finished_at: When it ended, ISO 8601, UTC.
        version: Version of this package.
        weights: The saved model, relative to the CSV's folder.
        max_epochs: The cap on the epochs.
        backend: What the trainer ran on.
        reason: Why the trial was stopped or failed, or "".
        status: "finished"; "stopped", where its recipe's median stopping rule ended it early; or "failed". It stands
            last so that a row cut short is known by it.
    """

    model: str
    params: int
    dataset: str
    protocol: str
    trainer: str
    seed: int
    epochs: int | None
    best_epoch: int | None
    saved_accuracy: float | None
    best_accuracy: float | None
    test_correct: int | None
    test_size: int
    train_seconds: float | None
    cpu_seconds: float | None
    finished_at: str
    version: str
    weights: str
    max_epochs: int
    backend: str
    reason: str = ""
    status: str = FINISHED


@dataclass(frozen=True)
class EpochReport:
    """A running trial after one of its epochs; plain data, so that a process or another machine can send it.

    Attributes:
        seed: The trial's seed.
        epoch: Epochs trained so far.
        trained: How many of them since the trial was started or resumed; 0 in the report with which it is resumed.
        max_epochs: The cap on the epochs; most trials stop earlier.
        accuracy: The monitored accuracy after this epoch, in [0, 1].
        best_accuracy: The best one so far.
        milestone: The mean number of monitored images that were right in the window of the recipe's stopping rule,
            from the rule's epoch on; None before, and where there is no rule.
        monitored: What images the accuracies are of, in words.
    """

    seed: int
    epoch: int
    trained: int
    max_epochs: int
    accuracy: float
    best_accuracy: float
    milestone: Fraction | None = None
    monitored: str = "monitored images"


@dataclass(frozen=True)
class Outcome:
    """What came of training one seed, as an engine yields it.

    Attributes:
        trial: The row.
    """

    trial: Trial


class Owner(Protocol):
    """Whom a trial speaks to while it is trained: the process that owns its study."""

    def report(self, epoch: EpochReport) -> None:
        """Notes an epoch; raises StoppedError where the job is over."""

    def ask(self, epoch: EpochReport) -> str:
        """Answers, once all is known that it takes, why the trial is to stop at the rule's epoch, or ""."""


class StoppedError(Exception):
    """The job of a trial is over; the trial ends where it is, to be resumed by the next job."""


Train = Callable[[int, Owner], Trial]
