"""Trained models in files: `.h5` and `.keras`, written so that a crash leaves no half a file, read without trust.

A file may come from anywhere. All that is taken from it are the names of layers, a description of the architecture as
plain JSON, and arrays of numbers; the model itself is always made by a builder of `mnist_minimal.models`, or by one
that the caller gives. Nothing in a file is run, unpickled or made into an object.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import keras

from mnist_minimal import files
from mnist_minimal.errors import UserError, one_line
from mnist_minimal.models import MODELS
from mnist_minimal.saving.identify import identify, variables
from mnist_minimal.saving.model_file import MAX_FILE_BYTES, array, read

# More than a model's file has beside its numbers: its description and the headers of its arrays.
ROOM = 1_000_000


def save(model: keras.Model, path: str | Path) -> None:
    """Writes a model, without the state of its optimizer, in Keras' own format by the ending of the path.

    The file is written in full under another name in the same folder and then takes its place in one step. Room for it
    is made sure of before: the HDF5 library does not survive a disk that fills up under it.

    Args:
        model: A built functional or sequential model with one input and one output.
        path: Ends in `.h5` or `.keras`; what is there is replaced.

    Raises:
        UserError: if the path has another ending or can't be written to.
    """
    path = Path(path)
    if path.suffix not in (".h5", ".keras"):
        raise UserError(f"{path}: expected a name that ends in .h5 or .keras, found {path.suffix or 'no ending'}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: expected a place to write a model to, found: No such file or directory")
    # The same layers without what `compile` adds, which Keras would write down too. A sequential model has no `input`.
    bare = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    try:
        with files.atomic_write(path) as temporary, _without_legacy_warning():
            with temporary.open("wb") as file:
                file.write(bytes(ROOM + 4 * model.count_params()))
                os.fsync(file.fileno())
            bare.save(temporary)
    except RuntimeError as error:
        raise UserError(f"{path}: expected a place to write a model to, found: {one_line(error)[:200]}") from error


def load(path: str | Path, builders: Mapping[str, Callable[[], keras.Model]] = MODELS) -> keras.Model:
    """Builds the model that a file holds and gives it the file's weights.

    Reads what `save` wrote, full `.h5` models and `.keras` files of Keras 2 and 3, and files of weights only as
    `save_weights` of Keras 2 and 3 writes them. A description of the architecture in the file must agree with the
    builder's in all that the output depends on; of a file without one, the names of the layers, as far as they tell the
    class, and the shapes of all arrays must.

    Args:
        path: The file.
        builders: The models that it may hold, by name; each builder returns a new, built model.

    Returns:
        A built, uncompiled model, as its builder returns it.

    Raises:
        UserError: if the file can't be read, is damaged, holds none of the models, or holds anything that a saved model
            has no need of, as links to other files.
    """
    try:
        data = files.read(Path(path), MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected a model's file, found none of this name") from error
    try:
        contents = read(data)
        name, keys = identify(contents, builders)
        arrays = [array(dataset) for key in keys for dataset in contents.datasets[key]]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    model = builders[name]()
    in_file_order = [variable for layer in model.layers for variable in variables(layer)]
    for variable, values in zip(in_file_order, arrays, strict=True):
        variable.assign(values)
    return model


@contextlib.contextmanager
def _without_legacy_warning() -> Iterator[None]:
    """Keeps back the one line in which Keras calls `.h5` legacy; it is what the users of these models have."""
    logger = logging.getLogger("absl")

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("You are saving your model as an HDF5 file")

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
