"""The core's plain scalar loops (core/reference.cpp): against Keras in double, and the vector kernels against them.

How far a network's float32 results may lie from those in double precision is a question of its conditioning, which the
scalar loops themselves answer: what they lose in single precision, and what they change in double precision where each
weight changes by what float32 rounds by, the vector kernels may lose as many times as `tests.rounding` says, as they
add in another order. Nothing is fitted to a processor.
"""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from experiments.oracles import gradients_in_double, in_double, patterns
from mnist_minimal.models.normalization import InstanceNormalization
from mnist_minimal.training import core
from mnist_minimal.training.chain import Chain, shaped
from mnist_minimal.training.core import core_arguments
from mnist_minimal.training.optimizers import AdamW
from tests.rounding import NOISY, SINGLE, largest, noisy, tolerance
from tests.training.test_core import CHAINS, dropout_model, head, sequential

# Where the core is required, its absence is a failure and no reason to skip.
if not core.available() and os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") != "1":
    pytest.skip("the C++ core was not built", allow_module_level=True)

from mnist_minimal.training.core import _core

COUNT, BATCH = 37, 20

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "adamw": lambda: AdamW(0.01, 0.01),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
}

# Of numbers that single precision has exactly, as the core has its options in it.
EXACT_OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "adamw": lambda: AdamW(2**-9, 2**-10, beta_1=0.875, beta_2=1 - 2**-7, epsilon=2**-20),
    "adam": lambda: keras.optimizers.Adam(2**-9, beta_1=0.75, beta_2=1 - 2**-6, epsilon=2**-12),
    "momentum": lambda: keras.optimizers.SGD(2**-5, momentum=0.875),
    "sgd": lambda: keras.optimizers.SGD(2**-4),
}

MODELS = {
    **CHAINS,
    "dropout": dropout_model,
    "dropout behind silu": lambda: sequential(
        layers.Conv2D(5, 3, activation="silu"), layers.Dropout(0.3), layers.Conv2D(3, 2), layers.ReLU(), *head()
    ),
    "dropout behind a pooled convolution and an instance norm": lambda: sequential(
        layers.Conv2D(5, 3, padding="same"),
        layers.MaxPooling2D(2),
        layers.LeakyReLU(0.2),
        layers.Dropout(0.3),
        layers.DepthwiseConv2D((2, 3)),
        InstanceNormalization(),
        layers.Dropout(0.5),
        *head(),
    ),
}


def made(name: str) -> keras.Model:
    keras.utils.set_random_seed(2)
    return MODELS[name]()


