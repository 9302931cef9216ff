"""The mean of the weights after every step of the last part of a training, by a recipe's `Averaging`.

Sums are float64, and so is their quotient by the number of steps, which is then rounded to the weights' own type.
"""

import keras
import numpy as np

from mnist_minimal.recipes import Recipe

Arrays = list[np.ndarray]


def first_step(recipe: Recipe, steps_per_epoch: int) -> int | None:
    """The step, counted from 0 over the whole training, after which the weights are the first that count.

    Args:
        recipe: The recipe; the steps of its `max_epochs` epochs are the whole training.
        steps_per_epoch: Steps that every epoch has.

    Returns:
        The step; None by a recipe that averages no weights.
    """
    if recipe.averaging is None:
        return None
    steps = recipe.max_epochs * steps_per_epoch
    return min(round(recipe.averaging.start * steps), steps - 1)


class WeightAverage(keras.callbacks.Callback):
    """Averages the weights in Keras' own training: the mean is what is monitored, and what the model has at the end.

    Else the model has the weights of the last step. It stands before all callbacks that look at them.

    Args:
        first: The step, counted from 0, after which the weights are the first that count.
        steps: Steps of an epoch.
    """

    def __init__(self, first: int, steps: int) -> None:
        super().__init__()
        self.first, self.steps, self.epoch, self.count = first, steps, 0, 0
        self.sums: Arrays = []
        self.last: Arrays = []

    def state(self) -> Arrays:
        """What a checkpoint has to keep."""
        return [np.array(self.count), *self.sums]

    def restore(self, arrays: Arrays) -> None:
        """Takes back what `state` gave."""
        self.count, self.sums = int(arrays[0]), arrays[1:]

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.sums = [np.zeros(value.shape) for value in self._values()]

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self.epoch * self.steps + batch >= self.first:
            self.sums = [total + value for total, value in zip(self.sums, self._values(), strict=True)]
            self.count += 1

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        if self.count:
            self.last = self._values()
            self._assign_mean()

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        if self.count:
            self._assign(self.last)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self.count:
            self._assign_mean()

    def _variables(self) -> list[keras.Variable]:
        """All weights, moving statistics too; what only counts is left as it is."""
        return [variable for variable in self.model.weights if keras.backend.is_float_dtype(variable.dtype)]

    def _values(self) -> Arrays:
        return [keras.ops.convert_to_numpy(variable) for variable in self._variables()]

    def _assign(self, values: Arrays) -> None:
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)

    def _assign_mean(self) -> None:
        self._assign([total / self.count for total in self.sums])
