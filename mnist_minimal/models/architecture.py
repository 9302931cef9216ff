"""A model's architecture as plain data: which layers a Keras configuration applies, in which order and how.

A configuration is the JSON that Keras 2 and Keras 3 write into a model's file. It is only ever looked at: nothing here
makes an object from it, so that it may come from anywhere.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


def inference_ops(applied: Sequence[Layer]) -> list[Layer]:
    """What a trained model computes, step by step: without Dropout, with every activation a step of its own.

    `Conv2D(7, 3, activation=LeakyReLU(0.2))` and `Conv2D(7, 3)` followed by `LeakyReLU(0.2)` come out the same.

    Args:
        applied: The layers, in the order in which they are applied.
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
        By place and class, as "3 MaxPooling2D", the arguments that each layer was made with; and as `inputs` what each
        of its applications takes, where it is not once the output of the layer before it: the place of a layer, or
        [place, application] of one that is applied several times, unless it is the application whose turn it is; and
        what is no tensor, as {"value": 255.0}.
    """
    entries = config["layers"]
    places = {entry["config"].get("name"): place for place, entry in enumerate(entries)}
    applications = [len(entry.get("inbound_nodes", [])) for entry in entries]
    uses = [0] * len(entries)
    facts = {}
    for place, entry in enumerate(entries):
        settings = _facts(entry["config"])
        inputs: list[list[Any]] = []
        for node in entry.get("inbound_nodes", []):
            inputs.append([])
            for taken in _taken(node, places):
                if isinstance(taken, tuple):
                    source, application = taken
                    expected = applications[source] < 2 or application == uses[source]
                    uses[source] += 1
                    taken = source if expected else [source, application]
                inputs[-1].append(taken)
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


def _taken(node: Any, places: dict[str, int]) -> list[Any]:
    """What one application of a layer takes: (place, application) of the layer that made a tensor, {"value": constant}.

    Both ways to write that are read: `[name, application, output, options]`, and Keras 3's arguments and options.
    """
    if isinstance(node, dict) and {"args", "kwargs"} <= node.keys():
        options = {key: value for key, value in node["kwargs"].items() if key not in ("training", "mask")}
        return _taken(node["args"], places) + _taken([options[key] for key in sorted(options)], places)
    if isinstance(node, dict) and "keras_history" in node.get("config", {}):
        name, application, _ = node["config"]["keras_history"]
        return [(places[name], application)]
    if isinstance(node, dict) and node.get("class_name") == "__tuple__":
        return _taken(node["items"], places)
    if isinstance(node, list):
        if len(node) > 2 and isinstance(node[0], str) and node[0] in places:
            return [(places[node[0]], node[1])]
        return [taken for value in node for taken in _taken(value, places)]
    return [] if node is None or node is False else [{"value": node}]
