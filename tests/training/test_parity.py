"""Every published model on the C++ core against Keras: probabilities, each gradient, the weights after 20 steps.

Keras computes in double precision here. In single precision it is no oracle for networks with ReLU: a rounding error
that lifts one activation over its kink changes a gradient by up to a few per cent, and that happens to Keras as to the
core. A wrong gradient is wrong for all images, a kink is crossed for few: of several draws of images one has to agree.
"""

import os

import keras
import numpy as np
import pytest

from mnist_minimal.models import MODELS
from mnist_minimal.training import core
from tests.training.test_core import chain, images, labels, patterns, randomise, without_dropout

pytestmark = pytest.mark.skipif(
    not core.available() and os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") != "1", reason="the C++ core was not built"
)

DRAWS = range(4)

# Largest differences: of probabilities; of a gradient as a share of its variable's largest, and of the model's largest
# where it is 0 in truth, as that of a bias in front of a normalisation is; of what a variable moved by, likewise.
PROBABILITY_TOLERANCE = 2e-6
GRADIENT_TOLERANCE, ZERO_TOLERANCE = 5e-5, 2e-6
STEPS, STEP_TOLERANCE = 20, 1e-3
LEARNING_RATE = 1e-4


def in_double(model: keras.Model) -> keras.Model:
    """The same model and weights in float64."""
    seen: dict[str, keras.layers.Layer] = {}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name not in seen:
            seen[layer.name] = type(layer).from_config({**layer.get_config(), "dtype": "float64"})
        return seen[layer.name]

    pixels = keras.Input(model.input_shape[1:], dtype="float64")
    copy = keras.models.clone_model(model, input_tensors=pixels, clone_function=clone)
    copy.set_weights([weights.astype(np.float64) for weights in model.get_weights()])
    return copy


def cross_entropy(y: np.ndarray, probabilities: object) -> object:
    """The mean over the batch, without the bounds that Keras' own puts on probabilities."""
    chosen = keras.ops.take_along_axis(probabilities, y.astype(np.int64)[:, np.newaxis], axis=1)
    return -keras.ops.mean(keras.ops.log(chosen))


def gradients_in_double(model: keras.Model, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Those of the mean loss in training, by TensorFlow."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = cross_entropy(y, model(x.astype(np.float64), training=True))
    return [gradient.numpy() for gradient in tape.gradient(loss, [v.value for v in model.trainable_variables])]


def farthest(found: list[np.ndarray], expected: list[np.ndarray], share: float, zero: float) -> float:
    """The largest difference over what is tolerated: `share` of the array's largest and `zero` of all arrays'."""
    largest = max(np.abs(array).max() for array in expected)
    return max(
        float(np.abs(mine - theirs).max() / (share * np.abs(theirs).max() + zero * largest))
        for mine, theirs in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [1, 5, 16, 100, 128])
def test_probabilities_and_gradients(name: str, count: int) -> None:
    keras.utils.set_random_seed(2)
    model = randomise(without_dropout(MODELS[name]()))
    ours = chain(model)
    differences = []
    for draw in DRAWS:
        reference = in_double(model)
        x, y = images(count, seed=draw), labels(count, seed=draw)
        np.testing.assert_allclose(
            ours.network.predict(x), reference(x.astype(np.float64)).numpy(), atol=PROBABILITY_TOLERANCE
        )
        ours.network.compute_gradients(x, y, np.arange(count))
        expected = gradients_in_double(reference, x, y)
        differences.append(farthest(list(ours.gradients().values()), expected, GRADIENT_TOLERANCE, ZERO_TOLERANCE))
        if differences[-1] <= 1:
            return
    pytest.fail(f"differences of the gradients over what is tolerated: {differences}")


def after_steps(name: str, draw: int) -> tuple[keras.Model, keras.Model, list[np.ndarray], list[np.ndarray]]:
    """The model after the core's 20 steps and after those in double precision, and what each variable moved by.

    The optimizer has momentum: Adam divides a gradient by its size, so a bias whose gradient is 0 follows rounding.
    """
    keras.utils.set_random_seed(draw)
    model = randomise(without_dropout(MODELS[name]()))
    start = [variable.numpy() for variable in model.trainable_variables]
    reference = in_double(model)
    velocities = [np.zeros(weights.shape) for weights in start]
    x, y = patterns(STEPS * 8, seed=draw)
    for batch in np.split(np.arange(len(x)), STEPS):
        gradients = gradients_in_double(reference, x[batch], y[batch])
        for variable, velocity, gradient in zip(reference.trainable_variables, velocities, gradients, strict=True):
            velocity *= 0.9
            velocity -= LEARNING_RATE * gradient
            variable.assign_add(velocity)
    ours = chain(model, keras.optimizers.SGD(LEARNING_RATE, momentum=0.9))
    ours.network.train(x, y, np.arange(len(x)), batch_size=8, seed=0, epoch=0, learning_rate=LEARNING_RATE)
    ours.to_keras()
    moved, expected = (
        [variable.numpy() - before for variable, before in zip(trained.trainable_variables, start, strict=True)]
        for trained in (model, reference)
    )
    return model, reference, moved, expected


@pytest.mark.parametrize("name", MODELS)
def test_weights_after_20_steps(name: str) -> None:
    differences = []
    for draw in DRAWS:
        model, reference, moved, expected = after_steps(name, draw)
        differences.append(farthest(moved, expected, STEP_TOLERANCE, STEP_TOLERANCE))
        statistics = zip(model.non_trainable_variables, reference.non_trainable_variables, strict=True)
        agree = [np.allclose(mine.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5) for mine, theirs in statistics]
        if differences[-1] <= 1 and all(agree):
            return
    pytest.fail(f"differences of the steps over what is tolerated: {differences}; statistics agree: {agree}")
