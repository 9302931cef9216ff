"""Normalisation layers that Keras does not have."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="mnist_minimal")
class InstanceNormalization(keras.layers.Layer):
    """Normalises each sample over all its axes together, then applies one scale and one offset: 2 parameters.

    `gamma * (x - mean) / sqrt(variance + epsilon) + beta`, with the mean and the variance over all axes but the batch.
    The output has the input's shape and dtype. Source: D. Ulyanov, A. Vedaldi and V. Lempitsky, "Instance
    Normalization", https://arxiv.org/abs/1607.08022; with the statistics over the channels too, as
    `keras.layers.GroupNormalization(1)` takes them, whose scale and offset however are one of each per channel.

    Args:
        epsilon: Added to the variance, more than 0.

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
        return (inputs - mean) * (keras.ops.rsqrt(variance + self.epsilon) * self.gamma) + self.beta

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer."""
        return {**super().get_config(), "epsilon": self.epsilon}
