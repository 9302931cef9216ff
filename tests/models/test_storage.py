"""What is stored of a network: what is folded computes the same by Keras, and counts are those worked by hand."""

import keras
import numpy as np
import pytest
from keras import layers

from mnist_minimal.models import MODELS
from mnist_minimal.models.storage import Storage, rounded, stored, with_numbers
from tests.rounding import exact_outputs


def trained(model: keras.Model, lowest_scale: float = 0.5) -> keras.Model:
    """A model with other numbers than initial ones: biases, and all four of every batch normalisation."""
    random = np.random.default_rng(0)
    ranges = {"gamma": (lowest_scale, 1.5), "moving_variance": (0.3, 2.0)}
    for variable in model.weights:
        if variable.name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            # Larger than initial ones, so that the images are told apart.
            variable.assign(2 * variable.value)
        else:
            variable.assign(random.uniform(*ranges.get(variable.name, (-0.5, 0.5)), variable.shape))
    return model


@pytest.fixture(autouse=True)
def _seed():
    # Some initial kernels tell the images hardly apart.
    keras.utils.set_random_seed(0)


def assert_computes_the_same(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Folds a model, and compares its outputs with those of the model in double precision."""
    folded = with_numbers(model, stored(model))
    exact, allowed = exact_outputs(model, images)
    assert exact.std(axis=0).max() > 100 * allowed  # The images are told apart, so that the comparison says something.
    np.testing.assert_allclose(np.asarray(folded(images)), exact, rtol=0, atol=allowed)
    return folded


def images(rows: int, columns: int, channels: int) -> np.ndarray:
    """Images of a few large squares, many of them black."""
    squares = np.random.default_rng(1).integers(-255, 256, (8, 4, 4, channels)).clip(0)
    large = squares.repeat(rows // 4 + 1, axis=1).repeat(columns // 4 + 1, axis=2)
    return large[:, :rows, :columns].astype(np.float32)


def normalizations(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("sep997", "shared1936", "small7344") else pytest.mark.slow)
        for name in MODELS
    ],
)
def test_a_folded_model_computes_what_the_model_does(name):
    folded = assert_computes_the_same(trained(MODELS[name]()), images(28, 28, 1))
    assert normalizations(folded) == []
    assert stored(folded).numbers == stored(MODELS[name]()).numbers


@pytest.mark.parametrize(
    ("name", "before_max_pools"),
    [
        ("small7344", ["norm2", "norm3"]),
        ("antman9954", ["norm4"]),
        pytest.param("conv18242", [], marks=pytest.mark.slow),
        ("gap13914", []),
    ],
)
def test_no_negative_scale_is_taken_through_a_max_pool(name, before_max_pools):
    # The largest of numbers times a negative one is the smallest of them.
    folded = assert_computes_the_same(trained(MODELS[name](), lowest_scale=-1.5), images(28, 28, 1))
    assert normalizations(folded) == before_max_pools


def norm(**options) -> layers.BatchNormalization:
    return layers.BatchNormalization(epsilon=0.01, **options)


def model_of(*chain: layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((6, 6, 2)), layers.Rescaling(1 / 255), *chain, layers.Flatten()])


@pytest.mark.parametrize(
    ("chain", "left"),
    [
        ((layers.DepthwiseConv2D(3, depth_multiplier=2), norm()), 0),
        ((layers.SeparableConv2D(3, 3, padding="same", use_bias=False), norm(scale=False)), 0),
        ((layers.Dense(3), norm(center=False)), 0),
        ((norm(), layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)), 0),
        ((norm(scale=False, center=False), layers.Dropout(0.5), layers.SeparableConv2D(3, 3)), 0),
        ((norm(), layers.GlobalAveragePooling2D(), layers.Dense(3)), 0),
        # From both sides into one convolution.
        ((layers.ReLU(), norm(), layers.Conv2D(3, 3, use_bias=False), norm()), 0),
        # The zeros around an image are none of the normalised ones, a kernel of one pixel has none.
        ((layers.ReLU(), norm(), layers.Conv2D(3, 3, padding="same")), 1),
        ((layers.ReLU(), norm(), layers.Conv2D(3, 1, padding="same")), 0),
        ((layers.Conv2D(3, 3, activation="relu"), norm(), layers.ReLU(), layers.Conv2D(3, 3)), 1),
        ((layers.Conv2D(4, 3, groups=2), norm(), layers.ReLU()), 1),
        ((layers.Conv2D(3, 3), norm(axis=1), layers.ReLU()), 1),
    ],
)
def test_what_is_folded(chain, left):
    # A copy, since a layer belongs to one model.
    model = keras.models.clone_model(model_of(*chain))
    folded = assert_computes_the_same(trained(model), images(6, 6, 2))
    assert len(normalizations(folded)) == left


def test_what_is_applied_twice_or_taken_twice_is_left():
    pixels = keras.Input((6, 6, 2))
    shared, twice = layers.Conv2D(2, 3, padding="same", name="shared"), norm(name="twice")
    x = norm(name="after_shared")(shared(shared(layers.Rescaling(1 / 255)(pixels))))
    x = twice(layers.ReLU()(twice(x)))
    first = layers.Conv2D(2, 3, name="taken")(x)
    joined = layers.Add()([first, norm(name="beside")(first)])
    folded = assert_computes_the_same(trained(keras.Model(pixels, layers.Flatten()(joined))), images(6, 6, 2))
    assert set(normalizations(folded)) == {"after_shared", "twice", "beside"}
    assert stored(folded).numbers == 2 * (3 * 3 * 2 * 2 + 2) + 3 * 2 * 2 + 1


def test_counts_worked_by_hand():
    # Of each normalisation two numbers a channel are trained, and both are folded away. Rescaling has a scale and, but
    # for the last two, an offset.
    numbers = {name: stored(MODELS[name]()).numbers for name in MODELS}
    assert numbers["pyramid3762"] == 3762 - 2 * (3 * 4 + 3 * 8 + 3 * 8) + 2
    assert numbers["pyramid3762"] == 40 + 2 * 148 + 296 + 2 * 584 + 3 * 584 + 90 + 2
    assert numbers["gap13914"] == 13914 - 2 * (8 + 16 + 32 + 16 + 32) + 2
    # Four normalisations of 16 channels go away, and the layers after them get biases: three of 16, and 10.
    assert numbers["small7344"] == 7344 - 2 * 4 * 16 + 3 * 16 + 10 + 2
    assert numbers["shared1936"] == 1936 + 1
    assert numbers["sep997"] == 997 + 1


def test_bytes_worked_by_hand():
    # A kernel and its biases in the first and the last layer, two kernels and biases in four: 16 arrays. The number of
    # the rescaling has 4 bytes.
    storage = stored(MODELS["sep997"]())
    assert [storage.bytes(bits) for bits in (32, 16, 8)] == [998 * 4, 997 * 2 + 4, 997 + 16 * 4 + 4]


def test_rounding_worked_by_hand():
    array = np.array([1 / 3, -2049, 1e-8, 65504], np.float32)
    # Half precision has ten binary digits after the first: 1365 / 4096; the even one of 2048 and 2050; none so small.
    np.testing.assert_array_equal(rounded(array, 16), np.array([1365 / 4096, -2048, 0, 65504], np.float32))
    # The scale is 1/64.
    array = np.array([[-127, 0.5, 1.5], [126.4, -0.6, 0]], np.float32) / 64
    np.testing.assert_array_equal(rounded(array, 8), np.array([[-127, 0, 2], [126, -1, 0]], np.float32) / 64)
    np.testing.assert_array_equal(rounded(np.zeros(3, np.float32), 8), np.zeros(3))
    assert rounded(array, 32) is array


def test_each_array_has_a_scale_of_its_own_and_constants_are_not_rounded():
    kernel, bias = np.array([[127.0, 1.4]], np.float32), np.array([0.0127, 0.00014], np.float32)
    found = Storage({"dense": [kernel, bias]}, constants=2).rounded(8)
    np.testing.assert_array_equal(found.arrays["dense"][0], [[127, 1]])
    np.testing.assert_allclose(found.arrays["dense"][1], [0.0127, 0.0001], rtol=1e-6)
    assert (found.numbers, found.bytes(8)) == (6, 4 + 2 * 4 + 2 * 4)
