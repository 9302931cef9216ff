"""A network as plain data: a chain of layers over flat arrays of parameters and of moving statistics.

Whatever trains a network takes it in this form; `mnist_minimal.training.chain` makes it of a Keras model.
"""

from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, int, int]

Kind = Literal[
    "convolution", "depthwise", "max_pool", "average_pool", "batch_norm", "instance_norm", "silu", "elementwise"
]

# The offset of what a layer has not.
NONE = -1


@dataclass(frozen=True)
class Layer:
    """What one layer does to an image's activation (height, width, channels).

    At the end, each number x of its result becomes x if x > 0, else slope * x; then dropout drops it. The pools have
    neither.

    Attributes:
        kind: A convolution is also the dense layer, over one position; a depthwise one has a kernel for each channel.
            The windows of pools do not overlap. A batch normalisation goes over batch, height and width, an instance
            normalisation over height, width and channels, with one scale and one offset. SiLU is x / (1 + exp(-x)).
            An elementwise layer has only what every layer has at its end.
        in_shape, out_shape: What it takes and gives. A layer after an elementwise one may take its numbers as one
            position with that many channels.
        kernel_size: (rows, columns) of the kernel or of the pool's window; the stride is 1, and the window's size for
            pools.
        pad: Zeros (top, left, bottom, right) around the input of a convolution.
        kernel: Offset of the kernel among the parameters: [rows][columns][channels in][channels out], without the last
            for a depthwise one; a normalisation's scale.
        bias: Offset of the bias, one number for each channel; a normalisation's offset.
        statistics: Offset of the moving means of a batch normalisation, followed by the moving variances.
        epsilon: Added to the variance of a batch normalisation, to the deviation of an instance normalisation.
        momentum: Share that a moving statistic keeps of itself at a step.
        slope: Of the activation, in [0, 1]; 0 is ReLU, 1 is none.
        rate: Probability with which dropout drops, in [0, 1).
        dropout_index: Number of the dropout in the network, by which it draws.
    """

    kind: Kind
    in_shape: Shape
    out_shape: Shape
    kernel_size: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    kernel: int = NONE
    bias: int = NONE
    statistics: int = NONE
    epsilon: float = 0.0
    momentum: float = 0.0
    slope: float = 1.0
    rate: float = 0.0
    dropout_index: int = 0


@dataclass(frozen=True)
class Network:
    """A chain of layers from pixels to logits (1, 1, classes).

    Attributes:
        input_shape: (height, width, channels) of an image.
        scale, offset: What pixels x are read as: x * scale + offset.
        layers: In the order in which an image passes them; layers that share their weights have the same offsets.
        parameters: How many trainable parameters there are.
        statistics: How many moving statistics.
    """

    input_shape: Shape
    scale: float
    offset: float
    layers: tuple[Layer, ...]
    parameters: int
    statistics: int
