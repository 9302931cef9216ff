"""Receptive fields: from which pixels the elements of a layer's output come, followed through any graph of layers.

Followed is a bounding box for every element of a tensor: as (4, *shape), the last row of pixels that the element
depends on, counted from 1, the first row, counted from 1 and from the image's end, and the same of the columns. All are
0 where it depends on no pixel, as in padding. So the box of what depends on several elements is the maximum of theirs,
and a layer that only moves elements moves their boxes.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from mnist_minimal.models.normalization import InstanceNormalization

WHOLE_IMAGE = "whole image"

MERGES = (layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
POOLS = (
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
)
GLOBAL_POOLS = (
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
)
CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.SeparableConv1D, layers.SeparableConv2D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
RECURRENT = (layers.SimpleRNN, layers.LSTM, layers.GRU, layers.Bidirectional)
ATTENTION = (layers.Attention, layers.MultiHeadAttention)

# These only move elements, or put zeros or the same ones again beside them.
MOVES = (
    *(layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector, layers.Concatenate),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
)

# Functions of keras.ops and keras.activations, by the classes of their applications in a graph.
POINTWISE_FUNCTIONS = {
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "DivideNoNan", "Maximum", "Minimum", "Power", "Cast"),
    *("Negative", "Absolute", "Abs", "Square", "Sqrt", "Rsqrt", "Reciprocal", "Exp", "Log", "Clip", "Round", "Sign"),
    *("ReLU", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "Softplus", "Softsign", "Softmax"),
    *("LogSoftmax", "Sigmoid", "HardSigmoid", "LogSigmoid", "Tanh", "HardTanh", "Identity", "SoftShrink", "HardShrink"),
    *("TanhShrink", "SparsePlus", "SparseSigmoid", "Squareplus"),
}
MOVING_FUNCTIONS = {"Reshape", "Transpose", "ExpandDims", "Squeeze", "Concatenate", "Stack", "GetItem", "Flip"}

# Keras' own classes around code of others.
OPAQUE = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}


def is_known(operation: Any) -> bool:
    """Whether an operation of a graph is one of Keras', or of this package's, so that its class tells what it does."""
    kind = type(operation)
    if not isinstance(operation, keras.Layer):
        return kind.__module__.partition(".")[0] == "keras" and kind.__name__ in POINTWISE_FUNCTIONS | MOVING_FUNCTIONS
    if kind is InstanceNormalization:
        return True
    return getattr(layers, kind.__name__, None) is kind and kind.__name__ not in OPAQUE


def has_kernel(layer: keras.Layer) -> bool:
    """Whether a layer has a kernel: it mixes elements then."""
    return any("kernel" in variable.name for variable in layer.weights)


def image_size(shape: Sequence[int]) -> tuple[int, int] | None:
    """Rows and columns of the image that a network's input of a shape is; None where it is none.

    Args:
        shape: Without the batch: (rows, columns), with channels last, with few channels first, or a square in a row.
    """
    if len(shape) == 3:
        return (shape[1], shape[2]) if shape[0] < shape[2] else (shape[0], shape[1])
    if len(shape) == 2 and shape[1] > 1:
        return shape[0], shape[1]
    side = math.isqrt(shape[0]) if shape else 0
    return (side, side) if len(shape) in (1, 2) and side**2 == shape[0] else None


def pixel_boxes(shape: Sequence[int]) -> np.ndarray | None:
    """The boxes of the elements of a network's input, each its own pixel; None where it is no image."""
    size = image_size(shape)
    if size is None:
        return None
    rows, columns = np.indices(size)
    boxes = np.stack([rows + 1, size[0] - rows, columns + 1, size[1] - columns]).astype(np.float32)
    if len(shape) == 3:
        boxes = boxes[:, None] if size == tuple(shape[1:]) and shape[0] < shape[2] else boxes[..., None]
        return np.broadcast_to(boxes, (4, *shape))
    return boxes.reshape(4, *shape)


def receptive_field(boxes: np.ndarray | None, size: tuple[int, int] | None) -> int | str | None:
    """The longest side of all boxes; WHOLE_IMAGE where every element depends on it; None where it is not known.

    Args:
        boxes: The elements' boxes, or None.
        size: Rows and columns of the image, or None.
    """
    if boxes is None or size is None:
        return None
    flat = boxes.reshape(4, -1)
    flat = flat[:, flat[0] > 0]
    rows, columns = flat[0] + flat[1] - size[0], flat[2] + flat[3] - size[1]
    if not flat.size:
        return 0
    if (rows == size[0]).all() and (columns == size[1]).all():
        return WHOLE_IMAGE
    return int(max(rows.max(), columns.max()))


