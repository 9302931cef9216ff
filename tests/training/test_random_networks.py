"""Random networks on the C++ core against Keras in double precision: a network, its weights and its images are drawn.

For each network the probabilities, the loss, the gradient of each variable, the weights and moving statistics after one
to three steps of an optimizer, and `evaluate` have to agree with those of Keras' own layers, called one after the other
in float64 (optimizer: Keras' own too, in float64). What an image passes is any chain of the layers that the core has,
some of them passed more than once; `networks` says what is drawn. Dropout is drawn with a rate of 0, and now and then
with another one, and then only what needs no training is compared: the core draws random numbers of its own.

In single precision an activation that rounding moves over the kink of a ReLU, or another choice in a max pool, changes
a gradient by much. Such draws tell nothing, and are known from the float64 course alone: no number in front of an
activation, and no gap between the largest two numbers of a pool's window, may lie within MARGIN of 0 (as a share of its
layer's root mean square; 0 itself is no danger), no normalisation may enlarge what comes in more than MAX_ENLARGED
times, not all answers may be right and surer than MAX_CERTAIN (their gradient is what rounding leaves of 1 - 1), and
the loss must be less than MAX_LOST. Else weights and images are drawn again, up to ATTEMPTS times; in the second and
third step the comparison ends before the step that comes too near.

Gradients may also cancel, as those in front of two normalisations in a row do, and leave more of rounding than of
themselves. So where something is farther away than is tolerated, the network is compared once more: the float64 course
is repeated NOISY times with what each layer gives, and so the gradient that comes back, changed at random by NOISE,
about what float32 rounds by, and NOISE_FACTOR times the largest change that this makes to an array is tolerated too;
what is tolerated of a gradient that is 0 is then NOISY_ZERO_TOLERANCE. No more than MAX_NOISY of the networks, and 3,
may need that.

Every run draws other networks, and prints the seed with which it can be repeated. The quick tier takes FEW_NETWORKS of
them, the slow one NETWORKS; for more, and to repeat a run:

    MNIST_MINIMAL_NETWORKS=10000 MNIST_MINIMAL_NETWORKS_SEED=1 \\
        python -m pytest -m slow -s tests/training/test_random_networks.py

The number of networks, of layers by kind and the largest differences are printed at the end.
"""

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis import strategies as st
from keras import layers

from mnist_minimal.errors import UserError
from mnist_minimal.models.normalization import InstanceNormalization
from mnist_minimal.training import core
from mnist_minimal.training.chain import Chain, unsupported
from mnist_minimal.training.optimizers import AdamW

pytestmark = pytest.mark.skipif(
    not core.available() and os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") != "1", reason="the C++ core was not built"
)

FEW_NETWORKS = 8
NETWORKS = int(os.environ.get("MNIST_MINIMAL_NETWORKS", "60"))
SEED = int(os.environ.get("MNIST_MINIMAL_NETWORKS_SEED", random.randrange(10**9)))

RANDOM = settings(
    deadline=None,
    print_blob=True,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

MARGIN = 3e-6
MAX_ENLARGED = 50
MAX_CERTAIN, MAX_LOST = 0.95, 20
ATTEMPTS = 30
NOISE, NOISY, NOISE_FACTOR, MAX_NOISY = 2.0**-23, 4, 8, 0.04

# What is tolerated. Probabilities: absolute. Losses: relative, or absolute where they are small. A gradient: a share of
# its variable's largest, and of the network's largest where it is 0 in truth, as that of a bias in front of a
# normalisation is. Moving statistics: relative to their array's largest.
PROBABILITY_TOLERANCE = 5e-6
LOSS_TOLERANCE = 5e-6
GRADIENT_TOLERANCE, ZERO_TOLERANCE, NOISY_ZERO_TOLERANCE = 3e-5, 2e-6, 1e-3
STATISTICS_TOLERANCE = 5e-6
# A step follows a gradient with its tolerance, and is itself rounded: a share of what it moves by, and of the weight.
STEP_TOLERANCE, WEIGHT_TOLERANCE = 2e-5, 3e-7
# Of what is 0 in truth.
TINY = 1e-12


def single(value: float) -> float:
    """The number as the core has it, so that rounding an option is no difference."""
    return float(np.float32(value))


@dataclass(frozen=True)
class Network:
    """A drawn network and how it is trained.

    Attributes:
        shape: (height, width, channels) of an image.
        bytes: Whether images are uint8; else they are float32 in [0, 1).
        layers: Kind and options of each layer.
        inputs: What each of them is built for, without the batch.
        passes: Indices of layers, in the order in which an image passes them.
        optimizer: Name and options.
        count: Images that there are.
        order: Images that are visited, as indices.
        batch_size: Images a step; the last step may have fewer.
        threads: Threads of the core.
        instruction_set: Of the core.
        seed: Of weights and images.
    """

    shape: tuple[int, int, int]
    bytes: bool
    layers: tuple[tuple[str, dict[str, Any]], ...]
    inputs: tuple[tuple[int, ...], ...]
    passes: tuple[int, ...]
    optimizer: tuple[str, dict[str, float]]
    count: int
    order: tuple[int, ...]
    batch_size: int
    threads: int
    instruction_set: str
    seed: int

    @property
    def drops(self) -> bool:
        return any(options.get("rate", 0) > 0 for _, options in self.layers)


# The kernels change with the numbers of channels: blocks of up to 6, two rows at once from 8 on, lanes of 16.
CHANNELS = st.one_of(st.integers(1, 20), st.sampled_from([7, 8, 9, 12, 15, 16, 17]))
SLOPES = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.99, 1.0]).map(single)
ACTIVATIONS = st.one_of(st.sampled_from([None, None, "relu", "leaky_relu", "silu", "linear"]), SLOPES)
BATCHES = st.one_of(st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 48]), st.integers(1, 40))
KERNELS = st.one_of(st.just((3, 3)), st.tuples(st.integers(1, 5), st.integers(1, 5)))


