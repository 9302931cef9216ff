"""`import mnist_minimal as mm`: data and models of one's own."""

import doctest

import keras
import numpy as np
import pytest
from keras import layers
from scipy.special import log_softmax

import mnist_minimal as mm
from mnist_minimal.api import files
from mnist_minimal.data import sets
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.training import evaluation
from tests.rounding import exact_loss, outputs_in_double, tolerance


@pytest.mark.parametrize("module", [files, evaluation])
def test_the_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.fixture(scope="module")
def digits() -> sets.Dataset:
    return mm.load_data("digits")


@pytest.fixture(scope="module")
def trained(digits) -> dict[str, keras.Model]:
    """Networks that know the digits, by how the pixels were scaled outside of them, and what ends them."""
    scaled = {"255": digits.x_train, "1": digits.x_train / 255, "-1..1": digits.x_train / 127.5 - 1}
    models = {}
    for name, images in scaled.items():
        keras.utils.set_random_seed(1)
        inside = [layers.Rescaling(1 / 255)] if name == "255" else []
        models[name] = keras.Sequential(
            [keras.Input((28, 28, 1)), *inside, layers.Flatten(), layers.Dense(10, "softmax")]
        )
        models[name].compile(
            keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
        )
        models[name].fit(images, digits.y_train, epochs=5, verbose=0)
    return models


@pytest.fixture(scope="module")
def rounded_loss(trained, digits) -> tuple[float, float]:
    """The loss of the network for pixels in double precision, and how far single precision may be from it."""
    return exact_loss(trained["255"], digits.x_test, digits.y_test)


def truth(model, images, labels) -> tuple[float, float]:
    """Accuracy and loss as Keras has them; the model is compiled for both."""
    loss, accuracy = model.evaluate(images.astype(np.float32), labels, verbose=0)
    return accuracy, loss


