"""The convention of pixels: each against its formula, the choice against models that were fitted with one of them."""

import keras
import numpy as np
import pytest
from keras import layers
from scipy.special import softmax
from sklearn.datasets import load_digits

from experiments.oracles import in_double
from mnist_minimal.errors import UserError
from mnist_minimal.page.network import describe
from mnist_minimal.saving import pixels
from mnist_minimal.saving.pixels import Measured, adapt, choose, decide
from mnist_minimal.saving.saved_model import LOGITS, PROBABILITIES, SIGMOIDS, LoadedModel, load_described
from mnist_minimal.training.conventions import CONVENTIONS
from tests.conftest import REPOSITORY
from tests.model_files import randomized

FORMULAS = {
    "255": lambda x: x,
    "1": lambda x: x / 255,
    "-1..1": lambda x: x / 127.5 - 1,
    "-.5...5": lambda x: x / 255 - 0.5,
    "mean/sd": lambda x: (x / 255 - 0.1307) / 0.3081,
    "255-x": lambda x: 255 - x,
    "1-x": lambda x: 1 - x / 255,
    "normalize": lambda x: keras.utils.normalize(x, axis=1),
    "normalize-rows": lambda x: keras.utils.normalize(x[..., 0], axis=-1)[..., None],
    "binary": lambda x: (x > 127).astype(float),
    "transposed": lambda x: x.transpose(0, 2, 1, 3) / 255,
}


def loaded(model: keras.Model, outputs: str = PROBABILITIES, turned: keras.Model | None = None) -> LoadedModel:
    return LoadedModel(model, "H6", "3.0.0", None, False, outputs, turned)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's digits as images of 28 by 28."""
    data = load_digits()
    large = np.kron(data.images * 255 / 16, np.ones((3, 3)))
    return np.pad(large, ((0, 0), (2, 2), (2, 2)))[..., None].astype(np.uint8), data.target


def dense(shape: tuple[int, ...], weights: np.ndarray, offset: np.ndarray, activation: str | None) -> keras.Model:
    model = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(len(offset), activation=activation)])
    model.set_weights([weights, offset])
    return model


# Models compute in double precision here, but Keras rounds the constants of a layer to single first, each by up to
# 6e-8: by so much of the sum of |pixel * weight|, which is 20 here, a logit is off, and a probability by that share.
CONSTANTS = 2e-6

WEIGHTS = np.random.default_rng(0).normal(size=(784, 10)).astype(np.float32) / 28


def test_every_convention_has_its_formula_and_words():
    assert FORMULAS.keys() == CONVENTIONS.keys()
    assert len({convention.words for convention in CONVENTIONS.values()}) == len(CONVENTIONS)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_adapter_computes_the_formula(name, digits):
    images = digits[0][:5]
    model = dense((28, 28, 1), WEIGHTS, np.zeros(10), None)
    expected = softmax(FORMULAS[name](images.astype(float)).reshape(5, 784) @ WEIGHTS, axis=1)
    found = in_double(adapt(loaded(model, LOGITS), name))(images.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=CONSTANTS, atol=CONSTANTS)


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        ((28, 28), lambda x: x[..., 0]),
        ((784,), lambda x: x.reshape(-1, 784)),
        ((784, 1), lambda x: x.reshape(-1, 784, 1)),
        ((1, 28, 28), lambda x: x[:, None, ..., 0]),
        ((28, 28, 3), lambda x: np.repeat(x, 3, axis=3)),
        ((3, 28, 28), lambda x: np.repeat(x[:, None, ..., 0], 3, axis=1)),
    ],
)
def test_images_take_the_shape_of_the_input(shape, given, digits):
    images = digits[0][:5].astype(np.float64)
    weights = np.random.default_rng(0).normal(size=(int(np.prod(shape)), 10)).astype(np.float32) / 28
    model = dense(shape, weights, np.zeros(10), "sigmoid")
    outputs = np.asarray(in_double(model)(given(images) / 255))
    expected = outputs / outputs.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(in_double(adapt(loaded(model, SIGMOIDS), "1"))(images), expected, rtol=CONSTANTS)


