"""The C++ core: what it computes worked by hand, its bits, dropout, what it refuses."""

import dataclasses
import os
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from experiments.oracles import chain, images, labels, randomise, without_dropout
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.models.normalization import InstanceNormalization
from mnist_minimal.training import core
from mnist_minimal.training.chain import Chain, describe, flat, unsupported
from mnist_minimal.training.network import Layer
from mnist_minimal.training.optimizers import AdamW
from tests.rounding import exact_loss, exact_outputs

# Where the core is required, its absence is a failure and no reason to skip.
pytestmark = pytest.mark.skipif(
    not core.available() and os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") != "1", reason="the C++ core was not built"
)

every_instruction_set = pytest.mark.parametrize("instruction_set", core.instruction_sets())


def sequential(*chain_of_layers: keras.layers.Layer, shape: tuple[int, int, int] = (9, 8, 3)) -> keras.Model:
    return randomise(keras.Sequential([keras.Input(shape), *chain_of_layers]))


def head(classes: int = 10) -> list[keras.layers.Layer]:
    return [layers.GlobalAveragePooling2D(), layers.Dense(classes, activation="softmax")]


def shared_chain() -> keras.Model:
    """One separable convolution passed three times, each time with a normalisation of its own."""
    pixels = keras.Input((9, 8, 3))
    shared = layers.SeparableConv2D(6, 3, padding="same", name="shared")
    x = layers.Conv2D(6, 3, activation="relu")(pixels)
    for _ in range(3):
        x = InstanceNormalization()(layers.ReLU()(shared(x)))
    for layer in head():
        x = layer(x)
    return randomise(keras.Model(pixels, x))


