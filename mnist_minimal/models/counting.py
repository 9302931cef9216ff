"""A model's layers counted: output shapes, parameters, multiply-accumulates, receptive fields."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mnist_minimal.errors import UserError

if TYPE_CHECKING:
    import keras
    import numpy as np


@dataclass(frozen=True)
class LayerRow:
    """One application of a layer to one image.

    Attributes:
        name: The layer's name; of one in a model in the model, after that one's name and a slash.
        kind: The name of its class.
        output_shape: Shape of its output without the batch.
        trainable: Number of its trainable parameters; 0 where the table has had them before.
        non_trainable: Number of its other parameters, as the moving statistics of BatchNormalization; likewise.
        macs: Multiply-accumulates, see `layer_table`; None where they are not known.
        receptive_field: Side of the square of pixels that one element of the output depends on, see `layer_table`;
            "whole image" where each depends on all of it; None where it is not known.
        inbound: Places in the table of the rows whose outputs it takes; -1 is the model's input.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    trainable: int
    non_trainable: int
    macs: int | None
    receptive_field: int | str | None
    inbound: tuple[int, ...]


def layer_table(model: "keras.Model") -> list[LayerRow]:
    """The layers of a model, but for its input, each as often as it is applied, after all whose outputs it takes.

    Of several branches the one that comes first in the arguments comes first, whole. Models in the model are taken
    apart.

    Multiply-accumulates are products that are summed. Counted are those of an input with an element of a kernel, one
    for each position of the kernel, in convolutions (products with padding among them), dense and recurrent layers (of
    a step's input and of the state before it); and those of two inputs in dot products and attention. The addition of
    a bias, activations, gates, pooling, normalisation, rescaling and the joining of branches do not count.

    The receptive field is the longer side of the rectangle around all pixels that an element of the output depends on,
    by whatever way through the graph; of the element with the largest one. Away from the image's borders it grows from
    layer to layer by (k - 1) * j, where k is the side of the window (of a dilated kernel, with its gaps) and j the
    distance in pixels between neighbours in the layer's input, which a stride s makes j * s. Padding is no pixel. What
    a normalisation may take from the rest of an image through its mean is not counted.
    Source: A. Araujo, W. Norris and J. Sim, "Computing Receptive Fields of Convolutional Neural Networks",
    https://distill.pub/2019/computing-receptive-fields.

    Args:
        model: A built functional or sequential model with one input of a known shape and one output. Receptive fields
            are known of images with channels last, with channels first or without, and of the pixels of a square image
            in a row.

    Raises:
        UserError: if the model is no such model.
    """
    import keras

    from mnist_minimal.models import receptive_field

    if not getattr(model, "inputs", None):
        raise UserError(f"expected a functional or sequential model that is built, found {type(model).__name__}")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(
            f"expected a model with one input and one output, found {len(model.inputs)} and {len(model.outputs)}"
        )
    pixels = model.inputs[0]
    shape = tuple(pixels.shape[1:])
    if None in shape:
        raise UserError(f"expected a model for images of one shape, found {shape}; give its Input all sizes")
    table = _Table(receptive_field.image_size(shape))
    source = _Value(keras.KerasTensor(pixels.shape, pixels.dtype), receptive_field.pixel_boxes(shape), -1)
    table.follow(model, [source], "")
    return table.rows


def trainable_parameters(model: "keras.Model") -> int:
    """Number of a model's trainable parameters, as the sources count."""
    return _elements(model.trainable_weights)


def _elements(variables: Sequence[Any]) -> int:
    """Number of elements of all the variables."""
    return sum(math.prod(variable.shape) for variable in variables)


@dataclass(frozen=True)
class _Value:
    """What is known of a tensor in the graph.

    Attributes:
        spec: Its shape, for the image that the model takes.
        boxes: From which pixels its elements come, as `receptive_field` has them, or None.
        row: The place of the row that made it.
    """

    spec: "keras.KerasTensor"
    boxes: "np.ndarray | None"
    row: int


