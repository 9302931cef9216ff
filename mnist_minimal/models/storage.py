"""What has to be stored to run a trained network: its numbers with batch normalisations folded in, and its bytes.

A batch normalisation of a trained network multiplies each channel by a number and adds another. Convolutions and dense
layers beside it can do that in its place, so that it need not be stored; `stored` says where it can. Numbers are
stored in 32 bits, in 16 (IEEE half precision, each by itself) or in 8 (whole numbers from -127 to 127, and one float32
for each array, its scale). Only what is stored is rounded: the network computes in float32.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from mnist_minimal.models.counting import applications

if TYPE_CHECKING:
    import keras

Bits: TypeAlias = Literal[32, 16, 8]

WIDTHS: tuple[Bits, ...] = (32, 16, 8)

# The whole numbers of 8 bits go as far on both sides of 0.
LARGEST = 127

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Storage:
    """The numbers of a network that are stored.

    Attributes:
        arrays: Those of each layer that has some, float32, by its name, in the order in which Keras has them; of a
            batch normalisation that is not folded its scale and its offset, float32 (channels,) each.
        constants: How many numbers the rescaling of the pixels needs. They are float32 at any width.
    """

    arrays: dict[str, list[np.ndarray]]
    constants: int

    @property
    def numbers(self) -> int:
        """How many there are; those of a layer that is applied several times count once."""
        return sum(array.size for array in self._all()) + self.constants

    def bytes(self, bits: Bits) -> int:
        """What they take at a width; at 8 bits with a scale of 4 bytes for each array."""
        scales = FLOAT32_BYTES * sum(1 for _ in self._all()) if bits == 8 else 0
        return sum(array.size for array in self._all()) * bits // 8 + scales + FLOAT32_BYTES * self.constants

    def rounded(self, bits: Bits) -> "Storage":
        """The same numbers as they come back from storage of a width."""
        return replace(
            self, arrays={name: [rounded(each, bits) for each in arrays] for name, arrays in self.arrays.items()}
        )

    def _all(self) -> Iterator[np.ndarray]:
        return (array for arrays in self.arrays.values() for array in arrays)


def rounded(array: np.ndarray, bits: Bits) -> np.ndarray:
    """An array, float32, as it comes back from storage of a width; float32.

    In 16 bits each number is the nearest of half precision. In 8 bits each is a whole number from -127 to 127 times the
    array's scale, which is its largest magnitude divided by 127; halves go to the even one.
    """
    if bits == 32:
        return array
    if bits == 16:
        return array.astype(np.float16).astype(np.float32)
    scale = np.float32(np.abs(array).max(initial=0) / LARGEST)
    # Of zeros alone, or of numbers so small that a 127th of them is none of float32.
    if scale == 0:
        return np.zeros_like(array)
    return np.rint(array / scale).clip(-LARGEST, LARGEST).astype(np.float32) * scale


def stored(model: "keras.Model") -> Storage:
    """What has to be stored to run a model.

    A batch normalisation is folded into the convolution or dense layer whose output it takes, where that is linear;
    else into the one that takes its output, if no padding comes in between: the zeros around an image would have to
    be its offsets. Dropout and average pools may lie in between, and a max pool where no scale is negative, as in a
    network that has not been trained. A layer without biases gets some by that, and they count. Where neither is
    possible the two numbers of each channel stay. All layers involved must be applied once, and take and give what no
    other layer takes.

    Layers that a model in the model has, and normalisations that depend on the image, as InstanceNormalization, are
    left as they are. Of the pixels' Rescaling the scale counts as one number, and the offset, where there is one.

    Args:
        model: A functional or sequential model that is built.
    """
    return _Folding(model).storage()


def with_numbers(model: "keras.Model", storage: Storage) -> "keras.Model":
    """A new model that computes what a model computes, from stored numbers, with its folded normalisations left out.

    Args:
        model: A functional or sequential model with one input and one output, whose layers can be made from their
            configurations.
        storage: What `stored` gave of it, as it is or rounded.
    """
    import keras
    from keras import layers

    folded = {layer.name for layer in model.layers if layer.weights and layer.name not in storage.arrays}

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, layers.BatchNormalization):
            config |= {"scale": True, "center": True, "epsilon": 0.0}
        elif len(storage.arrays.get(layer.name, [])) > len(layer.weights):
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        return arguments[0] if layer.name in folded else layer(*arguments, **options)

    # Of a sequential model Keras would not ask how its layers are called.
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    made = keras.models.clone_model(graph, clone_function=clone, call_function=call)
    for layer in made.layers:
        arrays = storage.arrays.get(layer.name, [])
        if isinstance(layer, layers.BatchNormalization):
            # The scale and the offset are all that is left of it.
            arrays = [*arrays, np.zeros_like(arrays[0]), np.ones_like(arrays[0])]
        layer.set_weights(arrays)
    return made


class _Folding:
    """The arrays of a model, in float64, while one normalisation after the other is folded into them."""

    def __init__(self, model: "keras.Model") -> None:
        import keras

        self._model = model
        self._arrays = {
            layer.name: [keras.ops.convert_to_numpy(variable.value).astype(np.float64) for variable in layer.weights]
            for layer in model.layers
            if layer.weights
        }
        self._outputs = {id(tensor) for tensor in model.outputs}
        # Each layer's applications, and what takes each tensor.
        self._nodes: dict[int, list[Any]] = {}
        self._takers: dict[int, list[Any]] = {}
        for node in applications(model):
            self._nodes.setdefault(id(node.operation), []).append(node)
            for tensor in node.input_tensors:
                self._takers.setdefault(id(tensor), []).append(node)

    def storage(self) -> Storage:
        """Folds all that can be."""
        from keras import layers

        constants = 0
        for layer in self._model.layers:
            if isinstance(layer, layers.BatchNormalization):
                self._fold(layer)
            elif isinstance(layer, layers.Rescaling):
                constants += np.size(layer.scale) + (np.size(layer.offset) if np.any(layer.offset) else 0)
        arrays = {name: [each.astype(np.float32) for each in found] for name, found in self._arrays.items()}
        return Storage(arrays, constants)

    def _fold(self, layer: Any) -> None:
        """Folds a batch normalisation into a layer beside it, or leaves its scale and offset."""
        *trained, mean, variance = self._arrays.pop(layer.name)
        scale = (trained[0] if layer.scale else 1.0) / np.sqrt(variance + layer.epsilon)
        offset = (trained[-1] if layer.center else 0.0) - mean * scale
        node = self._nodes[id(layer)][0]
        if not self._applied_once(layer) or layer.axis not in (-1, len(node.input_tensors[0].shape) - 1):
            self._arrays[layer.name] = [scale, offset]
        elif before := self._layer_before(node):
            self._change_outputs(before, scale, offset)
        elif after := self._layer_after(node, through_maximum=bool((scale >= 0).all())):
            self._change_inputs(after, scale, offset)
        else:
            self._arrays[layer.name] = [scale, offset]

    def _applied_once(self, operation: Any) -> bool:
        return len(self._nodes.get(id(operation), [])) == 1

    def _taker(self, tensor: Any) -> Any:
        """The one application that takes a tensor, or None where there is not one alone."""
        takers = self._takers.get(id(tensor), [])
        return takers[0] if len(takers) == 1 and id(tensor) not in self._outputs else None

    def _layer_before(self, node: Any) -> Any:
        """The linear layer whose output the normalisation of a node takes, or None."""
        import keras

        (tensor,) = node.input_tensors
        layer = tensor._keras_history[0]
        linear = _is_linear(layer) and layer.activation is keras.activations.linear
        return layer if linear and self._applied_once(layer) and self._taker(tensor) is node else None

    def _layer_after(self, node: Any, through_maximum: bool) -> Any:
        """The linear layer without padding that takes the output of the normalisation of a node, or None."""
        from keras import layers

        while True:
            taker = self._taker(node.outputs[0])
            if taker is None or not self._applied_once(taker.operation):
                return None
            layer, node = taker.operation, taker
            if _is_linear(layer):
                return layer if _is_without_padding(layer) else None
            if isinstance(layer, layers.MaxPooling2D | layers.AveragePooling2D):
                maximum = isinstance(layer, layers.MaxPooling2D)
                passed = layer.padding == "valid" and (through_maximum or not maximum)
            else:
                passed = isinstance(layer, layers.Dropout | layers.GlobalAveragePooling2D)
            if not passed or getattr(layer, "data_format", "channels_last") != "channels_last":
                return None

    def _change_outputs(self, layer: Any, scale: np.ndarray, offset: np.ndarray) -> None:
        """Has a layer multiply its outputs, and add to them, as a normalisation after it does."""
        *kernels, last, bias = self._kernels_and_bias(layer)
        last = last * scale.reshape(_output_shape(layer, last))
        self._arrays[layer.name] = [*kernels, last, bias * scale + offset]

    def _change_inputs(self, layer: Any, scale: np.ndarray, offset: np.ndarray) -> None:
        """Has a layer take its inputs as they are before a normalisation.

        The offsets come out of it as if it were given an image of them.
        """
        from keras import layers

        first, *others, bias = self._kernels_and_bias(layer)
        added = first * offset[:, np.newaxis]
        if isinstance(layer, layers.DepthwiseConv2D | layers.SeparableConv2D):
            constant = added.sum(axis=(0, 1)).ravel()
            for pointwise in others:
                constant = constant @ pointwise[0, 0]
        else:
            constant = added.sum(axis=tuple(range(added.ndim - 1)))
        self._arrays[layer.name] = [first * scale[:, np.newaxis], *others, bias + constant]

    def _kernels_and_bias(self, layer: Any) -> list[np.ndarray]:
        """A linear layer's arrays, zeros for the biases that it lacks."""
        arrays = self._arrays[layer.name]
        has_bias = layer.use_bias or len(arrays) > len(layer.weights)
        return arrays if has_bias else [*arrays, np.zeros(math.prod(_output_shape(layer, arrays[-1])))]


def _is_linear(layer: Any) -> bool:
    """Whether a layer can do, beside what it does, what a normalisation of its inputs or outputs does."""
    from keras import layers

    if isinstance(layer, layers.Dense):
        return True
    convolution = isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.SeparableConv2D)
    return convolution and layer.data_format == "channels_last" and getattr(layer, "groups", 1) == 1


def _is_without_padding(layer: Any) -> bool:
    """Whether a linear layer's outputs depend on no zeros around its input."""
    return getattr(layer, "padding", "valid") == "valid" or set(layer.kernel_size) == {1}


def _output_shape(layer: Any, kernel: np.ndarray) -> tuple[int, ...]:
    """The part of its last kernel's shape that has a number for each channel of a linear layer's output."""
    from keras import layers

    # A depthwise convolution multiplies each channel of its input a few times, side by side.
    return kernel.shape[-2:] if isinstance(layer, layers.DepthwiseConv2D) else kernel.shape[-1:]
