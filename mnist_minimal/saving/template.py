"""Many models that differ in their weights alone, each written as fast as its bytes: Keras writes the first of them."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import keras
import numpy as np

from mnist_minimal.errors import UserError
from mnist_minimal.files import atomic_write
from mnist_minimal.saving.saved_model import save


class Template:
    """The file that `save` writes of a model, with room for other weights.

    Keras takes some 50 ms to write a small model, most of them for its layers' configuration, which stays the same.

    Args:
        model: A built model; its weights are as before when this returns.

    Raises:
        UserError: as of `save`.
    """

    def __init__(self, model: keras.Model) -> None:
        weights = model.get_weights()
        # Which array of the file is which of the model: they are marked, and found by the marks.
        model.set_weights([np.full(array.shape, mark, array.dtype) for mark, array in enumerate(weights)])
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "template.h5"
                save(model, path)
                self.data = path.read_bytes()
                self.names: dict[int, str] = {}
                with h5py.File(path, "r") as file:
                    file.visititems(self._find)
        finally:
            model.set_weights(weights)
        if len(self.names) != len(weights):
            raise UserError(f"expected {len(weights)} arrays in the file of {model.name!r}, found {len(self.names)}")

    def _find(self, name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            self.names[int(np.ravel(item[()])[0])] = name

    def write(self, path: Path, weights: Sequence[np.ndarray]) -> None:
        """Writes the model with these weights, in the order of `get_weights`, whole or not at all.

        Raises:
            UserError: if the file can't be written.
        """
        with atomic_write(path) as temporary:
            with temporary.open("wb") as file:
                file.write(self.data)
                # The HDF5 library does not survive a disk that fills up under it; now all of its room is there.
                os.fsync(file.fileno())
            with h5py.File(temporary, "r+") as file:
                for mark, array in enumerate(weights):
                    file[self.names[mark]][...] = array