@dataclass
class _Table:
    """The rows of a model as they are found, and what has been counted.

    Attributes:
        size: Rows and columns of the image, or None.
        rows: The rows.
        counted: The identities of the variables that are in them.
    """

    size: tuple[int, int] | None
    rows: list[LayerRow] = field(default_factory=list)
    counted: set[int] = field(default_factory=set)

    def follow(self, model: "keras.Model", sources: Sequence[_Value], prefix: str) -> list[_Value]:
        """Adds the rows of a model, or of one in it, and gives its outputs for its inputs."""
        import keras

        values = {id(tensor): value for tensor, value in zip(model.inputs, sources, strict=True)}
        for node in applications(model):
            operation, inputs = node.operation, [values[id(tensor)] for tensor in node.input_tensors]
            if isinstance(operation, keras.Model) and getattr(operation, "inputs", None):
                outputs = self.follow(operation, inputs, f"{prefix}{operation.name}/")
            else:
                outputs = self.add(node, values, inputs, prefix)
            values |= {id(tensor): value for tensor, value in zip(node.outputs, outputs, strict=True)}
        return [values[id(tensor)] for tensor in model.outputs]

    def add(self, node: Any, values: dict[int, _Value], inputs: list[_Value], prefix: str) -> list[_Value]:
        """Adds the row of one application, and gives its outputs."""
        import keras

        from mnist_minimal.models import receptive_field

        operation = node.operation

        def applied(function: Callable[..., Any], part: str) -> Any:
            arguments, options = node.arguments.fill_in({key: getattr(value, part) for key, value in values.items()})
            return function(*arguments, **options)

        specs = keras.tree.flatten(applied(operation.compute_output_spec, "spec"))
        output = tuple(specs[0].shape[1:])
        boxes = receptive_field.output_boxes(
            operation, [value.boxes for value in inputs], output, lambda: applied(operation, "boxes")
        )
        self.rows.append(
            LayerRow(
                name=f"{prefix}{operation.name}",
                kind=type(operation).__name__,
                output_shape=output,
                trainable=self.new_elements(getattr(operation, "trainable_weights", [])),
                non_trainable=self.new_elements(getattr(operation, "non_trainable_weights", [])),
                macs=_macs(operation, [tuple(value.spec.shape[1:]) for value in inputs], output),
                receptive_field=receptive_field.receptive_field(boxes, self.size),
                inbound=tuple(value.row for value in inputs),
            )
        )
        return [_Value(spec, boxes if len(specs) == 1 else None, len(self.rows) - 1) for spec in specs]

    def new_elements(self, variables: Sequence[Any]) -> int:
        """Number of elements of those variables that have not been counted, which then have."""
        new = [variable for variable in variables if id(variable) not in self.counted]
        self.counted |= {id(variable) for variable in new}
        return _elements(new)


def applications(model: "keras.Model") -> Iterator[Any]:
    """The applications of a model's layers, Keras' nodes, each after those whose outputs it takes."""
    sources = {id(tensor) for tensor in model.inputs}
    done: set[tuple[int, int]] = set()
    waiting = list(reversed(model.outputs))
    while waiting:
        tensor = waiting[-1]
        operation, index, _ = tensor._keras_history
        if id(tensor) in sources or (id(operation), index) in done:
            waiting.pop()
            continue
        node = operation._inbound_nodes[index]
        made = [(tensor, (id(tensor._keras_history[0]), tensor._keras_history[1])) for tensor in node.input_tensors]
        missing = [tensor for tensor, key in made if id(tensor) not in sources and key not in done]
        waiting.extend(reversed(missing))
        if not missing:
            done.add((id(operation), index))
            yield node


def _macs(operation: Any, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...]) -> int | None:
    """Multiply-accumulates of an operation from one input of each shape to one output of a shape, batches left out."""
    import keras
    from keras import layers

    from mnist_minimal.models.receptive_field import CONVOLUTIONS, DEPTHWISE, TRANSPOSED, has_kernel, is_known

    if not is_known(operation):
        return None
    if not isinstance(operation, keras.Layer):
        return 0
    kernels = _elements([variable for variable in operation.weights if "kernel" in variable.name])
    shape = inputs[0]
    if isinstance(operation, layers.TimeDistributed):
        step = _macs(operation.layer, [shape[1:]], output[1:])
        return None if step is None else shape[0] * step
    if isinstance(operation, (*CONVOLUTIONS, *DEPTHWISE, *TRANSPOSED)):
        # A transposed convolution lays its kernel on each element of the input.
        places = shape if isinstance(operation, TRANSPOSED) else output
        return kernels * math.prod(places[1:] if operation.data_format == "channels_first" else places[:-1])
    if isinstance(operation, layers.Dense):
        return kernels * math.prod(output[:-1])
    if isinstance(operation, (layers.SimpleRNN, layers.LSTM, layers.GRU)):
        return kernels * shape[0]
    if isinstance(operation, layers.Bidirectional):
        ways = [_macs(layer, inputs, output) for layer in (operation.forward_layer, operation.backward_layer)]
        known = [way for way in ways if way is not None]
        return sum(known) if len(known) == len(ways) else None
    if isinstance(operation, layers.MultiHeadAttention):
        return _attention_macs(operation, inputs)
    if isinstance(operation, layers.Attention):
        (queries, size), (keys, value_size) = inputs[0], inputs[1]
        return queries * keys * (size + value_size)
    if isinstance(operation, layers.Dot):
        axis = operation.axes if isinstance(operation.axes, int) else operation.axes[0]
        return math.prod(output) * ((None, *shape)[axis] or 1)
    return None if has_kernel(operation) else 0


def _attention_macs(layer: Any, inputs: Sequence[tuple[int, ...]]) -> int | None:
    """Multiply-accumulates of MultiHeadAttention between sequences: its four kernels, the scores and the sums."""
    if any(len(shape) != 2 for shape in inputs):
        return None
    (queries, width), (values, value_width) = inputs[0], inputs[1]
    key_width = inputs[2][1] if len(inputs) > 2 else value_width
    config = layer.get_config()
    heads, size, value_size = config["num_heads"], config["key_dim"], config["value_dim"]
    out = config["output_shape"][-1] if config["output_shape"] else width
    kernels = queries * width * size + values * (key_width * size + value_width * value_size)
    return heads * (kernels + queries * value_size * out + queries * values * (size + value_size))
