"""The same images and labels in the forms that people have them in, and numbers that are others."""

import numpy as np
import pytest

import mnist_minimal as mm
from mnist_minimal.data import forms
from mnist_minimal.errors import UserError
from tests.data.test_data import random_arrays, write_npz

# Every pixel value there is.
PIXELS = np.tile(np.arange(256, dtype=np.uint8), 49).reshape(16, 28, 28)
LABELS = np.array([3, 0, 9, 1])


@pytest.mark.parametrize("shape", [(16, 28, 28), (16, 784), (16, 28, 28, 1), (16, 1, 28, 28)])
@pytest.mark.parametrize(
    "number",
    [
        np.uint8,
        np.int64,
        np.uint16,
        np.float16,
        np.float32,
        np.float64,
        lambda pixels: pixels.astype(np.float32) / 255,
        lambda pixels: pixels / 255,
        lambda pixels: (pixels / 255).astype(np.float16),
        lambda pixels: (pixels.astype(np.float32) / 255).astype(">f8"),
        np.asfortranarray,
    ],
)
def test_the_same_pixels(shape, number):
    found = forms.pixels(number(PIXELS.reshape(shape)))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, PIXELS[..., np.newaxis])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 12, 10), (12, 10, 1)),
        ((5, 12, 10, 3), (12, 10, 3)),
        ((5, 3, 10, 3), (3, 10, 3)),
        ((5, 12, 10, 7), (12, 10, 7)),
        ((5, 3, 12, 10), None),
        ((5, 1, 12, 10), None),
        ((5, 120), None),
        ((5, 12, 0), None),
        ((5, 2, 12, 10, 3), None),
    ],
)
def test_images_of_any_size(shape, expected):
    """Of channels that stand first it is not known which axis they are; MNIST's alone are known."""
    assert forms.image_shape(shape) == expected
    assert forms.is_images(shape, np.dtype(np.uint8)) == (expected is not None)
    if expected is None:
        with pytest.raises(UserError, match=r"expected \(n, height, width, channels\)"):
            forms.pixels(np.zeros(shape, np.uint8))
        return
    numbers = np.random.default_rng(0).integers(0, 256, shape)
    found = forms.pixels(numbers / 255)
    assert found.shape == (5, *expected)
    np.testing.assert_array_equal(found.ravel(), numbers.ravel())


def test_black_and_white():
    black_and_white = PIXELS > 127
    black_and_white = black_and_white[..., np.newaxis]
    np.testing.assert_array_equal(forms.pixels(black_and_white.astype(np.float32)), black_and_white * 255)
    # Integers are not divided by anything.
    np.testing.assert_array_equal(forms.pixels(black_and_white.astype(np.int32)), black_and_white)


def test_parts_of_many_images_are_all_looked_at(monkeypatch):
    monkeypatch.setattr(forms, "PART", 3)
    np.testing.assert_array_equal(forms.pixels(PIXELS / 255), PIXELS[..., np.newaxis])
    changed = PIXELS / 255
    changed[15, 27, 27] = 0.3
    with pytest.raises(UserError, match=r"found float64 such as 0\.3 in the images, expected whole numbers"):
        forms.pixels(changed)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ((PIXELS / 255 - 0.1307) / 0.3081, r"float64 from -0\.424213 to 2\.82149"),
        (PIXELS / 127.5 - 1, "float64 from -1 to 1"),
        (PIXELS / 255 - 0.5, r"float64 from -0\.5 to 0\.5"),
        (PIXELS / 2, "float64 such as 0.5"),
        (PIXELS.astype(np.int16) * 257, "int16 from -32767 to 32639|int16 from"),
        (np.where(PIXELS == 255, np.nan, PIXELS), "float64 from nan to nan"),
        (np.where(PIXELS == 255, np.inf, PIXELS), "float64 from 0 to inf"),
    ],
)
def test_other_numbers_are_refused_with_what_was_found(images, found):
    with pytest.raises(
        UserError, match=f"found ({found}).* in the images, expected whole numbers from 0 to 255, or these"
    ):
        forms.pixels(images)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.astype(np.uint8),
        LABELS.astype(np.float32),
        LABELS[:, np.newaxis],
        np.eye(10)[LABELS],
        np.eye(10, dtype=np.uint8)[LABELS],
        np.eye(10, dtype=bool)[LABELS],
    ],
)
def test_the_same_labels(labels):
    assert forms.is_labels(labels.shape, labels.dtype)
    found = forms.classes(labels)
    assert found.dtype.kind in "iu"
    np.testing.assert_array_equal(found, LABELS)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.array([0.5, 1]), "float64 in the labels that are no whole numbers"),
        (np.array([np.nan, 1]), "float64 in the labels that are no whole numbers"),
        (np.array([np.inf, 1]), "float64 in the labels that are no whole numbers"),
        (np.full((2, 10), 0.1), "rows of 10 numbers in the labels that are not one 1"),
        (np.zeros((2, 10)), "rows of 10 numbers"),
        (np.ones((2, 10)), "rows of 10 numbers"),
        (np.array([[2, -1] + 8 * [0]]), "rows of 10 numbers"),
    ],
)
def test_other_labels_are_refused(labels, found):
    with pytest.raises(UserError, match=f"found {found}.*, expected"):
        forms.classes(labels)


def test_a_data_set_in_another_form_is_the_same(tmp_path):
    arrays = random_arrays()
    plain = mm.load_data(write_npz(tmp_path, **arrays), name="noise")
    other = write_npz(
        tmp_path,
        x_train=arrays["x_train"].reshape(-1, 784) / 255,
        x_test=arrays["x_test"][..., np.newaxis].astype(np.float32),
        y_train=np.eye(10)[arrays["y_train"]],
        y_test=arrays["y_test"][:, np.newaxis],
    )
    found = mm.load_data(other, name="noise")
    for key in arrays:
        np.testing.assert_array_equal(getattr(found, key), getattr(plain, key))
        assert getattr(found, key).dtype == getattr(plain, key).dtype


def test_what_was_done_to_the_pixels_is_refused_by_the_array(tmp_path):
    path = write_npz(tmp_path, x_test=random_arrays()["x_test"] / 127.5 - 1)
    with pytest.raises(UserError, match=r"images\.npz: found float64 from -1 to 1 in x_test, expected whole numbers"):
        mm.load_data(path, name="noise")


@pytest.mark.slow
def test_mnist_divided_by_255_is_mnist(mnist_path, tmp_path):
    with np.load(mnist_path) as arrays:
        changed = {key: arrays[key] / np.float32(255) if key.startswith("x") else arrays[key] for key in arrays.files}
    np.savez(tmp_path / "mnist.npz", **changed)
    assert mm.load_data(tmp_path / "mnist.npz").name == "mnist"
