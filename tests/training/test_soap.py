"""SOAP: the core's steps beside the formulas, in double precision with LAPACK's eigenvectors, and beside Keras'."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from mnist_minimal.data.sets import Splits
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import RECIPES, SOAP, Averaging, ByStep, Recipe
from mnist_minimal.training import DivergedError, core, keras_fit, native_fit, optimizers, trainers
from mnist_minimal.training.chain import Chain, unsupported
from mnist_minimal.training.checkpoint import Checkpoint
from mnist_minimal.training.optimizers import block_sizes, layer_blocks, make_optimizer

needs_core = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")

# Of the layers of `small`.
SIZES = [40, 56, 50]

RECIPE = Recipe(batch_size=4, max_epochs=3, optimizer=SOAP(0.02), schedule=ByStep("cosine"), dropout=None)


def small() -> keras.Model:
    """Two layers of 40 and 50 parameters, and a shared one."""
    keras.utils.set_random_seed(3)
    pixels = keras.Input((8, 8, 1))
    x = layers.LeakyReLU(0.2)(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(pixels)))
    shared = layers.SeparableConv2D(4, 3, padding="same")
    x = layers.GlobalAveragePooling2D()(shared(shared(x)))
    return keras.Model(pixels, layers.Dense(10, activation="softmax")(x))


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    y = random.integers(0, 10, count)
    return random.integers(0, 20 + 20 * y[:, None, None, None], (count, 8, 8, 1)).astype(np.uint8), y


def splits(count: int) -> Splits:
    x, y = images(count)
    return Splits("made", "source", x, y, x[:20], y[:20], x[:20], y[:20])


def test_a_layers_arrays_are_one_block():
    blocks = layer_blocks(small().trainable_variables)
    assert [[variable.path.rpartition("/")[2] for variable in block] for block in blocks] == [
        ["kernel", "bias"],
        ["depthwise_kernel", "pointwise_kernel", "bias"],
        ["kernel", "bias"],
    ]
    assert block_sizes(small().trainable_variables) == SIZES


def matrices(flat: np.ndarray) -> list[np.ndarray]:
    """Those of the blocks, each (size, size)."""
    ends = np.cumsum(np.square(SIZES))
    return [part.reshape(size, size) for part, size in zip(np.split(flat, ends)[:-1], SIZES, strict=True)]


def covered(chain: Chain) -> list[np.ndarray]:
    """The covariances, whole."""
    return [np.tril(lower) + np.tril(lower, -1).T for lower in matrices(chain.network.covariances)]


@needs_core
def test_the_cores_steps_are_those_of_the_formulas():
    """In double precision, from what the core had before each step; over two renewals."""
    chain = Chain(small(), optimizers.SOAP())
    network, (x, y) = chain.network, images(450)
    count, covariances = sum(SIZES), [np.zeros((size, size)) for size in SIZES]
    for step in range(1, 451):
        before = network.parameters.astype(np.float64)
        momentum, variance = network.moments.astype(np.float64).reshape(2, count)
        bases = matrices(network.bases.astype(np.float64))
        order = np.arange(step - 1, step + 7) % 450
        network.train(x, y.astype(np.uint8), order, batch_size=8, seed=0, epoch=0, learning_rates=0.02)
        gradient = network.gradients.astype(np.float64)
        momentum = 0.9 * momentum + 0.1 * gradient
        begin, rate = 0, min(0.02, 0.01) if step <= 200 else 0.02
        for number, (size, basis) in enumerate(zip(SIZES, bases, strict=True)):
            block = slice(begin, begin + size)
            begin += size
            own = 0.99 * variance[block] + 0.01 * (basis @ gradient[block]) ** 2
            deviation = np.sqrt(own / (1 - 0.99**step) if step <= 200 else own)
            expected = -rate * (basis @ momentum[block]) / (1 - 0.9**step) / (deviation + 1e-8)
            change = basis @ (network.parameters[block] - before[block])
            # Where there is no gradient, as along the sum of a softmax's logits, a step is made of rounding.
            there = own > 1e-8 * own.max()
            np.testing.assert_allclose(change[there], expected[there], rtol=0, atol=5e-4 * np.abs(expected).max())
            covariances[number] = 0.999 * covariances[number] + 0.001 * np.outer(gradient[block], gradient[block])
        np.testing.assert_allclose(network.moments[:count], momentum, rtol=0, atol=1e-6 * np.abs(momentum).max())
        if step % 200 == 0:
            assert_eigenvectors(chain, covariances, 1 - 0.999**step)


def assert_eigenvectors(chain: Chain, covariances: list[np.ndarray], weight: float) -> None:
    """The bases are those of the covariances, but for the rounding of the bases, and the variances are along them."""
    begin = sum(SIZES)
    for found, exact, basis in zip(covered(chain), covariances, matrices(chain.network.bases), strict=True):
        size = len(exact)
        np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-15)
        basis = basis.astype(np.float64)
        np.testing.assert_allclose(basis @ basis.T, np.eye(size), rtol=0, atol=1e-5)
        turned = basis @ exact @ basis.T
        variances = np.diag(turned)
        np.testing.assert_allclose(
            chain.network.moments[begin : begin + size], variances / weight, rtol=1e-4, atol=1e-6 * variances.max()
        )
        begin += size
        np.testing.assert_allclose(turned, np.diag(variances), rtol=0, atol=1e-6 * variances.max())
        np.testing.assert_allclose(
            np.sort(variances), np.linalg.eigvalsh(exact), rtol=1e-4, atol=1e-6 * variances.max()
        )


@needs_core
def test_keras_steps_are_those_of_the_core():
    """Over the first renewal, whose eigenvectors Keras takes from LAPACK: later ones differ by rounding's growth."""
    model, (x, y) = small(), images(208)
    chain = Chain(model, optimizers.SOAP())
    model.compile(optimizers.SOAP(0.02), "sparse_categorical_crossentropy")
    for step in range(206):
        order = np.arange(step, step + 16) % len(x)
        model.train_on_batch(x[order].astype(np.float32), y[order])
        chain.network.train(
            x, y.astype(np.uint8), order, batch_size=16, seed=0, epoch=0, learning_rates=0.02, threads=1
        )
        weights = np.concatenate([np.ravel(variable) for variable in chain.description.parameters])
        found = visible(chain.network.parameters)
        np.testing.assert_allclose(visible(weights), found, rtol=0, atol=1e-4 if step < 200 else 1e-3)


