"""Images and labels in the forms that people have them in, made the one form of this package without a changed number.

Pixels are whole numbers from 0 to 255, or these divided by 255; labels are whole numbers or one-hot rows. Whatever is
neither is refused, since nobody could say what was done to it.
"""

import numpy as np

from mnist_minimal.errors import UserError

# How MNIST's images come too: as rows of numbers, and with the channel first.
MNIST_SHAPES = ((784,), (1, 28, 28))

# More channels than these are none that stand first: images of 3 rows are rarer than images in PyTorch's layout.
CHANNELS = (1, 3, 4)

# The core keeps a label in a byte.
MAX_CLASSES = 256

# A pixel k is k / 255 in float16 too, whose nearest number lies up to .06 / 255 beside it.
ROUNDING = 0.1

# Images that are looked at together: 63 MB as float64.
PART = 10_000


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(height, width, channels) of the images of an array of this shape; None where it is none of images."""
    if shape[1:] in MNIST_SHAPES:
        return 28, 28, 1
    if len(shape) not in (3, 4) or 0 in shape[1:]:
        return None
    height, width, channels = (*shape[1:], 1)[:3]
    channels_first = len(shape) == 4 and height in CHANNELS and channels not in CHANNELS
    return None if channels_first else (height, width, channels)


def is_images(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether `pixels` may take an array of this shape and type."""
    return image_shape(shape) is not None and dtype.kind in "uif"


def is_labels(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether `classes` may take an array of this shape and type."""
    one_hot = len(shape) == 2 and 1 < shape[1] <= MAX_CLASSES and dtype.kind in "uifb"
    return one_hot or (shape[1:] in ((), (1,)) and len(shape) > 0 and dtype.kind in "uif")


def pixels(images: np.ndarray, name: str = "the images") -> np.ndarray:
    """The pixels of images.

    Args:
        images: Integers or floats of shape (n, height, width) or (n, height, width, channels), or MNIST's as (n, 784)
            or (n, 1, 28, 28), n > 0: whole numbers in [0, 255], or floats that are these divided by 255.
        name: What to call them in an error.

    Returns:
        uint8 (n, height, width, channels) in [0, 255].

    Raises:
        UserError: if they are other numbers.
    """
    shape = image_shape(images.shape)
    if shape is None:
        raise UserError(f"found the shape {images.shape} in {name}, expected (n, height, width, channels)")
    if images.dtype == np.uint8:
        return images.reshape(-1, *shape)
    low, high = images.min(), images.max()
    divided = images.dtype.kind == "f" and high <= 1
    expected = (
        "expected whole numbers from 0 to 255, or these divided by 255; save the pixels as they were published, "
        "without normalisation"
    )
    # Not a number is neither more nor less than anything.
    if not (low >= 0 and high <= 255):
        raise UserError(f"found {images.dtype} from {low:g} to {high:g} in {name}, {expected}")
    found = np.empty((len(images), *shape), np.uint8)
    for start in range(0, len(images), PART):
        scaled = images[start : start + PART].reshape(-1, *shape).astype(np.float64) * (255 if divided else 1)
        whole = np.rint(scaled)
        beside = np.abs(scaled - whole)
        if beside.max() > (ROUNDING if divided else 0):
            such = images[start : start + PART].flat[beside.argmax()]
            raise UserError(f"found {images.dtype} such as {such:g} in {name}, {expected}")
        found[start : start + PART] = whole
    return found


def classes(labels: np.ndarray, name: str = "the labels") -> np.ndarray:
    """The labels as whole numbers; whether they are classes is not looked at where they are not one-hot.

    Args:
        labels: Whole numbers, integers or floats, of shape (n,) or (n, 1), n > 0; or one-hot rows (n, classes).
        name: What to call them in an error.

    Returns:
        Integers (n,).

    Raises:
        UserError: if they are other numbers.
    """
    if labels.ndim == 2 and labels.shape[1] > 1:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise UserError(
                f"found rows of {labels.shape[1]} numbers in {name} that are not one 1 and else 0s, expected one-hot "
                "rows, or labels of shape (n,); save the labels themselves"
            )
        return labels.argmax(axis=1)
    labels = labels.reshape(-1)
    if labels.dtype.kind == "f":
        # A NaN or an infinity is no whole number either, but is one beyond the largest integer.
        if not (np.abs(labels) < 2**31).all() or (labels != np.rint(labels)).any():
            raise UserError(f"found {labels.dtype} in {name} that are no whole numbers, expected labels 0, 1, ...")
        return labels.astype(np.int64)
    return labels
