"""What the layers of a network do to the batches of K trials at once.

An activation is [trial][channel][row][column][image], the images of a batch innermost: a convolution of one channel or
one channel at a time is then a few shifted multiplications and additions of long rows, which XLA makes one loop of, and
a dense layer or one of many channels is a product of matrices for each trial.

The results are those of `core/reference.cpp` up to rounding, and so are the gradients that JAX takes: the numbers of
the layers are rounded to single precision, as the core has them, and a max pool's gradient goes to the first of the
largest. Functions work in the precision of what they are given.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnist_minimal.data.random import threefry
from mnist_minimal.training.network import NONE, Layer, Network

# Two uint32 arrays.
Key: TypeAlias = tuple[jax.Array, jax.Array]

# Arrays by their offset in the flat array of each trial, (K, ...) each.
Arrays: TypeAlias = dict[int, jax.Array]

# A variance is taken for no smaller than this in an instance normalisation.
SMALLEST_VARIANCE = 1e-12

# A convolution of no more input channels is made of shifted multiplications and additions.
FEW_CHANNELS = 1

# Images that share a row of dropout's words in the core.
LANES = 16


@dataclass(frozen=True)
class Dropout:
    """What dropout drops in one step, by the number of the dropout layer.

    Attributes:
        drops: How many of 65,536 activations are dropped, uint32 (K,).
        keys: The keys of the layer's counter in this step; see `dropout_keys`.
    """

    drops: dict[int, jax.Array]
    keys: dict[int, Key]


def dropout_keys(key: Key, steps: int, numbers: Sequence[int]) -> Key:
    """The keys of dropout's counters, uint32 (layers, steps, K) each.

    Args:
        key: Each trial's `data.random` key of dropout in its epoch, uint32 (K,) each.
        steps: Steps in the epoch.
        numbers: Those of the dropout layers.
    """
    step = jnp.broadcast_to(lax.iota(jnp.uint32, steps)[:, None], (steps, key[0].shape[0]))
    # A loop, whose results lie in memory: in the loops that use them they would be computed for each activation.
    return lax.map(lambda number: threefry(key, (step, jnp.full_like(step, number))), jnp.array(numbers, jnp.uint32))


# Flat arrays


def parameter_shapes(network: Network) -> dict[int, tuple[int, ...]]:
    """The shape of each trainable array, by its offset among the parameters."""
    shapes: dict[int, tuple[int, ...]] = {}
    for layer in network.layers:
        ins, outs = layer.in_shape[2], layer.out_shape[2]
        match layer.kind:
            case "convolution":
                kernel: tuple[int, ...] = (*layer.kernel_size, ins, outs)
                bias = outs
            case "depthwise":
                kernel, bias = (*layer.kernel_size, ins), outs
            case "batch_norm":
                kernel, bias = (ins,), ins
            case "instance_norm":
                kernel, bias = (1,), 1
            case _:
                continue
        shapes |= {layer.kernel: kernel, layer.bias: (bias,)}
    shapes.pop(NONE, None)
    return shapes


def statistics_shapes(network: Network) -> dict[int, tuple[int, ...]]:
    """(2, channels), of the moving means and variances, by their offset among the statistics."""
    return {layer.statistics: (2, layer.in_shape[2]) for layer in network.layers if layer.kind == "batch_norm"}


def split(flat: jax.Array, shapes: dict[int, tuple[int, ...]]) -> Arrays:
    """Cuts flat arrays (K, n) into those of the shapes, (K, ...) each."""
    trials = flat.shape[0]
    return {
        offset: flat[:, offset : offset + math.prod(shape)].reshape(trials, *shape) for offset, shape in shapes.items()
    }


def joined(arrays: Arrays, trials: int, dtype: jnp.dtype) -> jax.Array:
    """The inverse of `split`: (K, n)."""
    parts = [arrays[offset].reshape(trials, -1) for offset in sorted(arrays)]
    return jnp.concatenate([jnp.zeros((trials, 0), dtype), *parts], axis=1)


# The network


def arranged(layers: Iterable[Layer]) -> list[Layer]:
    """The layers with fewer passes over the activations, and the same results.

    An activation function and a max pool change places, as neither changes which number is the largest; the function
    and a dropout behind it become one layer.
    """
    found: list[Layer] = []
    for layer in layers:
        last = found[-1] if found else layer
        is_function = bool(found) and last.kind == "elementwise" and last.rate == 0
        adjacent = is_function and last.out_shape == layer.in_shape
        if adjacent and layer.kind == "max_pool":
            found[-1:] = [layer, replace(last, in_shape=layer.out_shape, out_shape=layer.out_shape)]
        elif adjacent and layer.kind == "elementwise" and layer.slope == 1:
            found[-1] = replace(layer, slope=last.slope)
        else:
            found.append(layer)
    return found


def forward(
    layers: Sequence[Layer], parameters: Arrays, statistics: Arrays, x: jax.Array, dropout: Dropout | None = None
) -> tuple[jax.Array, Arrays]:
    """Runs a batch of each trial through its network.

    Args:
        layers: The network's, perhaps `arranged`.
        parameters: (K, ...) each.
        statistics: (K, 2, channels) each.
        x: What the first layer takes, (K, channels, height, width, images).
        dropout: What is dropped in training; None outside it, where the moving statistics are used.

    Returns:
        The logits (K, classes, images), and the statistics, which training has moved.
    """
    statistics = dict(statistics)
    for layer in layers:
        x = _reshaped(x, layer)
        bias = parameters.get(layer.bias)
        match layer.kind:
            case "convolution":
                x = with_bias(convolution(padded(x, layer), parameters[layer.kernel]), bias)
            case "depthwise":
                x = with_bias(depthwise(padded(x, layer), parameters[layer.kernel]), bias)
            case "max_pool":
                x = max_pool(layer.kernel_size, x)
            case "average_pool":
                x = average_pool(layer.kernel_size, x)
            case "batch_norm":
                if dropout is None:
                    mean, variance = statistics[layer.statistics][:, 0], statistics[layer.statistics][:, 1]
                else:
                    mean, variance = jnp.mean(x, axis=(2, 3, 4)), jnp.var(x, axis=(2, 3, 4))
                    statistics[layer.statistics] = moved(statistics[layer.statistics], mean, variance, layer)
                x = batch_norm(x, mean, variance, parameters.get(layer.kernel), bias, layer.epsilon)
            case "instance_norm":
                x = instance_norm(x, parameters[layer.kernel], parameters[layer.bias], layer.epsilon)
            case "silu":
                x = jax.nn.silu(x)
        if dropout is not None and layer.dropout_index in dropout.drops and layer.rate > 0:
            x = activate_and_drop(layer.slope, x, dropout.drops[layer.dropout_index], dropout.keys[layer.dropout_index])
        elif layer.slope != 1:
            x = activate(layer.slope, x)
    return x[:, :, 0, 0, :], statistics


def _reshaped(x: jax.Array, layer: Layer) -> jax.Array:
    """What a layer takes: as it is, or its numbers in the order [row][column][channel] as channels of one position."""
    height, width, channels = layer.in_shape
    if x.shape[1:4] == (channels, height, width):
        return x
    return x.transpose(0, 2, 3, 1, 4).reshape(x.shape[0], channels, height, width, x.shape[-1])


# Convolutions


def padded(x: jax.Array, layer: Layer) -> jax.Array:
    """The input with a convolution's border of zeros."""
    top, left, bottom, right = layer.pad
    return jnp.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right), (0, 0))) if any(layer.pad) else x


