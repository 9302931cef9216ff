"""Accuracy, loss and confusion matrix of saved models on the test set."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnist_minimal.command_line import command_parser, run
from mnist_minimal.data_choice import add_arguments, from_arguments
from mnist_minimal.errors import UserError
from mnist_minimal.model_choice import OWN_FORM, builder, model_name
from mnist_minimal.summary import trainable_parameters

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


def table(confusion: "np.ndarray") -> str:
    """A confusion matrix as lines of text, with the classes beside the rows and above the columns.

    Args:
        confusion: Counts (classes, classes), by label (row) and predicted class (column).
    """
    head = f"{'true / predicted':<16}" + "".join(f"{label:6}" for label in range(len(confusion)))
    rows = (f"{label:>16}" + "".join(f"{count:6}" for count in row) for label, row in enumerate(confusion))
    return "\n".join([head, *rows])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = command_parser(__doc__, "evaluate")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a saved model: .h5, .keras or .weights.h5")
    parser.add_argument(
        "--model",
        type=model_name,
        metavar="MODEL",
        help=f"what the files hold (default: any of the published models): one of them, or {OWN_FORM}",
    )
    add_arguments(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 where a file holds no model."""
    options = parse(arguments)
    from mnist_minimal import data, load

    builders = {options.model: builder(options.model)} if options.model else None
    dataset = data.load(from_arguments(options))
    if dataset.notice:
        print(dataset.notice, file=sys.stderr)
    status = 0
    for file in options.files:
        try:
            model = load(file, builders)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 1
            continue
        found = evaluate(model, dataset.x_test, dataset.y_test)
        parameters = trainable_parameters(model)
        print(f"{file}: {model.name}, {parameters:,} parameters, on the test set of {dataset.name}")
        print(f"accuracy {found.accuracy} ({found.correct} of {found.size})")
        print(f"loss {found.loss:.6f}")
        print(table(found.confusion), end="\n\n")
    return status


if __name__ == "__main__":
    raise SystemExit(run(main))
