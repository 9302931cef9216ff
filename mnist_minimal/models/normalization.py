"""Normalisation layers that Keras does not have."""

from typing import Any

import keras

SMALLEST_VARIANCE = 1e-12


@keras.saving.register_keras_serializable(package="mnist_minimal")
class InstanceNormalization(keras.layers.Layer):
    """Normalises each sample over all its axes together, then applies one scale and one offset: 2 parameters.

    `gamma * (x - mean) / (deviation + epsilon) + beta`, with the mean and the standard deviation over all axes but the
    batch. The output has the input's shape and dtype. Source: `InstanceNormalization(axis=None)` of keras-contrib,
    https://github.com/keras-team/keras-contrib, which the 1,936-parameter model is made of. It adds epsilon to the
    deviation, not to the variance, as D. Ulyanov, A. Vedaldi and V. Lempitsky, "Instance Normalization",
    https://arxiv.org/abs/1607.08022, and Keras' own layers do.

    Args:
        epsilon: Added to the deviation, more than 0.

    Raises:
        ValueError: if `epsilon` is not more than 0.
    """

    def __init__(self, epsilon: float = 1e-3, **layer: Any) -> None:
        if not epsilon > 0:
            raise ValueError(f"expected an epsilon of more than 0, found {epsilon}")
        super().__init__(**layer)
        self.epsilon = epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the scale `gamma`, 1 at first, and the offset `beta`, 0 at first, both of shape (1,)."""
        self.gamma = self.add_weight(shape=(1,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(1,), initializer="zeros", name="beta")

    def call(self, inputs: Any) -> Any:
        """Normalises `inputs` of shape (batch, ...)."""
        axes = list(range(1, len(inputs.shape)))
        mean, variance = keras.ops.moments(inputs, axes=axes, keepdims=True)
        # The root's gradient at 0 is infinite: a sample that is 0 everywhere would make all weights NaN.
        deviation = keras.ops.sqrt(keras.ops.maximum(variance, SMALLEST_VARIANCE))
        return (inputs - mean) / (deviation + self.epsilon) * self.gamma + self.beta

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer."""
        return {**super().get_config(), "epsilon": self.epsilon}
