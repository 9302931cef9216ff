"""What there is in a `.h5` or `.keras` file, read without trust.

No name in a file leads out of it: no link is followed, no external or virtual storage is opened, no
compression but that of the zip archive is undone. What a file only claims to be large is refused before any memory is
taken for it.
"""

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mnist_minimal import archive
from mnist_minimal.architecture import shown
from mnist_minimal.errors import UserError

# The largest model here has under 20,000 parameters: 1 MB in a file with all that an optimizer keeps beside them.
MAX_FILE_BYTES = 4_000_000
MAX_CONFIG_BYTES = 1_000_000
MAX_NAMES = 256

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
    datasets: dict[str, list[h5py.Dataset]]
    numbered: bool

    @property
    def shapes(self) -> Shapes:
        """The shapes of the arrays of the layers that have any."""
        return {name: [dataset.shape for dataset in arrays] for name, arrays in self.datasets.items() if arrays}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """What there is in a file; its arrays can be read until the end of the context.

    Raises:
        UserError: if it is not the file of a Keras model or its weights, is damaged, or is more than that.
    """
    with refusing_damage():
        config, data = _unpack(_read(path))
        _check_heaps(data)
        file = h5py.File(io.BytesIO(data), "r")
    with file:
        with refusing_damage():
            contents = _contents(file, config)
        yield contents


def array(dataset: h5py.Dataset) -> np.ndarray:
    """An array's numbers as float32, all of them finite."""
    with refusing_damage(), np.errstate(over="ignore"):
        values = np.asarray(dataset[()], dtype=np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"expected finite weights, found others in {shown(dataset.name)}")
    return values


@contextlib.contextmanager
def refusing_damage() -> Iterator[None]:
    """Turns what h5py, zipfile and json raise on a file that is cut off or was tampered with into a UserError."""
    try:
        yield
    except archive.DAMAGE as error:
        raise UserError(f"expected an undamaged .h5 or .keras file, found: {one_line(error)[:200]}") from error


