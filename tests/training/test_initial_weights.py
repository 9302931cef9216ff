"""The initial weights of a seed: Keras' distributions, drawn by this package."""

import hashlib

import keras
import numpy as np
import pytest
from keras import initializers, layers
from keras.src.initializers.random_initializers import compute_fans
from scipy import stats

from mnist_minimal.models import MODELS
from mnist_minimal.models.normalization import InstanceNormalization
from mnist_minimal.training.initial_weights import draw, fans
from mnist_minimal.training.seeding import seeded

INPUTS, UNITS = 40, 500


def dense(initializer, inputs: int = INPUTS, units: int = UNITS, **options) -> keras.Model:
    return keras.Sequential([keras.Input((inputs,)), layers.Dense(units, kernel_initializer=initializer, **options)])


def drawn(initializer, seed: int = 0, **shape) -> np.ndarray:
    """The kernel of a dense layer, without the dimension that says nothing here."""
    model = dense(initializer, **shape)
    assert draw(model, seed) == []
    return model.get_weights()[0].ravel()


# What is left of a normal distribution's standard deviation where it is cut off at two of them.
LEFT = stats.truncnorm(-2, 2).std()


def truncated(deviation):
    return stats.truncnorm(-2, 2, scale=deviation / LEFT)


def symmetric(limit):
    return stats.uniform(-limit, 2 * limit)


