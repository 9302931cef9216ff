"""What there is in a `.h5` or `.keras` file, read without trust.

No name in a file leads out of it: no link is followed, no external or virtual storage is opened, no
compression but that of the zip archive is undone. What a file only claims to be large is refused before any memory is
taken for it.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnist_minimal.data import archive
from mnist_minimal.errors import UserError, one_line
from mnist_minimal.models.architecture import shown
from mnist_minimal.saving.hdf5 import SIGNATURE, Array, File, Object

# The largest model here has under 20,000 parameters: 1 MB in a file with all that an optimizer keeps beside them.
MAX_FILE_BYTES = 4_000_000
MAX_CONFIG_BYTES = 1_000_000
MAX_NAMES = 256
MAX_DEPTH = 10

# The shapes of a layer's arrays by the layer's name.
Shapes = dict[str, list[tuple[int, ...]]]


@dataclass(frozen=True)
class Contents:
    """What there is in a file, before any array is read.

    Attributes:
        config: The model's Keras configuration, or None in a file of weights only.
        datasets: Every layer's arrays by the name under which the file keeps the layer.
        numbered: Whether these names are Keras' count of the layers of each class (`conv2d_1`), as in `.keras` and
            `.weights.h5`, and not the layers' own names, in the order of the layers.
    """

    config: dict[str, Any] | None
    datasets: dict[str, list[Array]]
    numbered: bool

    @property
    def shapes(self) -> Shapes:
        """The shapes of the arrays of the layers that have any."""
        return {name: [dataset.shape for dataset in arrays] for name, arrays in self.datasets.items() if arrays}


def read(data: bytes) -> Contents:
    """What there is in a file of at most MAX_FILE_BYTES.

    Raises:
        UserError: if it is not the file of a Keras model or its weights, is damaged, or is more than that.
    """
    with refusing_damage():
        config, data = _unpack(data)
        return _contents(File(data), config)


def array(dataset: Array) -> np.ndarray:
    """An array's numbers as float32, all of them finite."""
    with refusing_damage(), np.errstate(over="ignore"):
        values = dataset.numbers().astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"expected finite weights, found others in {shown(dataset.name)}")
    return values


@contextlib.contextmanager
def refusing_damage() -> Iterator[None]:
    """Turns what zipfile, json and others raise on a file that is cut off or was tampered with into a UserError."""
    try:
        yield
    except UserError:
        raise
    except archive.CORRUPT_FILE_ERRORS as error:
        raise UserError(f"expected an undamaged .h5 or .keras file, found: {one_line(error)}") from error


def _unpack(data: bytes) -> tuple[dict[str, Any] | None, bytes]:
    """The configuration that lies beside the weights in a `.keras` file, and the HDF5 file."""
    config = None
    if data.startswith(b"PK"):
        with archive.opened(data) as keras:
            config = _config(archive.content(keras, "config.json", MAX_CONFIG_BYTES))
            data = archive.content(keras, "model.weights.h5", MAX_FILE_BYTES)
    if not data.startswith(SIGNATURE):
        raise UserError("expected a .h5 or .keras file, found neither HDF5 nor a zip archive")
    return config, data


def _config(text: str | bytes) -> dict[str, Any]:
    """The configuration of the one functional or sequential model that a JSON text describes."""
    if len(text) > MAX_CONFIG_BYTES:
        raise UserError(f"expected at most {MAX_CONFIG_BYTES:,} bytes of description, found {len(text):,}")
    try:
        model = json.loads(text)
        kind, config = model["class_name"], model["config"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError("expected the description of a Keras model as JSON, found something else") from error
    if kind not in ("Functional", "Sequential", "Model") or not isinstance(config, dict):
        raise UserError(f"expected a Functional or Sequential model, found {shown(kind)}")
    return config


def _contents(file: File, config: dict[str, Any] | None) -> Contents:
    """What there is in an HDF5 file in one of the two layouts of Keras."""
    described = _texts(file, file.root, "model_config")
    if described:
        config = _config(described[0])
    top = _child(file, file.root, "model_weights") if "model_weights" in file.root.children else file.root
    if top.has_attribute("layer_names"):
        datasets = {
            name: [
                _array(file, top, f"{name}/{weight}")
                for weight in _texts(file, _group(file, top, name), "weight_names")
            ]
            for name in _texts(file, top, "layer_names")
        }
        return Contents(config, datasets, numbered=False)
    if "layers" in file.root.children:
        layers = _group(file, file.root, "layers")
        datasets = {}
        for name in _members(layers):
            layer = _group(file, layers, name)
            count = len(_members(_group(file, layer, "vars"))) if "vars" in layer.children else 0
            datasets[name] = [_array(file, layer, f"vars/{position}") for position in range(count)]
        return Contents(config, datasets, numbered=True)
    raise UserError("expected a Keras model or its weights, found an HDF5 file without any")


def _members(group: Object) -> list[str]:
    """The names in a group, if they are not too many."""
    if len(group.children) > MAX_NAMES:
        raise UserError(
            f"expected at most {MAX_NAMES} names in the group {shown(group.name)}, found {len(group.children):,}"
        )
    return list(group.children)


def _child(file: File, group: Object, name: str) -> Object:
    """The member of a group that lies in the group itself; no link is followed."""
    if name in ("", ".", ".."):
        raise UserError(f"expected the name of a layer or an array, found a path to {shown(name)}")
    if name not in group.children:
        raise UserError(f"expected {shown(name)} in the group {shown(group.name)}, found nothing of this name")
    address = group.children[name]
    if address is None:
        raise UserError(f"expected {shown(name)} to lie in the file, found a link that leads elsewhere")
    return file.object(address, f"{group.name.rstrip('/')}/{name}")


def _group(file: File, group: Object, path: str) -> Object:
    """The group at a path of names under another group; the path can't lead up or to the root."""
    names = path.split("/")
    if len(names) > MAX_DEPTH:
        raise UserError(f"expected a layer at most {MAX_DEPTH} groups deep, found {shown(path)}")
    for name in names:
        group = _child(file, group, name)
        if not group.is_group:
            raise UserError(f"expected {shown(name)} to be a group, found something else")
    return group


def _array(file: File, group: Object, path: str) -> Array:
    """The array of floating-point numbers at a path under a group, if all of it lies in the file as Keras writes it."""
    parent, _, name = path.rpartition("/")
    return _child(file, _group(file, group, parent), name).array(file)


def _texts(file: File, group: Object, name: str) -> list[str]:
    """The text or the list of texts in an attribute; [] where the attribute is absent or empty."""
    return group.texts(file, name, MAX_NAMES, MAX_CONFIG_BYTES)
