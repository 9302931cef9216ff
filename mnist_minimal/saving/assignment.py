"""Which array of a file belongs to which weight of a network, and what older versions of Keras stored otherwise."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mnist_minimal.errors import UserError
from mnist_minimal.models.architecture import shown, snake_case
from mnist_minimal.saving.layouts import Array, Stored, Tree
from mnist_minimal.saving.wiring import Part

# The last part of an array's name as Keras 1 has it, by that of Keras 3.
NAMES = {
    "W": "kernel",
    "U": "recurrent_kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}

# What the arrays of a recurrent layer of Keras 0 and 1 are in the order of Keras 3, for its kernels, of which the
# matching recurrent kernels and biases come 1 and 2 later.
GATES = {("LSTM", 12): (0, 6, 3, 9), ("GRU", 9): (0, 3, 6)}

Pairs = list[tuple[keras.Variable, np.ndarray]]


@dataclass(frozen=True)
class Origin:
    """What the meaning of an array depends on.

    Attributes:
        major: The first number of the version of Keras that stored it.
        theano: Whether its kernels are those of a convolution, turned by 180 degrees, as Theano has them.
    """

    major: int
    theano: bool


def assignment(parts: Sequence[Part], stored: Stored, theano: bool) -> Pairs:
    """The array for each weight of a network.

    Args:
        parts: The network's layers in the order of the file, as `wiring.wire` makes them, built.
        stored: What the file stores.
        theano: Whether the file's kernels are Theano's.

    Returns:
        Every weight of the network once, with its numbers in its shape.

    Raises:
        UserError: if a weight would go without, an array would be left over, or a shape is another.
    """
    origin = Origin(stored.major, theano)
    if isinstance(stored.weights, Tree):
        return _from_tree(parts, stored.weights)
    with_weights = [part for part in parts if any(layer.weights for layer in part.all_layers())]
    groups = {name: arrays for name, arrays in stored.weights.items() if arrays}
    if not all(part.spec.name in groups for part in with_weights):
        if len(groups) != len(with_weights):
            raise UserError(
                f"expected the arrays of {len(with_weights)} layers, found those of {len(groups)}; do the weights "
                "belong to this network?"
            )
        groups = dict(zip([part.spec.name for part in with_weights], groups.values(), strict=True))
    elif len(groups) != len(with_weights):
        more = next(name for name in groups if name not in {part.spec.name for part in with_weights})
        raise UserError(f"expected the arrays of {len(with_weights)} layers, found also some of {shown(more)}")
    return [pair for part in with_weights for pair in _from_list(part, groups[part.spec.name], origin)]


def _from_list(part: Part, arrays: list[Array], origin: Origin) -> Pairs:
    """The weights of a layer, or of all layers of a network in the network, from one list."""
    if part.layer is not None:
        return _of_layer(part, arrays, origin)
    inner = [leaf for leaf in _leaves(part) if leaf.layer is not None and leaf.layer.weights]
    by_layer: dict[str, list[Array]] = {}
    for array in arrays:
        by_layer.setdefault(array.name.split("/")[-2] if "/" in array.name else "", []).append(array)
    if all(leaf.spec.name in by_layer for leaf in inner) and len(by_layer) == len(inner):
        return [pair for leaf in inner for pair in _of_layer(leaf, by_layer[leaf.spec.name], origin)]
    # All that are trained come first, then the others.
    trained = [variable for leaf in inner for variable in leaf.all_layers()[0].trainable_weights]
    others = [variable for leaf in inner for variable in leaf.all_layers()[0].non_trainable_weights]
    if len(trained) + len(others) != len(arrays):
        raise UserError(
            f"layer {shown(part.spec.name)}: expected {len(trained) + len(others)} arrays, found {len(arrays)}"
        )
    return [
        (variable, _fitted(part.spec.name, array.values, variable))
        for variable, array in zip([*trained, *others], arrays, strict=True)
    ]


def _leaves(part: Part) -> list[Part]:
    """The layers of a network, those of networks in it too."""
    return [leaf for inner in part.parts for leaf in _leaves(inner)] if part.parts else [part]


def _of_layer(part: Part, arrays: list[Array], origin: Origin) -> Pairs:
    """The weights of one layer."""
    assert part.layer is not None
    variables, kind = part.layer.weights, part.spec.kind
    if origin.major < 2 and (kind, len(arrays)) in GATES:
        first = GATES[kind, len(arrays)]
        triples = [[arrays[gate + offset].values for gate in first] for offset in range(3)]
        if any(len({values.shape for values in triple}) > 1 for triple in triples):
            raise UserError(f"layer {shown(part.spec.name)}: expected gates of one shape, found several")
        arrays = [Array("", np.concatenate(triple, axis=-1)) for triple in triples]
    if len(arrays) != len(variables):
        raise UserError(
            f"layer {shown(part.spec.name)}: expected {len(variables)} arrays, of the shapes "
            f"{[tuple(variable.shape) for variable in variables]}, found {len(arrays)}, of the shapes "
            f"{[array.values.shape for array in arrays]}"
        )
    by_name = {_last(array.name): array for array in arrays}
    if by_name.keys() == {variable.name for variable in variables} and len(by_name) == len(arrays):
        arrays = [by_name[variable.name] for variable in variables]
    return [
        (variable, _fitted(part.spec.name, _modern(part, variable, array.values, origin), variable))
        for variable, array in zip(variables, arrays, strict=True)
    ]


def _last(name: str) -> str:
    """The last part of an array's name in the words of Keras 3: `kernel` of `conv2d_1/kernel:0` and of `conv_W`."""
    last = name.split("/")[-1].split(":")[0]
    for old, new in NAMES.items():
        if last == old or last.endswith(f"_{old}"):
            return new
    return re.sub(r"_\d+$", "", last)


