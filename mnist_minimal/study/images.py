"""A study's images on another machine: read there where they are the same, or sent."""

import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal.data.choice import ENVIRONMENT_VARIABLE, KERAS_DATASETS, Choice
from mnist_minimal.engines.dask_worker import SharedMissingError
from mnist_minimal.errors import UserError

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def packed(dataset: "Dataset") -> bytes:
    """The images and labels of a data set, to be sent."""
    import numpy as np

    file = io.BytesIO()
    np.savez_compressed(file, **{name: getattr(dataset, name) for name in ARRAYS})
    return file.getvalue()


def find_images(choice: Choice, checksums: Mapping[str, str], sent: bytes | None) -> "Dataset":
    """The data set of these checksums, as it was sent or, where nothing was, by the user's choice on this machine.

    Raises:
        SharedMissingError: if it is not here, and was not sent.
        UserError: if others were sent.
    """
    from mnist_minimal.data import sets

    dataset = _read_here(choice) if sent is None else _unpacked(sent, choice.dataset)
    if dataset is not None and sets.checksums(dataset) == checksums:
        return dataset
    if sent is None:
        raise SharedMissingError
    raise UserError("expected the images of the study, found others by their SHA-256; look at the network")


def _read_here(choice: Choice) -> "Dataset | None":
    """The data set of a choice, where that needs no download; None where it is not here."""
    from mnist_minimal.data import sets

    here = choice.path is not None and Path(choice.path).expanduser().exists()
    # The variable is of no account for what Keras would download.
    named = os.environ.get(ENVIRONMENT_VARIABLE) and choice.dataset not in KERAS_DATASETS
    if not (here or choice.dataset == "digits" or named):
        return None
    try:
        return sets.load(choice if here else replace(choice, path=None))
    except UserError:
        return None


def _unpacked(images: bytes, name: str) -> "Dataset":
    import numpy as np

    from mnist_minimal.data.sets import Dataset

    with np.load(io.BytesIO(images)) as arrays:
        return Dataset(name, "sent", "", **{array: arrays[array] for array in ARRAYS})