# Every kind, with the distribution that Keras' documentation says, in SciPy's words.
KINDS = {
    "RandomUniform": (initializers.RandomUniform(-0.1, 0.3), stats.uniform(-0.1, 0.4)),
    "RandomNormal": (initializers.RandomNormal(0.5, 0.2), stats.norm(0.5, 0.2)),
    "TruncatedNormal": (initializers.TruncatedNormal(0.5, 0.2), stats.truncnorm(-2, 2, 0.5, 0.2)),
    "GlorotUniform": (initializers.GlorotUniform(), symmetric((6 / (INPUTS + UNITS)) ** 0.5)),
    "GlorotNormal": (initializers.GlorotNormal(), truncated((2 / (INPUTS + UNITS)) ** 0.5)),
    "HeUniform": (initializers.HeUniform(), symmetric((6 / INPUTS) ** 0.5)),
    "HeNormal": (initializers.HeNormal(), truncated((2 / INPUTS) ** 0.5)),
    "LecunUniform": (initializers.LecunUniform(), symmetric((3 / INPUTS) ** 0.5)),
    "LecunNormal": (initializers.LecunNormal(), truncated((1 / INPUTS) ** 0.5)),
    "VarianceScaling": (
        initializers.VarianceScaling(0.7, "fan_out", "untruncated_normal"),
        stats.norm(0, (0.7 / UNITS) ** 0.5),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution_is_the_one_that_keras_documents(kind):
    initializer, distribution = KINDS[kind]
    assert stats.kstest(drawn(initializer), distribution.cdf).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution_is_the_one_that_keras_draws_from(kind):
    initializer, _ = KINDS[kind]
    ours = drawn(initializer)
    theirs = np.asarray(initializer((INPUTS, UNITS))).ravel()
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    # Of 20,000 the largest are at a sharp end of the distribution, if it has one.
    if "Normal" not in kind and kind != "VarianceScaling":
        np.testing.assert_allclose([ours.min(), ours.max()], [theirs.min(), theirs.max()], rtol=2e-3)


def test_a_truncated_normal_ends_at_two_standard_deviations():
    values = drawn(initializers.TruncatedNormal(0, 1), units=5000)
    assert 1.99 < np.abs(values).max() <= 2


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["uniform", "truncated_normal", "untruncated_normal"])
def test_variance_scaling_has_the_variance_that_its_mode_says(mode, distribution):
    units = {"fan_in": INPUTS, "fan_out": UNITS, "fan_avg": (INPUTS + UNITS) / 2}[mode]
    values = drawn(initializers.VarianceScaling(0.3, mode, distribution))
    # A normal distribution's variance is known to 1 % of 20,000 values, and the others' better.
    assert values.var() == pytest.approx(0.3 / units, rel=4.5 * (2 / values.size) ** 0.5)


@pytest.mark.parametrize("shape", [(), (5,), (4, 7), (3, 3, 1, 7), (3, 3, 6, 1), (1, 1, 5, 9), (2, 3, 4, 5, 6)])
def test_units_are_counted_as_keras_counts_them(shape):
    assert fans(shape) == compute_fans(shape)


PINNED = {
    "RandomUniform": ["0x1.42ae680000000p-5", "0x1.04f08c0000000p-3", "0x1.123c340000000p-2"],
    "RandomNormal": ["0x1.8407a60000000p-1", "0x1.04df520000000p-1", "0x1.04b3080000000p-1"],
    "TruncatedNormal": ["0x1.8407a60000000p-1", "0x1.04df520000000p-1", "0x1.04b3080000000p-1"],
    "GlorotUniform": ["-0x1.05b0380000000p-5", "0x1.d9693a0000000p-7", "0x1.6a42a40000000p-4"],
    "HeNormal": ["0x1.4fa0fe0000000p-2", "0x1.8c59080000000p-7", "0x1.7e464c0000000p-7"],
}


def test_the_values_of_a_seed_are_the_same_on_every_machine():
    """Pinned: others would make every published seed another trial."""
    kinds = ("RandomUniform", "RandomNormal", "TruncatedNormal", "GlorotUniform", "HeNormal")
    found = {kind: [float(value).hex() for value in drawn(KINDS[kind][0], 7)[:3]] for kind in kinds}
    assert found == PINNED


def test_weights_follow_from_the_seed_and_their_place_alone():
    with seeded(1):
        first, second = dense("he_normal"), dense("he_normal")
    kernels = [model.get_weights()[0] for model in (first, second)]
    assert not np.array_equal(*kernels)
    for model in (first, second):
        draw(model, 5)
    np.testing.assert_array_equal(first.get_weights()[0], second.get_weights()[0])
    assert not np.array_equal(drawn("he_normal", 5), drawn("he_normal", 6))
    assert not np.array_equal(drawn("he_normal", 5), drawn("he_normal", 5 + 2**32))
    # A wider array begins with the same values.
    np.testing.assert_array_equal(drawn("random_normal", units=3)[:9], drawn("random_normal", units=5)[:9])


def test_two_arrays_of_a_model_are_drawn_apart():
    model = keras.Sequential([keras.Input((20,)), layers.Dense(20), layers.Dense(20)])
    assert draw(model, 0) == []
    kernels = [model.get_weights()[place].ravel() for place in (0, 2)]
    assert abs(np.corrcoef(kernels)[0, 1]) < 4.5 / 20


@pytest.mark.parametrize("name", MODELS)
def test_every_published_model_is_drawn_whole(name):
    with seeded(0):
        first = MODELS[name]()
    with seeded(1):
        second = MODELS[name]()
    by_keras = first.get_weights()
    assert draw(first, 3) == draw(second, 3) == []
    for array, before, ours, again in zip(first.weights, by_keras, first.get_weights(), second.weights, strict=True):
        np.testing.assert_array_equal(ours, again, err_msg=array.path)
        constant = before.std() == 0
        assert np.array_equal(ours, before) == constant, array.path
        # As wide as Keras'; a small array's width is a matter of chance.
        if before.size >= 100:
            assert ours.std() == pytest.approx(before.std(), rel=0.25), array.path


# SHA-256 of the arrays of seed 0, one after the other; under Keras on TensorFlow and on JAX.
HASHES = {
    "conv18242": "d399134e35308cd6",
    "gap13914": "e383b71101ec5c12",
    "antman9954": "b20fc855f63f0769",
    "small8624": "2044b63bea1605f9",
    "small7384": "56489b25170a5c81",
    "small7344": "3bf0c5cd2837dc32",
    "pyramid3762": "c42044c018815918",
    "shared1936": "e1e22f2d4784b680",
    "sep997": "bb2a3b9a40bf2a43",
    "sep697": "8a12fe9d734e5e9c",
}


@pytest.mark.parametrize("name", MODELS)
def test_every_published_model_has_the_same_initial_weights_everywhere(name):
    model = MODELS[name]()
    draw(model, 0)
    found = hashlib.sha256(b"".join(weights.tobytes() for weights in model.get_weights()))
    assert found.hexdigest()[:16] == HASHES[name]


def test_a_shared_layer_and_one_in_a_model_within_are_drawn_once():
    pixels = keras.Input((8,))
    shared = layers.Dense(8, name="shared")
    inner = keras.Sequential([keras.Input((8,)), shared, layers.Dense(8)])
    model = keras.Model(pixels, layers.Dense(3)(inner(shared(shared(pixels)))))
    assert draw(model, 0) == []
    assert len(model.weights) == 6
    alone = keras.Sequential([keras.Input((8,)), layers.Dense(8)])
    draw(alone, 0)
    np.testing.assert_array_equal(shared.get_weights()[0], alone.get_weights()[0])
    assert all(array.std() > 0 for array in model.get_weights()[::2])


# What is kept


def test_constants_are_left_and_need_no_drawing():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(3, 3, bias_initializer=initializers.Constant(0.25)),
            InstanceNormalization(),
            layers.BatchNormalization(gamma_initializer="ones"),
        ]
    )
    before = model.get_weights()
    assert draw(model, 0) == []
    for ours, theirs in zip(model.get_weights()[1:], before[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "initializer",
    [
        initializers.GlorotUniform(seed=5),
        initializers.GlorotUniform(seed=keras.random.SeedGenerator(5)),
        initializers.Orthogonal(),
        lambda shape, dtype: keras.random.normal(shape, dtype=dtype),
    ],
    ids=["a seed of its own", "a generator of its own", "Orthogonal", "a function"],
)
def test_what_keras_draws_is_kept_and_named(initializer):
    model = dense(initializer)
    before = model.get_weights()
    assert draw(model, 0) == ["Dense kernel (array 0)"]
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_what_another_device_has_rounded_otherwise_is_drawn_all_the_same():
    """A GPU and a processor do not give Keras' draws the same last digit, which is a large share of one near 0."""
    model = dense("glorot_uniform")
    kernel = np.array(model.get_weights()[0])
    smallest = np.unravel_index(np.abs(kernel).argmin(), kernel.shape)
    kernel[smallest] += 3 * np.spacing(np.abs(kernel).max())
    model.weights[0].assign(kernel)
    assert draw(model, 1) == []


def test_weights_that_the_builder_has_set_are_kept_and_named():
    model = dense("glorot_uniform", inputs=2, units=3)
    own = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(3, np.float32)]
    model.set_weights(own)
    assert draw(model, 0) == ["Dense kernel (array 0)"]
    np.testing.assert_array_equal(model.get_weights()[0], own[0])


def test_a_layer_that_holds_no_initializer_is_named():
    class Scaled(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="glorot_uniform", name="scale")

        def call(self, x):
            return x * self.scale

    model = keras.Sequential([keras.Input((5,)), layers.Dense(5), Scaled()])
    assert draw(model, 0) == ["Scaled scale (array 2)"]
