"""Which model of several builders a file holds: by what its description computes, or by names and shapes alone."""

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS, architecture
from mnist_minimal.models.architecture import Layer, shown
from mnist_minimal.models.parameters import ELEMENTS
from mnist_minimal.saving import translation
from mnist_minimal.saving.assignment import Pairs, assignment
from mnist_minimal.saving.layouts import Stored, Tree
from mnist_minimal.saving.translation import LayerSpec, Net, refusing_damage, translate
from mnist_minimal.saving.wiring import ALLOWED, Part, trace

Builder = Callable[[], keras.Model]
Builders = Mapping[str, Builder]


@dataclass(frozen=True)
class Step:
    """A step of what a network computes in a trained model.

    Attributes:
        op: The layer or the activation.
        inputs: The numbers of the steps whose outputs it takes; -1 is the network's input.
    """

    op: Layer
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What a builder builds.

    Attributes:
        net: The network.
        steps: What it computes.
        parameters: Number of elements of all its arrays.
        layers: The names of all its layers; a builder that leaves them to Keras gives others every time.
    """

    net: Net
    steps: list[Step]
    parameters: int
    layers: list[str]


@functools.cache
def plan(builder: Builder) -> Plan:
    """What a builder builds."""
    model = builder()
    net = translate(json.loads(model.to_json()), 3)
    return Plan(net, computation(net), model.count_params(), [layer.name for layer in all_layers(model)])


def published(elements: int) -> Builders:
    """The published models whose weights have so many elements in all; none is built to tell."""
    return {name: builder for name, builder in MODELS.items() if ELEMENTS[name] == elements}


def all_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model and of the models in it."""
    return [
        inner for layer in model.layers for inner in (all_layers(layer) if isinstance(layer, keras.Model) else [layer])
    ]


def computation(net: Net) -> list[Step]:
    """What a network computes, step by step, each activation as a step of its own."""
    steps: list[Step] = []

    def apply(spec: LayerSpec, arguments: list[Any]) -> _Place:
        if spec.net is not None:
            return trace(spec.net, arguments[0], apply)
        flat = [item for argument in arguments for item in (argument if isinstance(argument, list) else [argument])]
        places = [item for item in flat if isinstance(item, _Place)]
        settings = {key: _plain(value) for key, value in spec.settings.items()}
        if spec.kind == "operation":
            settings["constants"] = [item for item in flat if not isinstance(item, _Place)]
        inputs = tuple(place.number for place in places)
        for op in architecture.inference_ops([Layer(spec.name, _plain_kind(spec.kind), settings)]):
            steps.append(Step(op, inputs))
            inputs = (len(steps) - 1,)
        # A layer that is a linear activation gives what it takes.
        return _Place(inputs[0] if inputs else -1)

    trace(net, _Place(-1), apply)
    return steps


@dataclass(frozen=True)
class _Place:
    """The number of a step, to be told from numbers in a file."""

    number: int


def _plain_kind(kind: str) -> str:
    """A class's name without its module, which Keras 2 does not write, unless a class of Keras would have that name."""
    last = re.split("[>.]", kind)[-1]
    return kind if last in ALLOWED or last in translation.CLASSES else last


def _plain(value: Any) -> Any:
    """A setting as JSON's types, a layer in it as Keras writes one."""
    if not isinstance(value, LayerSpec):
        return value
    settings = {
        key: _plain(inner)
        for key, inner in value.settings.items()
        if not architecture.SETTINGS_WITHOUT_EFFECT.fullmatch(key)
    }
    return {"class_name": value.kind, "config": {**settings, "name": "inner"}}


def by_computation(net: Net, builders: Builders, may_add: bool) -> tuple[str, dict[str, int]]:
    """The first model that computes what a file describes.

    Args:
        net: What the file describes.
        builders: The models that it may hold, by name.
        may_add: Whether a model may have a Rescaling in front of the file's layers and a softmax behind them.

    Returns:
        The model's name, and by the names of the file's layers their places among `all_layers` of the model.

    Raises:
        UserError: if it is none of them; the message names what differs from the nearest one.
    """
    steps = computation(net)
    differences = {}
    # Models that differ in dropout alone compute the same; the file's own word decides between them.
    for name in sorted(builders, key=lambda name: name != net.name):
        expected = plan(builders[name]).steps
        same, difference = _compared(steps, expected)
        for inner in _without_added(expected) if may_add and difference else ():
            if not _compared(steps, inner)[1]:
                expected, difference = inner, ""
                break
        if not difference and not _same_images(net.input_shape, plan(builders[name]).net.input_shape):
            difference = f"expected an input of {plan(builders[name]).net.input_shape}, found {shown(net.input_shape)}"
        if not difference:
            pairs = {
                (one.op.name, other.op.name)
                for one, other in zip(steps, expected, strict=True)
                if other.op.kind != "activation"
            }
            if len(pairs) == len(dict(pairs)) == len({found for _, found in pairs}):
                places = {layer: place for place, layer in enumerate(plan(builders[name]).layers)}
                return name, {found: places[layer] for found, layer in pairs if layer in places}
            difference = "expected the same layers to be applied more than once, found others"
        differences[name] = same, difference
    if not differences:
        raise UserError("expected a published model, found a network of another number of parameters")
    nearest = net.name if net.name in differences else max(differences, key=lambda name: differences[name][0])
    raise UserError(f"expected one of the models {', '.join(builders)}; it is not {nearest}: {differences[nearest][1]}")