def batch(model: keras.Model, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, small where no layer scales their pixels, and labels."""
    random = np.random.default_rng(4)
    x = random.integers(0, 256, (COUNT, *model.input_shape[1:])).astype(np.uint8)
    y = random.integers(0, model.output_shape[-1], COUNT).astype(np.uint8)
    return (x if name == "pixels" else (x / 255).astype(np.float32)), y


def soft_targets(classes: int) -> np.ndarray:
    """Random probabilities, float32 (COUNT, classes)."""
    return np.random.default_rng(6).dirichlet(np.full(classes, 0.5), COUNT).astype(np.float32)


def reference(chain: Chain, double: bool) -> Any:
    """The chain's network as scalar loops, from the same weights and statistics."""
    kind, dtype = (_core.Reference64, np.float64) if double else (_core.Reference32, np.float32)
    network = kind(**core_arguments(chain.description.network), optimizer=chain.optimizer)
    network.parameters = chain.network.parameters.astype(dtype)
    network.statistics = chain.network.statistics.astype(dtype)
    return network


def results(chain: Chain, network: Any, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that a network computes: probabilities, gradients, and what four steps of training make of it."""
    order = np.random.default_rng(5).permutation(COUNT)
    found = {"probabilities": network.predict(x)}
    found["loss of a batch"] = np.array(network.compute_gradients(x, y, order, seed=3, epoch=1, step=2)[0])
    variables = chain.description.parameters
    for variable, gradient in zip(variables, shaped(variables, network.gradients), strict=True):
        found[f"gradient of {variable.path}"] = gradient
    # The first epoch learns labels, the second probabilities.
    aims = soft_targets(network.predict(x).shape[1])
    found["loss by targets"] = np.array(network.compute_gradients(x, y, order, targets=aims)[0])
    for epoch, targets in enumerate((None, aims)):
        loss = network.train(x, y, order, batch_size=BATCH, seed=3, epoch=epoch, learning_rates=0.01, targets=targets)[
            0
        ]
        found[f"loss of epoch {epoch}"] = np.array(loss)
    for variable, weights in zip(variables, shaped(variables, network.parameters), strict=True):
        found[f"weights of {variable.path}"] = weights
    found["moments"], found["statistics"] = network.moments, network.statistics
    assert network.steps == 4
    return found


@pytest.mark.parametrize("name", CHAINS)
def test_the_reference_in_double_precision_against_keras(name: str) -> None:
    """Apart by what the core rounds options by, slopes, epsilons and scales, which it has in single precision."""
    model = made(name)
    chain = Chain(model, keras.optimizers.SGD(0.1))
    x, y = batch(model, name)
    double = in_double(model)
    probabilities = double(x).numpy()
    by_variable = {
        id(variable): gradient
        for variable, gradient in zip(model.trainable_variables, gradients_in_double(double, x, y), strict=True)
    }
    ours = reference(chain, double=True)
    np.testing.assert_allclose(ours.predict(x), probabilities, rtol=0, atol=SINGLE)
    ours.compute_gradients(x, y, np.arange(COUNT))
    variables, of_all = chain.description.parameters, max(map(largest, by_variable.values()))
    for variable, found in zip(variables, shaped(variables, ours.gradients), strict=True):
        expected = by_variable[id(variable)]
        allowed = 4 * SINGLE * max(largest(expected), 1e-6 * of_all)
        np.testing.assert_allclose(found, expected, rtol=0, atol=allowed, err_msg=variable.path)


@pytest.mark.parametrize(
    "optimizer", ["adamw", "momentum", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adam", "sgd"))]
)
def test_20_steps_of_the_reference_in_double_precision_are_those_of_keras(optimizer: str) -> None:
    """Weights and moving statistics; what rounds by 1e-16 may grow a million times."""
    keras.utils.set_random_seed(5)
    model = sequential(
        layers.Rescaling(2**-8),
        layers.Conv2D(6, 3, use_bias=False),
        layers.BatchNormalization(momentum=0.875, epsilon=2**-10),
        layers.LeakyReLU(0.25),
        layers.Conv2D(6, 3),
        *head(),
    )
    x, y = patterns(20 * 40, model.input_shape[1:])
    order = np.random.default_rng(0).permutation(len(x))
    chain = Chain(model, EXACT_OPTIMIZERS[optimizer]())
    ours, double, theirs = reference(chain, double=True), in_double(model), EXACT_OPTIMIZERS[optimizer]()
    for chosen in order.reshape(20, 40):
        theirs.apply(gradients_in_double(double, x[chosen], y[chosen]), double.trainable_variables)
    rate = float(theirs.learning_rate)
    loss = ours.train(x, y, order, batch_size=40, seed=0, epoch=0, learning_rates=rate)[0]
    assert ours.steps == 20
    assert np.isfinite(loss)
    twins = dict(zip(map(id, model.weights), double.get_weights(), strict=True))
    description = chain.description
    for variables, found in ((description.parameters, ours.parameters), (description.statistics, ours.statistics)):
        assert variables
        for variable, values in zip(variables, shaped(variables, found), strict=True):
            np.testing.assert_allclose(values, twins[id(variable)], rtol=0, atol=1e-10, err_msg=variable.path)


def test_the_loss_by_targets_against_keras() -> None:
    """In double precision: the loss, and the gradient of the logits' bias, which is the mean of p - t."""
    logits = keras.Sequential([keras.Input((1, 1, 4)), layers.Flatten(), layers.Dense(10, "softmax", name="classes")])
    chain = Chain(logits, keras.optimizers.SGD(0.1))
    random = np.random.default_rng(7)
    x, y = random.normal(size=(COUNT, 1, 1, 4)).astype(np.float32), random.integers(0, 10, COUNT).astype(np.uint8)
    aims = soft_targets(10)
    ours = reference(chain, double=True)
    loss, correct, _ = ours.compute_gradients(x, y, np.arange(COUNT), targets=aims)
    probabilities = in_double(logits)(x.astype(np.float64)).numpy()
    assert loss / COUNT == pytest.approx(
        float(np.mean(keras.losses.categorical_crossentropy(aims.astype(np.float64), probabilities))), rel=1e-6
    )
    assert correct == np.sum(probabilities.argmax(axis=1) == y)
    bias = shaped(chain.description.parameters, ours.gradients)[1]
    np.testing.assert_allclose(bias, (probabilities - aims).mean(axis=0), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        pytest.param(name, optimizer, marks=pytest.mark.slow if optimizer != "adamw" and name != "dropout" else ())
        for name in MODELS
        for optimizer in OPTIMIZERS
    ],
)
def test_every_instruction_set_against_the_reference(name: str, optimizer: str) -> None:
    """Dropout switched on, two epochs of two batches, of which neither is a multiple of sixteen images."""
    model = made(name)
    x, y = batch(model, name)
    chain = Chain(model, OPTIMIZERS[optimizer]())
    exact = results(chain, reference(chain, double=True), x, y)
    inexact = [results(chain, reference(chain, double=False), x, y)]
    for seed in range(NOISY):
        changed = reference(chain, double=True)
        (changed.parameters,) = noisy([changed.parameters], seed)
        inexact.append(results(chain, changed, x, y))
    of_gradients = max(largest(values) for what, values in exact.items() if what.startswith("gradient"))
    for instruction_set in core.instruction_sets():
        ours = Chain(model, OPTIMIZERS[optimizer](), instruction_set)
        found = results(ours, ours.network, x, y)
        assert found.keys() == exact.keys()
        for what, values in found.items():
            # A gradient that cancels is added up from numbers of the size of the others.
            scale = of_gradients if what.startswith("gradient") else None
            allowed = tolerance(exact[what], [other[what] for other in inexact], scale)
            difference = largest(values - exact[what])
            assert difference <= allowed, f"{instruction_set}, {what}: {difference:.3g} of {allowed:.3g}"
