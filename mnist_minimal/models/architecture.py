"""A model's architecture as plain data: which layers a Keras configuration applies, in which order and how.

A configuration is the JSON that Keras 2 and Keras 3 write into a model's file. It is only ever looked at: nothing here
makes an object from it, so that it may come from anywhere.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mnist_minimal.errors import UserError

# Layers that leave a trained model's output as it is.
WITHOUT_EFFECT = {"InputLayer", "Dropout"}

# Layers that are activations, each with its settings that matter and their defaults.
ACTIVATION_LAYERS: dict[str, dict[str, Any]] = {
    "Activation": {"activation": "linear"},
    "ReLU": {"negative_slope": 0.0, "max_value": None, "threshold": 0.0},
    "LeakyReLU": {"negative_slope": 0.3},
    "Softmax": {"axis": -1},
}

# The same activations by the names that Keras has for them, as the layer and its settings.
NAMED_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("ReLU", {}),
    "leaky_relu": ("LeakyReLU", {"negative_slope": 0.2}),
    "softmax": ("Softmax", {}),
}

# What a configuration says about a layer that its output in a trained model does not depend on.
SETTINGS_WITHOUT_EFFECT = re.compile(
    "name|trainable|dtype|momentum|synchronized|quantization_config|.*_(initializer|regularizer|constraint)"
)

# What a configuration says of a layer that is not what it is.
PRIVATE_SETTINGS = {"name", "build_config", "registered_name", "module", "shared_object_id"}

MAX_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Layer:
    """One layer, or the activation inside one.

    Attributes:
        name: The layer's name, of an activation inside a layer that layer's name.
        kind: Keras' name of its class, with the package of a registered class of another's, or "activation".
        settings: The arguments it was made with.
    """

    name: str
    kind: str
    settings: dict[str, Any]


def shown(value: object) -> str:
    """Something out of a file as one short line of plain ASCII."""
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "..."


def layers(config: dict[str, Any]) -> list[Layer]:
    """The layers of a model, each once, in the order of the configuration, which is that of `keras.Model.layers`.

    Args:
        config: The `config` of a Functional or Sequential model.

    Raises:
        UserError: if it is no such configuration.
    """
    try:
        found = [_layer(entry) for entry in config["layers"]]
        if len({layer.name for layer in found}) < len(found):
            raise UserError("expected layers with names of their own, found two with the same name")
        return found
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError("expected the configuration of a Keras model, found one without its layers' classes") from error


def chain(config: dict[str, Any]) -> list[Layer]:
    """The layers of a model in the order in which the input runs through them; one that is applied n times, n times.

    Args:
        config: The `config` of a Functional or Sequential model.

    Raises:
        UserError: if the model is not one chain from one input to one output, or it is no such configuration.
    """
    found = layers(config)
    if "output_layers" not in config:
        return found
    by_name = {layer.name: layer for layer in found}
    try:
        sources = {
            entry["config"]["name"]: [_source(node) for node in entry["inbound_nodes"]] for entry in config["layers"]
        }
        name, node = _tensor(config["output_layers"])
        way = [name]
        applications = sum(map(len, sources.values()))
        while sources[name]:
            if len(way) > applications:
                raise UserError("expected a chain of layers, found a cycle")
            name, node = sources[name][node]
            way.append(name)
        if len(way) != applications + 1 or set(way) != set(by_name) or by_name[name].kind != "InputLayer":
            raise UserError("expected one chain of layers from the input to the output, found layers beside it")
    except UserError:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError("expected a chain of layers, found layers that are connected otherwise") from error
    return [by_name[name] for name in reversed(way)]


def inference_ops(applied: Sequence[Layer]) -> list[Layer]:
    """What a trained model computes, step by step: without Dropout, with every activation a step of its own.

    `Conv2D(7, 3, activation=LeakyReLU(0.2))` and `Conv2D(7, 3)` followed by `LeakyReLU(0.2)` come out the same.

    Args:
        applied: The layers as `chain` gives them.
    """
    steps = []
    for layer in applied:
        if layer.kind in WITHOUT_EFFECT:
            continue
        settings = {key: value for key, value in layer.settings.items() if not SETTINGS_WITHOUT_EFFECT.fullmatch(key)}
        if layer.kind in ACTIVATION_LAYERS:
            activation = _activation(layer.kind, settings)
        else:
            activation = _named_activation(settings.pop("activation", "linear"))
            steps.append(Layer(layer.name, layer.kind, settings))
        if activation["function"] != "linear":
            steps.append(Layer(layer.name, "activation", activation))
    return steps


def compare_ops(found: Sequence[Layer], expected: Sequence[Layer]) -> tuple[int, str]:
    """How far two models compute the same.

    A setting counts where both name it: the versions of Keras differ in what they write.

    Args:
        found: The steps of the one as `inference_ops` gives them.
        expected: The steps of the other.

    Returns:
        The number of steps from the input on that are the same, and in words what differs in the next one, or "".
    """
    for step, (one, other) in enumerate(zip(found, expected, strict=False)):
        if one.kind != other.kind:
            return step, f"layer {shown(one.name)}: expected a layer {other.kind}, found {shown(one.kind)}"
        for key, value in other.settings.items():
            if key in one.settings and not _equal(key, one.settings[key], value):
                return step, f"layer {shown(one.name)}: expected {key} {value!r}, found {shown(one.settings[key])}"
    same = min(len(found), len(expected))
    if len(found) > same:
        return same, f"layer {shown(found[same].name)}: expected no more layers, found {shown(found[same].kind)}"
    if len(expected) > same:
        return same, f"expected another layer {expected[same].kind} at the end, found none"
    return same, ""


def snake_case(kind: str) -> str:
    """The name Keras gives a layer of a class, before it counts: `separable_conv2d` of `SeparableConv2D`."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.split("[>.]", kind)[-1])
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _layer(entry: dict[str, Any]) -> Layer:
    """A layer as its entry in a configuration has it."""
    kind, module, registered = entry["class_name"], entry.get("module"), entry.get("registered_name")
    if isinstance(registered, str) and ">" in registered:
        kind = registered
    # Keras' own layers come from keras.layers, in Keras 2 also from where TensorFlow kept them.
    elif isinstance(module, str) and module.partition(".")[0] not in ("keras", "tf_keras", "tensorflow"):
        kind = f"{module}.{kind}"
    name, settings = entry["config"]["name"], dict(entry["config"])
    if not isinstance(name, str) or not isinstance(kind, str):
        raise TypeError("a layer's name and class are strings")
    return Layer(name, kind, settings)


