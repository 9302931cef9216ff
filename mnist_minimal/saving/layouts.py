"""The layouts in which the versions of Keras store a model: which one a file has, its description and its weights.

`LAYOUTS` names them. The endings of files say nothing: there is HDF5 called `.keras`.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnist_minimal.errors import UserError, plain
from mnist_minimal.models.architecture import shown
from mnist_minimal.saving.child import OTHER_FILE
from mnist_minimal.saving.reader import Contents

LAYOUTS = {
    "H0": "numbered weights of Keras 0",
    "H1": "named weights of Keras 1",
    "H2": "a model of Keras 1 to 2.2.2",
    "H3": "a model of Keras 2.2.3 to 2.3.1",
    "H4": "a model of TensorFlow 1 to 2.2",
    "H5": "a model of TensorFlow 2.3 to 2.15",
    "H6": "a model of Keras 3 in HDF5",
    "H7": "named weights of Keras 2",
    "Z1": "a .keras file of Keras 2.12 to 2.14",
    "Z2": "a .keras file of Keras 2.15",
    "Z3": "a .keras file of Keras 3",
    "W": "a .weights.h5 file of Keras 3",
}


@dataclass(frozen=True)
class Array:
    """One array of weights, float32, and the path under which the file names it, as "conv2d_1/kernel:0"."""

    name: str
    values: np.ndarray


@dataclass(frozen=True)
class Tree:
    """The arrays of a layer and of what is in it, as the files of Keras 3 nest them; the root is the model.

    Attributes:
        arrays: The layer's own, in the order in which it made them.
        children: By the name of the attribute that holds them, or in `layers` by Keras' count of their class.
    """

    arrays: list[Array]
    children: "dict[str, Tree]"

    def all_arrays(self) -> list[Array]:
        """Its own arrays and those of everything in it."""
        return self.arrays + [array for child in self.children.values() for array in child.all_arrays()]


@dataclass(frozen=True)
class Stored:
    """A model as a file stores it.

    Attributes:
        layout: One of LAYOUTS.
        version: The version of Keras that wrote it, as "2.2.4-tf"; "0" or "1" where it says none but looks so.
        backend: "tensorflow", "theano", ..., or None where nothing tells.
        config: The description, `{"class_name": ..., "config": ...}`, or None in files of weights only.
        weights: The layers' arrays by their names, in the file's order; or the tree of Keras 3.
    """

    layout: str
    version: str
    backend: str | None
    config: Any
    weights: dict[str, list[Array]] | Tree

    @property
    def major(self) -> int:
        """The first number of the version."""
        return major(self.version)

    @property
    def theano(self) -> bool:
        """Whether its convolutions are Theano's, as those of Keras 0 are where nothing tells: it had little else."""
        return self.backend == "theano" or (self.backend is None and self.major < 1)

    def all_arrays(self) -> list[Array]:
        """All arrays."""
        if isinstance(self.weights, Tree):
            return self.weights.all_arrays()
        return [array for arrays in self.weights.values() for array in arrays]

    def elements(self) -> int:
        """Number of elements of all arrays."""
        return sum(array.values.size for array in self.all_arrays())


def major(version: str) -> int:
    """The first number of a version."""
    return int(version[0])


def stored(contents: Contents) -> Stored:
    """What a file stores.

    Raises:
        UserError: if it has none of the layouts.
    """
    groups, config = contents.groups, contents.config
    top = "model_weights" if "model_weights" in groups else ""
    attributes = {**groups[top], **groups[""]}
    if "nb_layers" in attributes:
        return Stored("H0", "0", None, config, _numbered(contents, top))
    if "layer_names" in attributes:
        weights = _named(contents, top)
        version = _version(attributes.get("keras_version") or _written(config, "keras_version"), "1")
        backend = attributes.get("backend") or _written(config, "backend")
        if backend is None and major(version) < 2:
            backend = _backend_by_names(weights)
        return Stored(_hdf5_layout(config, version), version, backend, config, weights)
    paths = {path.replace("\\", "/") for path in groups}
    for name in ("layers", "_layer_checkpoint_dependencies"):
        if not any(path.split("/")[0] == name for path in paths):
            continue
        version = _version(_written(contents.metadata, "keras_version"), "3")
        layout = "W" if config is None else "Z3" if major(version) > 2 else "Z2" if name == "layers" else "Z1"
        return Stored(layout, version, None, config, _tree(contents))
    there = plain(", ".join([name for name in groups if name] + list(contents.arrays)), 100) or "nothing"
    raise UserError(
        f"found an HDF5 file with {there} in it and no model, expected a model saved by Keras or its weights; "
        f"{OTHER_FILE}"
    )


