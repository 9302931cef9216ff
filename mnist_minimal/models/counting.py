"""A model's layers counted: output shapes, parameters, multiply-accumulates, receptive fields."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_minimal.errors import UserError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class LayerRow:
    """One application of a layer to one image.

    Attributes:
        name: The layer's name.
        kind: The name of its class.
        output_shape: Shape of its output without the batch.
        trainable: Number of its trainable parameters; 0 where the table has had the layer before.
        non_trainable: Number of its other parameters, as the moving statistics of BatchNormalization; likewise.
        macs: Multiply-accumulates, see `layer_table`.
        receptive_field: Side of the square of pixels that one element of the output depends on, see `layer_table`.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    trainable: int
    non_trainable: int
    macs: int
    receptive_field: int


def layer_table(model: "keras.Model") -> list[LayerRow]:
    """The layers of a model, but for its input, in the order in which an image runs through them.

    Multiply-accumulates are the products of an input with an element of a kernel, one for each position of the kernel:
    those of Conv2D, DepthwiseConv2D, SeparableConv2D (depthwise and pointwise) and Dense. Products with padding count.
    The addition of a bias, activations, pooling, normalisation and rescaling do not.

    The receptive field r grows from layer to layer by r += (k - 1) * j, where k is the side of the window (of a dilated
    kernel, with its gaps) and j the distance in pixels between neighbours in the layer's input, which a stride s makes
    j *= s. Global pooling and Flatten are windows of the size of their input; Dense after them adds nothing. Padding is
    counted as if there were pixels, so that the field may be larger than the image. What a normalisation may take from
    the rest of an image through its mean is not counted.
    Source: A. Araujo, W. Norris and J. Sim, "Computing Receptive Fields of Convolutional Neural Networks",
    https://distill.pub/2019/computing-receptive-fields.

    Args:
        model: A built model that is one chain of layers on images, channels last. A layer may come more than once.

    Raises:
        UserError: if the model is no chain, or has a layer that moves along the image in a way not known here.
    """
    import json

    from mnist_minimal.models import architecture

    applied = architecture.chain(json.loads(model.to_json())["config"])
    rows: list[LayerRow] = []
    field, distance = [1, 1], [1, 1]
    shape = model.input_shape
    for name in [layer.name for layer in applied if layer.kind != "InputLayer"]:
        layer = model.get_layer(name)
        output = layer.compute_output_shape(shape)
        window, stride = _window(layer, shape)
        field = [side + (across - 1) * step for side, across, step in zip(field, window, distance, strict=True)]
        distance = [step * stride_ for step, stride_ in zip(distance, stride, strict=True)]
        new = all(row.name != name for row in rows)
        rows.append(
            LayerRow(
                name=name,
                kind=type(layer).__name__,
                output_shape=tuple(output[1:]),
                trainable=_elements(layer.trainable_weights) if new else 0,
                non_trainable=_elements(layer.non_trainable_weights) if new else 0,
                macs=_macs(layer, shape, output),
                receptive_field=max(field),
            )
        )
        shape = output
    return rows


def _elements(variables: Sequence[Any]) -> int:
    """Number of elements of all the variables."""
    return sum(math.prod(variable.shape) for variable in variables)


def trainable_parameters(model: "keras.Model") -> int:
    """Number of a model's trainable parameters, as the sources count."""
    return _elements(model.trainable_weights)


def _window(layer: "keras.Layer", shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The window that a layer moves over its input of a shape, gaps included, and its stride; both (rows, columns)."""
    from keras import layers

    if (
        isinstance(layer, (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Flatten))
        and len(shape) == 4
    ):
        return (shape[1], shape[2]), (1, 1)
    if isinstance(layer, (layers.MaxPooling2D, layers.AveragePooling2D)):
        return layer.pool_size, layer.strides
    if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)):
        rows, columns = (
            (side - 1) * rate + 1 for side, rate in zip(layer.kernel_size, layer.dilation_rate, strict=True)
        )
        return (rows, columns), layer.strides
    if hasattr(layer, "strides") or hasattr(layer, "kernel_size"):
        raise UserError(
            f"layer {layer.name}: expected a convolution or pooling of images, found {type(layer).__name__}"
        )
    return (1, 1), (1, 1)


def _macs(layer: "keras.Layer", shape: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Multiply-accumulates of a layer from one input of a shape to one output of a shape, batches left out."""
    from keras import layers

    positions = math.prod(output[1:-1])
    if isinstance(layer, layers.SeparableConv2D):
        return positions * _elements([layer.depthwise_kernel, layer.pointwise_kernel])
    if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)):
        return positions * _elements([layer.kernel])
    return 0