def output_boxes(
    operation: Any, inputs: Sequence[np.ndarray | None], output: Sequence[int], apply: Callable[[], Any]
) -> np.ndarray | None:
    """The boxes of the elements of an operation's output.

    What a normalisation, or a softmax, takes from the rest of an image through its mean is left out.

    Args:
        operation: A layer, or an application of a function.
        inputs: The boxes of its inputs.
        output: Shape of its output, without the batch.
        apply: Applies it to the boxes instead of its inputs.

    Returns:
        float32 (4, *output), or None where they are not known.
    """
    known = [boxes for boxes in inputs if boxes is not None]
    if len(known) < len(inputs) or not known or not is_known(operation):
        return None
    boxes = _boxes(operation, known, tuple(output), apply)
    return boxes if boxes is None or boxes.shape == (4, *output) else None


def _boxes(
    operation: Any, inputs: list[np.ndarray], output: tuple[int, ...], apply: Callable[[], Any]
) -> np.ndarray | None:
    boxes, kind = inputs[0], type(operation).__name__
    if not isinstance(operation, keras.Layer):
        return _moved(apply) if kind in MOVING_FUNCTIONS else _merged(inputs, output)
    if isinstance(operation, layers.TimeDistributed):
        return _of_each_step(operation.layer, boxes, output)
    if isinstance(operation, MOVES):
        return _moved(apply) if getattr(operation, "interpolation", "nearest") == "nearest" else None
    if isinstance(operation, MERGES):
        return _merged(inputs, output)
    if isinstance(operation, GLOBAL_POOLS):
        return boxes.max(axis=_image_axes(operation, boxes), keepdims=operation.keepdims)
    if isinstance(operation, POOLS):
        return _windows(operation, boxes, _each(operation.pool_size, boxes), _each(1, boxes))
    if isinstance(operation, layers.Dense):
        return np.broadcast_to(boxes.max(axis=-1, keepdims=True), (4, *output))
    if isinstance(operation, (*CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE)):
        return _convolved(operation, boxes, output)
    if isinstance(operation, RECURRENT) and boxes.ndim == 3:
        return _recurrent(operation, boxes)
    if isinstance(operation, ATTENTION):
        reached = np.max([one.reshape(4, -1).max(axis=1) for one in inputs], axis=0)
        return np.broadcast_to(reached.reshape(4, *[1] * len(output)), (4, *output))
    # Activations, normalisations, and what acts in training only.
    return boxes if boxes.shape == (4, *output) and len(inputs) == 1 and not has_kernel(operation) else None


def _moved(apply: Callable[[], Any]) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(apply()), np.float32)


def _merged(inputs: list[np.ndarray], output: tuple[int, ...]) -> np.ndarray:
    """What is taken element by element, after axes that are missing are added in front, as NumPy does."""
    merged = np.zeros((4, *output), np.float32)
    for boxes in inputs:
        merged = np.maximum(merged, boxes.reshape(4, *[1] * (len(output) - boxes.ndim + 1), *boxes.shape[1:]))
    return merged


def _of_each_step(layer: keras.Layer, boxes: np.ndarray, output: tuple[int, ...]) -> np.ndarray | None:
    """What a layer makes of each step of a sequence."""
    steps = [
        output_boxes(layer, [step], output[1:], functools.partial(layer, step)) for step in np.moveaxis(boxes, 1, 0)
    ]
    known = [step for step in steps if step is not None]
    return np.stack(known, axis=1) if len(known) == len(steps) else None


def _recurrent(layer: Any, boxes: np.ndarray) -> np.ndarray | None:
    """What a recurrent layer makes of a sequence: each step depends on those before it."""
    if isinstance(layer, layers.Bidirectional):
        ways = _recurrent(layer.forward_layer, boxes), _recurrent(layer.backward_layer, boxes)
        known = [way for way in ways if way is not None]
        if len(known) < 2 or layer.merge_mode is None:
            return None
        if layer.return_sequences:
            known[1] = known[1][:, ::-1]
        return np.concatenate(known, axis=-1) if layer.merge_mode == "concat" else np.maximum(*known)
    if not isinstance(layer, RECURRENT):
        return None
    steps = boxes.max(axis=-1, keepdims=True)[:, :: -1 if layer.go_backwards else 1]
    states = np.repeat(np.maximum.accumulate(steps, axis=1), layer.units, axis=-1)
    return states if layer.return_sequences else states[:, -1]


