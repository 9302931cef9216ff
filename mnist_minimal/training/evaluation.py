"""What a model makes of labelled images: accuracy, loss and confusion matrix.

`evaluate` takes the arrays as this package has them; `score` takes people's own and refuses what would give a figure
that looks right and is not.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_minimal.errors import UserError

if TYPE_CHECKING:
    import keras
    import numpy as np
    from numpy.typing import ArrayLike

BATCH_SIZE = 1000


# A model was made for another scale than the images have if that gives less loss, by as much as tells two conventions
# apart, less than this share of the errors, less by this share of all images, and an accuracy that is no chance.
ERRORS, IMAGES, LEAST_ACCURACY = 0.75, 0.01, 0.5


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of labelled images.

    Attributes:
        correct: Number of images whose most probable class is their label.
        size: Number of images.
        loss: Mean cross-entropy in nats; a probability of 0 counts as float32's smallest normal number, 1.2e-38.
        confusion: int64 (classes, classes), the number of images by label (row) and most probable class (column).
    """

    correct: int
    size: int
    loss: float
    confusion: "np.ndarray"

    @property
    def accuracy(self) -> float:
        """The share of correct images, in [0, 1]."""
        return self.correct / self.size


def probabilities(model: "keras.Model", images: "np.ndarray") -> "np.ndarray":
    """The class probabilities that a model gives images.

    Args:
        model: A built model from pixels (batch, height, width, channels) to class probabilities (batch, classes).
        images: uint8 or float (n, height, width, channels) in [0, 255], n > 0.

    Returns:
        float32 (n, classes).
    """
    import keras
    import numpy as np

    # Called, not compiled: `predict` would first spend as long on tracing the model as this needs for MNIST's test set.
    batches = [
        keras.ops.convert_to_numpy(model(images[start : start + BATCH_SIZE].astype(np.float32), training=False))
        for start in range(0, len(images), BATCH_SIZE)
    ]
    return np.concatenate(batches)


def evaluate(model: "keras.Model", images: "np.ndarray", labels: "np.ndarray") -> Evaluation:
    """What a model makes of labelled images.

    Args:
        model: A built model from pixels (batch, height, width, channels) to class probabilities (batch, classes).
        images: uint8 or float (n, height, width, channels) in [0, 255], n > 0.
        labels: Integers (n,) in 0 .. classes - 1.
    """
    return from_probabilities(probabilities(model, images), labels)


def score(model: "keras.Model", images: "ArrayLike", labels: "ArrayLike") -> Evaluation:
    """What a model of one's own makes of images and labels of one's own.

    Args:
        model: A built model of two classes or more. Its outputs may be probabilities, logits or sigmoids.
        images: Numbers, finite, (n, height, width, channels) or of another shape with as many numbers an image as the
            model's input has, n > 0. They are given to the model as they are, scaled as it was trained: the published
            models take pixels from 0 to 255.
        labels: Whole numbers from 0, less than the model's classes, of shape (n,) or (n, 1); or one-hot, (n, classes).

    Returns:
        The accuracy, the loss and the confusion matrix.

    Raises:
        UserError: if the arrays are anything else, or the model is; if the model gets the images right when they are
            scaled otherwise, and not as they are.

    Example:
        >>> import keras, numpy as np
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(10, kernel_initializer="zeros")]
        >>> model = keras.Sequential([keras.Input((28, 28, 1)), *layers])
        >>> found = score(model, np.zeros((4, 28, 28)), [[0], [1], [0], [3]])
        >>> found.correct, found.accuracy, round(found.loss, 4)
        (2, 0.5, 2.3026)
    """
    pixels = _images(model, images)
    outputs = probabilities(model, pixels)
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise UserError(
            f"found outputs of shape {outputs.shape[1:]}; expected a model with one for each class, at least 2"
        )
    classes = _classes(labels, len(pixels), outputs.shape[1])
    found = from_probabilities(_as_probabilities(outputs), classes)
    _check_scale(model, pixels, classes, outputs)
    return found


