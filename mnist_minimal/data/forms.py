"""Images and labels in the forms that people have them in, made the one form of this package without a changed number.

Pixels are whole numbers from 0 to 255, or these divided by 255; labels are digits or one-hot rows. Whatever is neither
is refused, since nobody could say what was done to it.
"""

import numpy as np

from mnist_minimal.errors import UserError

# An image beside the first axis: as Keras and torchvision have it, as a row of numbers, with its one channel.
IMAGE_SHAPES = ((28, 28), (784,), (28, 28, 1), (1, 28, 28))

CLASSES = 10

# A pixel k is k / 255 in float16 too, whose nearest number lies up to .06 / 255 beside it.
ROUNDING = 0.1

# Images that are looked at together: 63 MB as float64.
PART = 10_000


def is_images(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether `pixels` may take an array of this shape and type."""
    return shape[1:] in IMAGE_SHAPES and dtype.kind in "uif"


def is_labels(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether `digits` may take an array of this shape and type."""
    one_hot = shape[1:] == (CLASSES,) and dtype.kind in "uifb"
    return one_hot or (shape[1:] in ((), (1,)) and len(shape) > 0 and dtype.kind in "uif")


def pixels(images: np.ndarray, name: str = "the images") -> np.ndarray:
    """The pixels of images.

    Args:
        images: Integers or floats of shape (n, 28, 28), (n, 784), (n, 28, 28, 1) or (n, 1, 28, 28), n > 0: whole
            numbers in [0, 255], or floats that are these divided by 255.
        name: What to call them in an error.

    Returns:
        uint8 (n, 28, 28) in [0, 255].

    Raises:
        UserError: if they are other numbers.
    """
    if images.dtype == np.uint8:
        return images.reshape(-1, 28, 28)
    low, high = images.min(), images.max()
    divided = images.dtype.kind == "f" and high <= 1
    expected = (
        "expected whole numbers from 0 to 255, or these divided by 255; save the pixels as they were published, "
        "without normalisation"
    )
    # Not a number is neither more nor less than anything.
    if not (low >= 0 and high <= 255):
        raise UserError(f"found {images.dtype} from {low:g} to {high:g} in {name}, {expected}")
    found = np.empty((len(images), 28, 28), np.uint8)
    for start in range(0, len(images), PART):
        scaled = images[start : start + PART].reshape(-1, 28, 28).astype(np.float64) * (255 if divided else 1)
        whole = np.rint(scaled)
        beside = np.abs(scaled - whole)
        if beside.max() > (ROUNDING if divided else 0):
            such = images[start : start + PART].flat[beside.argmax()]
            raise UserError(f"found {images.dtype} such as {such:g} in {name}, {expected}")
        found[start : start + PART] = whole
    return found


def digits(labels: np.ndarray, name: str = "the labels") -> np.ndarray:
    """The labels as whole numbers; whether they are in 0 .. 9 is not looked at where they are not one-hot.

    Args:
        labels: Whole numbers, integers or floats, of shape (n,) or (n, 1), n > 0; or one-hot rows (n, 10).
        name: What to call them in an error.

    Returns:
        Integers (n,).

    Raises:
        UserError: if they are other numbers.
    """
    if labels.shape[1:] == (CLASSES,):
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise UserError(
                f"found rows of ten numbers in {name} that are not one 1 and nine 0s, expected one-hot rows, or labels "
                "of shape (n,); save the labels themselves"
            )
        return labels.argmax(axis=1)
    labels = labels.reshape(-1)
    if labels.dtype.kind == "f":
        # A NaN or an infinity is no whole number either, but is one beyond the largest integer.
        if not (np.abs(labels) < 2**31).all() or (labels != np.rint(labels)).any():
            raise UserError(f"found {labels.dtype} in {name} that are no whole numbers, expected labels 0 .. 9")
        return labels.astype(np.int64)
    return labels
