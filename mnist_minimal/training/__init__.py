"""Training one model by one recipe: `fit(model, recipe, splits, seed, ...) -> Fit`, one signature for every trainer."""

from dataclasses import dataclass


class DivergedError(Exception):
    """The training loss is no longer a finite number: nothing more can be learned from these weights."""


@dataclass(frozen=True)
class Fit:
    """What one training run gave; the trained weights are in the model that was handed to `fit`.

    Attributes:
        history: A list by epoch of `loss`, `accuracy`, `val_loss`, `val_accuracy` and `learning_rate` each.
        best_epoch: The epoch whose weights the model now has, counted from 1: the first with the highest validation
            accuracy.
        saved_accuracy: The last epoch's validation accuracy, in [0, 1].
        best_accuracy: The best epoch's validation accuracy, in [0, 1].
        train_seconds: Wall-clock time.
        cpu_seconds: Time on all of the process's processors.
    """

    history: dict[str, list[float]]
    best_epoch: int
    saved_accuracy: float
    best_accuracy: float
    train_seconds: float
    cpu_seconds: float

    @property
    def epochs(self) -> int:
        """Number of epochs trained."""
        return len(self.history["val_accuracy"])
