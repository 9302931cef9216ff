"""Training one model by one recipe: `fit(model, recipe, splits, seed, ...) -> Fit`, one signature for every trainer.

It is given images and a model and touches no file but the checkpoint that it is handed.
"""

from dataclasses import dataclass

from mnist_minimal.errors import UserError
from mnist_minimal.recipes import Recipe


class DivergedError(Exception):
    """The training loss is no longer a finite number: nothing more can be learned from these weights."""


@dataclass(frozen=True)
class Fit:
    """What one training run gave; the trained weights are in the model that was handed to `fit`.

    Attributes:
        history: A list by epoch of `loss`, `accuracy`, `val_loss`, `val_accuracy` and `learning_rate` each.
        best_epoch: The first epoch with the highest validation accuracy, counted from 1. Its weights are those that the
            model now has if the recipe stops early, else the last epoch's are.
        saved_accuracy: The last epoch's validation accuracy, in [0, 1].
        best_accuracy: The best epoch's validation accuracy, in [0, 1].
        train_seconds: Wall-clock time.
        cpu_seconds: Processor time, of all threads that worked on it.
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

    @classmethod
    def from_history(
        cls, history: dict[str, list[float]], images: int, train_seconds: float, cpu_seconds: float
    ) -> "Fit":
        """A fit from its history; `images` is the number of monitored images."""
        # An accuracy is a count of images; Keras hands it on as a float32 that is a little beside the ratio.
        correct = [round(accuracy * images) for accuracy in history["val_accuracy"]]
        return cls(
            history=history,
            best_epoch=1 + correct.index(max(correct)),
            saved_accuracy=correct[-1] / images,
            best_accuracy=max(correct) / images,
            train_seconds=train_seconds,
            cpu_seconds=cpu_seconds,
        )


def epochs_to_train(recipe: Recipe, max_epochs: int | None) -> int:
    """The recipe's number of epochs, or the cap on it.

    Raises:
        UserError: if that is less than 1.
    """
    epochs = recipe.max_epochs if max_epochs is None else min(max_epochs, recipe.max_epochs)
    if epochs < 1:
        raise UserError(f"expected at least 1 epoch, found {epochs}; give --epochs a positive number")
    return epochs