def _same_images(found: tuple[int | None, ...] | None, expected: tuple[int | None, ...] | None) -> bool:
    """Whether two networks may take the same images, as far as their shapes are known."""
    if found is None or expected is None:
        return True
    return len(found) == len(expected) and all(
        None in lengths or lengths[0] == lengths[1] for lengths in zip(found, expected, strict=True)
    )


def _without_added(steps: list[Step]) -> list[list[Step]]:
    """What a network computes without its Rescaling in front, without its softmax behind, and without both."""
    front = int(bool(steps) and steps[0].op.kind == "Rescaling")
    behind = int(bool(steps) and steps[-1].op.settings.get("function") == "softmax")
    return [
        [Step(step.op, tuple(number - first for number in step.inputs)) for step in steps[first : len(steps) - last]]
        for first, last in ((front, 0), (0, behind), (front, behind))
    ]


def _compared(found: list[Step], expected: list[Step]) -> tuple[int, str]:
    """How far two networks compute the same: as `architecture.compare_ops`, and from the same inputs."""
    with refusing_damage():
        same, difference = architecture.compare_ops([step.op for step in found], [step.op for step in expected])
    for number, (one, other) in enumerate(zip(found[:same], expected[:same], strict=True)):
        if one.inputs != other.inputs:
            return number, f"layer {shown(one.op.name)}: expected other layers before it"
    return same, difference


def by_arrays(stored: Stored, builders: Builders) -> tuple[str, keras.Model, Pairs]:
    """The only model whose arrays have the shapes in a file of weights only and whose layers could have its names.

    Returns:
        The model's name, a new model, and the array for each of its weights.

    Raises:
        UserError: if none fits, or several do.
    """
    fitting = {}
    for name, builder in builders.items():
        if plan(builder).parameters != stored.elements():
            continue
        model = builder()
        try:
            fitting[name] = model, assignment(parts_of(model), stored, stored.theano)
        except UserError:
            continue
    if not fitting:
        sizes = {name: plan(builder).parameters for name, builder in builders.items()} or ELEMENTS
        models = ", ".join(f"{name} ({size:,} parameters)" for name, size in sizes.items())
        raise UserError(
            f"expected the arrays of one of the models {models}; found others, of {stored.elements():,} parameters"
        )
    named = [name for name, (model, _) in fitting.items() if _names_fit(stored, plan(builders[name]).net, model)]
    if not named:
        raise UserError(
            f"expected the layers of {' or '.join(fitting)}, whose shapes these are, found other layers' names"
        )
    if len(named) > 1:
        raise UserError(
            f"expected weights that fit one model, found that they fit {', '.join(named)}; give a full model"
        )
    return (named[0], *fitting[named[0]])


def parts_of(model: keras.Model) -> list[Part]:
    """The layers of a built model as parts under their own names."""
    parts = []
    for layer in model.layers:
        nested = parts_of(layer) if isinstance(layer, keras.Model) else []
        kind = type(layer).__name__
        parts.append(Part(LayerSpec(layer.name, kind, {}, [], kind), None if nested else layer, nested))
    return parts


def parts_for(net: Net, layers: list[keras.Layer], places: Mapping[str, int]) -> list[Part]:
    """The layers of a file as parts of a model that computes what the file describes.

    Args:
        net: What the file describes.
        layers: `all_layers` of the model.
        places: Their places by the names of the file's layers, as `by_computation` gives them.
    """
    return [
        Part(spec, None, parts_for(spec.net, layers, places))
        if spec.net
        else Part(spec, layers[places[spec.name]] if spec.name in places else None)
        for spec in net.layers
    ]


def _names_fit(stored: Stored, net: Net, model: keras.Model) -> bool:
    """Whether the names in a file of weights only could be those of a network's layers.

    Names that tell the class are Keras' own (`separable_conv2d_3`) and the network's. Where all of them do, the layers
    must be the network's; else those must that have arrays and tell.
    """
    ignored = {"InputLayer", "Identity"} | architecture.WITHOUT_EFFECT | architecture.ACTIVATION_LAYERS.keys()
    kinds = {architecture.snake_case(kind): kind for kind in dir(keras.layers)} | {"input": "InputLayer"}
    if isinstance(stored.weights, Tree):
        layers = stored.weights.children.get("layers", Tree([], {})).children
        expected = {architecture.snake_case(spec.written) for spec in net.layers}
        return all(_uncounted(name) in expected or kinds.get(_uncounted(name)) in ignored for name in layers)
    kinds |= {spec.name: spec.written for spec in net.layers}
    told = {name: kinds.get(name, kinds.get(_uncounted(name))) for name in stored.weights}
    if None not in told.values():
        found = [kind for kind in told.values() if kind not in ignored]
        return found == [spec.written for spec in net.layers if spec.kind not in ignored]
    weighted = [type(layer).__name__ for layer in model.layers if layer.weights]
    names = [name for name, arrays in stored.weights.items() if arrays]
    return all(told[name] in (None, kind) for name, kind in zip(names, weighted, strict=True))


def _uncounted(name: str) -> str:
    """A name without the number that Keras adds: `conv2d` of `conv2d_3`."""
    return re.sub(r"_\d+$", "", name)
