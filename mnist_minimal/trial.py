"""The records that everything above speaks of: a trial's row, and what is told of it while it is trained."""

from collections.abc import Callable
from dataclasses import dataclass

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


@dataclass(frozen=True)
class Trial:
    """One trained model; the fields are the columns of the CSV. A failed trial has None where it has no figure.

    Attributes:
        model: Name of the model.
        params: Number of trainable parameters.
        dataset: Name of the data set.
        protocol: "source" or "holdout".
        trainer: "keras" or "native".
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
        status: "finished"; "stopped", where the rule of `mnist_minimal.median_stopping` ended it early; or "failed". It
            stands last so that a row cut short is known by it.
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
    """A trial after one of its epochs.

    Attributes:
        seed: The trial's seed.
        epoch: Epochs trained so far.
        max_epochs: The cap on the epochs; most trials stop earlier.
        accuracy: The monitored accuracy after this epoch, in [0, 1].
        best_accuracy: The best one so far.
    """

    seed: int
    epoch: int
    max_epochs: int
    accuracy: float
    best_accuracy: float


# Told of every epoch, it answers why the trial is to stop there, or "".
Report = Callable[[EpochReport], str]


Train = Callable[[int, Report], Trial]