CHAINS = {
    "convolution": lambda: sequential(layers.Conv2D(5, 3), layers.Conv2D(7, (2, 3), padding="same"), *head()),
    "no bias": lambda: sequential(
        layers.Conv2D(13, 3, use_bias=False, activation="relu"), layers.Conv2D(2, 1, use_bias=False), *head()
    ),
    "large kernel": lambda: sequential(
        layers.Conv2D(4, (4, 5), padding="same"), layers.Conv2D(6, (5, 4)), *head(), shape=(12, 11, 1)
    ),
    "wide": lambda: sequential(layers.Conv2D(32, 3), layers.ReLU(), layers.Conv2D(26, 3, padding="same"), *head()),
    "two rows at once": lambda: sequential(
        layers.Conv2D(8, 3, activation="relu"),
        layers.Conv2D(16, 3, padding="same", activation="leaky_relu"),
        layers.Conv2D(12, 3, use_bias=False),
        *head(),
        shape=(10, 11, 3),
    ),
    "separable": lambda: sequential(
        layers.SeparableConv2D(7, 3, activation=layers.LeakyReLU(0.3)), layers.SeparableConv2D(11, 3), *head()
    ),
    "separable same": lambda: sequential(
        layers.SeparableConv2D(7, 3, padding="same"),
        layers.LeakyReLU(0.1),
        layers.SeparableConv2D(1, (2, 5), padding="same", use_bias=False),
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ),
    "depthwise": lambda: sequential(
        layers.Conv2D(6, 1),
        layers.DepthwiseConv2D(3, activation="relu"),
        layers.DepthwiseConv2D((1, 4), padding="same", use_bias=False, activation="leaky_relu"),
        *head(),
    ),
    "first convolution and pool": lambda: sequential(
        layers.Conv2D(7, 3), layers.LeakyReLU(0.2), layers.MaxPooling2D(2), layers.Conv2D(3, 2), *head()
    ),
    "first convolution, pool, odd": lambda: sequential(
        layers.Conv2D(7, (3, 2), padding="same"), layers.MaxPooling2D(2), layers.ReLU(), *head()
    ),
    "first convolution and average": lambda: sequential(
        layers.Conv2D(7, 3, padding="same"), layers.LeakyReLU(0.2), layers.AveragePooling2D(2), *head()
    ),
    "first convolution, average, odd": lambda: sequential(
        layers.Conv2D(13, (3, 2), use_bias=False), layers.AveragePooling2D(2), layers.ReLU(), *head(), shape=(11, 8, 1)
    ),
    "silu": lambda: sequential(
        layers.Activation("silu"),
        layers.Conv2D(5, 3, padding="same", activation="silu"),
        layers.AveragePooling2D(2),
        layers.DepthwiseConv2D(2),
        layers.BatchNormalization(),
        layers.Activation("silu"),
        layers.Conv2D(7, 1, activation="silu"),
        layers.LeakyReLU(0.3),
        *head(),
    ),
    "max pool": lambda: sequential(
        layers.Conv2D(5, 2), layers.Conv2D(5, 2, activation="relu"), layers.MaxPooling2D((2, 3)), *head()
    ),
    "average pool": lambda: sequential(
        layers.Conv2D(5, 2), layers.AveragePooling2D((3, 2)), layers.Activation("relu"), layers.Conv2D(4, 2), *head()
    ),
    "batch norm": lambda: sequential(
        layers.Conv2D(5, 3),
        layers.BatchNormalization(momentum=0.7, epsilon=0.01),
        layers.ReLU(),
        layers.Conv2D(8, 3, padding="same", activation="relu"),
        layers.BatchNormalization(scale=False),
        layers.MaxPooling2D(2),
        layers.Conv2D(4, 2),
        layers.BatchNormalization(center=False),
        layers.Flatten(),
        layers.Dense(12),
        layers.BatchNormalization(),
        layers.Dense(10),
        layers.ReLU(),
        layers.Softmax(),
    ),
    "batch norm after all": lambda: sequential(
        layers.Conv2D(6, 2),
        layers.MaxPooling2D(2),
        layers.BatchNormalization(),
        layers.Conv2D(8, 3, padding="same"),
        InstanceNormalization(),
        layers.BatchNormalization(),
        layers.MaxPooling2D((2, 1)),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(2, activation="relu"),
        layers.BatchNormalization(),
        layers.AveragePooling2D((1, 2)),
        layers.BatchNormalization(),
        *head(),
        shape=(10, 11, 3),
    ),
    "batch norm first": lambda: sequential(layers.BatchNormalization(), layers.Conv2D(3, 3), *head()),
    "batch norm last": lambda: sequential(
        layers.Conv2D(10, (9, 8)), layers.BatchNormalization(), layers.Flatten(), layers.Activation("softmax")
    ),
    "instance norm": lambda: sequential(
        layers.Conv2D(5, 3, activation="relu"),
        InstanceNormalization(),
        layers.SeparableConv2D(6, 3),
        InstanceNormalization(epsilon=0.1),
        layers.GlobalAveragePooling2D(),
        layers.Dense(16, activation="relu"),
        InstanceNormalization(),
        layers.Dense(10, activation="softmax"),
    ),
    "shared": shared_chain,
    "dense": lambda: sequential(
        layers.Flatten(), layers.Dense(20), layers.LeakyReLU(), layers.Dense(10, activation="softmax")
    ),
    "dense over positions": lambda: sequential(
        layers.Dense(6, activation="relu"),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Dense(10),
        layers.Flatten(),
        layers.Softmax(),
    ),
    "pixels": lambda: sequential(
        layers.Rescaling(1 / 255),
        layers.Normalization(mean=[0.1307], variance=[0.3081**2]),
        layers.Conv2D(5, 3, padding="same"),
        *head(),
    ),
    "only flattened before the softmax": lambda: sequential(
        layers.Conv2D(2, 5, activation="relu"), layers.AveragePooling2D((2, 1)), layers.Flatten(), layers.Softmax()
    ),
    "an activation of what is flattened, and the softmax": lambda: sequential(
        layers.Conv2D(2, 5), layers.AveragePooling2D((2, 1)), layers.Flatten(), layers.LeakyReLU(0.3), layers.Softmax()
    ),
    "three classes": lambda: sequential(layers.Conv2D(5, 3), *head(3)),
}


