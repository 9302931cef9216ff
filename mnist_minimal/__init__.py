"""How few parameters does a network need to get 99 % on MNIST, and how often does training get it there?"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    from numpy.typing import ArrayLike

    from mnist_minimal.data.sets import Dataset
    from mnist_minimal.training.evaluation import Evaluation

    __version__: str


def _put_working_folder_last() -> None:
    """Lets a `random.py` beside the user's data take the place of nothing in `python -m mnist_minimal.COMMAND`.

    Python puts the working folder before its own modules then, and what a command needs is imported with it. A checkout
    that is worked in stays the first, since it has this package.
    """
    command = any(word.removeprefix("-m").partition(".")[0] == __name__ for word in sys.orig_argv)
    # While `python -m` looks for the module that it is to run, it has this in place of the file's name.
    searching = sys.argv[:1] == ["-m"] and not getattr(sys.flags, "safe_path", sys.flags.isolated)
    if command and searching and not os.path.isdir(__name__):
        sys.path.append(sys.path.pop(0))


_put_working_folder_last()


def __getattr__(name: str) -> str:
    """Asks for the version when it is wanted: a checkout has to ask git."""
    if name == "__version__":
        from mnist_minimal.version import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(
    path: "str | Path",
    builders: "Mapping[str, Callable[[], keras.Model]] | None" = None,
    custom_objects: "Mapping[str, Any] | None" = None,
) -> "keras.Model":
    """The model in a file that any version of Keras saved; see `saving.saved_model.load_described`."""
    # Imported here, so that `import mnist_minimal` and every command's --help do without TensorFlow.
    from mnist_minimal.saving.saved_model import load

    return load(path, builders, custom_objects)


def load_data(path: "str | Path" = "mnist", name: str | None = None) -> "Dataset":
    """A data set, found, checked and split as it was published.

    Args:
        path: "mnist", from the file that the environment variable MNIST_MINIMAL_DATA names or from Keras; "digits",
            scikit-learn's small ones; "auto", the one or else the other, with a warning; "fashion_mnist", "cifar10" or
            "cifar100", from Keras; or a file or folder, as `--data` takes it.
        name: What images that are not MNIST are called in results, in lower case.

    Returns:
        Its `x_train` and `x_test` are uint8 (n, height, width, channels) in [0, 255], of MNIST (n, 28, 28, 1) with 0
        the background; its `y_train` and `y_test` int64 (n,), classes counted from 0. It has their `shape` and
        `classes`.

    Raises:
        UserError: if there is no such file, or it is damaged, or of something else.

    Example:
        >>> import mnist_minimal as mm
        >>> digits = mm.load_data("digits")
        >>> digits.x_train.shape, digits.y_test.shape
        ((1500, 28, 28, 1), (297,))
    """
    import warnings

    from mnist_minimal.data import sets
    from mnist_minimal.data.choice import DATASETS, Choice

    known = path in DATASETS
    dataset = sets.load(Choice(str(path), None, name) if known else Choice("auto", str(Path(path).expanduser()), name))
    if dataset.notice:
        warnings.warn(dataset.notice, stacklevel=2)
    return dataset


def score(model: "keras.Model", images: "ArrayLike", labels: "ArrayLike") -> "Evaluation":
    """Accuracy, loss and confusion matrix of a model on labelled images; see `training.evaluation.score`.

    Args:
        model: A built model of two classes or more.
        images: Numbers (n, height, width, channels), n > 0, or of another shape with as many numbers an image as the
            model's input, scaled as it was trained: the published models take pixels from 0 to 255.
        labels: Whole numbers from 0, less than the model's classes, of shape (n,) or (n, 1); or one-hot, (n, classes).

    Returns:
        Its `accuracy` is in [0, 1], its `loss` the mean cross-entropy in nats, its `correct` the number of images.

    Raises:
        UserError: if the arrays are anything else, or scaled otherwise than the model was trained.

    Example:
        >>> import mnist_minimal as mm
        >>> from mnist_minimal.models import MODELS
        >>> digits = mm.load_data("digits")
        >>> found = mm.score(MODELS["sep697"](), digits.x_test, digits.y_test)
        >>> found.accuracy == found.correct / 297
        True
    """
    from mnist_minimal.training.evaluation import score

    return score(model, images, labels)
