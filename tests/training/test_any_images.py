"""Images that are not square, have colours and four classes: the core against Keras in double precision, and a fit."""

import os

import keras
import numpy as np
import pytest
from keras import layers

from experiments.oracles import chain, gradients_in_double, images, in_double, labels, patterns, randomise
from mnist_minimal.data.sets import Splits
from mnist_minimal.recipes import SGD, Augmentation, Recipe
from mnist_minimal.training import core
from tests.rounding import assert_fit_of_the_core_is_that_of_keras

pytestmark = pytest.mark.skipif(
    not core.available() and os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") != "1", reason="the C++ core was not built"
)

SHAPE, CLASSES = (12, 10, 3), 4


def new_model(seed: int = 2) -> keras.Model:
    keras.utils.set_random_seed(seed)
    chained = [
        layers.Rescaling(1 / 255),
        layers.Conv2D(5, 3, padding="same"),
        layers.LeakyReLU(0.2),
        layers.BatchNormalization(),
        layers.MaxPooling2D(2),
        layers.SeparableConv2D(6, (3, 2)),
        layers.LeakyReLU(0.2),
        layers.Flatten(),
        layers.Dense(CLASSES, "softmax"),
    ]
    return randomise(keras.Sequential([keras.Input(SHAPE), *chained]))


@pytest.mark.parametrize("count", [1, 5, 40])
def test_probabilities_and_gradients_are_those_of_keras(count):
    model = new_model()
    ours, reference = chain(model), in_double(model)
    x, y = images(count, SHAPE), labels(count, CLASSES)
    expected = reference(x.astype(np.float64)).numpy()
    np.testing.assert_allclose(ours.network.predict(x), expected, atol=2e-6)
    _, correct, _ = ours.network.evaluate(x, y)
    assert correct == (expected.argmax(axis=1) == y).sum()
    ours.network.compute_gradients(x, y, np.arange(count))
    found = list(ours.gradients().values())
    gradients = gradients_in_double(reference, x, y)
    largest = max(np.abs(gradient).max() for gradient in gradients)
    for mine, theirs in zip(found, gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=5e-5 * np.abs(theirs).max() + 2e-6 * largest)


def splits() -> Splits:
    x, _ = patterns(200, SHAPE)
    # `patterns` shows the label of ten classes that the seed gives.
    y = labels(200).astype(np.int64)
    x, y = x[y < CLASSES], y[y < CLASSES]
    return Splits("made", "source", x[:60], y[:60], x[60:], y[60:], x[60:], y[60:])


@pytest.mark.slow
def test_both_trainers_give_the_same_figures_from_the_same_seed():
    """With every kind of augmentation."""
    augmentation = Augmentation(rotation=10, translation=0.1, scale=(0.9, 1.1), crop=1, brightness=0.1, contrast=0.1)
    recipe = Recipe(batch_size=16, max_epochs=3, optimizer=SGD(0.001, 0.9), augmentation=augmentation)
    native, _, _ = assert_fit_of_the_core_is_that_of_keras(new_model(), recipe, splits(), 7)
    assert native.history["loss"][-1] < native.history["loss"][0]