def test_names_of_the_files_layers_are_no_obstacle(digits):
    """A file's layers may have the very names that Keras gives first: here to each layer of the adapter."""
    kinds = [layers.Rescaling(2.0, name="rescaling"), layers.Permute((2, 1, 3)), layers.Flatten(name="flatten")]
    model = keras.Sequential([keras.Input((28, 28, 1)), *kinds, layers.Dense(10, name="softmax")])
    keras.backend.clear_session()  # Keras counts again.
    adapted = adapt(loaded(model, LOGITS), "1")
    images = digits[0][:5].astype(np.float64)
    expected = softmax(keras.ops.convert_to_numpy(in_double(model)(images / 255)), axis=1)
    np.testing.assert_allclose(in_double(adapted)(images), expected, rtol=CONSTANTS, atol=CONSTANTS)


@pytest.mark.parametrize(
    ("shape", "output", "message"),
    [
        (
            (8, 8, 1),
            layers.Dense(10),
            r"found a model with the input \(8, 8, 1\); expected one for images of 28 by 28 pi",
        ),
        ((28, 28), layers.Dense(1), r"the output \(1,\); expected probabilities of two classes or more"),
        ((28, 28), layers.Reshape((28, 28)), r"the output \(28, 28\); expected probabilities of two classes or more"),
    ],
)
def test_other_images_and_what_has_no_classes_are_refused(shape, output, message, digits):
    model = keras.Sequential([keras.Input(shape), layers.Flatten(), output])
    for ask in (lambda: adapt(loaded(model), "1"), lambda: decide(loaded(model), *digits)):
        with pytest.raises(UserError, match=message):
            ask()


def test_other_classes_are_refused(digits):
    def model(classes: int) -> keras.Model:
        return keras.Sequential([keras.Input((28, 28)), layers.Flatten(), layers.Dense(classes)])

    with pytest.raises(UserError, match="found a model of 9 classes; expected one of at least 10"):
        decide(loaded(model(9)), *digits)
    with pytest.raises(
        UserError, match=r"expected 0\.85 or more of a classifier of these images: it is for other class"
    ):
        decide(loaded(model(37)), *digits)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_coloured_images_of_four_classes(axes):
    """A file whose author divided the pixels by 255, and had the channels first or last."""
    random = np.random.default_rng(0)
    shown = random.integers(0, 256, (4, 12, 10, 3))
    labels = random.integers(0, 4, 300)
    images = np.clip(shown[labels] + random.normal(0, 30, (300, 12, 10, 3)), 0, 255).astype(np.uint8)
    moved = tuple(axis + 1 for axis in axes)
    weights, offsets = fitted(images.transpose(0, *moved) / 255.0, labels)
    model = dense(tuple(np.array((12, 10, 3))[list(axes)]), weights, offsets, "softmax")
    decision = decide(loaded(model), images, labels)
    assert decision.taken.pixels == "1"
    assert decision.model.input_shape == (None, 12, 10, 3)
    expected = in_double(model)(images.transpose(0, *moved) / 255)
    found = in_double(decision.model)(images.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=CONSTANTS, atol=CONSTANTS)