def _modern(part: Part, variable: keras.Variable, values: np.ndarray, origin: Origin) -> np.ndarray:
    """An array as Keras 3 would store it."""
    name, shape = variable.name, tuple(variable.shape)
    kind, settings = part.spec.kind, part.spec.settings
    if re.search(r"Conv[123]D", kind) and values.ndim > 2:
        if origin.major < 2 and values.ndim == 4 and _is_theano_order(settings, values.shape, shape):
            values = values.transpose(2, 3, 1, 0)
        if kind == "Conv1D" and values.ndim == 4 and values.shape[1] == 1:
            values = values.squeeze(1)
        if origin.theano:
            values = np.flip(values, axis=tuple(range(values.ndim - 2)))
    if origin.major < 1 and kind == "BatchNormalization" and name == "moving_variance":
        # Keras 0 kept the deviation, to which it added epsilon.
        epsilon = settings.get("epsilon", 1e-6)
        values = (values + epsilon) ** 2 - epsilon
    return values


def _is_theano_order(settings: dict[str, Any], found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a kernel of Keras 0 or 1 is (filters, channels, rows, columns); a builder does not say, but its shape."""
    if "data_format" in settings:
        return settings["data_format"] == "channels_first"
    return found != expected and (found[2], found[3], found[1], found[0]) == expected


def _fitted(layer: str, values: np.ndarray, variable: keras.Variable) -> np.ndarray:
    """An array in the shape of a weight, from which its own may differ in axes of length 1 only."""
    expected = tuple(variable.shape)
    if [length for length in values.shape if length != 1] != [length for length in expected if length != 1]:
        raise UserError(
            f"layer {shown(layer)}: expected an array {variable.name} of the shape {expected}, found {values.shape}"
        )
    return values.reshape(expected)


def _from_tree(parts: Sequence[Part], tree: Tree) -> Pairs:
    """The weights of a network from the tree of its layers."""
    layers = tree.children.get("layers", Tree([], {})).children
    by_class: dict[str, list[Part]] = {}
    for part in parts:
        by_class.setdefault(snake_case(part.spec.written), []).append(part)
    pairs: Pairs = []
    for name, same in by_class.items():
        numbered = {
            int(match[1] or 0): branch
            for group, branch in layers.items()
            if (match := re.fullmatch(rf"{re.escape(name)}(?:_(\d+))?", group))
        }
        branches = [branch for _, branch in sorted(numbered.items())]
        if len(branches) != len(same):
            # Groups of what has no arrays may be missing.
            same = [part for part in same if any(layer.weights for layer in part.all_layers())]
            branches = [branch for branch in branches if branch.all_arrays()]
        if len(branches) != len(same):
            raise UserError(
                f"expected the arrays of {len(same)} layers {name}, found those of {len(branches)}; do the weights "
                "belong to this network?"
            )
        for part, branch in zip(same, branches, strict=True):
            pairs += (
                _from_tree(part.parts, branch) if part.layer is None else _of_branch(part.spec.name, part.layer, branch)
            )
    return pairs


def _of_branch(name: str, layer: Any, tree: Tree) -> Pairs:
    """The weights of a layer and of the layers in it, which the tree names by the attributes that hold them."""
    inner = {key: found for key, branch in tree.children.items() if (found := _attribute(layer, key, branch))}
    theirs = {id(variable) for found in inner.values() for variable in found.weights}
    own = [variable for variable in layer.weights if id(variable) not in theirs]
    if len(own) != len(tree.arrays):
        raise UserError(
            f"layer {shown(name)}: expected {len(own)} arrays, of the shapes "
            f"{[tuple(variable.shape) for variable in own]}, found {len(tree.arrays)}, of the shapes "
            f"{[array.values.shape for array in tree.arrays]}"
        )
    pairs = [
        (variable, _fitted(name, array.values, variable)) for variable, array in zip(own, tree.arrays, strict=True)
    ]
    for key, found in inner.items():
        pairs += _of_branch(name, found, tree.children[key])
    return pairs


def _attribute(layer: Any, name: str, tree: Tree) -> Any:
    """The layer in a layer that an attribute holds, where the tree has arrays for it."""
    if not tree.all_arrays() or name.startswith("_"):
        return None
    found = getattr(layer, name, None) or getattr(layer, f"_{name}", None)
    return found if isinstance(found, keras.Layer) else None
