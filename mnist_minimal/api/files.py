"""What people have on disk and in memory: models and data sets loaded, a model scored."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_minimal.data.choice import DATASETS, Choice, Fold
from mnist_minimal.models.lookup import Builder
from mnist_minimal.study.recorded import check_kept

if TYPE_CHECKING:
    import keras
    from numpy.typing import ArrayLike

    from mnist_minimal.data.sets import Dataset
    from mnist_minimal.training.evaluation import Evaluation


def load(
    path: str | Path,
    builders: Mapping[str, Builder] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> "keras.Model":
    """The model in a file that any version of Keras saved.

    Args:
        path: The file: `.h5`, `.keras`, or `.weights.h5` where a builder has its arrays or JSON beside it describes
            them.
        builders: The models that it may hold, by name; None for any.
        custom_objects: Your own classes, layers and functions by the names that the file has for them.

    Returns:
        A built model, not compiled.

    Raises:
        UserError: if the file can't be read, or holds a class that is neither Keras' nor given; of a trial whose model
            was not kept, saying how it is trained again.

    Example:
        >>> import mnist_minimal as mm
        >>> study = mm.run_trials("sep697", runs=2, data="digits", epochs=1, out="my-trials", progress=False)
        >>> mm.load("my-trials/sep697-digits/0.h5").count_params()
        697
    """
    from mnist_minimal.saving.reader import READER
    from mnist_minimal.saving.saved_model import load

    check_kept(Path(path).expanduser())
    try:
        return load(path, builders, custom_objects)
    finally:
        # The process that reads files, which a command keeps for the next one, is none of the caller's.
        READER.close()


def load_data(path: str | Path = "mnist", name: str | None = None, fold: str | None = None) -> "Dataset":
    """A data set, found, checked and split as it was published or into folds.

    Args:
        path: "mnist", from the file that the environment variable MNIST_MINIMAL_DATA names or from Keras; "digits",
            scikit-learn's small ones; "auto", the one or else the other, with a warning; "fashion_mnist", "cifar10" or
            "cifar100", from Keras; or a file or folder, as `--data` takes it.
        name: What images that are not MNIST are called in results, in lower case.
        fold: "K/N", such as "3/10": of all images, training and test set together, the K-th of N folds is the test set
            and the others are the training set; which images are in it `data.sets.folded` says.

    Returns:
        Its `x_train` and `x_test` are uint8 (n, height, width, channels) in [0, 255], of MNIST (n, 28, 28, 1) with 0
        the background; its `y_train` and `y_test` int64 (n,), classes counted from 0. It has their `shape` and
        `classes`.

    Raises:
        UserError: if there is no such file, or it is damaged, or of something else; if there is no such fold.

    Example:
        >>> import mnist_minimal as mm
        >>> digits = mm.load_data("digits")
        >>> digits.x_train.shape, digits.y_test.shape
        ((1500, 28, 28, 1), (297,))
        >>> mm.load_data("digits", fold="3/10").y_test.shape
        (180,)
    """
    from mnist_minimal.data import sets

    choice = choice_of(path, name)
    dataset = sets.load(choice if fold is None else replace(choice, fold=Fold.parse(fold)))
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
        >>> digits = mm.load_data("digits")
        >>> found = mm.score(mm.MODELS["sep697"](), digits.x_test, digits.y_test)
        >>> found.accuracy == found.correct / 297
        True
    """
    from mnist_minimal.training.evaluation import score

    return score(model, images, labels)


def choice_of(path: str | Path, name: str | None) -> Choice:
    """The choice of data that a name, a file or a folder is."""
    known = isinstance(path, str) and path in DATASETS
    return Choice(str(path), None, name) if known else Choice("auto", str(Path(path).expanduser()), name)
