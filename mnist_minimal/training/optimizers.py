"""The optimizers of recipes, and AdamW as the sources used it: weight decay that no learning rate multiplies."""

from typing import Any

import keras

from mnist_minimal.recipes import KerasObject, Recipe, parts
from mnist_minimal.training.keras_objects import keras_object


@keras.saving.register_keras_serializable(package="mnist_minimal")
class AdamW(keras.optimizers.Adam):
    """Adam after a decoupled weight decay, step for step as `tensorflow_addons.optimizers.AdamW`.

    At step t every trainable variable w, biases included, first loses `weight_decay * w` and then takes the Adam step
    `w -= learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (sqrt(v) + epsilon)`. The decay is not multiplied
    by the learning rate, as it is in `keras.optimizers.AdamW`: a plateau schedule that lowers the learning rate leaves
    the decay as strong as it was.

    Source: I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", https://arxiv.org/abs/1711.05101, in
    the form of TensorFlow Addons 0.23.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`.
        weight_decay: Share of itself that each variable loses at each step, in [0, 1).
        **adam: `beta_1`, `beta_2`, `epsilon` and the other arguments of `keras.optimizers.Adam`.

    Raises:
        ValueError: if `weight_decay` is outside [0, 1).
    """

    def __init__(self, learning_rate: Any = 0.001, weight_decay: float = 0.0, name: str = "adamw", **adam: Any) -> None:
        if not 0 <= weight_decay < 1:
            raise ValueError(f"expected a weight_decay in [0, 1), found {weight_decay}")
        # Keras multiplies what it knows as `weight_decay` by the learning rate, so that argument stays unset.
        super().__init__(learning_rate=learning_rate, name=name, **adam)
        self.step_decay = weight_decay

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Decays `variable`, then takes Adam's step with `gradient`, of the variable's shape and dtype."""
        self.assign_sub(variable, variable * keras.ops.cast(self.step_decay, variable.dtype))
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal optimizer."""
        return {**super().get_config(), "weight_decay": self.step_decay}


def make_optimizer(
    recipe: Recipe, schedule: keras.optimizers.schedules.LearningRateSchedule | None = None
) -> keras.optimizers.Optimizer:
    """A new Keras optimizer of the recipe, at its first learning rate or with a schedule by step.

    Args:
        recipe: The recipe.
        schedule: Takes the place of the optimizer's own rate; None for that, or for the schedule of Keras' that the
            recipe names.

    Raises:
        UserError: if Keras has no such optimizer or schedule, or it does not take the arguments.
    """
    by_step: dict[str, Any] = {} if schedule is None else {"learning_rate": schedule}
    if isinstance(recipe.schedule, KerasObject):
        schedules = keras.optimizers.schedules
        by_step["learning_rate"] = keras_object(recipe.schedule, schedules, schedules.LearningRateSchedule)
    match recipe.optimizer:
        case parts.AdamW(learning_rate, weight_decay):
            return AdamW(**{"learning_rate": learning_rate, "weight_decay": weight_decay, **by_step})
        case parts.Adam(learning_rate):
            return keras.optimizers.Adam(**{"learning_rate": learning_rate, **by_step})
        case parts.SGD(learning_rate, momentum):
            return keras.optimizers.SGD(**{"learning_rate": learning_rate, "momentum": momentum, **by_step})
        case KerasObject() as data:
            return keras_object(data, keras.optimizers, keras.optimizers.Optimizer, **by_step)