@every_instruction_set
def test_adamw_by_hand(instruction_set: str) -> None:
    """Two steps with decay 1/10 and learning rate 1/4 on a bias with gradients known from the labels alone."""
    model = keras.Sequential([keras.Input((1, 1, 1)), layers.Flatten(), layers.Dense(2, activation="softmax")])
    model.set_weights([np.zeros((1, 2), np.float32), np.array([1.0, 1.0], np.float32)])
    ours = Chain(model, AdamW(0.25, 0.1), instruction_set)
    x, y = np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.uint8)

    ours.network.train(x, y, np.array([0]), batch_size=1, seed=0, epoch=0, learning_rates=0.25)
    # Both logits 1: the gradients are -1/2 and 1/2. Decay leaves 0.9; the first step of Adam is the learning rate.
    np.testing.assert_allclose(ours.network.parameters[2:], [0.9 + 0.25, 0.9 - 0.25], atol=5e-6)
    # m = (1 - 0.9) g, v = (1 - 0.999) g**2, for the kernel 0.
    np.testing.assert_allclose(ours.network.moments, [0, 0, -0.05, 0.05, 0, 0, 2.5e-4, 2.5e-4], rtol=3e-5)

    ours.network.train(x, y, np.array([0]), batch_size=1, seed=0, epoch=1, learning_rates=0.25)
    # Logits 1.15 and 0.65: p = 1 / (1 + exp(-1/2)) = 0.6224593, gradients -+0.3775407.
    # m = -(0.9 * 0.05 + 0.1 * 0.3775407) = -0.08275407; v = 0.999 * 2.5e-4 + 0.001 * 0.3775407**2 = 3.922870e-4;
    # the step is 0.25 * (0.08275407 / 0.19) / sqrt(3.922870e-4 / 0.001999) = 0.2457986.
    np.testing.assert_allclose(ours.network.parameters[2:], [0.9 * 1.15 + 0.2457986, 0.9 * 0.65 - 0.2457986], atol=5e-6)


@every_instruction_set
def test_gradients_by_finite_differences(instruction_set: str) -> None:
    """Without Keras: the loss's change along random directions."""
    keras.utils.set_random_seed(6)
    ours = chain(CHAINS["instance norm"](), instruction_set=instruction_set)
    x, y, order = (images(24, (9, 8, 3)) / 255).astype(np.float32), labels(24), np.arange(24)
    network = ours.network
    start = network.parameters
    network.compute_gradients(x, y, order)
    gradients = network.gradients.astype(np.float64)
    random = np.random.default_rng(0)
    for _ in range(5):
        direction = random.standard_normal(len(start))
        direction /= np.linalg.norm(direction)
        losses = []
        for sign in (1, -1):
            network.parameters = (start + sign * 2e-3 * direction).astype(np.float32)
            losses.append(network.compute_gradients(x, y, order)[0] / 24)
        assert (losses[0] - losses[1]) / 4e-3 == pytest.approx(gradients @ direction, abs=2e-4)


# Determinism and dropout