def _hdf5_layout(config: Any, version: str) -> str:
    """The layout of a file that names its layers."""
    if config is None:
        return "H1" if major(version) < 2 else "H7"
    if isinstance(config, dict) and isinstance(config.get("config"), list):
        return "H2"
    if major(version) > 2:
        return "H6"
    if re.match(r"2\.\d+\.\d+-tf", version):
        return "H4"
    return "H3" if re.match(r"[01]\.|2\.[0-3]\.", version) else "H5"


def _version(written: Any, otherwise: str) -> str:
    """A version of Keras as a file says it."""
    return written if isinstance(written, str) and re.match(r"\d+(\.|$)", written) else otherwise


def _written(description: Any, key: str) -> Any:
    """What a JSON object says under a key, if it is one."""
    return description.get(key) if isinstance(description, dict) else None


def _texts(attributes: dict[str, Any], name: str) -> list[str]:
    """An attribute that is a list of texts."""
    texts = attributes.get(name, [])
    return texts if isinstance(texts, list) else [texts]


def _named(contents: Contents, top: str) -> dict[str, list[Array]]:
    """The arrays of the layers in `layer_names`, those of each by its `weight_names`."""
    weights: dict[str, list[Array]] = {}
    for layer in _texts(contents.groups[top], "layer_names"):
        path = _joined(top, layer)
        if path not in contents.groups:
            raise UserError(f"expected a group {shown(layer)}, which layer_names has, found none")
        arrays = []
        for name in _texts(contents.groups[path], "weight_names"):
            if _joined(path, name) not in contents.arrays:
                raise UserError(f"layer {shown(layer)}: expected an array {shown(name)}, found none")
            arrays.append(Array(name, contents.arrays[_joined(path, name)]))
        weights[layer] = arrays
    return weights


def _numbered(contents: Contents, top: str) -> dict[str, list[Array]]:
    """The arrays of Keras 0: `param_0`, `param_1`, ... in `layer_0`, `layer_1`, ..."""
    weights: dict[str, list[Array]] = {}
    number = 0
    while (path := _joined(top, f"layer_{number}")) in contents.groups:
        names = [f"param_{index}" for index in range(contents.groups[path].get("nb_params", 0))]
        missing = [name for name in names if f"{path}/{name}" not in contents.arrays]
        if missing:
            raise UserError(f"layer {number}: expected an array {missing[0]}, found none")
        weights[f"layer_{number}"] = [Array(name, contents.arrays[f"{path}/{name}"]) for name in names]
        number += 1
    return weights


def _tree(contents: Contents) -> Tree:
    """The nested arrays of a `.keras` or `.weights.h5` file; Keras 2.13 on Windows writes backslashes in the names."""
    root = Tree([], {})
    own: dict[int, dict[int, Array]] = {}
    for group in contents.groups:
        _branch(root, group)
    for path, values in contents.arrays.items():
        parts = path.replace("\\", "/").split("/")
        if len(parts) < 2 or parts[-2] != "vars" or not parts[-1].isdecimal() or "seed_generator" in parts:
            continue
        branch = _branch(root, "/".join(parts[:-2]))
        own.setdefault(id(branch), {})[int(parts[-1])] = Array("/".join(parts), values)
        branch.arrays[:] = [array for _, array in sorted(own[id(branch)].items())]
    return root


def _branch(root: Tree, path: str) -> Tree:
    """The part of a tree at a path, which is made where there is none."""
    for part in path.replace("\\", "/").split("/"):
        name = "layers" if part == "_layer_checkpoint_dependencies" else part
        if name not in ("", "vars"):
            root = root.children.setdefault(name, Tree([], {}))
    return root


def _joined(*parts: str) -> str:
    """A path in a file of parts, of which some may be empty; "a//b" is "a/b"."""
    return re.sub("/+", "/", "/".join(parts)).strip("/")


def _backend_by_names(weights: dict[str, list[Array]]) -> str | None:
    """The backend by which Keras 1 named the arrays: TensorFlow's end in ":0"."""
    names = [array.name for arrays in weights.values() for array in arrays]
    return None if not names else "tensorflow" if names[0].endswith(":0") else "theano"