def visible(parameters: np.ndarray) -> np.ndarray:
    """Those of `small`, without what is common to all classes, which a softmax doesn't see and rounding alone moves."""
    convolutions, dense = parameters[:-50], parameters[-50:].reshape(5, 10)
    return np.concatenate([convolutions, np.ravel(dense - dense.mean(axis=1, keepdims=True))])


@needs_core
@pytest.mark.parametrize("averaging", [None, Averaging(start=0.5)])
def test_a_training_that_was_stopped_ends_with_the_same_bits(tmp_path, averaging):
    recipe = dataclasses.replace(RECIPE, averaging=averaging)
    whole, stopped = small(), small()
    native_fit.fit(whole, recipe, splits(400), 5)
    path = tmp_path / "checkpoint.npz"
    native_fit.fit(stopped, recipe, splits(400), 5, max_epochs=2, checkpoint=Checkpoint(path), threads=2)
    resumed = small()
    native_fit.fit(resumed, recipe, splits(400), 5, checkpoint=Checkpoint(path))
    for expected, found in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert any((one != other).any() for one, other in zip(whole.get_weights(), stopped.get_weights(), strict=True))


def dead() -> keras.Model:
    """A first layer of 30 parameters that no image gets through."""
    pixels = keras.Input((8, 8, 1))
    x = layers.Conv2D(3, 3, activation="relu", bias_initializer=keras.initializers.Constant(-1e4))(pixels)
    return keras.Model(pixels, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


@needs_core
def test_a_layer_without_a_gradient_stays_as_it_is():
    """Over new bases too: its covariance is 0, which has no eigenvectors of its own."""
    model = dead()
    before = model.get_weights()
    native_fit.fit(model, RECIPE, splits(400), 5)
    after = model.get_weights()
    for one, other in zip(before[:2], after[:2], strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(after[3]).all()
    assert (before[3] != after[3]).any()


@needs_core
@pytest.mark.parametrize("last", [1e-120, 1e-155, 1e-158, 1e-161, 1e-200, 1e-308])
def test_a_gradient_that_ended_long_ago_leaves_a_basis(last):
    """A weight's share of the covariance has decayed to that of the others': squares of it underflow."""
    model = dead()
    chain = Chain(model, optimizers.SOAP())
    network, size = chain.network, 30
    vectors = np.random.default_rng(4).normal(size=(50, size))
    vectors[:, -1] *= last
    covariances = network.covariances
    covariances[: size**2] = np.tril(vectors.T @ vectors).ravel()
    network.covariances, network.steps = covariances, 199
    x, y = images(8)
    network.train(x, y.astype(np.uint8), np.arange(8), batch_size=8, seed=0, epoch=0, learning_rates=0.02)
    basis = network.bases[: size**2].reshape(size, size).astype(np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(size), rtol=0, atol=1e-6)
    expected = 0.999 * np.linalg.eigvalsh(vectors.T @ vectors) / (1 - 0.999**200)
    variances = network.moments[chain.model.count_params() :][:size]
    np.testing.assert_allclose(np.sort(variances), expected, rtol=1e-5, atol=1e-5 * expected.max())


@needs_core
def test_a_training_that_diverges_says_so():
    with pytest.raises(DivergedError, match="the training loss became"):
        native_fit.fit(small(), dataclasses.replace(RECIPE, optimizer=SOAP(1e30), schedule=None), splits(400), 5)


def test_keras_trains_by_it_and_jax_says_that_it_has_none():
    model = small()
    before = model.get_weights()
    fit = keras_fit.fit(model, dataclasses.replace(RECIPE, max_epochs=1), splits(40), 5)
    assert fit.epochs == 1
    assert any((one != other).any() for one, other in zip(before, model.get_weights(), strict=True))
    with pytest.raises(UserError, match="expected one of the optimizers AdamW, Adam and SGD, found SOAP; train with"):
        trainers.check_jax(small(), RECIPE)


@needs_core
def test_a_layer_that_is_too_large_is_refused():
    pixels = keras.Input((8, 8, 1))
    x = layers.Dense(80)(layers.Flatten()(pixels))
    model = keras.Model(pixels, layers.Dense(10, activation="softmax")(x))
    assert unsupported(model) is None
    with pytest.raises(UserError, match=r"expected blocks whose matrices have at most 2\*\*24 numbers"):
        Chain(model, optimizers.SOAP())


def test_a_recipe_is_varied_to_it():
    recipe = RECIPES["sep697"].replace(optimizer="SOAP", **{"optimizer.learning_rate": 0.05})
    assert recipe.optimizer == SOAP(0.05)
    assert recipe.as_dict()["optimizer"] == {"kind": "SOAP", "learning_rate": 0.05}
    optimizer = make_optimizer(recipe)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is optimizers.SOAP
    assert float(again.learning_rate) == pytest.approx(0.05)
