"""The learning rate's course: what a recipe's schedule gives for an epoch, or for each of its steps.

All is computed by additions, multiplications and divisions of double precision and by this package's own cosine, so
that every processor gives the same bits.
"""

import math
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from mnist_minimal.data import elementary
from mnist_minimal.recipes import ByStep, KerasObject, PiecewiseLinear, Recipe, Steps
from mnist_minimal.training.optimizers import make_optimizer


def step_rates(recipe: Recipe, epoch: int, steps_per_epoch: int) -> np.ndarray:
    """The learning rates of an epoch's steps, by a recipe whose schedule is `ByStep`.

    Args:
        recipe: The recipe; its `max_epochs` epochs are the whole course.
        epoch: The epoch, counted from 0.
        steps_per_epoch: Steps that every epoch has.

    Returns:
        float32 (steps_per_epoch,).

    Raises:
        ValueError: if the recipe has no such schedule.
    """
    return _rates(recipe, range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch), steps_per_epoch)


def _rates(recipe: Recipe, chosen: range, steps_per_epoch: int) -> np.ndarray:
    """Those of some steps, counted from 0 over the whole training."""
    schedule = recipe.schedule
    if not isinstance(schedule, ByStep):
        raise ValueError(f"expected a schedule by step, found {schedule}")
    steps = steps_per_epoch * recipe.max_epochs
    warm_up, end = round(schedule.warm_up * steps), round(schedule.floor_from * steps)
    step = np.array(chosen, np.float64)
    rising = schedule.start + (1 - schedule.start) * (step / max(1, warm_up))
    passed = np.minimum((step - warm_up) / max(1, end - warm_up), 1)
    share = np.where(step < warm_up, rising, _course(schedule, passed))
    return (first_rate(recipe) * share).astype(np.float32)


def _course(schedule: ByStep, passed: np.ndarray) -> np.ndarray:
    """The share of the peak after the warm-up, when a share in [0, 1] of the course has passed."""
    match schedule.course:
        case "cosine":
            falling = (1 + elementary.cos(math.pi * passed)) / 2
        case "linear":
            falling = 1 - passed
        case "constant":
            return np.ones_like(passed)
    return schedule.floor + (1 - schedule.floor) * falling


@keras.saving.register_keras_serializable(package="mnist_minimal")
class StepRates(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rates of a whole training in a table, by the number of steps that the optimizer has taken.

    Args:
        rates: float32 (steps,).
    """

    def __init__(self, rates: np.ndarray) -> None:
        self.rates = np.asarray(rates, np.float32)

    def __call__(self, step: Any) -> Any:
        """The rate of a step, counted from 0; after the last one, the last."""
        # Keras asks once more when all steps are taken.
        place = keras.ops.minimum(keras.ops.cast(step, "int32"), len(self.rates) - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self.rates), place)

    def get_config(self) -> dict[str, Any]:
        """The argument that makes an equal schedule."""
        return {"rates": self.rates.tolist()}


def all_step_rates(recipe: Recipe, steps_per_epoch: int) -> StepRates:
    """The rates of `step_rates` for all epochs, for a Keras optimizer."""
    return StepRates(_rates(recipe, range(recipe.max_epochs * steps_per_epoch), steps_per_epoch))


def scheduled_rate(recipe: Recipe, epoch: int) -> float:
    """The learning rate that a schedule by epoch gives after `epoch` finished epochs.

    Raises:
        ValueError: if the recipe has no such schedule.
    """
    match recipe.schedule:
        case Steps(factor, after):
            return first_rate(recipe) * elementary.power(factor, sum(epoch >= step for step in after))
        case PiecewiseLinear(points):
            return _interpolated(epoch, points)
    raise ValueError(f"expected a schedule by epoch, found {recipe.schedule}")


def _interpolated(epoch: int, points: tuple[tuple[float, float], ...]) -> float:
    """The rate on the straight lines through points (epoch, rate); outside them, that of the first or the last."""
    for (start, rate), (end, next_rate) in pairwise(points):
        if start <= epoch < end:
            return rate + (next_rate - rate) * ((epoch - start) / (end - start))
    return points[0][1] if epoch < points[0][0] else points[-1][1]


def first_rate(recipe: Recipe) -> float:
    """The learning rate that a recipe's optimizer begins with; the peak of a schedule by step."""
    if isinstance(recipe.optimizer, KerasObject):
        return float(keras.ops.convert_to_numpy(make_optimizer(recipe).learning_rate))
    return recipe.optimizer.learning_rate