def dropout_model(rate: float = 0.25) -> keras.Model:
    keras.utils.set_random_seed(7)
    return sequential(
        layers.Conv2D(6, 3),
        layers.LeakyReLU(0.2),
        layers.Dropout(rate),
        layers.SeparableConv2D(6, 3, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dropout(rate),
        layers.MaxPooling2D(2),
        layers.Dropout(rate),
        *head(),
    )


@every_instruction_set
@pytest.mark.parametrize("model", [MODELS["sep997"], dropout_model])
def test_same_bits_for_any_number_of_threads(model, instruction_set: str) -> None:
    built = model()
    x, y = images(300, built.input_shape[1:]), labels(300)
    found = []
    for threads in (1, 2, 3, 7, 64):
        ours = chain(built, instruction_set=instruction_set)
        totals = ours.network.train(
            x, y, np.arange(300), batch_size=100, seed=1, epoch=2, learning_rates=0.01, threads=threads
        )
        evaluated = ours.network.evaluate(x, y, threads=threads)
        found.append((totals[:2], evaluated[:2], ours.network.parameters.tobytes(), ours.network.statistics.tobytes()))
    assert all(other == found[0] for other in found)


@every_instruction_set
@pytest.mark.parametrize(
    ("shape", "convolution", "behind"),
    [
        ((28, 28, 1), layers.Conv2D(9, 3, padding="same"), [layers.LeakyReLU(0.2)]),
        ((27, 24, 1), layers.Conv2D(7, (5, 4), use_bias=False), [layers.ReLU(), layers.Dropout(0.3)]),
        ((12, 13, 3), layers.Conv2D(11, (2, 5)), []),
        ((9, 8, 2), layers.Conv2D(3, 1), [layers.Dropout(0.1), layers.LeakyReLU(0.5)]),
        ((10, 10, 8), layers.Conv2D(8, 3), [layers.LeakyReLU(0.2)]),
    ],
    ids=["same", "odd, dropout", "no activation", "activation behind", "two rows at once"],
)
def test_a_first_convolution_with_its_average_pool_has_the_bits_of_the_two(
    shape, convolution, behind, instruction_set
) -> None:
    """Behind a layer that does nothing a convolution is not the first one, and its pool is a layer of its own."""
    activation = [layer for layer in behind[:1] if not isinstance(layer, layers.Dropout)]
    chain_of_layers = [convolution, *activation, layers.AveragePooling2D(2), *behind[len(activation) :]]
    chain_of_layers += [layers.Conv2D(5, 2), *head()]
    description = describe(sequential(layers.Rescaling(1 / 255), *chain_of_layers, shape=shape))
    network = description.network
    nothing = Layer("elementwise", network.input_shape, network.input_shape)
    x, y = images(150, shape), labels(150)

    def trained(chosen: tuple[Layer, ...], threads: int) -> list[bytes]:
        made = core._core.Network(
            **core.core_arguments(dataclasses.replace(network, layers=chosen)),
            optimizer=core._core.Optimizer.adam(beta_1=0.9, beta_2=0.999, epsilon=1e-7, decay=0.0),
            instruction_set=instruction_set,
        )
        made.parameters = flat(description.parameters)
        loss, correct, _ = made.train(
            x, y, np.arange(150), batch_size=64, seed=1, epoch=2, learning_rates=0.02, threads=threads
        )
        made.compute_gradients(x, y, np.arange(77), seed=3)
        arrays = made.parameters, made.moments, made.gradients, made.predict(x)
        return [np.array([loss, correct]).tobytes(), *(array.tobytes() for array in arrays)]

    apart = trained((nothing, *network.layers), 1)
    assert trained(network.layers, 1) == apart == trained(network.layers, 3)


def test_training_follows_from_weights_moments_and_steps() -> None:
    """An epoch from arrays that were read out and put back gives the same bits as one that went on."""
    x, y, order = images(200), labels(200), np.arange(200)
    model = MODELS["sep997"]()
    first = chain(model, AdamW(0.01, 1e-6))
    first.network.train(x, y, order, batch_size=64, seed=1, epoch=0, learning_rates=0.01)
    second = chain(model, AdamW(0.01, 1e-6))
    second.network.parameters = first.network.parameters
    second.network.moments = first.network.moments
    second.network.statistics = first.network.statistics
    second.network.steps = first.network.steps
    for ours in (first, second):
        ours.network.train(x, y, order, batch_size=64, seed=1, epoch=1, learning_rates=0.01)
    assert first.network.steps == second.network.steps == 8
    assert first.network.parameters.tobytes() == second.network.parameters.tobytes()


@every_instruction_set
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_dropout_rate_scale_and_independence(rate: float, instruction_set: str) -> None:
    """The gradient of an input row of a dense layer behind the dropout shows what was dropped of a constant input."""
    units = 6000
    model = keras.Sequential(
        [keras.Input((1, 1, units)), layers.Dropout(rate), layers.Flatten(), layers.Dense(2, activation="softmax")]
    )
    model.set_weights([np.zeros((units, 2)), np.zeros(2)])
    ours = chain(model, instruction_set=instruction_set)
    x, y = np.ones((1, 1, 1, units), np.float32), np.zeros(1, np.uint8)

    def kept(**when: int) -> np.ndarray:
        ours.network.compute_gradients(x, y, np.array([0]), **when)
        # The logits' gradients are -+1/2, so each unit's is its input after dropout, halved.
        return -2 * next(iter(ours.gradients().values()))[:, 0]

    masks = [kept(seed=s, epoch=e, step=t) for s, e, t in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    deviation = np.sqrt(rate * (1 - rate) / units)
    for mask in masks:
        assert (mask == 0).mean() == pytest.approx(rate, abs=4.5 * deviation)
        np.testing.assert_allclose(mask[mask != 0], 1 / (1 - rate), rtol=1e-4)
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            both = ((mask == 0) & (other == 0)).mean()
            assert both == pytest.approx(rate * rate, abs=4.5 * np.sqrt(rate**2 * (1 - rate**2) / units))
    np.testing.assert_array_equal(kept(seed=0, epoch=0, step=0), masks[0])


@every_instruction_set
def test_dropout_differs_between_layers_samples_and_lanes(instruction_set: str) -> None:
    """A pixel of 1 in one place for each of 40 samples: all samples and both layers draw of their own."""
    model = keras.Sequential(
        [
            keras.Input((1, 1, 400)),
            layers.Dropout(0.5),
            layers.Activation("relu"),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.set_weights([np.zeros((400, 2)), np.zeros(2)])
    ours = chain(model, instruction_set=instruction_set)
    kept = []
    for sample in range(40):
        x = np.zeros((40, 1, 1, 400), np.float32)
        x[sample] = 1
        ours.network.compute_gradients(x, np.zeros(40, np.uint8), np.arange(40))
        kept.append(next(iter(ours.gradients().values()))[:, 0] != 0)
    shares = np.array(kept)
    # Both layers keep with probability 1/4; equal masks would keep 1/2.
    assert shares.mean() == pytest.approx(0.25, abs=4.5 * np.sqrt(0.25 * 0.75 / shares.size))
    agreement = np.corrcoef(shares)[np.triu_indices(40, 1)]
    assert np.abs(agreement).max() < 5.5 / np.sqrt(400)


def test_no_dropout_in_evaluation() -> None:
    model = MODELS["sep997"]()
    x = images(50)
    found, expected = (chain(either).network.predict(x) for either in (model, without_dropout(model)))
    np.testing.assert_array_equal(found, expected)


def test_evaluation_against_keras() -> None:
    model = randomise(MODELS["sep997"]())
    x, y = images(333), labels(333)
    probabilities, rounding = exact_outputs(model, x)
    expected, allowed = exact_loss(model, x, y)
    for instruction_set in core.instruction_sets():
        network = chain(model, instruction_set=instruction_set).network
        np.testing.assert_allclose(network.predict(x), probabilities, rtol=0, atol=rounding, err_msg=instruction_set)
        loss, correct, _ = network.evaluate(x, y)
        assert loss / 333 == pytest.approx(expected, abs=allowed), instruction_set
        assert correct == np.sum(probabilities.argmax(axis=1) == y), instruction_set


def test_every_instruction_set_drops_the_same_units() -> None:
    model = dropout_model()
    x, y = (images(21, (9, 8, 3)) / 255).astype(np.float32), labels(21)
    found = []
    for instruction_set in core.instruction_sets():
        ours = chain(model, instruction_set=instruction_set)
        ours.network.compute_gradients(x, y, np.arange(21))
        found.append(ours.gradients())
    for other in found[:-1]:
        for path, gradient in found[-1].items():
            np.testing.assert_array_equal(other[path], gradient, err_msg=path)


def test_the_instruction_set_is_the_arguments_then_the_environments_then_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, sets = MODELS["sep997"](), core.instruction_sets()
    assert sets[-1] == "baseline"
    assert len(set(sets)) == len(sets)
    monkeypatch.delenv("MNIST_MINIMAL_SIMD", raising=False)
    assert chain(model).network.instruction_set == core.instruction_set() == sets[0]
    monkeypatch.setenv("MNIST_MINIMAL_SIMD", "baseline")
    assert chain(model).network.instruction_set == core.instruction_set() == "baseline"
    for name in sets:
        assert chain(model, instruction_set=name).network.instruction_set == name
    with pytest.raises(ValueError, match="'mmx'"):
        chain(model, instruction_set="mmx")


# What is refused


def test_wrong_arrays_raise() -> None:
    network = chain(MODELS["sep997"]()).network
    x, y, order = images(20), labels(20), np.arange(20)
    when = {"batch_size": 10, "seed": 0, "epoch": 0, "learning_rates": 0.1}
    network.train(x, y, order, **when)
    before = network.parameters
    cases = [
        (ValueError, (x[:, :27], y, order)),
        (ValueError, (x[..., 0], y, order)),
        (TypeError, (x.astype(np.float64), y, order)),
        (ValueError, (x[:, :, ::-1], y, order)),
        (ValueError, (np.asfortranarray(x.astype(np.float32)), y, order)),
        (ValueError, (np.full(x.shape, np.nan, np.float32), y, order)),
        (ValueError, (np.full(x.shape, np.inf, np.float32), y, order)),
        (ValueError, (x, y[:-1], order)),
        (TypeError, (x, y.astype(np.int64), order)),
        (ValueError, (x, np.full(20, 10, np.uint8), order)),
        (ValueError, (x, y[::2].repeat(2).reshape(2, 10), order)),
        (ValueError, (x, y, order + 1)),
        (ValueError, (x, y, order - 1)),
        (ValueError, (x, y, order[:0])),
        (ValueError, (x, y, order[::2])),
        (TypeError, (x, y, order.astype(np.int32))),
        (TypeError, (x, y, order.astype(np.float64))),
    ]
    for error, arguments in cases:
        with pytest.raises(error):
            network.train(*arguments, **when)
    for wrong in ({"batch_size": 0}, {"threads": 0}, {"learning_rates": np.nan}):
        with pytest.raises(ValueError, match="expected"):
            network.train(x, y, order, **{**when, **wrong})
    for wrong in ({"seed": -1}, {"epoch": -1}, {"seed": 2**64}):
        with pytest.raises(TypeError):
            network.train(x, y, order, **{**when, **wrong})
    with pytest.raises(TypeError):
        network.train(None, y, order, **when)
    with pytest.raises(ValueError, match="997"):
        network.parameters = np.zeros(996, np.float32)
    with pytest.raises(TypeError):
        network.parameters = np.zeros(997)
    with pytest.raises(ValueError, match="order"):
        network.moments = np.zeros(4 * 997, np.float32)[::2]
    with pytest.raises(ValueError, match="steps"):
        network.steps = -1
    with pytest.raises(ValueError, match="one image"):
        network.evaluate(x[:0], y[:0])
    np.testing.assert_array_equal(network.parameters, before)


def test_wrong_layers_raise() -> None:
    from mnist_minimal.training.core import _core

    def network(*made: dict, shape: tuple[int, int, int] = (4, 4, 1), parameters: int = 1000) -> None:
        _core.Network(
            input_shape=shape,
            scale=1,
            offset=0,
            layers=[_core.Layer(**layer) for layer in made],
            parameters=parameters,
            statistics=0,
            optimizer=_core.Optimizer.momentum(momentum=0),
        )

    good = {"kind": "convolution", "in_shape": (4, 4, 1), "out_shape": (1, 1, 10), "kernel_size": (4, 4), "kernel": 0}
    network(good)
    for wrong in (
        {"kind": "lstm"},
        {"in_shape": (4, 4, 2)},
        {"in_shape": (4, 4)},
        {"out_shape": (2, 1, 10)},
        {"out_shape": (1, 1, 0)},
        {"kernel_size": (5, 4)},
        {"kernel_size": (0, 4)},
        {"kernel": -1},
        {"kernel": 900},
        {"bias": 2**62},
        {"pad": (-1, 0, 0, 0)},
        {"pad": (0, 0, 7, 0)},
        {"rate": 1.0},
        {"rate": float("nan")},
        {"slope": 2.0},
        {"slope": float("nan")},
    ):
        with pytest.raises(ValueError, match="expected"):
            network({**good, **wrong})
    with pytest.raises(ValueError, match="at least one layer"):
        network()
    with pytest.raises(ValueError, match="2\\*\\*24"):
        network(good, parameters=2**40)
    with pytest.raises(ValueError, match="statistics"):
        network(good, {"kind": "batch_norm", "in_shape": (1, 1, 10), "out_shape": (1, 1, 10)})


def branched() -> keras.Model:
    pixels = keras.Input((8, 8, 1))
    x = layers.Add(name="sum")([layers.Conv2D(3, 3)(pixels), layers.Conv2D(3, 3)(pixels)])
    for layer in head():
        x = layer(x)
    return keras.Model(pixels, x)


def frozen() -> keras.Model:
    model = sequential(layers.Conv2D(4, 3, name="frozen"), *head())
    model.get_layer("frozen").trainable = False
    return model


REFUSED = {
    "UpSampling2D": lambda: sequential(layers.UpSampling2D(name="odd one"), *head()),
    "strides": lambda: sequential(layers.Conv2D(4, 3, strides=2, name="odd one"), *head()),
    "dilation_rate": lambda: sequential(layers.Conv2D(4, 3, dilation_rate=2, name="odd one"), *head()),
    "groups": lambda: sequential(layers.Conv2D(6, 3, groups=3, name="odd one"), *head()),
    "depth_multiplier": lambda: sequential(layers.SeparableConv2D(4, 3, depth_multiplier=2, name="odd one"), *head()),
    "padding": lambda: sequential(layers.MaxPooling2D(2, padding="same", name="odd one"), *head()),
    "pool strides": lambda: sequential(layers.MaxPooling2D(3, strides=2, name="odd one"), *head()),
    "tanh": lambda: sequential(layers.Conv2D(4, 3, activation="tanh", name="odd one"), *head()),
    "max_value": lambda: sequential(layers.ReLU(max_value=6, name="odd one"), *head()),
    "kernel_regularizer": lambda: sequential(layers.Conv2D(4, 3, kernel_regularizer="l2", name="odd one"), *head()),
    "bias_constraint": lambda: sequential(layers.Conv2D(4, 3, bias_constraint="non_neg", name="odd one"), *head()),
    "float16": lambda: sequential(layers.Conv2D(4, 3, dtype="float16", name="odd one"), *head()),
    "noise_shape": lambda: sequential(layers.Dropout(0.1, noise_shape=(None, 1, 1, 3), name="odd one"), *head()),
    "after the softmax": lambda: sequential(*head(), layers.Dropout(0.1, name="odd one")),
    "after other layers": lambda: sequential(layers.Conv2D(3, 1), layers.Rescaling(2, name="odd one"), *head()),
    "trainable": frozen,
    "2 inputs": branched,
    "ends with a softmax": lambda: sequential(layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(10)),
    "one row of classes": lambda: sequential(layers.Conv2D(10, (9, 8)), layers.Softmax()),
    "a result of": lambda: sequential(
        layers.GlobalAveragePooling2D(), layers.Dense(2**20 + 1, "softmax", name="odd one")
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_models_are_refused_by_name(name: str) -> None:
    model = REFUSED[name]()
    reason = unsupported(model)
    assert reason is not None
    assert "\n" not in reason
    named = {
        "trainable": "frozen",
        "2 inputs": "sum",
        "ends with a softmax": "(1, 1, 10)",
        "one row of classes": "(None, 1, 1, 10)",
    }.get(name, "odd one")
    assert named in reason
    if name not in ("padding", "pool strides"):
        assert name in reason
    with pytest.raises(UserError):
        chain(model)


@pytest.mark.parametrize("name", MODELS)
def test_all_published_models_are_supported(name: str) -> None:
    assert unsupported(MODELS[name]()) is None


@pytest.mark.parametrize(
    ("optimizer", "named"),
    [
        (keras.optimizers.RMSprop(), "RMSprop"),
        (keras.optimizers.AdamW(), "weight_decay"),
        (keras.optimizers.Adam(amsgrad=True), "amsgrad"),
        (keras.optimizers.SGD(momentum=0.9, nesterov=True), "nesterov"),
        (keras.optimizers.SGD(clipnorm=1.0), "clipnorm"),
        (keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)), "schedule"),
    ],
)
def test_unsupported_optimizers_are_refused_by_name(optimizer: keras.optimizers.Optimizer, named: str) -> None:
    with pytest.raises(UserError, match=named):
        chain(MODELS["sep997"](), optimizer)


def test_weights_go_in_and_out_unchanged() -> None:
    model = randomise(CHAINS["batch norm"]())
    before = [np.array(weight) for weight in model.weights]
    ours = chain(model)
    ours.to_keras()
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(weight), value)
    np.testing.assert_array_equal(flat(ours.description.parameters), ours.network.parameters)


def test_instance_normalization_against_numpy(tmp_path) -> None:
    layer = InstanceNormalization(epsilon=0.01, dtype="float64")
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 6, 7))
    layer.build(x.shape)
    layer.gamma.assign([1.5])
    layer.beta.assign([-0.25])
    centred = x - x.mean((1, 2, 3), keepdims=True)
    expected = 1.5 * centred / (x.std((1, 2, 3), keepdims=True) + 0.01) - 0.25
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=0, atol=1e-12)
    assert layer.count_params() == 2
    model = keras.Sequential([keras.Input((5, 6, 7), dtype="float64"), layer])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())
    with pytest.raises(ValueError, match="epsilon"):
        InstanceNormalization(epsilon=0)


