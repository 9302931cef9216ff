"""Every published model on the C++ core against Keras: probabilities, each gradient, the weights after some steps.

Keras computes in double precision here. In single precision it is no oracle for networks with ReLU: a rounding error
that lifts one activation over its kink changes a gradient by up to a few per cent, and that happens to Keras as to the
core. A wrong gradient is wrong for all images, a kink is crossed for few: of several draws of images one has to agree.
The core has the same bits on every processor, so that what agrees on one agrees on all.
"""

import os

import keras
import numpy as np
import pytest

from experiments.oracles import (
    after_steps,
    chain,
    gradients_in_double,
    images,
    in_double,
    labels,
    randomise,
    without_dropout,
)
from mnist_minimal.models import MODELS
from mnist_minimal.training import core
from tests.whole import whole_only

pytestmark = pytest.mark.skipif(
    not core.available() and os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") != "1", reason="the C++ core was not built"
)

DRAWS = range(4)

# Largest differences: of probabilities; of a gradient as a share of its variable's largest, and of the model's largest
# where it is 0 in truth, as that of a bias in front of a normalisation is; of what a variable moved by, likewise.
PROBABILITY_TOLERANCE = 2e-6
GRADIENT_TOLERANCE, ZERO_TOLERANCE = 5e-5, 2e-6
STEP_TOLERANCE = 1e-3


def farthest(found: list[np.ndarray], expected: list[np.ndarray], share: float, zero: float) -> float:
    """The largest difference over what is tolerated: `share` of the array's largest and `zero` of all arrays'."""
    largest = max(np.abs(array).max() for array in expected)
    return max(
        float(np.abs(mine - theirs).max() / (share * np.abs(theirs).max() + zero * largest))
        for mine, theirs in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "count",
    [
        5,
        *(pytest.param(count, marks=[pytest.mark.slow, whole_only]) for count in (1, 16, 100, 128)),
    ],
)
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


# Others, which take less time, have their kinds of layers.
LIKE_OTHERS = ("antman9954", "small8624", "pyramid3762")


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        # One of each kind of convolution; the gradients of all are compared above.
        *((name, 4) for name in ("conv18242", "shared1936", "sep997")),
        *(
            pytest.param(name, 20, marks=[pytest.mark.slow, *([whole_only] if name in LIKE_OTHERS else [])])
            for name in MODELS
        ),
    ],
)
def test_weights_after_steps(name: str, steps: int) -> None:
    differences = []
    for draw in DRAWS:
        model, reference, moved, expected = after_steps(name, draw, steps)
        differences.append(farthest(moved, expected, STEP_TOLERANCE, STEP_TOLERANCE))
        statistics = zip(model.non_trainable_variables, reference.non_trainable_variables, strict=True)
        agree = [np.allclose(mine.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5) for mine, theirs in statistics]
        if differences[-1] <= 1 and all(agree):
            return
    pytest.fail(f"differences of the steps over what is tolerated: {differences}; statistics agree: {agree}")
