"""How few parameters does a network need to get 99 % on MNIST, and how often does training get it there?"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

    from mnist_minimal.data.sets import Dataset

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


def load(path: "str | Path", builders: "Mapping[str, Callable[[], keras.Model]] | None" = None) -> "keras.Model":
    """The model in a `.h5` or `.keras` file, one of MODELS or of `builders`; see `saving.saved_model.load`."""
    # Imported here, so that `import mnist_minimal` and every command's --help do without TensorFlow.
    from mnist_minimal.models import MODELS
    from mnist_minimal.saving.saved_model import load

    return load(path, MODELS if builders is None else builders)


def load_data(source: "str | Path" = "auto", name: str | None = None) -> "Dataset":
    """The images and labels of a data set; see `data.sets.load`.

    Args:
        source: "mnist", "digits", "auto", or what the images are in: an .npz in the layout of `keras.datasets.mnist`,
            or a folder with one or with the four idx files in it.
        name: A name for images that are not MNIST, of lower-case letters, digits and "_".

    Returns:
        A data set with `.x_train`, `.x_test`, uint8 (n, 28, 28, 1) in [0, 255], and `.y_train`, `.y_test`, int64 (n,)
        in 0 .. 9.

    Raises:
        UserError: if there is no such data set, or it can't be read.
    """
    from mnist_minimal.data.choice import DATASETS, Choice
    from mnist_minimal.data.sets import load

    return load(Choice(str(source)) if source in DATASETS else Choice(path=str(source), name=name))