def _channels_first(layer: keras.Layer) -> bool:
    return getattr(layer, "data_format", None) == "channels_first"


def _image_axes(layer: keras.Layer, boxes: np.ndarray) -> tuple[int, ...]:
    """The axes along which a layer's windows move."""
    return tuple(range(2, boxes.ndim) if _channels_first(layer) else range(1, boxes.ndim - 1))


def _each(value: Any, boxes: np.ndarray) -> tuple[int, ...]:
    """A setting for each axis of windows, which is one number where it is the same for all."""
    return (value,) * (boxes.ndim - 2) if isinstance(value, int) else tuple(value)


def _convolved(layer: Any, boxes: np.ndarray, output: tuple[int, ...]) -> np.ndarray | None:
    """What a convolution makes of boxes: it takes all channels of a window, or of its group, or each by itself."""
    channel = 1 if _channels_first(layer) else boxes.ndim - 1
    groups = boxes.shape[channel] if isinstance(layer, DEPTHWISE) else getattr(layer, "groups", 1)
    inner = np.moveaxis(boxes, channel, -1)
    of_groups = inner.reshape(*inner.shape[:-1], groups, -1).max(axis=-1)
    filters = output[0] if _channels_first(layer) else output[-1]
    taken = np.moveaxis(np.repeat(of_groups, filters // groups, axis=-1), -1, channel)
    dilations = _each(layer.dilation_rate, boxes)
    if not isinstance(layer, TRANSPOSED):
        return _windows(layer, taken, _each(layer.kernel_size, boxes), dilations)
    if getattr(layer, "output_padding", None) is not None or set(dilations) != {1}:
        return None
    for axis, across, stride in zip(
        _image_axes(layer, boxes), _each(layer.kernel_size, boxes), _each(layer.strides, boxes), strict=True
    ):
        taken = _spread(taken, axis, across, stride, layer.padding)
    return taken


def _windows(layer: Any, boxes: np.ndarray, sizes: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """What windows see, one axis after another: each is a rectangle."""
    strides = _each(layer.strides, boxes)
    for axis, size, stride, dilation in zip(_image_axes(layer, boxes), sizes, strides, dilations, strict=True):
        across = (size - 1) * dilation + 1
        length = boxes.shape[axis]
        more = {"same": max((math.ceil(length / stride) - 1) * stride + across - length, 0), "causal": across - 1}
        padding = more.get(layer.padding, 0)
        before = padding if layer.padding == "causal" else padding // 2
        boxes = _slid(_padded(boxes, axis, before, padding - before), axis, across, stride, dilation)
    return boxes


def _spread(boxes: np.ndarray, axis: int, across: int, stride: int, padding: str) -> np.ndarray:
    """What a transposed convolution sees along one axis, each of whose elements reaches `across` of the output."""
    length = boxes.shape[axis]
    apart = np.zeros((*boxes.shape[:axis], (length - 1) * stride + 1, *boxes.shape[axis + 1 :]), np.float32)
    np.moveaxis(apart, axis, 0)[::stride] = np.moveaxis(boxes, axis, 0)
    full = _slid(_padded(apart, axis, across - 1, across - 1 + max(stride - across, 0)), axis, across, 1, 1)
    if padding != "same":
        return full
    before = max(across - stride, 0) // 2
    return np.take(full, range(before, before + length * stride), axis=axis)


def _padded(boxes: np.ndarray, axis: int, before: int, after: int) -> np.ndarray:
    return np.pad(boxes, [(before, after) if place == axis else (0, 0) for place in range(boxes.ndim)])


def _slid(boxes: np.ndarray, axis: int, across: int, stride: int, dilation: int) -> np.ndarray:
    """The maximum in a window along one axis, at every stride."""
    windows = np.lib.stride_tricks.sliding_window_view(boxes, across, axis=axis)
    return np.moveaxis(np.moveaxis(windows, axis, 0)[::stride, ..., ::dilation].max(axis=-1), 0, axis)
