"""How far results in single precision may lie from those in double: asked of the computation, not of a processor.

Rounding a sum of products is, to first order, the same as rounding what is multiplied: a network in single precision
computes what a network whose weights are changed by about 2**-23 of themselves computes exactly. So its conditioning
is measured, by changing the weights so at random and computing again, and the largest change, times FACTOR for another
order of sums that is less lucky than these draws, is what rounding may do. Where both sides are known to the last bit
on every machine, as the core's results and those in double precision are, such a comparison either holds everywhere or
nowhere.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np

from experiments.oracles import in_double
from mnist_minimal.data.sets import Splits
from mnist_minimal.recipes import Recipe
from mnist_minimal.training import Fit, keras_fit, native_fit

SINGLE = float(np.finfo(np.float32).eps)
# What is always rounded, on the scale of an array's largest: a result itself, and what it was added up from.
FACTOR, ROUNDED = 8, 16 * SINGLE
NOISY = 4
# The core takes beta_2 in single precision, so that 1 - beta_2 = 0.001 is off by up to 3e-8, and Adam's steps, which
# are divided by its root, by half that share of themselves.
OPTIONS = 2**-25 / 0.001 / 2


def largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0))


def noisy(weights: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Arrays, each number of them changed by about what float32 rounds by."""
    random = np.random.default_rng(seed)
    return [(array * (1 + SINGLE * random.standard_normal(array.shape))).astype(array.dtype) for array in weights]


def tolerance(exact: np.ndarray, inexact: Sequence[np.ndarray], scale: float | None = None, steps: int = 1) -> float:
    """How far a result may be from `exact`, which noise has changed into `inexact`.

    Args:
        exact: The result without noise.
        inexact: The same with.
        scale: The largest of what it was added up from; by default its own.
        steps: How often there was rounding where there was noise once: independent errors add up as their squares do.
    """
    changes = max(largest(np.asarray(other) - exact) for other in inexact)
    return FACTOR * math.sqrt(steps) * changes + ROUNDED * (largest(exact) if scale is None else scale)


def outputs_in_double(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """What a model gives images in double precision, without noise and with."""
    double = in_double(model)
    weights = double.get_weights()
    outputs = []
    for draw in range(NOISY + 1):
        double.set_weights(weights if draw == 0 else noisy(weights, draw))
        outputs.append(np.asarray(double(images.astype(np.float64), training=False)))
    return outputs


def exact_outputs(model: keras.Model, images: np.ndarray) -> tuple[np.ndarray, float]:
    """What a model gives images in double precision, and how far single precision may be from it."""
    exact, *inexact = outputs_in_double(model, images)
    return exact, tolerance(exact, inexact)


def exact_loss(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The mean cross-entropy in double precision, and how far single precision may be from it."""
    places = np.arange(len(labels))
    exact, *inexact = [-np.log(found[places, labels]).mean() for found in outputs_in_double(model, images)]
    return float(exact), tolerance(exact, inexact)


def rounding_of(model: keras.Model, images: np.ndarray) -> float:
    """How far two computations of a model's outputs in single precision may be apart; the model is as it was after."""
    weights = model.get_weights()
    outputs = []
    for draw in range(NOISY + 1):
        model.set_weights(weights if draw == 0 else noisy(weights, draw))
        outputs.append(np.asarray(model(images.astype(np.float32), training=False)))
    model.set_weights(weights)
    return tolerance(outputs[0], outputs[1:])


def assert_fit_of_the_core_is_that_of_keras(
    model: keras.Model, recipe: Recipe, splits: Splits, seed: int, max_epochs: int | None = None
) -> tuple[Fit, Fit, keras.Model]:
    """Trains by the core, and by Keras in double precision, from the weights of a model without dropout.

    Returns:
        The core's fit, Keras' fit, and the model that Keras trained.
    """
    start, exact = model.get_weights(), in_double(model)
    reference = keras_fit.fit(exact, recipe, splits, seed, max_epochs=max_epochs)
    fits, weights = [], []
    for draw in range(NOISY + 1):
        model.set_weights(start if draw == 0 else noisy(start, draw))
        fits.append(native_fit.fit(model, recipe, splits, seed, max_epochs=max_epochs))
        weights.append(model.get_weights())
    model.set_weights(weights[0])
    native = fits[0]
    steps = native.epochs * math.ceil(len(splits.x_train) / recipe.batch_size)
    assert native.history.keys() == reference.history.keys()
    for name, values in reference.history.items():
        # Keras has metrics and rates in single precision.
        counted = name.endswith("accuracy") or name == "learning_rate"
        inexact = fits[:1] if counted else fits[1:]
        expected, others = np.array(native.history[name]), [np.array(fit.history[name]) for fit in inexact]
        allowed = tolerance(expected, others, steps=steps)
        np.testing.assert_allclose(native.history[name], values, rtol=0, atol=allowed, err_msg=name)
    for mine, theirs, before, *others in zip(weights[0], exact.get_weights(), start, *weights[1:], strict=True):
        allowed = tolerance(mine, others, steps=steps) + OPTIONS * largest(mine - before)
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=allowed)
    return native, reference, exact
