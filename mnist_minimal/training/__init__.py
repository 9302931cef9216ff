"""Training one model by one recipe: `fit(model, recipe, splits, seed, ...) -> Fit`, one signature for every trainer.

It is given images and a model and touches no file but the checkpoint that it is handed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnist_minimal.errors import UserError
from mnist_minimal.recipes import RECIPES, Recipe

if TYPE_CHECKING:
    import keras

    from mnist_minimal.data.sets import Dataset


class DivergedError(Exception):
    """The training loss is no longer a finite number: nothing more can be learned from these weights."""


@dataclass(frozen=True)
class Fit:
    """What one training run gave; the trained weights are in the model that was handed to `fit`.

    Attributes:
        history: A list by epoch of `loss`, `accuracy`, `val_loss`, `val_accuracy` and `learning_rate` each.
        best_epoch: The first epoch with the highest monitored accuracy, counted from 1. Its weights are those that the
            model now has if the recipe stops early, else the last epoch's are, or those of its `averaging`.
        saved_accuracy: The last epoch's monitored accuracy, in [0, 1].
        best_accuracy: The best epoch's monitored accuracy, in [0, 1].
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


def check_images(name: str, model: "keras.Model", dataset: "Dataset") -> None:
    """Makes sure that a model is for images of the size of a data set's and has its classes.

    Args:
        name: The model's name, as the user gave it.
        model: A built model.
        dataset: The images.

    Raises:
        UserError: if it takes others, or has fewer classes.
    """
    taken, classes = model.input_shape[1:], model.output_shape[-1]
    if taken != dataset.shape or classes < dataset.classes:
        step = "train one of your own on them, as module:function"
        raise UserError(
            f"{name}: expected a model from pixels (batch, {', '.join(map(str, dataset.shape))}) to at least "
            f"{dataset.classes} classes, as {dataset.name} has them, found one from {model.input_shape} to {classes}; "
            f"{step if name in RECIPES else 'change its input or its last layer'}"
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
