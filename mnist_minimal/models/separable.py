"""Networks of separable convolutions: the 997- and the 697-parameter model.

Source: J. Warn, "Parameter-Efficient-MNIST",
https://github.com/JoshWarn/Parameter-Efficient-MNIST (scripts `997_99.05.py` and `nn_training_framework.py`).
"""

import keras
from keras import layers

from mnist_minimal.models.defaults import with_keras_defaults


@with_keras_defaults
def sep997() -> keras.Model:
    """The 997-parameter network, whose 223 published trials this package reproduces.

    Returns:
        A built, uncompiled model from raw pixels, float32 (batch, 28, 28, 1) in [0, 255], to class probabilities,
        float32 (batch, 10). All kernels start Glorot-uniform, all biases at zero, as Keras' defaults are.
    """
    pixels = keras.Input((28, 28, 1), name="pixels")
    x = layers.Rescaling(1 / 255, name="rescaling")(pixels)
    x = layers.Conv2D(7, 3, name="conv1")(x)
    x = layers.LeakyReLU(0.2, name="leaky1")(x)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Dropout(0.1, name="dropout1")(x)
    for position, channels in enumerate((10, 10, 11, 12), start=2):
        x = layers.SeparableConv2D(channels, 3, name=f"sepconv{position}")(x)
        x = layers.LeakyReLU(0.2, name=f"leaky{position}")(x)
        x = layers.Dropout(0.1, name=f"dropout{position}")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    probabilities = layers.Dense(10, activation="softmax", name="classes")(x)
    return keras.Model(pixels, probabilities, name="sep997")


@with_keras_defaults
def sep697() -> keras.Model:
    """The same author's later 697-parameter network.

    Returns:
        A built, uncompiled model from raw pixels, float32 (batch, 28, 28, 1) in [0, 255], to class probabilities,
        float32 (batch, 10). The first kernel starts He-normal, the others Glorot-uniform: the source names He-normal
        for the separable kernels too, but under an argument that Keras' SeparableConv2D does not use.
    """
    pixels = keras.Input((28, 28, 1), name="pixels")
    x = layers.Rescaling(1 / 255, name="rescaling")(pixels)
    x = layers.Conv2D(6, 3, padding="same", kernel_initializer="he_normal", name="conv1")(x)
    x = layers.LeakyReLU(0.2, name="leaky1")(x)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    for position, channels in enumerate((5, 9, 10), start=2):
        x = layers.SeparableConv2D(channels, 3, name=f"sepconv{position}")(x)
        x = layers.LeakyReLU(0.2, name=f"leaky{position}")(x)
        x = layers.Dropout(0.05, name=f"dropout{position}")(x)
    x = layers.SeparableConv2D(8, 3, name="sepconv5")(x)
    x = layers.LeakyReLU(0.2, name="leaky5")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    probabilities = layers.Dense(10, activation="softmax", name="classes")(x)
    return keras.Model(pixels, probabilities, name="sep697")
