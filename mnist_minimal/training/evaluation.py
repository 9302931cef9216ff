"""What a model makes of labelled images: accuracy, loss and confusion matrix."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras
    import numpy as np

CLASSES = 10
BATCH_SIZE = 1000


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of labelled images.

    Attributes:
        correct: Number of images whose most probable class is their label.
        size: Number of images.
        loss: Mean cross-entropy in nats; a probability of 0 counts as float32's smallest normal number, 1.2e-38.
        confusion: int64 (10, 10), the number of images by label (row) and most probable class (column).
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
        model: A built model from pixels (batch, 28, 28, 1) to class probabilities (batch, 10).
        images: uint8 or float (n, 28, 28, 1) in [0, 255], n > 0.

    Returns:
        float32 (n, 10).
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
        model: A built model from pixels (batch, 28, 28, 1) to class probabilities (batch, 10).
        images: uint8 or float (n, 28, 28, 1) in [0, 255], n > 0.
        labels: Integers (n,) in 0 .. 9.
    """
    import numpy as np
    from sklearn.metrics import confusion_matrix

    predicted = probabilities(model, images)
    of_label = np.maximum(predicted[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
    classes = predicted.argmax(axis=1)
    return Evaluation(
        correct=int(np.count_nonzero(classes == labels)),
        size=len(labels),
        loss=float(-np.log(of_label, dtype=np.float64).mean()),
        confusion=confusion_matrix(labels, classes, labels=range(CLASSES)),
    )