def one_line(error: BaseException) -> str:
    """An exception's message, or its class where it has none, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _read(path: Path) -> bytes:
    """The whole file, if it is a file and of a size that a model here can have."""
    try:
        if path.is_dir():
            raise UserError("expected a model's file, found a folder")
        if path.exists() and not path.is_file():
            raise UserError("expected a model's file, found a device or a pipe")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError("expected a model's file, found none of this name") from error
    except OSError as error:
        raise UserError(f"expected a file that can be read, found: {one_line(error)}") from error
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"expected a small model's file of at most {MAX_FILE_BYTES:,} bytes, found a larger one")
    return data


def _unpack(data: bytes) -> tuple[dict[str, Any] | None, bytes]:
    """The configuration that lies beside the weights in a `.keras` file, and the HDF5 file."""
    config = None
    if data.startswith(b"PK"):
        with archive.opened(data) as keras:
            config = _config(archive.content(keras, "config.json", MAX_CONFIG_BYTES))
            data = archive.content(keras, "model.weights.h5", MAX_FILE_BYTES)
    if not data.startswith(b"\x89HDF\r\n\x1a\n"):
        raise UserError("expected a .h5 or .keras file, found neither HDF5 nor a zip archive")
    return config, data


def _check_heaps(data: bytes) -> None:
    """Refuses an HDF5 file whose heaps of texts the HDF5 library would walk through without end.

    The library (1.14) does not look whether the next object lies behind the one before. Source of the format: HDF5 File
    Format Specification, "Disk Format: Level 1E - Global Heap".
    """
    old = data[8:9] < b"\x02"
    if (data[13:15] if old else data[9:11]) != b"\x08\x08":
        raise UserError("expected an HDF5 file with addresses of 8 bytes, found others")
    heap = data.find(b"GCOL")
    while heap >= 0:
        end = heap + int.from_bytes(data[heap + 8 : heap + 16], "little")
        position = heap + 16
        while position + 16 <= end <= len(data):
            index = int.from_bytes(data[position : position + 2], "little")
            size = int.from_bytes(data[position + 8 : position + 16], "little")
            # Object 0 is the free space, whose size counts its own header.
            step = size if index == 0 else 16 + (size + 7) // 8 * 8
            if step == 0:
                break
            position += step
        if not position <= end <= len(data) or position + 16 <= end:
            raise UserError("expected an undamaged .h5 or .keras file, found a heap whose objects don't fit into it")
        heap = data.find(b"GCOL", end)


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


def _contents(file: h5py.File, config: dict[str, Any] | None) -> Contents:
    """What there is in an HDF5 file in one of the two layouts of Keras."""
    described = _strings(file, "model_config")
    if described:
        config = _config(described[0])
    top = _child(file, "model_weights") if _has(file, "model_weights") else file
    if isinstance(top, h5py.Group) and "layer_names" in top.attrs:
        names = _strings(top, "layer_names")
        datasets = {
            name: [_dataset(top, f"{name}/{weight}") for weight in _strings(_group(top, name), "weight_names")]
            for name in names
        }
        return Contents(config, datasets, numbered=False)
    if _has(file, "layers"):
        layers = _group(file, "layers")
        datasets = {}
        for name in _members(layers):
            layer = _group(layers, name)
            count = len(_members(_group(layer, "vars"))) if _has(layer, "vars") else 0
            datasets[name] = [_dataset(layer, f"vars/{position}") for position in range(count)]
        return Contents(config, datasets, numbered=True)
    raise UserError("expected a Keras model or its weights, found an HDF5 file without any")


def _members(group: h5py.Group) -> list[str]:
    """The names in a group, if they are not too many."""
    if len(group) > MAX_NAMES:
        raise UserError(f"expected at most {MAX_NAMES} names in the group {shown(group.name)}, found {len(group):,}")
    return list(group)


def _has(group: h5py.Group, name: str) -> bool:
    """Whether the group has a member of this name, wherever it may lead."""
    return group.get(name, getlink=True) is not None


def _child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """The member of a group that lies in the group itself; no link is followed."""
    if name in ("", ".", ".."):
        raise UserError(f"expected the name of a layer or an array, found a path to {shown(name)}")
    link = group.get(name, getlink=True)
    if link is None:
        raise UserError(f"expected {shown(name)} in the group {shown(group.name)}, found nothing of this name")
    if not isinstance(link, h5py.HardLink):
        raise UserError(f"expected {shown(name)} to lie in the file, found a link that leads elsewhere")
    return group[name]


def _group(group: h5py.Group, path: str) -> h5py.Group:
    """The group at a path of names under another group; the path can't lead up or to the root."""
    for name in path.split("/"):
        child = _child(group, name)
        if not isinstance(child, h5py.Group):
            raise UserError(f"expected {shown(name)} to be a group, found something else")
        group = child
    return group


def _dataset(group: h5py.Group, path: str) -> h5py.Dataset:
    """The array of floating-point numbers at a path under a group, if all of it lies in the file as Keras writes it."""
    parent, _, name = path.rpartition("/")
    dataset = _child(_group(group, parent), name)
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise UserError(f"expected {shown(path)} to be an array, found something else")
    storage = dataset.id.get_create_plist()
    if storage.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or storage.get_external_count():
        raise UserError(f"expected {shown(path)} in one piece in the file, found it compressed, chunked or elsewhere")
    if dataset.dtype.kind != "f":
        raise UserError(f"expected floating-point numbers in {shown(path)}, found {shown(str(dataset.dtype))}")
    return dataset


def _strings(group: h5py.Group, name: str) -> list[str]:
    """The text or the list of texts in an attribute; [] where the attribute is absent or empty."""
    if name not in group.attrs:
        return []
    attribute = group.attrs.get_id(name)
    if attribute.shape is None or 0 in attribute.shape:
        return []
    if h5py.check_string_dtype(attribute.dtype) is None or len(attribute.shape) > 1:
        raise UserError(f"expected text in the attribute {name}, found something else")
    if attribute.get_storage_size() > MAX_CONFIG_BYTES or max(attribute.shape, default=1) > MAX_NAMES:
        raise UserError(f"expected at most {MAX_NAMES} names of layers in the attribute {name}, found more")
    texts = np.atleast_1d(group.attrs[name]).tolist()
    return [text.decode() if isinstance(text, bytes) else text for text in texts]
