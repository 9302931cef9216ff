"""Targets that are probabilities, a teacher's and the label's together, and how Keras is handed them.

Keras gives its loss and its metrics one array `y`. Here that is (batch, 1 + classes): the label, by which an answer is
right or wrong, and the target, by which the loss is.
"""

from typing import Any

import keras
import numpy as np


def mixed(probabilities: np.ndarray, labels: np.ndarray, weight: float) -> np.ndarray:
    """The targets weight * probabilities + (1 - weight) * label.

    Args:
        probabilities: float32 (n, classes), a teacher's.
        labels: Integers (n,) in 0 .. classes - 1.
        weight: The teacher's share, in [0, 1].

    Returns:
        float32 (n, classes). With a weight of 0 they are the labels to the last bit.
    """
    of_label = one_hot(labels, probabilities.shape[1]).astype(np.float64)
    return (weight * probabilities.astype(np.float64) + (1 - weight) * of_label).astype(np.float32)


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """float32 (n, classes): 1 for the label's class, 0 for the others."""
    return np.eye(classes, dtype=np.float32)[labels]


def with_labels(labels: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What Keras is handed as `y`, float32 (n, 1 + classes)."""
    return np.concatenate([labels[:, np.newaxis].astype(np.float32), targets], axis=1)


def cross_entropy(y: Any, probabilities: Any) -> Any:
    """Keras' categorical cross-entropy of a batch with its targets, (batch,)."""
    return keras.losses.categorical_crossentropy(y[:, 1:], probabilities)


def right(y: Any, probabilities: Any) -> Any:
    """Whether the most probable class is the label, 0 or 1 for each of the batch."""
    return keras.metrics.sparse_categorical_accuracy(y[:, 0], probabilities)
