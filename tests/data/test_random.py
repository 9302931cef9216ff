"""What seeds decide: the words of Threefry-2x32 in NumPy, JAX and C++, and what is made of them."""

import os

import numpy as np
import pytest

from mnist_minimal.data.batches import epoch_order
from mnist_minimal.data.random import AUGMENTATION, DROPOUT, ORDER, stream, threefry
from mnist_minimal.training import core

needs_core = pytest.mark.skipif(
    not core.available() and os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") != "1", reason="the C++ core was not built"
)

# Key, counter and words, from the file kat_vectors of the authors' library, https://github.com/DEShawResearch/random123.
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="JAX, of the extra `test`, is not installed")


def words(*values):
    return tuple(np.array([value], np.uint32) for value in values)


def numbers(words):
    return tuple(int(word[0]) for word in words)


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN)
def test_known_answers_in_numpy(key, counter, expected):
    assert numbers(threefry(words(*key), words(*counter))) == expected


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN)
def test_known_answers_in_jax(jax, key, counter, expected):
    found = jax.jit(threefry)(*(tuple(map(jax.numpy.asarray, words(*pair))) for pair in (key, counter)))
    assert all(array.dtype == np.uint32 for array in found)
    assert numbers(found) == expected


@needs_core
@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN)
def test_known_answers_in_the_core(key, counter, expected):
    assert core._core.threefry(key, counter) == expected


@needs_core
def test_many_words_are_the_same_in_numpy_jax_and_the_core(jax):
    inputs = np.random.default_rng(0).integers(0, 2**32, (4, 1000), np.uint32)
    found = np.stack(threefry(tuple(inputs[:2]), tuple(inputs[2:])))
    arrays = jax.numpy.asarray(inputs)
    np.testing.assert_array_equal(jax.jit(threefry)(tuple(arrays[:2]), tuple(arrays[2:])), found)
    columns = inputs.T.tolist()
    np.testing.assert_array_equal([core._core.threefry((a, b), (c, d)) for a, b, c, d in columns], found.T)


def test_words_are_those_of_jaxs_own_generator(jax):
    """JAX folds a number into a key by these words of the counter (0, number)."""
    keys, folded = np.random.default_rng(1).integers(0, 2**32, (2, 100, 2), np.uint32)
    expected = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(keys, impl="threefry2x32"), folded[:, 0])
    found = threefry((keys[:, 0], keys[:, 1]), (np.zeros(100, np.uint32), folded[:, 0]))
    np.testing.assert_array_equal(jax.random.key_data(expected), np.stack(found, axis=1))


def test_streams_differ_by_seed_purpose_and_epoch():
    seeds = (0, 1, 2**32, 2**64 - 1)
    keys = {
        numbers(stream(seed, purpose, epoch))
        for seed in seeds
        for purpose in (ORDER, AUGMENTATION, DROPOUT)
        for epoch in (0, 1, 2**32 - 1)
    }
    assert len(keys) == len(seeds) * 3 * 3


@pytest.mark.parametrize("epoch", [0, 8])
def test_the_order_is_that_of_a_stable_sort_in_jax(jax, epoch):
    """In epoch 0 images 1965 and 20261 have the same word, in epoch 8 there are two such pairs."""
    images = jax.numpy.arange(60_000, dtype=np.uint32)
    keys, _ = jax.jit(threefry)(tuple(map(jax.numpy.asarray, stream(0, ORDER, epoch))), (images, 0 * images))
    assert len(np.unique(keys)) == (59_999 if epoch == 0 else 59_998)
    np.testing.assert_array_equal(epoch_order(0, epoch, 60_000), jax.numpy.argsort(keys, stable=True))


def test_the_places_of_an_image_are_those_of_chance():
    """Over 2,000 epochs of 50 images, each image in each place, which are (50 - 1)**2 degrees of freedom."""
    orders = np.stack([epoch_order(3, epoch, 50) for epoch in range(2000)])
    counts = np.stack([np.bincount(orders[:, place], minlength=50) for place in range(50)])
    statistic = 49 / 50 * ((counts - 40) ** 2 / 40).sum()
    assert abs(statistic - 49 * 49) < 4.5 * np.sqrt(2 * 49 * 49)


# Dropout


def dropout_key(seed, epoch, step, layer):
    return threefry(stream(seed, DROPOUT, epoch), words(step, layer))


@needs_core
@pytest.mark.parametrize(
    "arguments", [(0, 0, 0, 0), (1, 2, 3, 4), (2**40 + 5, 199, 467, 1), (2**64 - 1, 2**32 - 1, 2**32 - 1, 7)]
)
def test_a_layers_dropout_key_is_the_same_in_numpy_jax_and_the_core(jax, arguments):
    seed, epoch, step, layer = arguments
    found = core._core.dropout_key(*arguments)
    assert found == numbers(dropout_key(*arguments))
    key = tuple(map(jax.numpy.asarray, stream(seed, DROPOUT, epoch)))
    assert found == numbers(jax.jit(threefry)(key, tuple(map(jax.numpy.asarray, words(step, layer)))))


def drops(jnp, key, rate, samples, elements):
    """Which activations dropout drops, (samples, elements): the counter of core/kernels/epilogue.h in JAX's arrays.

    Sixteen samples take sixteen words for two elements, the lower halves for the even one, the upper ones for the odd.
    """
    group, lane = np.divmod(np.arange(samples, dtype=np.uint32)[:, None], np.uint32(16))
    element = np.arange(elements, dtype=np.uint32)
    x = key[0] + (group * np.uint32((elements + 1) // 2) + element // 2) * np.uint32(16) + lane
    x = jnp.asarray(x)
    x = (x ^ (x >> 16)) * np.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15) ^ key[1]) * np.uint32(0x735A2D97)
    x = x ^ (x >> 15)
    half = jnp.where(element % 2, x >> 16, x & 0xFFFF)
    return np.asarray((half ^ 0x8000) < round(rate * 65536))


@needs_core
def test_the_core_drops_what_jax_drops(jax):
    """Dropout of 40 samples of 2 x 3 x 50 activations, seen where a sample alone is not 0 in the gradient behind it."""
    import keras

    from experiments.oracles import chain

    shape, samples, rate = (2, 3, 50), 40, 0.3
    layers = [keras.layers.Dropout(0.0), keras.layers.Dropout(rate), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(2, activation="softmax")])
    model.set_weights([np.zeros((300, 2)), np.zeros(2)])
    when = {"seed": 2**33 + 1, "epoch": 3, "step": 4}
    expected = drops(jax.numpy, dropout_key(**when, layer=1), rate, samples, 300)
    assert expected.mean() == pytest.approx(rate, abs=4.5 * np.sqrt(rate * (1 - rate) / expected.size))
    for instruction_set in core.instruction_sets():
        network = chain(model, instruction_set=instruction_set).network
        for sample in range(samples):
            x = np.zeros((samples, *shape), np.float32)
            x[sample] = 1
            network.compute_gradients(x, np.zeros(samples, np.uint8), np.arange(samples), **when)
            np.testing.assert_array_equal(network.gradients[:600].reshape(300, 2)[:, 0] == 0, expected[sample])
