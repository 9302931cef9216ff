"""A network for tests of the training around it: Keras makes its training step in less time than a published one's."""

import keras
from keras import layers


def small_network(seed: int) -> keras.Model:
    """A convolution, its activation and a pool before ten classes, 1,554 parameters, with Keras' initial weights."""
    keras.utils.set_random_seed(seed)
    chain = [
        layers.Rescaling(1 / 255),
        layers.Conv2D(4, 5),
        layers.LeakyReLU(0.1),
        layers.MaxPooling2D(4),
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ]
    return keras.Sequential([keras.Input((28, 28, 1)), *chain])
