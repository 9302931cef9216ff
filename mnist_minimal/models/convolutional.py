"""Networks of plain convolutions with batch normalisation, 3,762 to 18,242 parameters.

Their sources, which `mnist_minimal.recipes` cites, use PyTorch. What its layers do unasked is done here too: initial
weights and batch normalisation. Every model takes raw pixels, float32 (batch, 28, 28, 1) in [0, 255], normalises
them in its first layer, and returns class probabilities, float32 (batch, 10); it is built and not compiled.
"""

from typing import Any

import keras
from keras import layers

from mnist_minimal.models.defaults import with_keras_defaults

# Mean and standard deviation of the training images' pixels in [0, 1], as the sources round them.
PIXEL_MEAN, PIXEL_SD = 0.1307, 0.3081


@with_keras_defaults
def conv18242() -> keras.Model:
    """The 18,242-parameter network, of three stages of two convolutions; a ReLU lies on its logits, as published."""
    pixels, x = _normalized_pixels()
    for stage, padding in enumerate(("same", "same", "valid"), start=1):
        for position, channels in enumerate((16, 32), start=1):
            x = _convolution(x, channels, 3, f"conv{stage}_{position}", padding=padding)
            x = _batch_normalization(x, f"norm{stage}_{position}")
            x = layers.ReLU(name=f"relu{stage}_{position}")(x)
        if stage < 3:
            x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)
        x = _convolution(x, 8, 1, f"mix{stage}")
        if stage == 1:
            x = layers.Dropout(0.1, name="dropout1")(x)
    x = _batch_normalization(x, "norm3_3")
    x = layers.ReLU(name="relu3_3")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(10, **_torch_initializers(72), name="logits")(x)
    x = layers.ReLU(name="relu_logits")(x)
    return keras.Model(pixels, layers.Softmax(name="classes")(x), name="conv18242")


@with_keras_defaults
def gap13914() -> keras.Model:
    """The 13,914-parameter network: convolutions, global average pooling, one dense layer."""
    pixels, x = _normalized_pixels()
    for position, channels in enumerate((8, 16, 32), start=1):
        x = _convolution_block(x, channels, position, dropout=0.1, use_bias=True)
    x = _convolution(x, 16, 1, "mix")
    x = layers.ReLU(name="relu_mix")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    for position, channels in enumerate((16, 32), start=4):
        x = _convolution_block(x, channels, position, dropout=0.1, use_bias=True)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    probabilities = layers.Dense(10, activation="softmax", **_torch_initializers(32), name="classes")(x)
    return keras.Model(pixels, probabilities, name="gap13914")


@with_keras_defaults
def small7344() -> keras.Model:
    """The 7,344-parameter network: no biases, no dropout, no dense layer."""
    pixels, x = _normalized_pixels()
    x = _convolution_block(x, 16, 1)
    x = _convolution_block(x, 16, 2)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = _convolution_block(x, 16, 3)
    x = layers.MaxPooling2D(2, name="pool3")(x)
    x = _convolution_block(x, 16, 4)
    x = layers.AveragePooling2D(3, name="average")(x)
    x = _convolution(x, 10, 1, "logits", use_bias=False)
    return keras.Model(pixels, _classes(x), name="small7344")


@with_keras_defaults
def small8624() -> keras.Model:
    """The 8,624-parameter network: `small7344` with dropout and a 3x3 convolution to the classes."""
    return _small_with_dropout("small8624", first_channels=16)


@with_keras_defaults
def small7384() -> keras.Model:
    """The 7,384-parameter network: `small8624` with 8 channels in its first convolution."""
    return _small_with_dropout("small7384", first_channels=8)


