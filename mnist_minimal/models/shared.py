"""The 1,936-parameter network, one of whose convolutions is applied three times."""

import keras
from keras import layers

from mnist_minimal.models.defaults import with_keras_defaults
from mnist_minimal.models.normalization import InstanceNormalization


@with_keras_defaults
def shared1936() -> keras.Model:
    """The 1,936-parameter network.

    Returns:
        A built, uncompiled model from raw pixels, float32 (batch, 28, 28, 1) in [0, 255], to class probabilities,
        float32 (batch, 10). All kernels start Glorot-uniform, all biases at zero, as Keras' defaults are.
    """
    pixels = keras.Input((28, 28, 1), name="pixels")
    x = layers.Rescaling(1 / 255, name="rescaling")(pixels)
    x = layers.Conv2D(8, 3, activation="relu", name="conv1")(x)
    x = InstanceNormalization(name="norm1")(x)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Dropout(0.1, name="dropout1")(x)
    x = layers.SeparableConv2D(26, 3, activation="relu", name="sepconv2")(x)
    x = InstanceNormalization(name="norm2")(x)
    x = layers.Dropout(0.1, name="dropout2")(x)
    shared = layers.SeparableConv2D(26, 3, padding="same", name="shared")
    for position in (3, 4, 5):
        x = layers.ReLU(name=f"relu{position}")(shared(x))
        x = InstanceNormalization(name=f"norm{position}")(x)
        x = layers.Dropout(0.1, name=f"dropout{position}")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dense(16, activation="relu", name="dense6")(x)
    x = InstanceNormalization(name="norm6")(x)
    x = layers.Dropout(0.1, name="dropout6")(x)
    probabilities = layers.Dense(10, activation="softmax", name="classes")(x)
    return keras.Model(pixels, probabilities, name="shared1936")
