"""A trained model as JSON: what it computes step by step, and its weights. `network.js` runs it."""

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_minimal.errors import UserError
from mnist_minimal.models.architecture import Layer, shown
from mnist_minimal.models.counting import trainable_parameters
from mnist_minimal.saving.identify import computation
from mnist_minimal.saving.translation import translate

if TYPE_CHECKING:
    import keras

# The kinds of steps that network.js has, each with the settings that it reads and those that must be as they are here.
READ: dict[str, tuple[str, ...]] = {
    "Rescaling": ("scale", "offset"),
    "Conv2D": ("filters", "kernel_size", "strides", "padding"),
    "DepthwiseConv2D": ("kernel_size", "strides", "padding"),
    "SeparableConv2D": ("filters", "kernel_size", "strides", "padding"),
    "MaxPooling2D": ("pool_size", "strides", "padding"),
    "AveragePooling2D": ("pool_size", "strides", "padding"),
    "GlobalAveragePooling2D": ("keepdims",),
    "Flatten": (),
    "Dense": ("units",),
    "BatchNormalization": ("epsilon",),
    "InstanceNormalization": ("epsilon",),
    "relu": ("negative_slope",),
    "silu": (),
    "softmax": (),
}
REQUIRED: dict[str, Any] = {
    "data_format": "channels_last",
    "dilation_rate": [1, 1],
    "groups": 1,
    "depth_multiplier": 1,
    "axis": -1,
    "max_value": None,
    "threshold": 0.0,
}


def describe(model: "keras.Model") -> dict[str, Any]:
    """A model as JSON's types.

    Args:
        model: A built chain of layers from pixels (batch, 28, 28, 1) to class probabilities (batch, 10).

    Returns:
        `name`; `parameters`, how many of them are trainable; `steps`, what is computed in order, without dropout and
        with each activation as a step of its own, every one with its `layer`, its `kind` and the settings of READ;
        `weights`, by layer and name, flat, rows first: base64 of little-endian float32.

    Raises:
        UserError: if the model has branches, or a step that network.js has not.
    """
    import keras

    steps = computation(translate(json.loads(model.to_json()), 3))
    for place, step in enumerate(steps):
        if step.inputs != (place - 1,):
            raise UserError(
                f"layer {shown(step.op.name)}: the page computes only chains of layers, each of which takes the output "
                "of the one before, found a graph with branches"
            )
    return {
        "name": model.name,
        "parameters": trainable_parameters(model),
        "steps": [_step(step.op) for step in steps],
        "weights": {
            layer.name: {variable.name: _encoded(keras.ops.convert_to_numpy(variable)) for variable in layer.weights}
            for layer in model.layers
            if layer.weights
        },
    }


def _step(step: Layer) -> dict[str, Any]:
    kind = step.settings.get({"activation": "function", "operation": "operation"}.get(step.kind, ""), step.kind)
    if kind not in READ:
        raise UserError(
            f"layer {shown(step.name)}: expected one that the page can compute, found {shown(kind)}; those known are "
            f"{', '.join(READ)}"
        )
    for key, value in REQUIRED.items():
        if step.settings.get(key, value) != value:
            raise UserError(
                f"layer {shown(step.name)}: the page computes only {key} {value}, found {shown(step.settings[key])}"
            )
    return {"layer": step.name, "kind": kind} | {key: step.settings[key] for key in READ[kind]}


def _encoded(array: np.ndarray) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()
