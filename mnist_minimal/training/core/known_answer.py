"""The known-answer test: whether the core, as it was built and as this process runs it, gives the bits of NUMERICS.

Compiler flags of the user's own break bits that no test of ours sees, as do libraries that switch denormal numbers off
in the whole process, which -Ofast links. So a tiny network of all kinds of layers is trained for a few steps before
the first epoch, and what comes of it is compared with what is known. It takes milliseconds, and no TensorFlow.

    python -m mnist_minimal.training.core.known_answer

prints the answer of every instruction set that the processor has.
"""

import dataclasses
import hashlib
from functools import cache

import numpy as np

from mnist_minimal.recipes import Augmentation
from mnist_minimal.training.core import NUMERICS, _core, core_arguments, instruction_sets
from mnist_minimal.training.network import Layer, Network

# The SHA-256 that `answer` gives with the bits of NUMERICS. It is pinned again whenever NUMERICS rises, or `answer`
# trains anything else.
EXPECTED = "cf003bf832807603321e98aac4b290141d8c2d797dff30778be154719fe823a0"

# In batches of 24 and 8 images: neither fills the sixteen lanes of its last group.
IMAGES, BATCH_SIZE, EPOCHS = 56, 24, 2

# The fourth of the six steps is the 200th, after which SOAP has new bases.
STEPS_BEFORE = 196
# SOAP's; all parameters together.
BLOCKS = [71] * 14


def difference() -> str:
    """Why the core's bits are not those of NUMERICS here, or "" where they are; computed once a process."""
    found = _default_answer()
    if found == EXPECTED:
        return ""
    return (
        f"the core as it is built and run here has other bits than numerics {NUMERICS}: its known answer is "
        f"{found[:12]}, expected {EXPECTED[:12]}; CFLAGS of one's own, or a library built with -Ofast, do that"
    )


@cache
def _default_answer() -> str:
    return answer()


def answer(instruction_set: str | None = None) -> str:
    """The SHA-256, in hexadecimal digits, of what `results` gives.

    Args:
        instruction_set: One of `core.instruction_sets()`; by default the one with which trials are trained.
    """
    # The bytes of every machine in one order.
    return hashlib.sha256(b"".join(array.astype("<f4").tobytes() for array in results(instruction_set))).hexdigest()


def results(instruction_set: str | None = None) -> list[np.ndarray]:
    """What a few steps on augmented images come to, by Adam with weight decay, by SGD with momentum and by SOAP.

    Returns:
        Of each optimizer the weights, moments, moving statistics and probabilities of the images, float32.
    """
    network = network_of_all_kinds()
    optimizers = (
        _core.Optimizer.adam(beta_1=0.9, beta_2=0.999, epsilon=1e-7, decay=1e-4),
        _core.Optimizer.momentum(momentum=0.9),
        _core.Optimizer.soap(blocks=BLOCKS),
    )
    mirrored = Augmentation(
        rotation=20,
        translation=0.1,
        scale=(0.9, 1.1),
        affine_share=0.75,
        crop=1,
        fill="reflect",
        brightness=0.2,
        contrast=0.2,
        tone_share=0.5,
    )
    augmentations = mirrored, dataclasses.replace(mirrored, interpolation="nearest", fill=33.25), mirrored
    height, width, channels = network.input_shape
    images = _integers(IMAGES * height * width * channels, 256).astype(np.uint8)
    images = images.reshape(IMAGES, height, width, channels)
    labels = _integers(IMAGES, 8).astype(np.uint8)
    order = np.arange(IMAGES) * 5 % IMAGES
    found: list[np.ndarray] = []
    for optimizer, augmentation in zip(optimizers, augmentations, strict=True):
        trained = _core.Network(**core_arguments(network), optimizer=optimizer, instruction_set=instruction_set)
        trained.parameters = _weights(network.parameters)
        trained.steps = STEPS_BEFORE
        # Means of 0 and variances of 1.
        trained.statistics = np.repeat([0, 1], network.statistics // 2).astype(np.float32)
        for epoch in range(EPOCHS):
            trained.train(
                images,
                labels,
                order,
                batch_size=BATCH_SIZE,
                seed=3,
                epoch=epoch,
                learning_rates=2.0**-6,
                threads=2,
                augmentation=_core.Augmentation(**dataclasses.asdict(augmentation)),
            )
        found += [trained.parameters, trained.moments, trained.statistics, trained.predict(images)]
    return found


def network_of_all_kinds() -> Network:
    """A network that runs every kernel of the core: all kinds of layers, each in the sizes that have code of their own.

    The convolution with its pool is one kernel, a convolution of 3x3 with 8 channels or more has a fast form, and a
    depthwise one of 3x3 keeps its sums in registers.
    """
    layers: list[Layer] = []
    count = 0

    def parameters(number: int) -> int:
        nonlocal count
        count += number
        return count - number

    def append(kind: str, out: tuple[int, int, int], **options: object) -> None:
        shape = layers[-1].out_shape if layers else (16, 16, 1)
        layers.append(Layer(kind, shape, out, **options))  # type: ignore[arg-type]

    append("convolution", (14, 14, 8), kernel_size=(3, 3), kernel=parameters(72), bias=parameters(8))
    append("elementwise", (14, 14, 8), slope=0.2)
    append("max_pool", (7, 7, 8), kernel_size=(2, 2))
    append("elementwise", (7, 7, 8), rate=0.125, dropout_index=0)
    append("convolution", (7, 7, 8), kernel_size=(3, 3), pad=(1, 1, 1, 1), kernel=parameters(576))
    append(
        "batch_norm", (7, 7, 8), kernel=parameters(8), bias=parameters(8), statistics=0, epsilon=1e-3, momentum=0.875
    )
    append("elementwise", (7, 7, 8), slope=0.0)
    append("depthwise", (7, 7, 8), kernel_size=(3, 3), pad=(1, 1, 1, 1), kernel=parameters(72), bias=parameters(8))
    append("convolution", (7, 7, 10), kernel=parameters(80), bias=parameters(10))
    append("instance_norm", (7, 7, 10), kernel=parameters(1), bias=parameters(1), epsilon=1e-5)
    append("elementwise", (7, 7, 10), slope=0.2, rate=0.125, dropout_index=1)
    append("depthwise", (6, 6, 10), kernel_size=(2, 2), kernel=parameters(40))
    append("silu", (6, 6, 10))
    append("max_pool", (3, 3, 10), kernel_size=(2, 2))
    append("average_pool", (1, 1, 10), kernel_size=(3, 3))
    append("convolution", (1, 1, 10), kernel=parameters(100), bias=parameters(10))
    return Network((16, 16, 1), 1 / 255, 0.0, tuple(layers), count, 16)


def _integers(count: int, below: int) -> np.ndarray:
    """Numbers in 0 .. below - 1 that look like noise, by Knuth's multiplicative hash in 32 bits."""
    hashed = np.arange(1, count + 1, dtype=np.uint64) * 2654435761 % 2**32
    return (hashed >> 8) * below >> 24


def _weights(count: int) -> np.ndarray:
    """Weights from -1/2 to 1/2, float32, none of them rounded.

    The biases of the last two classes, which no label names, make their probabilities so small that gradients,
    or squares of them, are denormal numbers.
    """
    weights = ((_integers(count, 1024).astype(np.float64) - 512) / 1024).astype(np.float32)
    weights[-2:] = -40, -84
    return weights


if __name__ == "__main__":
    for name in instruction_sets():
        print(f"{answer(name)}  {name}")
