"""Networks made layer by layer from translated descriptions, of Keras' own classes and nothing else.

A class is looked up in ALLOWED, its arguments in its signature. Keras' own `from_config`, which follows a file's names
of modules and classes, has no part in it.
"""

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers

from mnist_minimal.errors import UserError, one_line
from mnist_minimal.models.architecture import shown
from mnist_minimal.models.normalization import InstanceNormalization
from mnist_minimal.saving.translation import RECURRENT, LayerSpec, Net, Output, outputs_in

ALLOWED = {
    name: getattr(layers, name)
    for name in (
        *("Dense", "Embedding", "Flatten", "Reshape", "Permute", "RepeatVector", "Identity", "Masking"),
        *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"),
        *("Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
        *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
        *("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D"),
        *("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D"),
        *("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D"),
        *("UpSampling1D", "UpSampling2D", "UpSampling3D", "Rescaling", "Resizing", "CenterCrop", "RandomCrop"),
        *("BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization", "Normalization"),
        *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot"),
        *("SimpleRNN", "LSTM", "GRU", "Bidirectional", "TimeDistributed", "Attention", "MultiHeadAttention"),
    )
} | {"InstanceNormalization": InstanceNormalization}

ACTIVATIONS = {name for name in dir(keras.activations) if not name.startswith("_")} - {
    "get",
    "serialize",
    "deserialize",
}

# Kinds of layers that are made of nothing.
SPECIAL = ("InputLayer", "Identity", "operation")

OPERATIONS: dict[str, Callable[..., Any]] = {
    "divide": keras.ops.divide,
    "multiply": keras.ops.multiply,
    "add": keras.ops.add,
    "subtract": keras.ops.subtract,
    "cast": lambda x, dtype="float32": x,  # Everything is float32 here.
    "expand_dims": keras.ops.expand_dims,
    "softmax": lambda x, axis=-1: keras.activations.softmax(x, axis),
    "relu": keras.activations.relu,
}

# Of one image: no layer of a classifier of digits gives more, and what a description asks for is made.
MAX_ELEMENTS = 2**24

# A layer may have this much more than the arrays of the whole file before it is refused; what it has is checked later.
SLACK = 2**20


@dataclass
class Part:
    """A layer that was made, by the name that it has in the file.

    Attributes:
        spec: What it was made of.
        layer: The layer of Keras 3, or None where it is a network, or changes nothing.
        parts: The layers of the network that it is.
    """

    spec: LayerSpec
    layer: keras.Layer | None = None
    parts: "list[Part]" = field(default_factory=list)

    def all_layers(self) -> list[keras.Layer]:
        """The layer, or the layers of the network."""
        return [self.layer] if self.layer else [layer for part in self.parts for layer in part.all_layers()]


@keras.saving.register_keras_serializable(package="mnist_minimal")
def keras2_hard_sigmoid(x: Any) -> Any:
    """`hard_sigmoid` of Keras 1 and 2: .2 x + .5 in [0, 1]. That of Keras 3 has a sixth for the fifth."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def wire(net: Net, elements: int, custom_objects: Mapping[str, Any] | None = None) -> tuple[keras.Model, list[Part]]:
    """Builds a network with weights of 0.

    Args:
        net: The network.
        elements: Number of all weights in its file.
        custom_objects: Classes, layers and functions of the user's own by the names that the file has for them.

    Returns:
        The model, flat, without the layers that only act in training, and its parts in the order of the file.

    Raises:
        UserError: if it has a class or an argument that is not allowed, or its layers don't fit together.
    """
    shape = net.input_shape
    if shape is None or not all(isinstance(length, int) and 0 < length <= 4096 for length in shape):
        raise UserError(f"expected a network for images of one shape, found the input {shown(shape)}")
    workshop = _Workshop(elements, custom_objects or {})
    source = keras.Input(shape, dtype="float32", name=workshop.name("pixels"))
    parts = workshop.parts(net)
    result = trace(net, source, _by_name(parts, workshop))
    name = net.name if re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.>-]*", net.name) else None
    with _telling("expected layers that lead from the input to the output"):
        return keras.Model(source, result, name=name), parts


def trace(net: Net, source: Any, apply: Callable[[LayerSpec, list[Any]], Any]) -> Any:
    """Runs through a network from its input to its output.

    Args:
        net: The network.
        source: Its input.
        apply: Gives the output of a layer for the arguments of one application; asked once for each, after those
            whose outputs are in the arguments, for layers without effect not at all.

    Returns:
        What `apply` gave for the output.

    Raises:
        UserError: if an output is missing or depends on itself.
    """
    specs = {spec.name: spec for spec in net.layers}
    values: dict[Output, Any] = {Output(net.source, 0): source}
    waiting, begun = [net.output], set()
    while waiting:
        wanted = waiting[-1]
        if wanted in values:
            waiting.pop()
            continue
        if wanted.layer not in specs or wanted.call >= len(specs[wanted.layer].calls):
            raise UserError(f"expected an output of the layer {shown(wanted.layer)}, found no such")
        spec = specs[wanted.layer]
        arguments = spec.calls[wanted.call]
        missing = [output for output in outputs_in(arguments) if output not in values]
        if missing:
            if wanted in begun:
                raise UserError("expected layers from the input to the output, found a cycle")
            begun.add(wanted)
            waiting.extend(reversed(missing))
            continue
        given = [_filled(argument, values) for argument in arguments]
        values[wanted] = given[0] if spec.kind == "Identity" and given else apply(spec, given)
    return values[net.output]


def _filled(argument: Any, values: Mapping[Output, Any]) -> Any:
    """An argument with what its outputs are."""
    if isinstance(argument, Output):
        return values[argument]
    return [_filled(item, values) for item in argument] if isinstance(argument, list) else argument


def _by_name(parts: list[Part], workshop: "_Workshop") -> Callable[[LayerSpec, list[Any]], Any]:
    """Applies the layers of a network."""
    by_name = {part.spec.name: part for part in parts}

    def apply(spec: LayerSpec, arguments: list[Any]) -> Any:
        if spec.net is not None:
            return trace(spec.net, arguments[0], _by_name(by_name[spec.name].parts, workshop))
        return workshop.applied(by_name[spec.name], arguments)

    return apply


class _Workshop:
    """Makes and applies the layers of one network, each under a name of its own, within the bounds of its file."""

    def __init__(self, elements: int, custom_objects: Mapping[str, Any]) -> None:
        self._most = 16 * elements + SLACK
        self._custom_objects = custom_objects
        self._names: set[str] = set()

    def name(self, wanted: str) -> str:
        """A name that Keras takes and no layer has yet."""
        base = re.sub(r"[^A-Za-z0-9_.>-]", "_", wanted)[:100].lstrip("_") or "layer"
        name, number = base, 1
        while name in self._names:
            name, number = f"{base}_{number}", number + 1
        self._names.add(name)
        return name

    def parts(self, net: Net) -> list[Part]:
        """The layers of a network, made and not yet built."""
        parts = []
        for spec in net.layers:
            if spec.net is not None:
                parts.append(Part(spec, None, self.parts(spec.net)))
            elif spec.kind in SPECIAL:
                parts.append(Part(spec))
            else:
                parts.append(Part(spec, self.made(spec)))
        return parts

    def made(self, spec: LayerSpec) -> keras.Layer:
        """A layer."""
        custom = self._custom(spec)
        if custom is not None:
            return custom
        if spec.kind not in ALLOWED:
            raise UserError(foreign(spec))
        allowed = inspect.signature(ALLOWED[spec.kind]).parameters
        arguments = {}
        for key, value in spec.settings.items():
            if key in allowed and key not in ("kwargs", "layer"):
                arguments[key] = self._argument(spec, key, value)
            elif key == "layer" and spec.kind in ("Bidirectional", "TimeDistributed"):
                arguments[key] = self.made(value)
            elif value:
                raise UserError(f"layer {shown(spec.name)}: expected arguments of {spec.kind}, found {shown(key)}")
        for key in allowed:
            if key.endswith("_initializer"):
                arguments[key] = "zeros"
        if "data_format" in allowed:
            arguments["data_format"] = "channels_last"
        with _telling(f"layer {shown(spec.name)}: expected {spec.kind} with arguments that it takes"):
            return ALLOWED[spec.kind](**arguments, name=self.name(spec.name), dtype="float32")

    def _argument(self, spec: LayerSpec, key: str, value: Any) -> Any:
        """An argument of JSON's types, or the layer or function that it names."""
        if isinstance(value, LayerSpec):
            return self.made(value)
        if key in ("activation", "recurrent_activation") and isinstance(value, str):
            if value in self._custom_objects:
                return self._custom_objects[value]
            if value == "keras2_hard_sigmoid":
                return keras2_hard_sigmoid
            if value not in ACTIVATIONS:
                raise UserError(
                    f"layer {shown(spec.name)}: expected an activation of Keras, found {shown(value)}; give it with "
                    "custom_objects= or the whole model with --model"
                )
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value)):
            raise UserError(f"layer {shown(spec.name)}: expected numbers or names as {key}, found an object")
        return value

    def _custom(self, spec: LayerSpec) -> Any:
        """The user's own layer, or one of the user's class or function, by the names that the file has for it."""
        function = spec.settings.get("function")
        names = [spec.kind, re.split("[>.]", spec.kind)[-1]]
        if spec.kind == "Lambda":
            names = [spec.name, *([function] if isinstance(function, str) else []), "Lambda"]
        found = next((self._custom_objects[name] for name in names if name in self._custom_objects), None)
        if found is None or isinstance(found, keras.Layer):
            return found
        name = self.name(spec.name)
        with _telling(f"layer {shown(spec.name)}: expected your {shown(names[0])} to take the file's arguments"):
            if isinstance(found, type) and issubclass(found, keras.Layer):
                custom: type[keras.Layer] = found
                return custom.from_config({**spec.settings, "name": name})
            return layers.Lambda(found, name=name)

    def applied(self, part: Part, arguments: list[Any]) -> Any:
        """What a layer, or an operation, makes of the arguments of one application."""
        spec = part.spec
        told = f"layer {shown(spec.name)}: expected {shown(spec.kind)} to fit what comes before it"
        if part.layer is None:
            with _telling(told):
                return OPERATIONS[spec.settings["operation"]](*arguments)
        self._check_size(spec, arguments)
        with _telling(told):
            if spec.settings.get("data_format") != "channels_first":
                result = part.layer(*arguments)
            else:
                result = self._channels_first(part.layer, arguments[0])
        if math.prod(length or 1 for length in result.shape) > MAX_ELEMENTS:
            raise UserError(f"layer {shown(spec.name)}: expected at most {MAX_ELEMENTS:,} outputs, found more")
        return result

    def _channels_first(self, layer: keras.Layer, tensor: Any) -> Any:
        """A layer on channels first, which it takes last."""
        rank = len(tensor.shape) - 1
        to_last = layers.Permute((*range(2, rank + 1), 1), name=self.name(f"{layer.name}_channels_last"))
        result = layer(to_last(tensor))
        if len(result.shape) < 3 or isinstance(layer, layers.Flatten):
            return result
        to_first = layers.Permute((rank, *range(1, rank)), name=self.name(f"{layer.name}_channels_first"))
        return to_first(result)

    def _check_size(self, spec: LayerSpec, arguments: list[Any]) -> None:
        """Refuses a layer that would have far more weights than are in the file, before Keras makes them."""
        if not arguments or not hasattr(arguments[0], "shape"):
            return
        settings = spec.settings
        channels = max((length or 1 for length in arguments[0].shape[1:]), default=1)
        units = max((_whole(settings.get(key)) for key in ("units", "filters", "output_dim")), default=1)
        inner = settings.get("layer")
        if isinstance(inner, LayerSpec):
            units = max(units, _whole(inner.settings.get("units")), _whole(inner.settings.get("filters")))
        kernel = settings.get("kernel_size", 1)
        positions = math.prod(map(_whole, kernel)) if isinstance(kernel, list) else _whole(kernel)
        channels = 1 if spec.kind == "Embedding" else channels * _whole(settings.get("depth_multiplier"))
        heads = _whole(settings.get("num_heads")) * _whole(settings.get("key_dim"))
        recurrent = units if spec.kind in (*RECURRENT, "Bidirectional") else 0
        weights = 4 * positions * (channels + recurrent) * units * heads * max(1, _whole(settings.get("input_dim")))
        if weights > self._most:
            raise UserError(f"layer {shown(spec.name)}: expected a layer of the file's weights, found a larger one")


def _whole(value: Any) -> int:
    """A whole number above 0, or 1."""
    return value if isinstance(value, int) and value > 0 else 1


def foreign_layers(net: Net) -> list[LayerSpec]:
    """The layers whose code no file has: a network with one is read through its builder, or with custom_objects."""
    found = []
    for spec in net.layers:
        if spec.net is not None:
            found += foreign_layers(spec.net)
        elif spec.kind not in ALLOWED and spec.kind not in SPECIAL:
            found.append(spec)
    return found


def foreign(spec: LayerSpec) -> str:
    """What to tell the user of a layer whose class is not allowed."""
    return (
        f"layer {shown(spec.name)}: expected a layer of Keras, found one of the class {shown(spec.kind)}, whose code "
        "is not run from a file; give the function that builds the model with --model, or it with custom_objects="
    )


@contextlib.contextmanager
def _telling(told: str) -> Iterator[None]:
    """Turns what Keras raises, which may be anything, into a UserError that begins so."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{told}, found that it does not ({one_line(error)})") from error