def test_two_threads_may_share_a_network() -> None:
    network = chain(MODELS["sep997"]()).network
    x, y, order = images(64), labels(64), np.arange(64)

    def train() -> None:
        for epoch in range(5):
            network.train(x, y, order, batch_size=32, seed=0, epoch=epoch, learning_rates=0.01, threads=2)

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert network.steps == 40
    assert np.isfinite(network.parameters).all()


@pytest.mark.parametrize("name", ["parameters", "moments", "statistics", "steps"])
def test_what_is_set_while_another_thread_trains_holds_before_or_after_its_call(name: str) -> None:
    """Never in the middle of it, where some steps would be taken from the old state and some from the new."""
    x, y, order = images(3200), labels(3200), np.arange(3200)
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.BatchNormalization(), layers.Conv2D(8, 3), *head()])
    arguments = {"batch_size": 32, "seed": 0, "epoch": 0, "learning_rates": 0.01}
    network, before = (chain(model, AdamW(0.01, 1e-6)).network for _ in range(2))
    value = 7 if name == "steps" else np.full_like(getattr(network, name), 0.125)
    setattr(before, name, value)
    before.train(x, y, order, **arguments)

    started = threading.Event()

    def train() -> None:
        started.set()
        network.train(x, y, order, **arguments)

    trainer = threading.Thread(target=train)
    trainer.start()
    started.wait()
    time.sleep(0.02)
    setattr(network, name, value)
    trainer.join()
    found = np.asarray(getattr(network, name))
    assert (found == value).all() or (found == getattr(before, name)).all()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")
