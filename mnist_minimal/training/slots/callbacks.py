"""What Keras' callbacks do for a recipe's schedule and stopping, for many trials at once, in arrays over the places.

A thousand models with callbacks of their own would take longer than their training. What they decide is the same to the
last bit: learning rates are float32, in which Keras keeps them, and figures are compared as float32, as Keras 3 does.
"""

from collections.abc import Sequence

import numpy as np

from mnist_minimal.recipes import ByStep, PiecewiseLinear, Plateau, Recipe, Steps
from mnist_minimal.training.schedules import first_rate, scheduled_rate, step_rates

# What is remembered of a trial from one epoch to the next: finished epochs, the learning rate, and of the plateau and
# of the early stopping the best figure (NaN before there is one) and the epochs since.
MEMORY = np.dtype(
    [
        ("epochs", np.int64),
        ("rate", np.float32),
        ("best_loss", np.float64),
        ("loss_wait", np.int64),
        ("best_accuracy", np.float64),
        ("accuracy_wait", np.int64),
    ]
)


def new_memory(recipe: Recipe) -> np.ndarray:
    """What is remembered of a trial by this recipe before its first epoch; an array of MEMORY without axes."""
    return np.array((0, first_rate(recipe), np.nan, 0, np.nan, 0), MEMORY)


class Callbacks:
    """The callbacks of the trials that are trained together, each by its own recipe.

    Args:
        recipes: The recipe of each place's trial.
        memory: MEMORY (places,), what is remembered of each; it is changed by what follows.
        steps: Steps an epoch.
    """

    def __init__(self, recipes: Sequence[Recipe], memory: np.ndarray, steps: int) -> None:
        self.recipes, self.memory, self.steps = recipes, memory, steps
        schedules = [recipe.schedule for recipe in recipes]
        self.on_plateau = np.array([isinstance(each, Plateau) for each in schedules])
        # Of the others nothing is asked.
        self.plateaus = [each if isinstance(each, Plateau) else Plateau(0.5, 1, 0.0, 0.0) for each in schedules]
        self.stops = np.array([recipe.early_stopping is not None for recipe in recipes])
        self.patience = np.array([recipe.early_stopping.patience if recipe.early_stopping else 0 for recipe in recipes])

    def begin_epoch(self) -> np.ndarray:
        """The learning rates of the next epoch, float32 (places, steps)."""
        # Trials that began together by one recipe are in one epoch.
        found: dict[tuple[int, int], np.ndarray] = {}
        rates = np.repeat(self.memory["rate"][:, np.newaxis], self.steps, axis=1)
        for place, recipe in enumerate(self.recipes):
            epoch = int(self.memory["epochs"][place])
            key = id(recipe), epoch
            if key not in found and isinstance(recipe.schedule, ByStep):
                found[key] = step_rates(recipe, epoch, self.steps)
            elif key not in found and isinstance(recipe.schedule, Steps | PiecewiseLinear):
                found[key] = np.full(self.steps, scheduled_rate(recipe, epoch), np.float32)
            if key in found:
                rates[place] = found[key]
                self.memory["rate"][place] = found[key][-1]
        return rates

    def end_epoch(self, losses: np.ndarray, accuracies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes in the monitored figures of an epoch.

        Args:
            losses: float64 (places,), those of the monitored images.
            accuracies: float64 (places,), in [0, 1].

        Returns:
            Two of bool (places,): whose weights are the best so far, and whose training the early stopping ends. Both
            are False where the recipe does not stop early.
        """
        memory, first = self.memory, self.memory["epochs"] == 0
        self._plateau(losses, first)
        improved = self.stops & (first | _less(memory["best_accuracy"], accuracies))
        memory["best_accuracy"] = np.where(improved, accuracies, memory["best_accuracy"])
        memory["accuracy_wait"] = np.where(improved | ~self.stops, 0, memory["accuracy_wait"] + 1)
        ended = self.stops & ~improved & (memory["accuracy_wait"] >= self.patience)
        memory["epochs"] += 1
        return improved, ended

    def _plateau(self, losses: np.ndarray, first: np.ndarray) -> None:
        memory, on = self.memory, self.on_plateau
        factor, patience, min_delta, lowest = (
            np.array([getattr(each, name) for each in self.plateaus])
            for name in ("factor", "patience", "min_delta", "min_learning_rate")
        )
        improved = on & (first | _less(losses + min_delta, memory["best_loss"]))
        memory["best_loss"] = np.where(improved, losses, memory["best_loss"])
        memory["loss_wait"] = np.where(improved | ~on, 0, memory["loss_wait"] + 1)
        due = on & ~improved & (memory["loss_wait"] >= patience)
        # A rate that is at its lowest already leaves the count as it is.
        due &= memory["rate"].astype(np.float64) > lowest.astype(np.float32)
        reduced = np.maximum(memory["rate"].astype(np.float64) * factor, lowest)
        memory["rate"] = np.where(due, reduced, memory["rate"])
        memory["loss_wait"] = np.where(due, 0, memory["loss_wait"])


def _less(figures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether figures are less than others in single precision; a NaN is not."""
    return figures.astype(np.float32) < others.astype(np.float32)
