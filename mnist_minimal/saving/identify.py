"""Which of the models a file holds: by the described architecture where there is one, and by the arrays' shapes."""

import collections
import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from mnist_minimal.errors import UserError
from mnist_minimal.models import architecture
from mnist_minimal.models.architecture import Layer, shown
from mnist_minimal.saving.model_file import Contents, Shapes, refusing_damage

Builders = Mapping[str, Callable[[], keras.Model]]


@dataclass(frozen=True)
class Plan:
    """What a builder builds.

    Attributes:
        config: Its Keras configuration.
        steps: What it computes, as `architecture.inference_ops` gives it.
        shapes: The shapes of each layer's arrays by the layer's name, in the order of the layers; those without any
            are left out.
        parameters: Number of elements of all arrays, the moving statistics of BatchNormalization among them.
    """

    config: dict[str, Any]
    steps: list[Layer]
    shapes: Shapes
    parameters: int


def identify(contents: Contents, builders: Builders) -> tuple[str, list[str]]:
    """The model that a file holds.

    Args:
        contents: What there is in the file.
        builders: The models that it may hold, by name.

    Returns:
        Its name in `builders`, and the names under which the file keeps those of its layers that have arrays, in the
        order of the model's layers.

    Raises:
        UserError: if it is none of the models; the message names what differs from the nearest one.
    """
    if contents.config is None:
        return _by_names(contents, builders)
    name, own_names = _by_steps(contents.config, builders)
    numbers = _numbers(contents.config)
    shapes = _plan(builders[name]).shapes
    keys = [numbers[own_names[layer]] if contents.numbered else own_names[layer] for layer in shapes]
    for key, expected in zip(keys, shapes.values(), strict=True):
        found = contents.shapes.get(key)
        if found != expected:
            raise UserError(f"layer {shown(key)}: expected arrays of the shapes {expected}, found {shown(found)}")
    if len(keys) < len(contents.shapes):
        raise UserError(f"expected the arrays of {len(keys)} layers of {name}, found those of {len(contents.shapes)}")
    return name, keys


def variables(layer: keras.Layer) -> list[keras.Variable]:
    """A layer's variables in the order in which Keras writes them."""
    return layer.trainable_weights + layer.non_trainable_weights


@functools.cache
def _plan(builder: Callable[[], keras.Model]) -> Plan:
    """What a builder builds."""
    model = builder()
    config = json.loads(model.to_json())["config"]
    shapes = {layer.name: [tuple(variable.shape) for variable in variables(layer)] for layer in model.layers}
    steps = architecture.inference_ops(architecture.chain(config))
    return Plan(config, steps, {layer: found for layer, found in shapes.items() if found}, model.count_params())


def _by_steps(config: dict[str, Any], builders: Builders) -> tuple[str, dict[str, str]]:
    """The first model that computes what a configuration describes, and that one's name of each of its layers."""
    with refusing_damage():
        layers = architecture.layers(config)
    try:
        with refusing_damage():
            steps = architecture.inference_ops(architecture.chain(config))
    except UserError:
        _refuse_unknown_kinds(layers, builders)
        raise
    differences = {}
    # Models that differ in dropout alone compute the same; the file's own word decides between them.
    for name in sorted(builders, key=lambda name: name != config.get("name")):
        plan = _plan(builders[name])
        with refusing_damage():
            same, difference = architecture.compare_ops(steps, plan.steps)
        pairs = {
            (expected.name, found.name)
            for expected, found in zip(plan.steps, steps, strict=False)
            if found.kind != "activation"
        }
        if not difference and not len(pairs) == len(dict(pairs)) == len({found for _, found in pairs}):
            difference = "expected the same layers to be applied more than once, found others"
        if not difference:
            return name, dict(pairs)
        differences[name] = same, difference
    _refuse_unknown_kinds(layers, builders)
    own = config.get("name")
    nearest = own if own in differences else max(differences, key=lambda name: differences[name][0])
    raise UserError(f"expected one of the models {', '.join(builders)}; it is not {nearest}: {differences[nearest][1]}")