def _under_taps(x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
    """The part of the input that lies under each tap of a kernel (K, rows, columns, ...), row by row."""
    rows, columns = kernel.shape[1:3]
    height, width = x.shape[2] - rows + 1, x.shape[3] - columns + 1
    return [x[:, :, row : row + height, column : column + width] for row in range(rows) for column in range(columns)]


def _patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What lies under each tap of a kernel: (K, taps * channels, height, width, images)."""
    return jnp.concatenate(_under_taps(x, kernel), axis=1)


def _sum(parts: Iterable[jax.Array]) -> jax.Array:
    return reduce(jnp.add, parts)


@jax.custom_vjp
def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """From x (K, in, height, width, images), by the kernel (K, rows, columns, in, out), to (K, out, ..., images)."""
    _, rows, columns, ins, outs = kernel.shape
    if ins > FEW_CHANNELS or rows * columns == 1:
        matrix = kernel.reshape(-1, rows * columns * ins, outs)
        return jnp.einsum("kihwn,kio->kohwn", _patches(x, kernel), matrix, precision=lax.Precision.HIGHEST)
    taps = kernel.reshape(-1, rows * columns, ins, outs)
    return _sum(
        part[:, channel, None] * _by_channel(taps[:, tap, channel])
        for tap, part in enumerate(_under_taps(x, kernel))
        for channel in range(ins)
    )


def _convolution_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The patches, of which there are as many as taps, are made again on the way back.
    return convolution(x, kernel), (x, kernel)


def _convolution_backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    # A product of matrices sums up over images and places better than a loop for every tap and channel does.
    of_kernel = jnp.einsum("kihwn,kohwn->kio", _patches(x, kernel), gradient, precision=lax.Precision.HIGHEST)
    return convolution(_bordered(gradient, kernel), _flipped(kernel).swapaxes(3, 4)), of_kernel.reshape(kernel.shape)


convolution.defvjp(_convolution_forward, _convolution_backward)


@jax.custom_vjp
def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """From x (K, channels, height, width, images), by the kernel (K, rows, columns, channels), to the like of x."""
    _, rows, columns, channels = kernel.shape
    taps = kernel.reshape(-1, rows * columns, channels)
    return _sum(part * _by_channel(taps[:, tap]) for tap, part in enumerate(_under_taps(x, kernel)))


def _depthwise_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise(x, kernel), (x, kernel)


def _depthwise_backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    of_kernel = [jnp.sum(part * gradient, axis=(2, 3, 4)) for part in _under_taps(x, kernel)]
    return depthwise(_bordered(gradient, kernel), _flipped(kernel)), jnp.stack(of_kernel, axis=1).reshape(kernel.shape)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _bordered(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """A gradient with zeros around it, of which the flipped kernel makes that of the input."""
    border = [(0, 0), (0, 0), *((side - 1, side - 1) for side in kernel.shape[1:3]), (0, 0)]
    return jnp.pad(gradient, border)


def _flipped(kernel: jax.Array) -> jax.Array:
    return kernel[:, ::-1, ::-1]


def with_bias(x: jax.Array, bias: jax.Array | None) -> jax.Array:
    """The result with a bias (K, channels), where the layer has one."""
    return x if bias is None else x + _by_channel(bias)


def _by_channel(values: jax.Array) -> jax.Array:
    """(K, channels) beside an activation."""
    return values[:, :, None, None, None]


# Pooling


def _under_windows(window: tuple[int, int], x: jax.Array) -> list[jax.Array]:
    """What lies at each place of the windows, row by row, (K, channels, rows, columns, images) each."""
    rows, columns = window
    bottom, right = x.shape[2] // rows * rows, x.shape[3] // columns * columns
    return [x[:, :, row:bottom:rows, column:right:columns] for row in range(rows) for column in range(columns)]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def max_pool(window: tuple[int, int], x: jax.Array) -> jax.Array:
    """The largest of each window (rows, columns); windows do not overlap, what lies under none is left out."""
    return _largest(window, x)[0]


def _largest(window: tuple[int, int], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest of each window, and its place there, the first of several."""
    first, *others = _under_windows(window, x)
    best, place = first, jnp.zeros(first.shape, jnp.uint8 if len(others) < 256 else jnp.int32)
    for index, other in enumerate(others, start=1):
        better = other > best
        best, place = jnp.where(better, other, best), jnp.where(better, jnp.asarray(index, place.dtype), place)
    return best, place


def _max_pool_forward(window: tuple[int, int], x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    best, place = _largest(window, x)
    # Of x only the shape is needed, which an array without numbers tells.
    return best, (place, jnp.zeros((0, *x.shape[2:4]), x.dtype))


def _max_pool_backward(
    window: tuple[int, int], kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    place, (_, height, width) = kept[0], kept[1].shape
    (rows, columns), (trials, channels, high, wide, images) = window, gradient.shape
    shares = [
        jnp.where(place == jnp.asarray(index, place.dtype), gradient, jnp.zeros((), gradient.dtype))
        for index in range(rows * columns)
    ]
    by_row = [jnp.stack(shares[row * columns : (row + 1) * columns], axis=4) for row in range(rows)]
    whole = jnp.stack(by_row, axis=3).reshape(trials, channels, high * rows, wide * columns, images)
    return (jnp.pad(whole, ((0, 0), (0, 0), (0, height - high * rows), (0, width - wide * columns), (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(window: tuple[int, int], x: jax.Array) -> jax.Array:
    """The mean of each window, as `max_pool` has them."""
    if window == x.shape[2:4]:
        return jnp.mean(x, axis=(2, 3), keepdims=True)
    return _sum(_under_windows(window, x)) / math.prod(window)


# Normalisation


def batch_norm(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    gain: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
) -> jax.Array:
    """Normalises each channel by its mean and variance (K, channels); gain and bias likewise."""
    scale = lax.rsqrt(variance + np.float32(epsilon).astype(x.dtype))
    if gain is not None:
        scale = gain * scale
    return with_bias((x - _by_channel(mean)) * _by_channel(scale), bias)


def moved(statistics: jax.Array, mean: jax.Array, variance: jax.Array, layer: Layer) -> jax.Array:
    """The moving means and variances (K, 2, channels) after a step."""
    kept = np.float32(layer.momentum).astype(statistics.dtype)
    return kept * statistics + (1 - kept) * lax.stop_gradient(jnp.stack([mean, variance], axis=1))


def instance_norm(x: jax.Array, gain: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Normalises each image over all its numbers; gain and bias (K, 1)."""
    mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    variance = jnp.mean((x - mean) ** 2, axis=(1, 2, 3), keepdims=True)
    deviation = jnp.sqrt(jnp.maximum(variance, np.float32(SMALLEST_VARIANCE).astype(x.dtype)))
    normalised = (x - mean) / (deviation + np.float32(epsilon).astype(x.dtype))
    return _by_channel(gain) * normalised + _by_channel(bias)


# Activation and dropout


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def activate(slope: float, x: jax.Array) -> jax.Array:
    """X where x > 0, else slope * x."""
    return jnp.where(x > 0, x, _slope(slope, x) * x)


# The gradients of both functions read in their result what became of each number: the next layer keeps it anyway, so
# that nothing more lies in memory between the passes forward and back.


def _activate_forward(slope: float, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = activate(slope, x)
    return y, y


def _activate_backward(slope: float, y: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(y > 0, gradient, _slope(slope, y) * gradient),)


activate.defvjp(_activate_forward, _activate_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def activate_and_drop(slope: float, x: jax.Array, drop: jax.Array, key: Key) -> jax.Array:
    """`activate`, and dropout with probability drop / 65536.

    Args:
        slope: Of the activation; 1 for none.
        x: (K, channels, height, width, images).
        drop: uint32 (K,).
        key: Of the layer's counter, uint32 (K,) each.
    """
    y = activate(slope, x) if slope != 1 else x
    return jnp.where(keeps(x.shape, drop, key), y * _factor(drop, x), jnp.zeros((), x.dtype))


def _activate_and_drop_forward(
    slope: float, x: jax.Array, drop: jax.Array, key: Key
) -> tuple[jax.Array, tuple[jax.Array | None, jax.Array, Key]]:
    y = activate_and_drop(slope, x, drop, key)
    # Without a slope the result has nothing to tell.
    return y, (y if slope != 1 else None, drop, key)


def _activate_and_drop_backward(
    slope: float, kept: tuple[jax.Array | None, jax.Array, Key], gradient: jax.Array
) -> tuple[jax.Array, None, None]:
    y, drop, key = kept
    scaled = gradient * _factor(drop, gradient)
    if y is not None:
        scaled = jnp.where(y > 0, scaled, _slope(slope, scaled) * scaled)
    return jnp.where(keeps(gradient.shape, drop, key), scaled, jnp.zeros((), gradient.dtype)), None, None


activate_and_drop.defvjp(_activate_and_drop_forward, _activate_and_drop_backward)


def _slope(slope: float, like: jax.Array) -> np.ndarray:
    """The slope as the core has it."""
    return np.float32(slope).astype(like.dtype)


def _factor(drop: jax.Array, like: jax.Array) -> jax.Array:
    """What keeps the expected value, beside an activation."""
    return (65536 / (65536 - drop.astype(like.dtype)))[:, None, None, None, None]


def keeps(shape: tuple[int, ...], drop: jax.Array, key: Key) -> jax.Array:
    """Which activations dropout keeps, by the counter of core/kernels/epilogue.h; it becomes part of other loops.

    The words of a pair of neighbours [row][column][channel] are drawn for sixteen images at a time; the lower half of
    an image's word is for the even one of the pair, the upper half for the odd one.

    Args:
        shape: (K, channels, height, width, images).
        drop: As `activate_and_drop` takes it.
        key: Likewise.

    Returns:
        Booleans of that shape.
    """
    _, channels, height, width, _ = shape
    channel, row, column, image = (lax.broadcasted_iota(jnp.uint32, (1, *shape[1:]), axis) for axis in range(1, 5))
    element = (row * width + column) * channels + channel
    pairs = (height * width * channels + 1) // 2
    place = (image // LANES * pairs + element // 2) * LANES + image % LANES
    first, second, threshold = (word[:, None, None, None, None] for word in (*key, drop))
    x = first + place
    x = (x ^ (x >> 16)) * np.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15) ^ second) * np.uint32(0x735A2D97)
    x = x ^ (x >> 15)
    half = jnp.where(element % 2 == 1, x >> 16, x & 0xFFFF)
    return (half ^ 0x8000) >= threshold


# The loss


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Of each image, (K, images), from logits and targets (K, classes, images); an image's targets sum up to 1."""
    return jax.nn.logsumexp(logits, axis=1) - jnp.sum(targets * logits, axis=1)
