"""The initial weights that a seed gives, drawn from Keras' distributions by this package.

Keras draws with the random numbers and the elementary functions of TensorFlow, JAX or PyTorch, which differ from one
another and may differ with their versions and processors. Here an array's weights are a function of the trial's seed,
the array's number in the model and the weight's place in the array (`data.random`), the same bits everywhere.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import keras
import numpy as np
from keras import initializers

from mnist_minimal.data.distributions import Key, normal, truncated_normal, uniform
from mnist_minimal.data.random import INITIAL_WEIGHTS, stream

# The standard deviation of a standard normal distribution that is cut off at -2 and 2.
TRUNCATED_DEVIATION = 0.87962566103423978

# Of the largest of an array's values: values that are so near each other are the same but for rounding.
SAME = 1e-5

CONSTANT = initializers.Zeros, initializers.Ones, initializers.Constant
VARIANCE_SCALING = (
    initializers.VarianceScaling,
    *(initializers.GlorotUniform, initializers.GlorotNormal),
    *(initializers.HeUniform, initializers.HeNormal),
    *(initializers.LecunUniform, initializers.LecunNormal),
)
RANDOM = initializers.RandomUniform, initializers.RandomNormal, initializers.TruncatedNormal, *VARIANCE_SCALING


# Of so many weights, float64 (n,), from the key of their array.
Distribution: TypeAlias = Callable[[int, Key], np.ndarray]

# An array's initial weights, float32 in its shape, from a trial's seed.
Draw: TypeAlias = Callable[[int], np.ndarray]


def draw(model: keras.Model, seed: int) -> list[str]:
    """Gives a model that its builder has just built the initial weights of a seed.

    An array keeps the values that it has where its initializer is of another kind than those above, or not known since
    the layer does not hold it; where the initializer was given a seed of its own, as the user wants the same start in
    every trial; and where the builder has changed the values.

    Args:
        model: A built model; its weights are set.
        seed: The trial's seed, 0 <= seed < 2**64.

    Returns:
        The arrays that keep values which are not constants, such as "Dense kernel (array 2)"; the number is the array's
        place in `model.weights`. Keras or the builder has drawn them, and they may differ on another machine.
    """
    drawn, kept = draws(model)
    for number, values in drawn.items():
        model.weights[number].assign(values(seed))
    return kept


def draws(model: keras.Model) -> tuple[dict[int, Draw], list[str]]:
    """What `draw` does to a model, for many seeds.

    Args:
        model: A model that its builder has just built; it stays as it is.

    Returns:
        For the arrays that are drawn, by their place in `model.weights`, what gives their values from a trial's seed;
        and what `draw` returns.
    """
    layers = list(model._flatten_layers())
    drawn: dict[int, Draw] = {}
    kept = []
    for number, weights in enumerate(model.weights):
        # The layer itself, after the models and layers that it is part of.
        holders = [layer for layer in layers if any(weights is held for held in layer.weights)]
        initializer = _initializer(weights, holders)
        if type(initializer) in RANDOM:
            shape = tuple(weights.shape)
            drawn[number] = partial(_values, distribution(initializer, shape), shape, number)
        elif initializer is None and not _is_zero_or_one(weights):
            kept.append(f"{type(holders[-1]).__name__} {weights.name} (array {number})")
    return drawn, kept


def _values(found: Distribution, shape: tuple[int, ...], number: int, seed: int) -> np.ndarray:
    return found(math.prod(shape), stream(seed, INITIAL_WEIGHTS, number)).astype(np.float32).reshape(shape)


def distribution(initializer: keras.Initializer, shape: tuple[int, ...]) -> Distribution:
    """What an initializer, one of RANDOM, draws an array of this shape from."""
    if isinstance(initializer, initializers.RandomUniform):
        return partial(uniform, float(initializer.minval), float(initializer.maxval))
    if isinstance(initializer, initializers.RandomNormal):
        return partial(normal, float(initializer.mean), float(initializer.stddev))
    if isinstance(initializer, initializers.TruncatedNormal):
        return partial(truncated_normal, float(initializer.mean), float(initializer.stddev))
    inputs, outputs = fans(shape, getattr(initializer, "input_axes", None), getattr(initializer, "output_axes", None))
    units = {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}[initializer.mode]
    variance = initializer.scale / max(1.0, units)
    if initializer.distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return partial(uniform, -limit, limit)
    if initializer.distribution == "untruncated_normal":
        return partial(normal, 0.0, math.sqrt(variance))
    return partial(truncated_normal, 0.0, math.sqrt(variance) / TRUNCATED_DEVIATION)


def fans(
    shape: tuple[int, ...], input_axes: list[int] | None = None, output_axes: list[int] | None = None
) -> tuple[int, int]:
    """Input and output units of an array of weights, as Keras counts them."""
    if input_axes is not None and output_axes is not None:
        return math.prod(shape[axis] for axis in input_axes), math.prod(shape[axis] for axis in output_axes)
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    taps = math.prod(shape[:-2])
    return shape[-2] * taps, shape[-1] * taps


def _initializer(weights: keras.Variable, holders: list[keras.layers.Layer]) -> keras.Initializer | None:
    """The initializer without a seed of its own that gave an array its values, where its kind is known here.

    Layers hold their initializers, under names of their own, but no array knows which is its. An initializer that is
    called again draws the same again, so it is the one that gives the array's values.
    """
    if not keras.backend.is_float_dtype(weights.dtype):
        return None
    for layer in holders:
        for initializer in vars(layer).values():
            kind = type(initializer)
            if kind in CONSTANT or (kind in RANDOM and initializer.get_config()["seed"] is None):
                again, values = _numbers(initializer(weights.shape, weights.dtype)), _numbers(weights)
                # Of the largest value: by a GPU and by a processor those near 0 differ by more of themselves.
                if np.abs(again - values).max(initial=0.0) <= SAME * np.abs(values).max(initial=0.0):
                    return initializer
    return None


def _is_zero_or_one(weights: keras.Variable) -> bool:
    """Whether all values are 0 or all are 1, which no initializer draws and layers without one begin with."""
    values = _numbers(weights)
    return bool((values == 0).all() or (values == 1).all())


def _numbers(tensor: object) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor), np.float64)