def _source(node: Any) -> tuple[str, int]:
    """Where one application of a layer takes its only input from: the layer's name, and which of its applications."""
    if isinstance(node, dict):
        (tensor,), options = node["args"], node["kwargs"]
        source = tensor["config"]["keras_history"]
    else:
        (source,) = node
        options = source[3] if len(source) > 3 else {}
    if any(value not in (None, False) for value in options.values()):
        raise ValueError("a call with options")
    return _tensor(source)


def _tensor(history: Any) -> tuple[str, int]:
    """The layer and the number of its application that made a tensor, from `[name, application, 0]` or a list of it."""
    if isinstance(history[0], list):
        (history,) = history
    name, application, output = history[:3]
    if output != 0 or not isinstance(application, int) or application < 0:
        raise ValueError("not the first output of an application")
    return name, application


def _named_activation(activation: Any) -> dict[str, Any]:
    """The settings of an activation inside a layer: a name, or the configuration of a layer that is an activation."""
    if isinstance(activation, dict) and isinstance(activation.get("config"), str):
        # A function that is not Keras' own has its name there.
        return {"function": activation["config"]}
    if isinstance(activation, dict):
        try:
            layer = _layer(activation)
        except (KeyError, TypeError, AttributeError):
            return {"function": activation}
        return _activation(layer.kind, layer.settings)
    if isinstance(activation, str) and activation in NAMED_ACTIVATIONS:
        return _activation(*NAMED_ACTIVATIONS[activation])
    return {"function": "linear" if activation is None else activation}