def _refuse_unknown_kinds(layers: Sequence[Layer], builders: Builders) -> None:
    """Refuses a layer of a class that no model has."""
    known = {layer.kind for builder in builders.values() for layer in architecture.layers(_plan(builder).config)}
    known |= architecture.WITHOUT_EFFECT | architecture.ACTIVATION_LAYERS.keys()
    for layer in layers:
        if layer.kind not in known:
            raise UserError(
                f"layer {shown(layer.name)}: expected a layer of one of the models {', '.join(builders)}, "
                f"found {shown(layer.kind)}, which none of them has"
            )


def _by_names(contents: Contents, builders: Builders) -> tuple[str, list[str]]:
    """The only model whose arrays have the shapes in a file of weights only and whose layers could have the names."""
    fitting = {}
    for name, builder in builders.items():
        shapes = _plan(builder).shapes
        numbers = _numbers(_plan(builder).config)
        keys = [numbers[layer] for layer in shapes] if contents.numbered else list(contents.shapes)
        if len(keys) == len(shapes) and contents.shapes == dict(zip(keys, shapes.values(), strict=True)):
            fitting[name] = keys
    if not fitting:
        models = ", ".join(f"{name} ({_plan(builder).parameters:,} parameters)" for name, builder in builders.items())
        found = sum(math.prod(shape) for shapes in contents.shapes.values() for shape in shapes)
        raise UserError(f"expected the arrays of one of the models {models}; found others, of {found:,} parameters")
    named = [name for name in fitting if _names_fit(contents, _plan(builders[name]))]
    if not named:
        raise UserError(
            f"expected the layers of {' or '.join(fitting)}, whose shapes these are, found other layers' names"
        )
    if len(named) > 1:
        raise UserError(
            f"expected weights that fit one model, found that they fit {', '.join(named)}; give a full model"
        )
    return named[0], fitting[named[0]]


def _names_fit(contents: Contents, plan: Plan) -> bool:
    """Whether the names in a file of weights only could be those of a model's layers.

    Names that tell the class are Keras' own (`separable_conv2d_3`) and the model's. Where all of them do, the layers
    must be the model's; else those must that have arrays and tell.
    """
    ignored = architecture.WITHOUT_EFFECT | architecture.ACTIVATION_LAYERS.keys()
    kinds = {architecture.snake_case(kind): kind for kind in dir(keras.layers)} | {"input": "InputLayer"}
    expected = [layer for layer in architecture.layers(plan.config) if layer.kind not in ignored]
    if contents.numbered:
        numbers = set(_numbers(plan.config).values())
        return all(name in numbers or kinds.get(_uncounted(name)) in ignored for name in contents.datasets)
    kinds |= {layer.name: layer.kind for layer in architecture.layers(plan.config)}
    told = {name: kinds.get(name, kinds.get(_uncounted(name))) for name in contents.datasets}
    if None not in told.values():
        return [kind for kind in told.values() if kind not in ignored] == [layer.kind for layer in expected]
    weighted = [layer.kind for layer in expected if layer.name in plan.shapes]
    return all(told[name] in (None, kind) for name, kind in zip(contents.shapes, weighted, strict=True))


def _uncounted(name: str) -> str:
    """A name without the number that Keras adds: `conv2d` of `conv2d_3`."""
    return re.sub(r"_\d+$", "", name)


def _numbers(config: dict[str, Any]) -> dict[str, str]:
    """Keras' count of the layers of each class, `conv2d`, `conv2d_1`, ..., by the layers' names."""
    counts: collections.Counter[str] = collections.Counter()
    numbers = {}
    for layer in architecture.layers(config):
        name = architecture.snake_case(layer.kind)
        numbers[layer.name] = f"{name}_{counts[name]}" if counts[name] else name
        counts[name] += 1
    return numbers