def from_probabilities(predicted: "np.ndarray", labels: "np.ndarray") -> Evaluation:
    """The evaluation of class probabilities, float32 (n, classes), that a model gave images of these labels."""
    import numpy as np
    from sklearn.metrics import confusion_matrix

    of_label = np.maximum(predicted[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
    classes = predicted.argmax(axis=1)
    return Evaluation(
        correct=int(np.count_nonzero(classes == labels)),
        size=len(labels),
        loss=float(-np.log(of_label, dtype=np.float64).mean()),
        confusion=confusion_matrix(labels, classes, labels=range(predicted.shape[1])),
    )


def _images(model: "keras.Model", images: "ArrayLike") -> "np.ndarray":
    """Images as the model's input has them, but for their scale."""
    import numpy as np

    found = np.asarray(images)
    if found.dtype.kind not in "buif":
        raise UserError(f"found images of {found.dtype}; expected numbers, one a pixel")
    if found.ndim < 2 or not found.size:
        raise UserError(f"found images of shape {found.shape}; expected (n, height, width, channels), n > 0")
    if not np.isfinite(found).all():
        raise UserError("found images with pixels that are not finite (nan or inf); expected numbers")
    import keras

    if not isinstance(model, keras.Model):
        raise UserError(f"found a {type(model).__name__} as the model; expected a built Keras model")
    wanted = getattr(model, "input_shape", None)
    if not isinstance(wanted, tuple):
        raise UserError(f"found a model with the input {wanted}; expected a built model of one image")
    wanted = wanted[1:]
    fits = len(wanted) == found.ndim - 1 and all(
        size in (None, length) for size, length in zip(wanted, found.shape[1:], strict=True)
    )
    if fits:
        return found
    if None in wanted or np.prod(wanted) != np.prod(found.shape[1:]):
        raise UserError(f"found images of shape {found.shape[1:]} and a model that takes {wanted}; give it such images")
    return found.reshape(-1, *wanted)


def _classes(labels: "ArrayLike", images: int, classes: int) -> "np.ndarray":
    """Labels as int64 (n,)."""
    import numpy as np

    found = np.asarray(labels)
    expected = f"expected whole numbers from 0 to {classes - 1}, as the model has {classes} classes"
    if found.dtype.kind not in "buif":
        raise UserError(f"found labels of {found.dtype}; {expected}")
    if found.shape[1:] == (classes,):
        if not (((found == 0) | (found == 1)).all() and (found.sum(axis=1) == 1).all()):
            raise UserError(f"found labels of shape {found.shape} that are not one-hot; expected one 1 a row, else 0")
        found = found.argmax(axis=1)
    elif found.shape[1:] == (1,):
        found = found[:, 0]
    if found.shape != (images,):
        raise UserError(
            f"found labels of shape {found.shape} for {images:,} images; expected ({images},), ({images}, 1) or, "
            f"one-hot, ({images}, {classes})"
        )
    wrong = found[~((found >= 0) & (found < classes) & (found == np.floor(found)))]
    if wrong.size:
        raise UserError(f"found the label {wrong[0]}; {expected}")
    return found.astype(np.int64)


def _as_probabilities(outputs: "np.ndarray") -> "np.ndarray":
    """Outputs as probabilities: logits, which leave 0 .. 1, by softmax, sigmoids divided by their sum."""
    import numpy as np

    outputs = outputs.astype(np.float32)
    if (outputs < 0).any() or (outputs > 1.001).any():
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    sums = outputs.sum(axis=1, keepdims=True)
    # Of a model of half precision they differ from 1 by some thousandths.
    if np.allclose(sums, 1, atol=0.02):
        return outputs
    return np.where(sums > 0, outputs / np.maximum(sums, np.finfo(np.float32).tiny), 1 / outputs.shape[1])


def _check_scale(model: "keras.Model", images: "np.ndarray", labels: "np.ndarray", outputs: "np.ndarray") -> None:
    """Refuses images that the model classifies at another scale only; looks at the first BATCH_SIZE."""
    import keras
    import numpy as np

    from mnist_minimal.training.conventions import CONVENTIONS, NATS, SHARE

    low, high = float(images.min()), float(images.max())
    if low == high:
        return
    labels = labels[:BATCH_SIZE]
    given = from_probabilities(_as_probabilities(outputs[:BATCH_SIZE]), labels)
    raw = 255 * ((images[:BATCH_SIZE].astype(np.float32) - low) / (high - low))
    for convention in CONVENTIONS.values():
        if not convention.pixelwise:
            continue
        scaled: Any = raw
        for layer in convention.layers():
            scaled = layer(scaled)
        outputs = probabilities(model, keras.ops.convert_to_numpy(scaled))
        other = from_probabilities(_as_probabilities(outputs), labels)
        if (
            other.accuracy >= LEAST_ACCURACY
            and other.loss < min(SHARE * given.loss, given.loss - NATS)
            and 1 - other.accuracy < min(ERRORS * (1 - given.accuracy), 1 - given.accuracy - IMAGES)
        ):
            raise UserError(
                f"found images from {low:g} to {high:g}, of which the model gets {given.correct:,} of {given.size:,} "
                f"right, and {other.correct:,} as {convention.words}; give it those"
            )
