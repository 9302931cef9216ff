"""A Keras model as a network of plain data, whose variables lie in flat arrays, and as the core runs it.

What the core cannot run is refused by name, before any training: `describe` raises a UserError that names the layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from mnist_minimal.errors import UserError
from mnist_minimal.models.normalization import InstanceNormalization
from mnist_minimal.training.core import _core, core_arguments, instruction_sets, require
from mnist_minimal.training.network import NONE, Kind, Layer, Network, Shape
from mnist_minimal.training.optimizers import SOAP, AdamW, block_sizes, variable_size

# The default slope of keras.activations.leaky_relu, which holds no attribute for it.
LEAKY_RELU_SLOPE = 0.2

# What the core has as bounds: numbers in an image or in a layer's result, and parameters; see network.cpp.
MAX_NUMBERS, MAX_PARAMETERS = 2**20, 2**24


@dataclass(frozen=True)
class Description:
    """A Keras model as plain data, and which of its variables lie in the flat arrays.

    Attributes:
        network: The chain of layers.
        parameters: The model's trainable variables, in the order in which they lie in the flat array.
        statistics: Moving means and variances, in the order in which they lie in their flat array.
    """

    network: Network
    parameters: list[keras.Variable]
    statistics: list[keras.Variable]


def describe(model: keras.Model) -> Description:
    """The model as a chain of layers.

    Args:
        model: A built Keras model from images (batch, height, width, channels) to class probabilities.

    Raises:
        UserError: naming the layer, if the model is no chain of layers that the core has.
    """
    return Translation(model).description()


def unsupported(model: keras.Model) -> str | None:
    """Why the core cannot run the model, as one line that names the layer, or None where it can."""
    try:
        describe(model)
    except UserError as error:
        return str(error)
    return None


class Chain:
    """A Keras model beside the core's network of the same layers.

    Attributes:
        optimizer: The `_core.Optimizer`.
        network: The `_core.Network`, whose parameters, moments and statistics are flat float32 arrays.

    Args:
        model: A built Keras model from images (batch, height, width, channels) to class probabilities.
        optimizer: How a step changes its weights.
        instruction_set: One of `core.instruction_sets()`; by default `core.instruction_set()`.

    Raises:
        UserError: if the core was not built or can't be loaded, or has not what the model or the optimizer needs.
        ValueError: if the processor has not the instruction set.
    """

    def __init__(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer, instruction_set: str | None = None
    ) -> None:
        require()
        if instruction_set is not None and instruction_set not in instruction_sets():
            raise ValueError(f"expected an instruction set of {instruction_sets()}, found {instruction_set!r}")
        self.model = model
        self.description = describe(model)
        try:
            self.optimizer = core_optimizer(optimizer, self.description.parameters)
            self.network = _core.Network(
                **core_arguments(self.description.network), optimizer=self.optimizer, instruction_set=instruction_set
            )
        except UserError:
            raise
        except ValueError as error:  # Bounds that no model comes near which was meant.
            raise UserError(f"{error} in {model.name!r}; train with --trainer keras") from error
        self.from_keras()

    def from_keras(self) -> None:
        """Copies the Keras model's weights and moving statistics to the core."""
        self.network.parameters = flat(self.description.parameters)
        self.network.statistics = flat(self.description.statistics)

    def to_keras(self) -> None:
        """Copies the core's weights and moving statistics to the Keras model."""
        for variables, values in (
            (self.description.parameters, self.network.parameters),
            (self.description.statistics, self.network.statistics),
        ):
            for variable, value in zip(variables, shaped(variables, values), strict=True):
                variable.assign(value)

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients of the last batch, by the path of the Keras variable, in its shape."""
        variables = self.description.parameters
        return dict(
            zip((variable.path for variable in variables), shaped(variables, self.network.gradients), strict=True)
        )


def total_size(variables: list[keras.Variable]) -> int:
    """Count of the variables' numbers."""
    return sum(variable_size(variable) for variable in variables)