def fitted(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights and offsets of a linear classifier: ridge regression on 1 and 0, times 10 as logits."""
    flat = images.reshape(len(images), -1)
    mean, spread = flat.mean(axis=0), flat.std()
    centered = (flat - mean) / spread
    one_hot = np.eye(1 + labels.max())[labels]
    penalty = 30 * np.eye(flat.shape[1])
    weights = np.linalg.solve(centered.T @ centered + penalty, centered.T @ (one_hot - 1 / one_hot.shape[1]))
    return 10 * weights / spread, -10 * mean @ weights / spread


@pytest.mark.parametrize("name", ["255", "1", "-1..1", "mean/sd", "255-x", "normalize"])
def test_the_convention_of_a_fitted_model_is_found(name, digits):
    images, labels = digits
    model = dense((28, 28, 1), *fitted(FORMULAS[name](images.astype(float)), labels), "softmax")
    decision = decide(loaded(model), images, labels)
    assert decision.taken.pixels == name
    assert decision.taken.accuracy > 0.9
    assert decision.next_best.pixels != name
    found = np.asarray(decision.model(images[:1000].astype(np.float32))).argmax(axis=1)
    assert (found == labels[:1000]).mean() == decision.taken.accuracy
    assert CONVENTIONS[name].words in str(decision)


def test_of_two_the_one_whose_kernels_are_right_is_taken(digits):
    images, labels = digits
    weights, offset = fitted(images / 255, labels)
    right = dense((28, 28, 1), weights, offset, "softmax")
    wrong = dense((28, 28, 1), weights[::-1], offset, "softmax")
    decision = decide(loaded(wrong, turned=right), images, labels)
    assert decision.taken.turned
    assert "kernels turned" in str(decision.taken)
    assert decision.taken.accuracy > 0.9


def test_no_figure_is_given_for_what_is_no_classifier_of_these_digits(digits):
    with pytest.raises(UserError, match=r"expected 0\.85 or more of a classifier of these images"):
        decide(loaded(dense((28, 28, 1), WEIGHTS, np.zeros(10), "softmax")), *digits)


def test_a_published_model_stays_itself():
    model = randomized("sep697")
    known = LoadedModel(model, "H6", "3.0.0", "sep697", True, PROBABILITIES)
    assert adapt(known, "255") is model


@pytest.mark.parametrize(
    ("figures", "taken"),
    [
        # Public files whose sources say what they did: accuracy and log loss on 1,000 training images.
        ({"1": (0.997, 0.0117), "binary": (0.997, 0.0111)}, "1"),
        ({"1": (0.990, 0.2013), "normalize": (1.0, 0.0002)}, "normalize"),
        ({"1": (0.990, 2.0743), "255": (0.998, 0.0037)}, "255"),
        ({"1": (0.924, 0.9571), "normalize-rows": (0.904, 0.5628)}, "1"),
        # Less than .01 nats, and more than three quarters.
        ({"1": (0.999, 0.0095), "-1..1": (1.0, 0.0005)}, "1"),
        ({"1": (0.950, 0.2000), "-1..1": (0.960, 0.1600)}, "1"),
        # The last resorts only where nothing else gives digits.
        ({"1": (0.930, 0.3000), "transposed": (0.990, 0.0300)}, "1"),
        ({"1": (0.500, 3.0000), "transposed": (0.990, 0.0300)}, "transposed"),
        ({"1": (0.500, 3.0000), "transposed": (0.600, 2.0000)}, "1"),
    ],
)
def test_the_rule(figures, taken):
    measured = [Measured(name, *figures.get(name, (0.1, 9.0))) for name in CONVENTIONS]
    assert choose(measured).pixels == taken


def test_the_classifier_is_the_model_where_its_convention_is_known_or_given(digits):
    model = randomized("sep697")
    known = LoadedModel(model, "H6", "3.0.0", "sep697", True, PROBABILITIES)
    assert pixels.classifier(known, *digits) == (model, None)
    other = loaded(dense((28, 28, 1), WEIGHTS, np.zeros(10), None), LOGITS)
    given, decision = pixels.classifier(other, *digits, "-1..1")
    images = digits[0][:3].astype(np.float32)
    np.testing.assert_allclose(given(images), adapt(other, "-1..1")(images))
    assert decision is None


def test_the_page_refuses_a_function_that_is_not_keras_own_by_its_name():
    old = load_described(REPOSITORY / "tests" / "fixtures" / "keras2_chain.h5")
    with pytest.raises(UserError, match="the page can compute, found 'keras2_hard_sigmoid'"):
        describe(adapt(old, "1"))
