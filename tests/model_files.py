"""Files of models for the tests: saved, tampered with, and read again."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.saving.saved_model import load


def randomized(name: str) -> keras.Model:
    """A model all of whose arrays are random, the biases too, so that any two of them exchanged would be seen."""
    random = np.random.default_rng(1)
    model = MODELS[name]()
    model.set_weights([random.uniform(0.1, 0.9, weights.shape) for weights in model.get_weights()])
    return model


def refused(path: Path, *builders: str) -> str:
    """The one line with which `load` refuses a file, as any model or as one of some, without the file's name."""
    with pytest.raises(UserError) as error:
        load(path, {name: MODELS[name] for name in builders} or None)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert message.isascii()
    return message.removeprefix(f"{path}: ")


def edit_config(path: Path, edit: Callable[[dict], None]) -> None:
    """Changes the description of the architecture in a .h5 file."""
    with h5py.File(path, "r+") as file:
        model = json.loads(file.attrs["model_config"])
        edit(model)
        file.attrs["model_config"] = json.dumps(model)


def layer_config(model: dict, name: str) -> dict:
    (entry,) = [entry for entry in model["config"]["layers"] if entry["config"]["name"] == name]
    return entry


def replace_members(path: Path, **contents: bytes) -> None:
    """Writes a .keras file again with other contents for some of its files."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= {"config.json" if name == "config" else "model.weights.h5": data for name, data in contents.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