def flat(variables: list[keras.Variable]) -> np.ndarray:
    """The variables' values one after the other, float32 (n,)."""
    values = [keras.ops.convert_to_numpy(variable.value).ravel() for variable in variables]
    return np.concatenate([np.zeros(0), *values]).astype(np.float32)


def shaped(variables: list[keras.Variable], values: np.ndarray) -> list[np.ndarray]:
    """A flat array cut into arrays of the variables' shapes."""
    ends = np.cumsum([variable_size(variable) for variable in variables])
    return [part.reshape(v.shape) for v, part in zip(variables, np.split(values, ends)[:-1], strict=True)]


def check_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes sure that the core has an optimizer; it need not be built for that.

    Raises:
        UserError: if the optimizer, or one of its options, is not one that the core has.
    """

    def refuse(found: str) -> UserError:
        return UserError(f"expected an optimizer that the core has, found {found}; train with --trainer keras")

    name = type(optimizer).__name__
    for option in ("clipnorm", "clipvalue", "global_clipnorm", "use_ema", "loss_scale_factor", "amsgrad", "nesterov"):
        if getattr(optimizer, option, None):
            raise refuse(f"{name} with {option}")
    if getattr(optimizer, "gradient_accumulation_steps", None):
        raise refuse(f"{name} with gradient_accumulation_steps")
    if getattr(optimizer, "weight_decay", None):
        raise refuse(f"{name} with weight_decay")
    if isinstance(getattr(optimizer, "_learning_rate", None), keras.optimizers.schedules.LearningRateSchedule):
        raise refuse(f"{name} with a learning rate schedule by step")
    if type(optimizer) not in (keras.optimizers.Adam, AdamW, keras.optimizers.SGD, SOAP):
        raise refuse(name)


def core_optimizer(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable] = ()) -> Any:
    """The core's optimizer that takes the same steps; SOAP needs the variables, in the order in which they lie.

    Raises:
        UserError: as of `check_optimizer`.
    """
    check_optimizer(optimizer)
    if type(optimizer) is keras.optimizers.SGD:
        return _core.Optimizer.momentum(momentum=optimizer.momentum)
    if type(optimizer) is SOAP:
        return _core.Optimizer.soap(blocks=block_sizes(variables))
    return _core.Optimizer.adam(
        beta_1=optimizer.beta_1,
        beta_2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        decay=getattr(optimizer, "step_decay", 0.0),
    )


def chained_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers in the order in which an image passes them; a shared layer as often as it is passed.

    Raises:
        UserError: if the model is no chain from one input to one output.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(
            f"expected a model with one input and one output, found {model.name!r} with more; train with "
            "--trainer keras"
        )
    found: list[keras.layers.Layer] = []
    tensor = model.outputs[0]
    while tensor is not model.inputs[0]:
        operation, node_index, _ = tensor._keras_history
        inputs = operation._inbound_nodes[node_index].input_tensors
        if len(inputs) != 1:
            raise UserError(
                f"expected a chain of layers, found {operation.name!r} with {len(inputs)} inputs; train with "
                "--trainer keras"
            )
        found.append(operation)
        tensor = inputs[0]
    return found[::-1]


class Translation:
    """One walk along a model's layers; each method takes one kind of layer."""

    def __init__(self, model: keras.Model) -> None:
        shape = tuple(model.inputs[0].shape[1:])
        if len(shape) != 3 or None in shape:
            raise UserError(
                f"expected a model of images (height, width, channels), found {shape} in {model.name!r}; train with "
                "--trainer keras"
            )
        self.input_shape: Shape = shape
        self.shape: Shape = shape
        self.scale, self.pixel_offset = 1.0, 0.0
        self.layers: list[Layer] = []
        self.parameters: list[keras.Variable] = []
        self.statistics: list[keras.Variable] = []
        self.offsets: dict[int, int] = {}
        self.dropouts = 0
        self.softmax = False
        for layer in chained_layers(model):
            self.add_layer(layer)
        if not self.softmax:
            raise UserError(
                f"expected a model that ends with a softmax over classes, found {self.shape} at the end of "
                f"{model.name!r}; train with --trainer keras"
            )
        if len(model.outputs[0].shape) != 2:
            raise UserError(
                f"expected one row of classes for each image, found {model.outputs[0].shape} at the end of "
                f"{model.name!r}; train with --trainer keras"
            )
        parameters = total_size(self.parameters)
        if parameters > MAX_PARAMETERS or np.prod(model.inputs[0].shape[1:]) > MAX_NUMBERS:
            raise UserError(
                f"expected at most {MAX_PARAMETERS} parameters and {MAX_NUMBERS} numbers in an image, found "
                f"{parameters} and {tuple(model.inputs[0].shape[1:])} in {model.name!r}; train with --trainer keras"
            )
        if not self.layers or self.layers[-1].out_shape != self.shape:
            # What the softmax takes has to be one layer's result, also where the model only flattens before it.
            self.append("elementwise", self.shape)

    def description(self) -> Description:
        """What was found on the walk."""
        network = Network(
            self.input_shape,
            self.scale,
            self.pixel_offset,
            tuple(self.layers),
            total_size(self.parameters),
            total_size(self.statistics),
        )
        return Description(network, self.parameters, self.statistics)

    def add_layer(self, layer: keras.layers.Layer) -> None:
        """Appends what one Keras layer does."""
        translate = TRANSLATORS.get(type(layer))
        if translate is None:
            raise self.refuse(layer, "this kind of layer")
        if self.softmax:
            raise self.refuse(layer, "a layer after the softmax")
        if layer.weights and not layer.trainable:
            raise self.refuse(layer, "trainable=False")
        if layer.compute_dtype != "float32" or layer.variable_dtype != "float32":
            raise self.refuse(layer, f"dtype {layer.dtype_policy.name}")
        for option, value in layer.get_config().items():
            if value is not None and option.endswith(("_regularizer", "_constraint")):
                raise self.refuse(layer, option)
        translate(self, layer)
        if np.prod(self.shape) > MAX_NUMBERS:
            raise self.refuse(
                layer, f"a result of {np.prod(self.shape)} numbers for an image, more than {MAX_NUMBERS},"
            )

    def refuse(self, layer: keras.layers.Layer, found: str) -> UserError:
        """The error for a layer, or for an option of it, that the core has not."""
        return UserError(
            f"expected layers that the core has, found {found} in the {type(layer).__name__} layer {layer.name!r}; "
            "train with --trainer keras"
        )

    def require_options(self, layer: keras.layers.Layer, **expected: Any) -> None:
        """Refuses the layer if one of its options is not as the core has it."""
        for option, value in expected.items():
            found = getattr(layer, option)
            if found != value:
                raise self.refuse(layer, f"{option}={found!r}")

    def append(self, kind: Kind, out: Shape, **options: Any) -> None:
        """Appends a layer from the present shape to `out`."""
        self.layers.append(Layer(kind, self.shape, out, **options))
        self.shape = out

    def offset(self, variable: keras.Variable | None, variables: list[keras.Variable]) -> int:
        """Offset of a variable in its flat array, appending it there at its first use; NONE for no variable."""
        if variable is None:
            return NONE
        if id(variable) not in self.offsets:
            self.offsets[id(variable)] = total_size(variables)
            variables.append(variable)
        return self.offsets[id(variable)]

    def parameter(self, variable: keras.Variable | None) -> int:
        """Offset of a trainable variable among the parameters."""
        return self.offset(variable, self.parameters)

    # Activations

    def activation(self, layer: keras.layers.Layer, function: Any) -> None:
        """Appends an activation, given as Keras knows it: a function or a layer."""
        if function is None or function is keras.activations.linear:
            return
        if function is keras.activations.softmax:
            self.softmax = True
        elif function is keras.activations.relu:
            self.append("elementwise", self.shape, slope=0.0)
        elif function is keras.activations.leaky_relu:
            self.append("elementwise", self.shape, slope=LEAKY_RELU_SLOPE)
        elif function is keras.activations.silu:
            self.append("silu", self.shape)
        elif isinstance(function, layers.ReLU | layers.LeakyReLU | layers.Softmax):
            self.add_layer(function)
        else:
            name = getattr(function, "__name__", type(function).__name__)
            raise self.refuse(layer, f"activation {name!r}")

    def add_activation(self, layer: layers.Activation) -> None:
        self.activation(layer, layer.activation)

    def add_relu(self, layer: layers.ReLU) -> None:
        self.require_options(layer, max_value=None, negative_slope=0.0, threshold=0.0)
        self.append("elementwise", self.shape, slope=0.0)

    def add_leaky_relu(self, layer: layers.LeakyReLU) -> None:
        if not 0 <= layer.negative_slope <= 1:
            raise self.refuse(layer, f"negative_slope={layer.negative_slope}")
        self.append("elementwise", self.shape, slope=float(layer.negative_slope))

    def add_softmax(self, layer: layers.Softmax) -> None:
        self.require_options(layer, axis=-1)
        self.softmax = True

    # Convolutions and dense layers

    def window(self, layer: keras.layers.Layer) -> tuple[Shape, tuple[int, int, int, int]]:
        """Height and width that a kernel of stride 1 leaves, and the padding (top, left, bottom, right)."""
        self.require_options(layer, data_format="channels_last", strides=(1, 1), dilation_rate=(1, 1))
        height, width, channels = self.shape
        rows, columns = layer.kernel_size
        if layer.padding == "same":
            top, left = (rows - 1) // 2, (columns - 1) // 2
            return (height, width, channels), (top, left, rows - 1 - top, columns - 1 - left)
        if layer.padding != "valid":
            raise self.refuse(layer, f"padding={layer.padding!r}")
        return (height - rows + 1, width - columns + 1, channels), (0, 0, 0, 0)

    def add_convolution(self, layer: layers.Conv2D) -> None:
        self.require_options(layer, groups=1)
        (height, width, _), pad = self.window(layer)
        self.append(
            "convolution",
            (height, width, layer.filters),
            kernel_size=tuple(layer.kernel_size),
            pad=pad,
            kernel=self.parameter(layer.kernel),
            bias=self.parameter(layer.bias),
        )
        self.activation(layer, layer.activation)

    def add_depthwise(self, layer: layers.DepthwiseConv2D) -> None:
        self.require_options(layer, depth_multiplier=1)
        out, pad = self.window(layer)
        self.append(
            "depthwise",
            out,
            kernel_size=tuple(layer.kernel_size),
            pad=pad,
            kernel=self.parameter(layer.kernel),
            bias=self.parameter(layer.bias),
        )
        self.activation(layer, layer.activation)

    def add_separable(self, layer: layers.SeparableConv2D) -> None:
        self.require_options(layer, depth_multiplier=1)
        out, pad = self.window(layer)
        self.append(
            "depthwise",
            out,
            kernel_size=tuple(layer.kernel_size),
            pad=pad,
            kernel=self.parameter(layer.depthwise_kernel),
        )
        self.append(
            "convolution",
            (*out[:2], layer.filters),
            kernel=self.parameter(layer.pointwise_kernel),
            bias=self.parameter(layer.bias),
        )
        self.activation(layer, layer.activation)

    def add_dense(self, layer: layers.Dense) -> None:
        self.append(
            "convolution",
            (*self.shape[:2], layer.units),
            kernel=self.parameter(layer.kernel),
            bias=self.parameter(layer.bias),
        )
        self.activation(layer, layer.activation)

    # Pooling and shapes

    def add_pool(self, layer: layers.MaxPooling2D | layers.AveragePooling2D) -> None:
        self.require_options(layer, data_format="channels_last", strides=tuple(layer.pool_size))
        height, width, channels = self.shape
        rows, columns = layer.pool_size
        if layer.padding != "valid" and (height % rows or width % columns):
            raise self.refuse(layer, f"padding={layer.padding!r}")
        kind: Kind = "max_pool" if type(layer) is layers.MaxPooling2D else "average_pool"
        self.append(kind, (height // rows, width // columns, channels), kernel_size=(rows, columns))

    def add_global_average(self, layer: layers.GlobalAveragePooling2D) -> None:
        self.require_options(layer, data_format="channels_last")
        self.append("average_pool", (1, 1, self.shape[2]), kernel_size=self.shape[:2])

    def add_flatten(self, layer: layers.Flatten) -> None:
        self.require_options(layer, data_format="channels_last")
        if self.shape[:2] != (1, 1):
            self.append("elementwise", self.shape)
            self.shape = (1, 1, int(np.prod(self.shape)))

    # Normalisation, dropout and pixels

    def add_batch_norm(self, layer: layers.BatchNormalization) -> None:
        self.require_options(layer, synchronized=False)
        if layer.axis not in (-1, 3):
            raise self.refuse(layer, f"axis={layer.axis}")
        if getattr(layer, "renorm", False):
            raise self.refuse(layer, "renorm")
        mean = self.offset(layer.moving_mean, self.statistics)
        self.offset(layer.moving_variance, self.statistics)
        self.append(
            "batch_norm",
            self.shape,
            kernel=self.parameter(layer.gamma),
            bias=self.parameter(layer.beta),
            statistics=mean,
            epsilon=layer.epsilon,
            momentum=layer.momentum,
        )

    def add_instance_norm(self, layer: InstanceNormalization) -> None:
        self.append(
            "instance_norm",
            self.shape,
            kernel=self.parameter(layer.gamma),
            bias=self.parameter(layer.beta),
            epsilon=layer.epsilon,
        )

    def add_dropout(self, layer: layers.Dropout) -> None:
        self.require_options(layer, noise_shape=None)
        if layer.rate > 0:
            self.append("elementwise", self.shape, rate=float(layer.rate), dropout_index=self.dropouts)
        self.dropouts += 1

    def pixels(self, layer: keras.layers.Layer, scale: Any, offset: Any) -> None:
        """Folds x * scale + offset into the way the images are read."""
        scales, offsets = np.unique(np.asarray(scale, np.float64)), np.unique(np.asarray(offset, np.float64))
        if self.layers:
            raise self.refuse(layer, "a position after other layers")
        if len(scales) != 1 or len(offsets) != 1:
            raise self.refuse(layer, "different values for different pixels")
        self.pixel_offset = self.pixel_offset * float(scales[0]) + float(offsets[0])
        self.scale *= float(scales[0])

    def add_rescaling(self, layer: layers.Rescaling) -> None:
        self.pixels(layer, layer.scale, layer.offset)

    def add_normalization(self, layer: layers.Normalization) -> None:
        self.require_options(layer, invert=False)
        mean, variance = (
            np.asarray(keras.ops.convert_to_numpy(value), np.float64) for value in (layer.mean, layer.variance)
        )
        scale = 1 / np.maximum(np.sqrt(variance), keras.backend.epsilon())
        self.pixels(layer, scale, -mean * scale)


TRANSLATORS = {
    layers.Activation: Translation.add_activation,
    layers.AveragePooling2D: Translation.add_pool,
    layers.BatchNormalization: Translation.add_batch_norm,
    layers.Conv2D: Translation.add_convolution,
    layers.Dense: Translation.add_dense,
    layers.DepthwiseConv2D: Translation.add_depthwise,
    layers.Dropout: Translation.add_dropout,
    layers.Flatten: Translation.add_flatten,
    layers.GlobalAveragePooling2D: Translation.add_global_average,
    InstanceNormalization: Translation.add_instance_norm,
    layers.LeakyReLU: Translation.add_leaky_relu,
    layers.MaxPooling2D: Translation.add_pool,
    layers.Normalization: Translation.add_normalization,
    layers.ReLU: Translation.add_relu,
    layers.Rescaling: Translation.add_rescaling,
    layers.SeparableConv2D: Translation.add_separable,
    layers.Softmax: Translation.add_softmax,
}