def _activation(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an activation that is a layer, the function among them; both ReLUs are one function."""
    if kind not in ACTIVATION_LAYERS:
        return {"function": kind}
    if kind == "Activation":
        return _named_activation(settings.get("activation"))
    # Keras 2 calls the slope of LeakyReLU alpha.
    settings = {"negative_slope": settings["alpha"], **settings} if "alpha" in settings else settings
    chosen = {key: settings.get(key, default) for key, default in ACTIVATION_LAYERS[kind].items()}
    if kind == "LeakyReLU":
        kind, chosen = "ReLU", {**ACTIVATION_LAYERS["ReLU"], **chosen}
    return {"function": kind.lower(), **chosen}


def _equal(key: str, found: Any, expected: Any) -> bool:
    """Whether two settings are the same, numbers up to the rounding to float32 that Keras 2 writes some with."""
    if key == "axis":
        # Keras 2 writes the channels of an image as [3], Keras 3 as -1.
        found, expected = (-1 if axis in (3, [3], [-1]) else axis for axis in (found, expected))
    if isinstance(found, (int, float)) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-6)
    return found == expected


def layer_facts(config: dict[str, Any]) -> dict[str, Any]:
    """What the layers of a model are, as JSON that two versions of Keras write alike, to tell two models apart.

    Names are left out, and arguments that are None, False or 0, as those are that a later Keras adds; of functions in a
    Lambda nothing is said, since their code differs from Python to Python.

    Args:
        config: The `config` of a Functional or Sequential model.

    Returns:
        By place and class, as "3 MaxPooling2D", the arguments that each layer was made with; and as `inputs` the places
        of the layers from which each of its applications takes its inputs, where it is not once the layer before it.
    """
    places = {entry["config"].get("name"): place for place, entry in enumerate(config["layers"])}
    facts = {}
    for place, entry in enumerate(config["layers"]):
        settings = _facts(entry["config"])
        inputs = [_sources(node, places) for node in entry.get("inbound_nodes", [])]
        if inputs not in ([], [[place - 1]]):
            settings["inputs"] = inputs
        facts[f"{place} {entry['class_name']}"] = settings
    return facts


def _facts(value: Any) -> Any:
    """A configuration without names, without what Keras keeps for itself, and without None, False and 0."""
    if isinstance(value, list | tuple):
        return [_facts(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_name" in value and "config" in value:
        kind, settings = value["class_name"], value["config"]
        if kind in ("DTypePolicy", "__lambda__"):
            return settings["name"] if kind == "DTypePolicy" else "lambda"
        return {"class": kind, **(_facts(settings) if isinstance(settings, dict) else {"value": settings})}
    if isinstance(value.get("layers"), list):
        return layer_facts(value)
    facts = {key: _facts(item) for key, item in value.items() if key not in PRIVATE_SETTINGS}
    return {
        key: fact
        for key, fact in facts.items()
        if fact not in (None, False) or (key, fact) == ("trainable", False)
        if (key, fact) not in (("trainable", True), ("dtype", "float32"))
    }


def _sources(node: Any, places: dict[str, int]) -> list[int]:
    """The places of the layers from which one application of a layer takes its inputs, of both ways to write that."""
    if isinstance(node, dict):
        if "keras_history" in node:
            return [places[node["keras_history"][0]]]
        return [place for value in node.values() for place in _sources(value, places)]
    if isinstance(node, list):
        if node and isinstance(node[0], str) and node[0] in places:
            return [places[node[0]]]
        return [place for value in node for place in _sources(value, places)]
    return []
