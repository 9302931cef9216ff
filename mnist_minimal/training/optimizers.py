"""The optimizers of recipes: Keras' own, AdamW as the sources used it, whose decay no rate multiplies, and SOAP."""

import itertools
import math
from collections.abc import Sequence
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


@keras.saving.register_keras_serializable(package="mnist_minimal")
class SOAP(keras.optimizers.Optimizer):
    """Adam along the eigenvectors of the covariance of each layer's gradients.

    With the gradient g of all weights w of a layer, kernels and biases in one row, at step t, counted from 1:

        m = .9 m + .1 g
        v = .99 v + .01 (Q g)^2
        w = w - rate / (1 - .9^t) Q^T (Q m / (sqrt(v) + 1e-8))
        C = .999 C + .001 g g^T

    After every 200 steps the rows of Q become the eigenvectors of C, and v the variances along them, its eigenvalues
    over 1 - .999^t. Before the first 200, Q is the identity, v is divided by 1 - .99^t, and no rate is higher than .01.
    A layer of n weights takes 12 n^2 bytes, a step time in proportion to n^2 and new eigenvectors to n^3: it is for
    layers of a few hundred.

    Source: N. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", https://arxiv.org/abs/2409.11321,
    which has a covariance for each axis of an array in place of the whole one.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`.
        name: The optimizer's name.
        **options: Those of `keras.optimizers.Optimizer`.
    """

    RENEWAL, FIRST_RATE = 200, 0.01
    BETA_1, BETA_2, DECAY, EPSILON = 0.9, 0.99, 0.999, 1e-8

    def __init__(self, learning_rate: Any = 0.03, name: str = "soap", **options: Any) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **options)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes what is kept of each layer of the variables."""
        if self.built:
            return
        super().build(variables)
        self.blocks = layer_blocks(variables)
        sizes = block_sizes(variables)

        def made(name: str, axes: int, initializer: str, dtype: str) -> list[keras.Variable]:
            return [self.add_variable(axes * (size,), initializer, dtype, name=f"{name}{size}") for size in sizes]

        self.momenta, self.variances = (made(name, 1, "zeros", "float32") for name in ("momentum", "variance"))
        self.covariances = made("covariance", 2, "zeros", "float64")
        self.bases = made("basis", 2, "identity", "float32")

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Takes a step by gradients, one for each variable, of its shape."""
        if not self.built:
            self.build(trainable_variables)
        left = iter(grads)
        turned: list[Any] = []
        for number, block in enumerate(self.blocks):
            gradients = [next(left) for _ in block]
            row = keras.ops.concatenate([keras.ops.reshape(gradient, (-1,)) for gradient in gradients])
            direction, begin = self._direction(number, row), 0
            for variable in block:
                end = begin + variable_size(variable)
                turned.append(keras.ops.reshape(direction[begin:end], variable.shape))
                begin = end
        super().apply(turned, trainable_variables)

    def _direction(self, number: int, gradient: Any) -> Any:
        """What a layer's step is before the learning rate, float32 (n,), of its gradient, which is learned from."""
        ops = keras.ops
        momentum, variance = self.momenta[number], self.variances[number]
        covariance, basis = self.covariances[number], self.bases[number]
        step = ops.cast(self.iterations + 1, "float64")

        def corrected(decay: float) -> Any:
            return 1 - ops.power(ops.cast(decay, "float64"), step)

        momentum.assign(self.BETA_1 * momentum + (1 - self.BETA_1) * gradient)
        turned = ops.matmul(basis, gradient)
        variance.assign(self.BETA_2 * variance + (1 - self.BETA_2) * turned * turned)
        weight = ops.where(step <= self.RENEWAL, corrected(self.BETA_2), 1.0)
        deviation = ops.sqrt(variance / ops.cast(weight, "float32"))
        along = ops.matmul(basis, momentum) / (deviation + self.EPSILON)
        direction = ops.matmul(ops.transpose(basis), along) / ops.cast(corrected(self.BETA_1), "float32")
        exact = ops.cast(gradient, "float64")
        covariance.assign(self.DECAY * covariance + (1 - self.DECAY) * ops.outer(exact, exact))

        def renewed() -> tuple[Any, Any]:
            variances, vectors = ops.eigh(ops.convert_to_tensor(covariance))
            variances = ops.maximum(variances, 0.0) / corrected(self.DECAY)
            return ops.cast(ops.transpose(vectors), "float32"), ops.cast(variances, "float32")

        due = ops.equal((self.iterations + 1) % self.RENEWAL, 0)
        found = ops.cond(due, renewed, lambda: (ops.convert_to_tensor(basis), ops.convert_to_tensor(variance)))
        basis.assign(found[0])
        variance.assign(found[1])
        return direction

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Adds what `apply` has made of a gradient, of the variable's shape and dtype."""
        rate = keras.ops.cast(learning_rate, variable.dtype)
        first = keras.ops.less(self.iterations, self.RENEWAL)
        rate = keras.ops.where(first, keras.ops.minimum(rate, self.FIRST_RATE), rate)
        self.assign_sub(variable, rate * gradient)


def layer_blocks(variables: Sequence[keras.Variable]) -> list[list[keras.Variable]]:
    """The variables of each layer, in their order; those of a separable convolution are one layer's."""
    groups = itertools.groupby(variables, lambda variable: variable.path.rpartition("/")[0])
    return [list(group) for _, group in groups]


def block_sizes(variables: Sequence[keras.Variable]) -> list[int]:
    """Count of the numbers of each of `layer_blocks`."""
    return [sum(map(variable_size, block)) for block in layer_blocks(variables)]


def variable_size(variable: keras.Variable) -> int:
    """Count of a variable's numbers."""
    return math.prod(variable.shape)


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
        case parts.SOAP(learning_rate):
            return SOAP(**{"learning_rate": learning_rate, **by_step})
        case KerasObject() as data:
            return keras_object(data, keras.optimizers, keras.optimizers.Optimizer, **by_step)