@with_keras_defaults
def antman9954() -> keras.Model:
    """The 9,954-parameter network: convolutions alone, the last one averaged over its four positions."""
    pixels, x = _normalized_pixels()
    x = _convolution_block(x, 8, 1, use_bias=True)
    x = _convolution_block(x, 16, 2, use_bias=True)
    x = _convolution(x, 8, 1, "mix")
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = layers.Dropout(0.3, name="dropout2")(x)
    x = _convolution_block(x, 16, 3, use_bias=True)
    x = _convolution_block(x, 16, 4, use_bias=True)
    x = layers.MaxPooling2D(2, name="pool4")(x)
    x = layers.Dropout(0.3, name="dropout4")(x)
    x = _convolution(x, 32, 3, "conv5")
    x = _convolution(x, 10, 1, "logits")
    x = layers.AveragePooling2D(2, name="average")(x)
    return keras.Model(pixels, _classes(x), name="antman9954")


@with_keras_defaults
def pyramid3762() -> keras.Model:
    """The 3,762-parameter network: three stages of three convolutions, halved in size between them.

    Its kernels start Glorot-uniform, its biases at zero.
    """
    pixels, x = _normalized_pixels()
    for stage, channels in enumerate((4, 8, 8), start=1):
        for position in (1, 2, 3):
            x = layers.Conv2D(channels, 3, padding="same", name=f"conv{stage}_{position}")(x)
            x = _batch_normalization(x, f"norm{stage}_{position}")
            x = layers.ReLU(name=f"relu{stage}_{position}")(x)
        if stage < 3:
            x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)
            x = layers.Dropout(0.01, name=f"dropout{stage}")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="average")(x)
    x = layers.Conv2D(10, 1, name="logits")(x)
    return keras.Model(pixels, _classes(x), name="pyramid3762")


def _small_with_dropout(name: str, first_channels: int) -> keras.Model:
    pixels, x = _normalized_pixels()
    x = _convolution_block(x, first_channels, 1)
    x = _convolution_block(x, 16, 2)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = layers.Dropout(0.1, name="dropout2")(x)
    x = _convolution_block(x, 16, 3)
    x = layers.MaxPooling2D(2, name="pool3")(x)
    x = layers.Dropout(0.1, name="dropout3")(x)
    x = _convolution_block(x, 16, 4)
    x = _convolution(x, 10, 3, "logits", use_bias=False)
    return keras.Model(pixels, _classes(x), name=name)


def _normalized_pixels() -> tuple[Any, Any]:
    """The input of raw pixels, and these with the training images' mean 0 and standard deviation 1."""
    pixels = keras.Input((28, 28, 1), name="pixels")
    scaled = layers.Rescaling(1 / (255 * PIXEL_SD), offset=-PIXEL_MEAN / PIXEL_SD, name="normalization")(pixels)
    return pixels, scaled


def _convolution_block(x: Any, channels: int, position: int, dropout: float = 0.0, use_bias: bool = False) -> Any:
    """A valid 3x3 convolution, ReLU and batch normalisation in this order, then dropout where there is some."""
    x = _convolution(x, channels, 3, f"conv{position}", use_bias=use_bias)
    x = layers.ReLU(name=f"relu{position}")(x)
    x = _batch_normalization(x, f"norm{position}")
    return layers.Dropout(dropout, name=f"dropout{position}")(x) if dropout else x


def _convolution(x: Any, channels: int, size: int, name: str, padding: str = "valid", use_bias: bool = True) -> Any:
    initializers = _torch_initializers(size * size * x.shape[-1])
    return layers.Conv2D(channels, size, padding=padding, use_bias=use_bias, **initializers, name=name)(x)


def _batch_normalization(x: Any, name: str) -> Any:
    # PyTorch's momentum of 0.1 is the new value's share, Keras' 0.9 the old one's.
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def _torch_initializers(inputs: int) -> dict[str, keras.Initializer]:
    """PyTorch's initial weights and biases: uniform within 1 / sqrt(inputs) of 0."""
    limit = inputs**-0.5
    return {
        "kernel_initializer": keras.initializers.RandomUniform(-limit, limit),
        "bias_initializer": keras.initializers.RandomUniform(-limit, limit),
    }


def _classes(x: Any) -> Any:
    """Probabilities (batch, 10) of logits (batch, 1, 1, 10)."""
    return layers.Softmax(name="classes")(layers.Flatten(name="flatten")(x))