def test_load_data_by_name_and_by_path(tmp_path, digits, monkeypatch):
    assert (digits.name, digits.x_train.shape, digits.x_test.shape) == ("digits", (1500, 28, 28, 1), (297, 28, 28, 1))
    arrays = {key: getattr(digits, key).squeeze() for key in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "few.npz", **arrays)
    for path in (tmp_path / "few.npz", str(tmp_path / "few.npz"), "few.npz", "~/few.npz"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        found = mm.load_data(path, name="few")
        assert found.name == "few"
        for key, array in arrays.items():
            np.testing.assert_array_equal(getattr(found, key).squeeze(), array)
    with pytest.raises(ValueError, match=r"few\.npz: found other data than MNIST.s in x_train"):
        mm.load_data("few.npz")
    with pytest.raises(UserError, match=r"none\.npz: found nothing there, expected"):
        mm.load_data("none.npz")
    with pytest.raises(UserError, match="leave out --dataset"):
        mm.load_data("digits", name="few")


def test_load_data_warns_where_the_digits_take_mnists_place(monkeypatch, tmp_path):
    notice = "Using scikit-learn's small digits"
    monkeypatch.setattr(sets, "_load_from_keras", lambda name: (_ for _ in ()).throw(sets.UnavailableError("offline")))
    with pytest.warns(UserWarning, match=notice):
        assert mm.load_data("auto").name == "digits"
    with pytest.raises(UserError, match="MNIST was found nowhere: offline"):
        mm.load_data()


def test_load_data_finds_mnist(mnist_path):
    found = mm.load_data(mnist_path)
    assert (found.name, found.x_train.shape, found.x_test.dtype) == ("mnist", (60_000, 28, 28, 1), np.uint8)
    again = sets.load(Choice(path=mnist_path))
    np.testing.assert_array_equal(found.y_test, again.y_test)


LABELS = {
    "as they are": lambda labels: labels,
    "(n, 1)": lambda labels: labels[:, None],
    "one-hot": lambda labels: np.eye(10)[labels],
    "one-hot, yes or no": lambda labels: np.eye(10, dtype=bool)[labels],
    "whole floats": lambda labels: labels.astype(np.float32),
    "a list": lambda labels: labels.tolist(),
    "uint8": lambda labels: labels.astype(np.uint8),
}
IMAGES = {
    "as they are": lambda images: images,
    "(n, 28, 28)": lambda images: images[..., 0],
    "(n, 784)": lambda images: images.reshape(-1, 784),
    "channels first": lambda images: images.reshape(-1, 1, 28, 28),
    "floats": lambda images: images.astype(np.float64),
}


@pytest.mark.parametrize(
    ("image", "label"),
    [
        # Images and labels are read apart from each other.
        pytest.param(image, label, marks=() if "as they are" in (image, label) else pytest.mark.slow)
        for image in IMAGES
        for label in LABELS
    ],
)
def test_score_is_what_keras_evaluates(trained, digits, rounded_loss, image, label):
    found = mm.score(trained["255"], IMAGES[image](digits.x_test), LABELS[label](digits.y_test))
    accuracy, loss = truth(trained["255"], digits.x_test, digits.y_test)
    assert accuracy > 0.8
    assert found.correct == round(297 * accuracy)
    assert found.accuracy == pytest.approx(accuracy)
    expected, allowed = rounded_loss
    assert found.loss == pytest.approx(expected, abs=allowed)
    assert loss == pytest.approx(expected, abs=allowed)
    assert found.confusion.sum() == found.size == 297


def test_labels_of_shape_n_1_of_an_untrained_published_model(digits):
    model = MODELS["sep697"]()
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    found = mm.score(model, digits.x_test, digits.y_test[:, None])
    assert found.accuracy == pytest.approx(truth(model, digits.x_test, digits.y_test)[0])


SCALED = {
    "255": lambda images: images,
    "1": lambda images: images / 255,
    "-1..1": lambda images: images / 127.5 - 1,
}


@pytest.mark.parametrize("made_for", SCALED)
@pytest.mark.parametrize("given", SCALED)
def test_images_are_scaled_as_the_model_was_trained_or_refused(trained, digits, made_for, given):
    model, images = trained[made_for], SCALED[given](digits.x_test)
    right = truth(model, SCALED[made_for](digits.x_test), digits.y_test)[0]
    if made_for == given:
        assert mm.score(model, images, digits.y_test).accuracy == pytest.approx(right)
        return
    as_given = truth(model, images, digits.y_test)[0]
    if as_given < right - 0.02:
        said = f"found images .* the model gets {round(297 * as_given)} of 297 right, and .* as pixels (from|divided)"
        with pytest.raises(UserError, match=said):
            mm.score(model, images, digits.y_test)


def test_images_from_0_to_1_are_no_images_of_a_network_for_pixels(trained, digits):
    refused = r"found images from 0 to 1, of which the model gets \d+ of 297 right, and \d+ as pixels from 0 to 255"
    with pytest.raises(ValueError, match=refused):
        mm.score(trained["255"], digits.x_test / 255, digits.y_test)
    inverted = r"found images from 0 to 255, of which .* as 255 minus the pixels; give it those"
    with pytest.raises(ValueError, match=inverted):
        mm.score(trained["255"], 255 - digits.x_test, digits.y_test)


@pytest.mark.parametrize("end", ["linear", "sigmoid"])
def test_logits_and_sigmoids_become_probabilities(trained, digits, end):
    model = keras.models.clone_model(trained["255"])
    model.set_weights(trained["255"].get_weights())
    model.layers[-1].activation = keras.activations.get(end)
    exact, *inexact = outputs_in_double(model, digits.x_test)

    def loss(outputs: np.ndarray) -> float:
        logarithms = log_softmax(outputs, axis=1) if end == "linear" else np.log(outputs / outputs.sum(axis=1)[:, None])
        return -float(logarithms[np.arange(297), digits.y_test].mean())

    found = mm.score(model, digits.x_test, digits.y_test)
    assert found.correct == (exact.argmax(axis=1) == digits.y_test).sum()
    allowed = tolerance(loss(exact), [loss(outputs) for outputs in inexact])
    assert found.loss == pytest.approx(loss(exact), abs=allowed)


ONES = np.ones((3, 28, 28, 1))


@pytest.mark.parametrize(
    ("images", "labels", "found"),
    [
        (ONES, [0, 1], r"found labels of shape \(2,\) for 3 images; expected \(3,\), \(3, 1\) or, one-hot, \(3, 10\)"),
        (ONES, [[0, 1], [1, 2], [2, 3]], r"found labels of shape \(3, 2\) for 3 images"),
        (ONES, [0, 1, 10], "found the label 10; expected whole numbers from 0 to 9"),
        (ONES, [0, 1, -1], "found the label -1"),
        (ONES, [0, 1, 0.5], r"found the label 0\.5"),
        (ONES, [0, 1, np.nan], "found the label nan"),
        (ONES, ["0", "1", "2"], "found labels of <U1; expected whole numbers from 0 to 9"),
        (ONES, np.full((3, 10), 0.1), r"found labels of shape \(3, 10\) that are not one-hot"),
        (ONES, np.ones((3, 10)), r"found labels of shape \(3, 10\) that are not one-hot"),
        (ONES[..., 0, 0], [0, 1, 2], r"found images of shape \(28,\) and a model that takes \(28, 28, 1\)"),
        (np.ones((3, 28, 28, 3)), [0, 1, 2], r"found images of shape \(28, 28, 3\) and a model that takes"),
        (ONES * np.nan, [0, 1, 2], r"found images with pixels that are not finite \(nan or inf\)"),
        (ONES[:0], [], r"found images of shape \(0, 28, 28, 1\); expected"),
        (ONES.astype(str), [0, 1, 2], r"found images of <U\d+; expected numbers"),
    ],
)
def test_arrays_of_something_else_are_refused(trained, images, labels, found):
    with pytest.raises(UserError, match=found):
        mm.score(trained["255"], images, labels)


def test_models_of_something_else_are_refused():
    def model(*last: keras.Layer) -> keras.Model:
        return keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), *last])

    with pytest.raises(
        UserError, match="found the label 5; expected whole numbers from 0 to 4, as the model has 5 cla"
    ):
        mm.score(model(layers.Dense(5, "softmax")), ONES, [0, 1, 5])
    for last in (layers.Dense(1, "sigmoid"), layers.Reshape((28, 28))):
        with pytest.raises(
            UserError, match=r"found outputs of shape .*; expected a model with one for each class, at l"
        ):
            mm.score(model(last), ONES, [0, 1, 0])


def test_coloured_images_of_four_classes_are_scored():
    """By hand: the three channels' sums are the first three logits, the last is 100."""
    summed = np.tile(np.eye(3, 4, dtype=np.float32), (6, 1))
    model = keras.Sequential([keras.Input((3, 2, 3)), layers.Flatten(), layers.Dense(4)])
    model.set_weights([summed, np.array([0, 0, 0, 100], np.float32)])
    images = np.zeros((4, 3, 2, 3))
    images[0, 1, 1, 0] = images[1, 2, 0, 1] = images[2, 0, 0, 2] = 200
    found = mm.score(model, images, np.eye(4)[[0, 1, 3, 3]])
    assert (found.correct, found.size) == (3, 4)
    assert found.confusion.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