def test_a_batch_of_two_groups_is_not_shared_by_64_threads() -> None:
    network = chain(MODELS["sep997"]()).network
    x, y, order = images(3200), labels(3200), np.arange(3200)
    before, found, ended = set(os.listdir("/proc/self/task")), set(), threading.Event()

    def train() -> None:
        network.train(x, y, order, batch_size=32, seed=0, epoch=0, learning_rates=0.01, threads=64)
        ended.set()

    trainer = threading.Thread(target=train)
    trainer.start()
    while not ended.is_set():
        found |= set(os.listdir("/proc/self/task")) - before
    trainer.join()
    # The one that called and one beside it, where 64 would be; other libraries may start some of theirs meanwhile.
    assert 1 <= len(found) < 16


def test_threads_that_have_nothing_to_do_take_no_memory() -> None:
    """256 of them would need more than the 8 GiB that the core takes; two images are work for one."""
    model = keras.Sequential([keras.Input((512, 512, 1)), layers.Conv2D(1, 1), layers.ReLU(), *head()])
    network = chain(model).network
    x, y, order = images(2, (512, 512, 1)), labels(2), np.arange(2)
    network.train(x, y, order, batch_size=100, seed=0, epoch=0, learning_rates=0.01, threads=256)
    network.compute_gradients(x, y, order, threads=256)
    loss, _, _ = network.evaluate(x, y, threads=256)
    probabilities = network.predict(x, threads=256)
    assert loss == pytest.approx(-np.log(probabilities[order, y]).sum(), rel=1e-5)


def test_unknown_instruction_set_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_MINIMAL_SIMD", "mmx")
    with pytest.raises(UserError, match="mmx"):
        chain(MODELS["sep997"]())