class Walk:
    """A chain under construction: what was drawn, and the shape that an image has by now."""

    def __init__(self, draw: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
        self.draw = draw
        self.shape = shape
        self.layers: list[tuple[str, dict[str, Any]]] = []
        self.inputs: list[tuple[int, ...]] = []
        self.passes: list[int] = []

    def add(self, kind: str, **options: Any) -> None:
        """Appends a new layer."""
        self.layers.append((kind, options))
        self.inputs.append(self.shape)
        self.repeat(len(self.layers) - 1)

    def repeat(self, index: int) -> None:
        """Passes a layer, perhaps once more."""
        self.passes.append(index)
        self.shape = result_shape(*self.layers[index], self.shape)

    def repeatable(self) -> list[int]:
        """The layers that can take the present shape too."""
        return [index for index in range(len(self.layers)) if self.fits(index)]

    def fits(self, index: int) -> bool:
        """Whether a layer that was made for another shape can take the present one."""
        kind, options = self.layers[index]
        made_for = self.inputs[index]
        if kind in ("Rescaling", "Normalization", "Dropout") or len(made_for) != len(self.shape):
            return False
        if made_for[-1] != self.shape[-1]:
            return False
        window = options.get("pool_size") or (options.get("padding") == "valid" and options["kernel_size"]) or (1, 1)
        return len(self.shape) == 1 or (window[0] <= self.shape[0] and window[1] <= self.shape[1])

    def window(self) -> dict[str, Any]:
        """Kernel size and padding; a kernel larger than the image only with padding."""
        rows, columns = self.draw(KERNELS)
        fits = rows <= self.shape[0] and columns <= self.shape[1]
        padding = self.draw(st.sampled_from(["valid", "same"])) if fits else "same"
        return {"kernel_size": (rows, columns), "padding": padding}

    def add_any(self) -> None:
        """Appends a layer of any kind that can stand here."""
        kinds = ["Dense", "BatchNormalization", "InstanceNormalization", "ReLU", "LeakyReLU", "Activation", "Dropout"]
        if len(self.shape) == 3:
            kinds += (
                ["Conv2D"] * 5 + ["SeparableConv2D", "DepthwiseConv2D"] * 2 + ["MaxPooling2D", "AveragePooling2D"] * 2
            )
        repeatable = self.repeatable()
        if repeatable and self.draw(st.integers(0, 4)) == 0:
            self.repeat(self.draw(st.sampled_from(repeatable)))
            return
        kind = self.draw(st.sampled_from(kinds))
        self.add(kind, **self.options(kind))

    def options(self, kind: str) -> dict[str, Any]:
        """What a layer of a kind is made with."""
        draw = self.draw
        if kind in ("Conv2D", "SeparableConv2D"):
            return {"filters": draw(CHANNELS), **self.window(), **self.bias_and_activation()}
        if kind == "DepthwiseConv2D":
            return {**self.window(), **self.bias_and_activation()}
        if kind == "Dense":
            return {"units": draw(CHANNELS), **self.bias_and_activation()}
        if kind in ("MaxPooling2D", "AveragePooling2D"):
            size = draw(st.one_of(st.just((2, 2)), st.tuples(st.integers(1, 4), st.integers(1, 4))))
            return {"pool_size": (min(size[0], self.shape[0]), min(size[1], self.shape[1]))}
        if kind == "BatchNormalization":
            return {
                "epsilon": single(draw(st.sampled_from([1e-3, 1e-5, 0.1]))),
                "momentum": single(draw(st.sampled_from([0.99, 0.9, 0.5, 0.0]))),
                "center": draw(st.booleans()),
                "scale": draw(st.booleans()),
            }
        if kind == "InstanceNormalization":
            return {"epsilon": single(draw(st.sampled_from([1e-3, 0.1])))}
        if kind == "LeakyReLU":
            return {"negative_slope": draw(SLOPES)}
        if kind == "Activation":
            return {"activation": draw(st.sampled_from(["relu", "leaky_relu", "silu", "linear"]))}
        if kind == "Dropout":
            return {"rate": draw(st.sampled_from([0.0] * 7 + [0.4]))}
        return {}

    def bias_and_activation(self) -> dict[str, Any]:
        return {"use_bias": self.draw(st.booleans()), "activation": self.draw(ACTIVATIONS)}

    def add_pixel_layers(self) -> None:
        """Perhaps layers that scale the pixels."""
        drawn = self.draw(st.integers(0, 3))
        if drawn in (1, 3):
            scale, offset = self.draw(st.sampled_from([(1 / 255, 0.0), (1 / 127.5, -1.0)]))
            self.add("Rescaling", scale=scale, offset=offset)
        if drawn in (2, 3):
            mean, deviation = (0.1307, 0.3081) if drawn == 3 else (33.3, 78.6)
            self.add("Normalization", mean=mean, variance=deviation**2, axis=None)

    def add_head(self) -> None:
        """From here to class probabilities, in one of the ways that there are."""
        classes = self.draw(st.integers(2, 13))
        if len(self.shape) == 3:
            drawn = self.draw(st.integers(0, 4))
            if drawn == 0 and np.prod(self.shape) <= 255:
                self.add("Conv2D", filters=classes, kernel_size=self.shape[:2], padding="valid", use_bias=True)
                self.add("Flatten")
                return self.add("Softmax")
            if drawn == 1:
                self.add("GlobalAveragePooling2D", keepdims=True)
                self.add("Conv2D", filters=classes, kernel_size=(1, 1), padding="valid", use_bias=False)
                self.add("Flatten")
                return self.add("Activation", activation="softmax")
            self.add("GlobalAveragePooling2D" if drawn in (1, 2) else "Flatten")
        while self.draw(st.integers(0, 2)) == 0:
            self.add_any()
        if self.draw(st.integers(0, 3)) == 0 and 2 <= self.shape[0] <= 255:
            return self.add("Softmax")
        return self.add("Dense", units=classes, use_bias=self.draw(st.booleans()), activation="softmax")


def result_shape(kind: str, options: dict[str, Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    """What comes out of a layer, without the batch."""
    if kind == "Flatten":
        return (int(np.prod(shape)),)
    if kind == "GlobalAveragePooling2D":
        return (1, 1, shape[2]) if options.get("keepdims") else (shape[2],)
    if kind == "Dense":
        return (*shape[:-1], options["units"])
    if "pool_size" in options:
        return (shape[0] // options["pool_size"][0], shape[1] // options["pool_size"][1], shape[2])
    if "kernel_size" in options:
        rows, columns = options["kernel_size"] if options["padding"] == "valid" else (1, 1)
        return (shape[0] - rows + 1, shape[1] - columns + 1, options.get("filters", shape[2]))
    return shape


@st.composite
def optimizers(draw: Callable[[Any], Any], steps: int) -> tuple[str, dict[str, float]]:
    """An optimizer; Adam's epsilon is not small where there is a second step.

    Adam divides a gradient by its size, so that one that is 0 in truth moves its weight by what rounding left of it,
    and the next step is another one.
    """
    name = draw(st.sampled_from(["SGD", "Adam", "AdamW"]))
    if name == "SGD":
        return name, {
            "learning_rate": single(draw(st.sampled_from([0.1, 0.01]))),
            "momentum": single(draw(st.sampled_from([0.0, 0.5, 0.9]))),
        }
    options = {
        "learning_rate": single(draw(st.sampled_from([0.01, 0.001]))),
        "beta_1": single(draw(st.sampled_from([0.9, 0.8, 0.0]))),
        "beta_2": single(draw(st.sampled_from([0.999, 0.9]))),
        "epsilon": single(draw(st.sampled_from([1e-7, 1e-3])) if steps == 1 else 1e-2),
    }
    if name == "AdamW":
        options["weight_decay"] = single(draw(st.sampled_from([0.0, 1e-6, 0.01, 0.3])))
    return name, options


@st.composite
def networks(draw: Callable[[Any], Any]) -> Network:
    """A network of 1 to about 12 layers over images of 1 to 14 pixels' side and 1 to 20 channels, and its training."""
    sides = st.one_of(st.integers(5, 14), st.integers(1, 14))
    shape = (draw(sides), draw(sides), draw(st.one_of(st.sampled_from([1, 3]), CHANNELS)))
    walk = Walk(draw, shape)
    walk.add_pixel_layers()
    for _ in range(draw(st.integers(0, 6))):
        walk.add_any()
    walk.add_head()
    steps = draw(st.sampled_from([1, 1, 2, 3]))
    batch_size = draw(BATCHES)
    visited = batch_size * (steps - 1) + draw(st.integers(1, batch_size))
    count = draw(st.integers(1, 60))
    return Network(
        shape=shape,
        bytes=draw(st.booleans()),
        layers=tuple(walk.layers),
        inputs=tuple(walk.inputs),
        passes=tuple(walk.passes),
        optimizer=draw(optimizers(steps)),
        count=count,
        # Some images more than once and some never, as the core takes any order.
        order=tuple(np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, count, visited).tolist()),
        batch_size=batch_size,
        threads=draw(st.integers(1, 4)),
        instruction_set=draw(st.sampled_from(core.instruction_sets())),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def make_layer(kind: str, options: dict[str, Any], dtype: str) -> keras.layers.Layer:
    """A new Keras layer, with weights of 0, which is quick."""
    if kind == "InstanceNormalization":
        return InstanceNormalization(**options, dtype=dtype)
    zeros = {
        "Conv2D": ("kernel",),
        "DepthwiseConv2D": ("depthwise",),
        "SeparableConv2D": ("depthwise", "pointwise"),
        "Dense": ("kernel",),
    }
    initializers = {f"{name}_initializer": "zeros" for name in zeros.get(kind, ())}
    activation = options.get("activation")
    if isinstance(activation, float):
        options = {**options, "activation": layers.LeakyReLU(activation, dtype=dtype)}
    return getattr(layers, kind)(**options, **initializers, dtype=dtype)


def make_optimizer(name: str, options: dict[str, float]) -> keras.optimizers.Optimizer:
    return AdamW(**options) if name == "AdamW" else getattr(keras.optimizers, name)(**options)


def make_model(network: Network) -> tuple[keras.Model, list[keras.layers.Layer]]:
    """The network as a Keras model in float32, for the core to take over, and its layers."""
    made = [make_layer(kind, options, "float32") for kind, options in network.layers]
    pixels = keras.Input(network.shape)
    x = pixels
    for index in network.passes:
        x = made[index](x)
    return keras.Model(pixels, x), made


class UnclearError(Exception):
    """Rounding could decide; see the module's docstring."""


def root_mean_square(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(x)))))


@dataclass
class Oracle:
    """The same network in float64, called layer by layer.

    Attributes:
        network: What was drawn.
        layers: Its layers.
        watching: Whether to raise UnclearError where rounding could decide.
        noise: Draws what is added to each layer's result, or None.
    """

    network: Network
    layers: list[keras.layers.Layer] = field(init=False)
    watching: bool = False
    noise: np.random.Generator | None = None

    def __post_init__(self) -> None:
        self.layers = [make_layer(kind, options, "float64") for kind, options in self.network.layers]
        for layer, shape in zip(self.layers, self.network.inputs, strict=True):
            layer.build((None, *shape))
            activation = getattr(layer, "activation", None)
            if activation in (keras.activations.relu, keras.activations.leaky_relu) or isinstance(
                activation, layers.LeakyReLU
            ):
                layer.activation = self.watched(activation)

    def watched(self, activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The activation, with a look at what goes in."""

        def call(x: Any) -> Any:
            self.watch_kink(x)
            return activation(x)

        return call

    def watch_kink(self, x: Any) -> None:
        """UnclearError if a number other than 0 is so near to 0 that rounding could move it to the other side."""
        if not self.watching:
            return
        size = np.abs(x.numpy())
        size = size[size > 0]
        if len(size) and size.min() < MARGIN * np.sqrt(np.mean(size**2)):
            raise UnclearError

    def watch_pool(self, x: Any, pool_size: tuple[int, int]) -> None:
        """UnclearError if the largest two numbers of a window are as near to each other and not the same."""
        if not self.watching:
            return
        rows, columns = pool_size
        batch, height, width, channels = x.shape
        height, width = height // rows, width // columns
        windows = x.numpy()[:, : height * rows, : width * columns]
        windows = windows.reshape(batch, height, rows, width, columns, channels).swapaxes(2, 3)
        windows = np.sort(windows.reshape(batch, height, width, rows * columns, channels), axis=3)
        if rows * columns > 1:
            gaps = windows[..., -1, :] - windows[..., -2, :]
            gaps = gaps[gaps > 0]
            if len(gaps) and gaps.min() < 2 * MARGIN * np.sqrt(np.mean(windows**2)):
                raise UnclearError

    def watch_normalisation(self, x: Any, kind: str, epsilon: float) -> None:
        """UnclearError if numbers are divided by so little that their rounding grows."""
        if not self.watching:
            return
        x = x.numpy()
        axes = tuple(range(1, x.ndim)) if kind == "InstanceNormalization" else tuple(range(x.ndim - 1))
        if np.prod([x.shape[axis] for axis in axes]) == 1:
            return  # The mean is the number itself, and nothing is left to be rounded.
        variance = x.var(axes)
        divisor = np.sqrt(variance) + epsilon if kind == "InstanceNormalization" else np.sqrt(variance + epsilon)
        if np.max(np.abs(x).max(axes) / divisor) > MAX_ENLARGED:
            raise UnclearError

    def __call__(self, x: np.ndarray, training: bool) -> Any:
        """Class probabilities."""
        x = keras.ops.convert_to_tensor(x, dtype="float64")
        size = root_mean_square(x) if self.noise else 0.0
        for position, index in enumerate(self.network.passes):
            kind, options = self.network.layers[index]
            layer = self.layers[index]
            if kind in ("ReLU", "LeakyReLU"):
                self.watch_kink(x)
            elif kind == "MaxPooling2D":
                self.watch_pool(x, options["pool_size"])
            elif kind.endswith("Normalization") and kind != "Normalization" and training:
                self.watch_normalisation(x, kind, options["epsilon"])
            x = layer(x, training=training) if kind in ("BatchNormalization", "Dropout") else layer(x)
            if self.noise:
                size, before = root_mean_square(x), size
                relative, absolute = NOISE * self.noise.standard_normal((2, *x.shape))
                # A probability stays above 0.
                last = position == len(self.network.passes) - 1
                x = x * (1 + relative) + (0.0 if last else absolute * max(size, before))
        return x

    def gradients(
        self, x: np.ndarray, y: np.ndarray, variables: list[keras.Variable]
    ) -> tuple[float, list[np.ndarray]]:
        """The mean loss in training and its gradients, by TensorFlow.

        Raises:
            UnclearError: if rounding could decide.
        """
        import tensorflow as tf

        self.watching = self.noise is None
        try:
            with tf.GradientTape() as tape:
                probabilities = self(x, training=True)
                chosen = keras.ops.take_along_axis(probabilities, y.astype(np.int64)[:, np.newaxis], axis=1)
                if self.watching and float(keras.ops.min(chosen)) > MAX_CERTAIN:
                    raise UnclearError
                loss = -keras.ops.mean(keras.ops.log(chosen))
                if self.watching and not float(loss) < MAX_LOST:
                    raise UnclearError
            found = tape.gradient(loss, [variable.value for variable in variables])
        finally:
            self.watching = False
        return float(loss), [gradient.numpy() for gradient in found]


def random_weights(variable: keras.Variable, rng: np.random.Generator) -> np.ndarray:
    """Numbers for a variable, float32, with which activations neither vanish nor grow."""
    name, shape = variable.path.split("/")[-1], tuple(variable.shape)
    if name == "moving_variance" or name == "gamma":
        values = rng.uniform(0.5, 1.5, shape)
    elif "kernel" in name:
        inputs = np.prod(shape[:2] if "depthwise" in name else shape[:-1])
        values = rng.normal(0, np.sqrt(2 / inputs), shape)
    else:
        values = rng.uniform(-0.5, 0.5, shape)
    return values.astype(np.float32)


def random_images(network: Network, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels; bytes are small where no layer scales them."""
    classes = network_classes(network)
    kinds = {kind for kind, _ in network.layers}
    largest = 256 if kinds & {"Rescaling", "Normalization"} else 4
    if network.bytes:
        x = rng.integers(0, largest, (network.count, *network.shape)).astype(np.uint8)
    else:
        x = (rng.random((network.count, *network.shape)) * (largest - 1 if largest > 4 else 1)).astype(np.float32)
    return x, rng.integers(0, classes, network.count).astype(np.uint8)


def network_classes(network: Network) -> int:
    shape: tuple[int, ...] = network.shape
    for index in network.passes:
        shape = result_shape(*network.layers[index], shape)
    return shape[0]


@dataclass
class Tally:
    """What was compared, and how far the core was away at most, as a share of what is tolerated."""

    networks: int = 0
    trained: int = 0
    steps: int = 0
    redrawn: int = 0
    given_up: int = 0
    noisy: int = 0
    kinds: Counter = field(default_factory=Counter)
    farthest: dict[str, tuple[float, float]] = field(default_factory=dict)

    def count(self, network: Network) -> None:
        """Counts a network and its layers."""
        self.networks += 1
        self.trained += not network.drops
        self.kinds.update(kind for kind, _ in network.layers)
        self.kinds["passed again"] += len(network.passes) - len(network.layers)

    def compare(self, what: str, found: Any, expected: Any, tolerance: Any) -> None:
        """Fails where numbers differ by more than is tolerated."""
        difference = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
        assert np.isfinite(difference).all(), what
        if difference.size == 0:
            return
        share = difference / tolerance
        most = float(np.max(share))
        group = what.split(":")[0]
        assert most <= 1, f"{what}: {np.max(difference):.3g} away, {most:.3g} times what is tolerated"
        if most > self.farthest.get(group, (0.0, 0.0))[0]:
            self.farthest[group] = (most, float(np.max(difference)))

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.kinds.most_common())
        farthest = "\n".join(
            f"  {what}: {share:.3g} of what is tolerated ({difference:.2g})"
            for what, (share, difference) in sorted(self.farthest.items())
        )
        return (
            f"{self.networks} networks, {self.trained} of them trained, {self.steps} steps; {self.noisy} with noise, "
            f"weights redrawn {self.redrawn} times, {self.given_up} networks given up\n"
            f"layers: {kinds}\nlargest differences:\n{farthest}"
        )


class Comparison:
    """One network on the core and in the oracle, from the same weights."""

    def __init__(self, network: Network, tally: Tally) -> None:
        self.network = network
        self.tally = tally
        self.noisy = False
        model, made = make_model(network)
        self.chain = Chain(model, make_optimizer(*network.optimizer), network.instruction_set)
        self.core = self.chain.network
        self.oracle = Oracle(network)
        twins = {
            id(mine): theirs
            for layer, twin in zip(made, self.oracle.layers, strict=True)
            for mine, theirs in zip(layer.weights, twin.weights, strict=True)
        }
        self.parameters = [(mine, twins[id(mine)]) for mine in self.chain.description.parameters]
        self.statistics = [(mine, twins[id(mine)]) for mine in self.chain.description.statistics]
        order = np.array(network.order, np.int64)
        self.batches = np.split(order, range(network.batch_size, len(order), network.batch_size))

    def draw_weights(self, attempt: int) -> None:
        """Weights and images, the same for both sides."""
        rng = np.random.default_rng([self.network.seed, attempt])
        for mine, theirs in self.parameters + self.statistics:
            values = random_weights(mine, rng)
            mine.assign(values)
            theirs.assign(values.astype(np.float64))
        self.chain.from_keras()
        self.core.moments = np.zeros_like(self.core.moments)
        self.core.steps = 0
        self.x, self.y = random_images(self.network, rng)

    def run(self) -> None:
        """Compares everything."""
        try:
            self.compare()
        except AssertionError:
            self.noisy = True
            self.compare()
            self.tally.noisy += 1
        self.tally.count(self.network)

    def compare(self) -> None:
        if self.network.drops:
            self.draw_weights(0)
            return self.compare_evaluation()
        loss, gradients = self.clear_gradients()
        after = self.kept_statistics()
        self.compare_evaluation()
        before = self.kept_statistics()
        self.put_back(after)
        return self.compare_training(self.step(self.batches[0], before, loss, gradients))

    def clear_gradients(self) -> tuple[float, list[np.ndarray]]:
        """Draws weights and images until the first batch's gradient does not hang on rounding."""
        for attempt in range(ATTEMPTS):
            self.draw_weights(attempt)
            try:
                return self.gradients(self.batches[0])
            except UnclearError:
                self.tally.redrawn += 1
        self.tally.given_up += 1
        reject()

    def gradients(self, batch: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """The oracle's loss and gradients, in the order of the core's parameters.

        Raises:
            UnclearError: if rounding could decide; the moving statistics are then as they were.
        """
        before = self.kept_statistics()
        try:
            return self.oracle.gradients(self.x[batch], self.y[batch], [theirs for _, theirs in self.parameters])
        except UnclearError:
            self.put_back(before)
            raise

    def kept_statistics(self) -> list[np.ndarray]:
        """The oracle's moving statistics."""
        return [theirs.numpy() for _, theirs in self.statistics]

    def put_back(self, statistics: list[np.ndarray]) -> None:
        """Gives the oracle the moving statistics that it had."""
        for (_, theirs), values in zip(self.statistics, statistics, strict=True):
            theirs.assign(values)

    def changes(self, compute: Callable[[], list[np.ndarray]], expected: list[np.ndarray]) -> list[float]:
        """What noise changes each array by, at most, times NOISE_FACTOR; 0 before it has turned out to be needed."""
        most = [0.0] * len(expected)
        if not self.noisy:
            return most
        self.oracle.noise = np.random.default_rng(self.network.seed)
        for _ in range(NOISY):
            found = compute()
            most = [max(m, NOISE_FACTOR * np.abs(a - b).max()) for m, a, b in zip(most, found, expected, strict=True)]
        self.oracle.noise = None
        return most

    def step(self, batch: np.ndarray, before: list[np.ndarray], loss: float, gradients: list[np.ndarray]) -> "Step":
        """A batch's loss, gradients and new statistics, with what is tolerated of each; `before` are the old ones."""
        after = self.kept_statistics()

        def compute() -> list[np.ndarray]:
            self.put_back(before)
            loss, gradients = self.gradients(batch)
            return [np.array(loss), *gradients, *self.kept_statistics()]

        changes = self.changes(compute, [np.array(loss), *gradients, *after])
        self.put_back(after)
        # Where all are 0, the gradient of the logits is not: it is at least 1 - MAX_CERTAIN over the batch.
        largest = max(1 - MAX_CERTAIN, *(np.abs(gradient).max() for gradient in gradients), 0)
        of_zero = largest * (NOISY_ZERO_TOLERANCE if self.noisy else ZERO_TOLERANCE)
        tolerances = [
            LOSS_TOLERANCE * (1 + loss),
            *(GRADIENT_TOLERANCE * np.abs(g).max() + of_zero + TINY for g in gradients),
            *(STATISTICS_TOLERANCE * (np.abs(values).max() + 0.1) for values in after),
        ]
        of_loss, *others = [a + b for a, b in zip(tolerances, changes, strict=True)]
        return Step(loss, gradients, of_loss, others[: len(gradients)], others[len(gradients) :])

    def compare_training(self, first: "Step") -> None:
        """The first batch's loss and gradients, then weights and statistics after up to three steps."""
        threads, batch = self.network.threads, self.batches[0]
        found, _, _ = self.core.compute_gradients(self.x, self.y, batch, threads=threads)
        self.tally.compare("loss", found / len(batch), first.loss, first.of_loss)
        gradients = self.chain.gradients().items()
        for (path, mine), theirs, tolerance in zip(gradients, first.gradients, first.of_gradients, strict=True):
            self.tally.compare(f"gradient: {path}", mine, theirs, tolerance)
        bits = self.core.gradients.tobytes()
        self.core.compute_gradients(self.x, self.y, batch, threads=1)
        assert self.core.gradients.tobytes() == bits, "another number of threads gave other bits"

        course = Course(self.network.optimizer, [theirs for _, theirs in self.parameters])
        course.take(first)
        for batch in self.batches[1:]:
            before = self.kept_statistics()
            try:
                loss, gradients = self.gradients(batch)
            except UnclearError:
                break
            course.take(self.step(batch, before, loss, gradients))
        self.core.train(
            self.x,
            self.y,
            np.concatenate(self.batches[: len(course.steps)]),
            batch_size=self.network.batch_size,
            seed=0,
            epoch=0,
            learning_rates=self.network.optimizer[1]["learning_rate"],
            threads=threads,
        )
        self.tally.steps += len(course.steps)
        self.chain.to_keras()
        for (mine, theirs), tolerance in zip(self.parameters, course.tolerances(), strict=True):
            self.tally.compare(f"weights: {mine.path}", mine.numpy(), theirs.numpy(), tolerance)
        # From the second step on the statistics are those of other weights, as far as these are away.
        drifts = [np.abs(mine.numpy() - theirs.numpy()).max() for mine, theirs in self.parameters]
        drift = MAX_ENLARGED * max(drifts, default=0.0) if len(course.steps) > 1 else 0.0
        for (mine, theirs), *tolerances in zip(self.statistics, *[s.of_statistics for s in course.steps], strict=True):
            self.tally.compare(f"statistics: {mine.path}", mine.numpy(), theirs.numpy(), sum(tolerances) + drift)

    def compare_evaluation(self) -> None:
        """Probabilities, loss and accuracy of all images, with the drawn weights and statistics."""
        self.put_back([mine.numpy().astype(np.float64) for mine, _ in self.statistics])

        def compute() -> list[np.ndarray]:
            probabilities = self.oracle(self.x, training=False).numpy()
            return [probabilities, -np.log(probabilities[np.arange(len(self.y)), self.y])]

        expected, losses = compute()
        change, loss_change = self.changes(compute, [expected, losses])
        found = self.core.predict(self.x, threads=self.network.threads)
        self.tally.compare("probabilities", found, expected, PROBABILITY_TOLERANCE + change)
        loss, correct, _ = self.core.evaluate(self.x, self.y, threads=self.network.threads)
        tolerance = LOSS_TOLERANCE * (len(losses) + losses.sum()) + len(losses) * loss_change
        self.tally.compare("evaluated loss", loss, losses.sum(), tolerance)
        second, first = np.sort(expected, axis=1).T[-2:]
        ties = np.sum(first - second < 2 * (PROBABILITY_TOLERANCE + change))
        assert abs(correct - np.sum(expected.argmax(axis=1) == self.y)) <= ties


@dataclass
class Step:
    """One batch by the oracle: loss, gradients, and what is tolerated of these and of the moving statistics after."""

    loss: float
    gradients: list[np.ndarray]
    of_loss: float
    of_gradients: list[float]
    of_statistics: list[float]


class Course:
    """The steps of Keras' optimizer in float64.

    All variables are one for it, as a step costs Keras some milliseconds for each.
    """

    def __init__(self, optimizer: tuple[str, dict[str, float]], variables: list[keras.Variable]) -> None:
        self.optimizer = make_optimizer(*optimizer)
        self.options = optimizer[1]
        self.variables = variables
        self.flat = keras.Variable(joined([v.numpy() for v in variables]), dtype="float64")
        self.start = self.flat.numpy()
        self.steps: list[Step] = []

    def parted(self, flat: np.ndarray) -> list[np.ndarray]:
        """A flat array as arrays of the variables' shapes."""
        ends = np.cumsum([int(np.prod(variable.shape)) for variable in self.variables])
        return [part.reshape(v.shape) for v, part in zip(self.variables, np.split(flat, ends)[:-1], strict=True)]

    def take(self, step: Step) -> None:
        """Changes the variables by a step."""
        self.steps.append(step)
        if self.start.size:
            self.optimizer.apply([keras.ops.convert_to_tensor(joined(step.gradients))], [self.flat])
        for variable, value in zip(self.variables, self.parted(self.flat.numpy()), strict=True):
            variable.assign(value)

    def tolerances(self) -> list[np.ndarray]:
        """How far a weight may be away, from how far its gradients may be.

        Gradient descent moves by learning rate times gradient. Adam moves by learning rate times m / (sqrt(v) +
        epsilon), which changes by no more than thrice the share that the error has of the smallest such divisor.
        """
        gradients = np.array([joined(step.gradients) for step in self.steps])
        count, largest_of_each = len(self.steps), np.max([step.of_gradients for step in self.steps], axis=0)
        error = joined([np.full(v.shape, e) for v, e in zip(self.variables, largest_of_each, strict=True)])
        if "epsilon" in self.options:
            sizes = np.sqrt(np.cumsum(gradients**2, axis=0) / np.arange(1, count + 1)[:, np.newaxis])
            error = 3 * error / (sizes.min(axis=0) + self.options["epsilon"])
        largest = np.maximum(np.abs(self.start), np.abs(self.flat.numpy()))
        rounded = STEP_TOLERANCE * np.abs(self.flat.numpy() - self.start) + count * WEIGHT_TOLERANCE * largest
        return self.parted(count * self.options["learning_rate"] * error + rounded + TINY)


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    """All numbers of some arrays in one, float64 (n,)."""
    return np.concatenate([np.zeros(0), *(array.ravel() for array in arrays)])


@pytest.mark.parametrize("count", [FEW_NETWORKS, pytest.param(NETWORKS, marks=pytest.mark.slow)])
def test_random_networks_agree_with_keras(count: int) -> None:
    tally = Tally()

    @seed(SEED)
    @settings(RANDOM, max_examples=count)
    @given(networks())
    def agrees(network: Network) -> None:
        Comparison(network, tally).run()

    print(f"\nMNIST_MINIMAL_NETWORKS_SEED={SEED}")
    try:
        agrees()
    finally:
        print(tally)
    # A small fault of many networks would pass as cancellation in each of them: that occurs in one of a hundred.
    assert tally.noisy <= 3 + MAX_NOISY * tally.networks


# What a layer cannot be made without.
REQUIRED: dict[str, dict[str, Any]] = {
    "Conv2D": {"filters": 4, "kernel_size": 2},
    "SeparableConv2D": {"filters": 4, "kernel_size": 2},
    "DepthwiseConv2D": {"kernel_size": 2},
    "Dense": {"units": 4},
    "MaxPooling2D": {"pool_size": 2},
    "AveragePooling2D": {"pool_size": 2},
    "GaussianNoise": {"stddev": 0.1},
}
CONVOLUTIONS = ["Conv2D", "SeparableConv2D", "DepthwiseConv2D"]
POOLS = ["MaxPooling2D", "AveragePooling2D"]
OTHERS = ["GlobalMaxPooling2D", "UpSampling2D", "ZeroPadding2D", "LayerNormalization", "ELU", "PReLU", "GaussianNoise"]

# What the core has not: a word that the refusal has to say, the kinds of layers, one of their options and its values.
ODD: list[tuple[str, list[str], str, list[Any]]] = [
    ("strides", CONVOLUTIONS, "strides", [2, 3]),
    ("strides", POOLS, "strides", [1, 3, (2, 1)]),
    ("dilation_rate", CONVOLUTIONS, "dilation_rate", [2, 3]),
    ("groups", ["Conv2D"], "groups", [2, 4]),
    ("depth_multiplier", ["SeparableConv2D", "DepthwiseConv2D"], "depth_multiplier", [2, 5]),
    ("data_format", [*CONVOLUTIONS, *POOLS, "GlobalAveragePooling2D", "Flatten"], "data_format", ["channels_first"]),
    ("activation", [*CONVOLUTIONS, "Dense", "Activation"], "activation", ["tanh", "sigmoid", "gelu", "elu", "relu6"]),
    ("negative_slope", ["LeakyReLU"], "negative_slope", [1.5, 100.0]),
    ("negative_slope", ["ReLU"], "negative_slope", [0.1]),
    ("max_value", ["ReLU"], "max_value", [1.0, 6.0]),
    ("threshold", ["ReLU"], "threshold", [0.5]),
    ("axis", ["BatchNormalization"], "axis", [1, 2]),
    ("kernel_regularizer", ["Conv2D", "Dense"], "kernel_regularizer", ["l1", "l2"]),
    ("bias_constraint", [*CONVOLUTIONS, "Dense"], "bias_constraint", ["non_neg", "max_norm"]),
    ("dtype", [*CONVOLUTIONS, "Dense", "ReLU"], "dtype", ["float16", "bfloat16", "float64", "mixed_float16"]),
    ("padding", ["MaxPooling2D", "AveragePooling2D"], "padding", ["same"]),
    ("noise_shape", ["Dropout"], "noise_shape", [(None, 1, 1, None)]),
    ("this kind of layer", OTHERS, "trainable", [True]),
]


@st.composite
def odd_layers(draw: Callable[[Any], Any]) -> tuple[str, str, dict[str, Any]]:
    """A layer that the core has not: what the refusal has to say, its kind, its options."""
    named, kinds, option, values = draw(st.sampled_from(ODD))
    kind = draw(st.sampled_from(kinds))
    options = {**REQUIRED.get(kind, {}), option: draw(st.sampled_from(values))}
    if kind == "Dropout":
        options["rate"] = draw(st.sampled_from([0.0, 0.5]))
    return named, kind, options


@settings(RANDOM, max_examples=max(1, NETWORKS // 5))
@seed(SEED)
@given(odd_layers(), st.lists(st.sampled_from(["ReLU", "BatchNormalization", "Conv2D", "Dense"]), max_size=2))
def test_random_networks_that_the_core_has_not_are_refused(
    odd: tuple[str, str, dict[str, Any]], before: list[str]
) -> None:
    """By the name of the layer and of the option, in one line, before anything is computed."""
    named, kind, options = odd
    # A side of 7 or 9 is no multiple of a pool's, so that padding matters.
    pixels = keras.Input((9, 7, 4))
    x = pixels
    for other in before:
        options_of_other = {**REQUIRED.get(other, {}), **({"padding": "same"} if other == "Conv2D" else {})}
        x = getattr(layers, other)(**options_of_other)(x)
    x = getattr(layers, kind)(**options, name="odd_one")(x)
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(pixels, layers.Dense(3, activation="softmax")(x))
    reason = unsupported(model)
    assert reason is not None
    assert "\n" not in reason
    assert named in reason
    assert "'odd_one'" in reason
    with pytest.raises(UserError):
        Chain(model, keras.optimizers.SGD(0.1))
