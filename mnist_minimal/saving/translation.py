"""Descriptions of models by any version of Keras, translated to the names, arguments and defaults of Keras 3.

What comes out is plain data. Nothing here makes an object of what a file says, and what a trained model's output does
not depend on is left out: initializers, regularizers, dtypes, seeds, and whole layers as Dropout.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mnist_minimal.errors import UserError, one_line
from mnist_minimal.models.architecture import shown

NETWORKS = ("Sequential", "Functional", "Model")

CLASSES = {
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "Deconvolution2D": "Conv2DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
    "TimeDistributedDense": "Dense",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "mnist_minimal>InstanceNormalization": "InstanceNormalization",
    "keras_contrib.layers.normalization.instancenormalization.InstanceNormalization": "InstanceNormalization",
    "ThresholdedReLU": "ReLU",
}

# Layers that only act in training.
WITHOUT_EFFECT = re.compile(
    r"(Spatial|Alpha|Gaussian)?Dropout([123]D)?|GaussianNoise|ActivityRegularization|"
    r"Random(?!Crop)\w+|AutoContrast|RandAugment|AugMix|CutMix|MixUp|MaxNumBoundingBoxes"
)

ARGUMENTS = {
    "nb_filter": "filters",
    "filter_length": "kernel_size",
    "subsample": "strides",
    "subsample_length": "strides",
    "stride": "strides",
    "atrous_rate": "dilation_rate",
    "border_mode": "padding",
    "bias": "use_bias",
    "output_dim": "units",
    "pool_length": "pool_size",
    "length": "size",
    "inner_activation": "recurrent_activation",
    "dim_ordering": "data_format",
}

IGNORED = re.compile(
    r"name|trainable|dtype|input_dtype|seed|batch_size|batch_input_shape|batch_shape|input_shape|build_input_shape|"
    r"input_length|implementation|unroll|consume_less|cache_enabled|custom_name|quantization_config|registered_name|"
    r"\w+_(initializer|regularizer|constraint|regularizer_config)|(\w+_)?init|[WbU]_(regularizer|constraint)|"
    r"dropout_[WU]|W_learning_rate_multiplier|b_learning_rate_multiplier|weights|ignore_border|renorm_momentum"
)

# What a TFOpLambda of tf.keras or an operation of Keras 3 in a functional model is here.
OPERATIONS = {
    "math.truediv": "divide",
    "math.divide": "divide",
    "realdiv": "divide",
    "math.multiply": "multiply",
    "math.add": "add",
    "__operators__.add": "add",
    "math.subtract": "subtract",
    "cast": "cast",
    "expand_dims": "expand_dims",
    "nn.softmax": "softmax",
    "nn.relu": "relu",
    "compat.v1.nn.relu": "relu",
    "TrueDivide": "divide",
    "Divide": "divide",
    "Multiply": "multiply",
    "Add": "add",
    "Subtract": "subtract",
    "Cast": "cast",
    "ExpandDims": "expand_dims",
    "Softmax": "softmax",
    "Relu": "relu",
}

# Names that an operation and a layer of Keras 3 have; the layer takes a list.
SAME_NAMES = ("Add", "Subtract", "Multiply", "Softmax")

MERGE_MODES = {"sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum", "concat": "Concatenate"}

RECURRENT = ("SimpleRNN", "LSTM", "GRU")


@dataclass(frozen=True)
class Output:
    """What one application of a layer gives: the layer's name, and which of its applications."""

    layer: str
    call: int


@dataclass(frozen=True)
class LayerSpec:
    """A layer as Keras 3 would be asked for it.

    Attributes:
        name: Its name in the file.
        kind: The class of Keras 3; "InstanceNormalization" for ours; "Identity" where it changes nothing; "operation";
            "network" for a model in the model; the name of a class that is not Keras' as the file has it.
        settings: Its arguments, JSON's types; an activation that is a layer is a LayerSpec, and so is a wrapped layer.
        calls: The arguments of each of its applications: Outputs, lists of Outputs, and constants.
        written: The name of its class in the file, by which a `.keras` file counts.
        net: The model that it is.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    calls: list[list[Any]]
    written: str
    net: "Net | None" = None


@dataclass(frozen=True)
class Net:
    """A model: its layers in the order of the file, the layer that is its input, and its output.

    Attributes:
        name: The model's name, or "".
        layers: Each once.
        source: The name of the layer whose application is the input.
        output: The output.
        input_shape: Of one sample, or None where the file does not say; lengths may be None.
    """

    name: str
    layers: list[LayerSpec]
    source: str
    output: Output
    input_shape: tuple[int | None, ...] | None


@contextmanager
def refusing_damage() -> Iterator[None]:
    """Turns what Python raises on a description that is none into a UserError."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"expected the description of a Keras model, found one that can't be read as that ({one_line(error)})"
        ) from error


def translate(description: Any, major: int) -> Net:
    """The model that a description means.

    Args:
        description: `{"class_name": ..., "config": ...}`, or that of Keras 0, which has `name` and `layers`.
        major: The first number of the version of Keras that wrote it.

    Raises:
        UserError: if it is none, or has what is known to mean something that is not translated.
    """
    with refusing_damage():
        if not isinstance(description, dict):
            raise UserError("expected the description of a Keras model as JSON, found something else")
        if "class_name" not in description and "name" in description and "layers" in description:
            description = _of_keras_0(description)
        return _net(description, major)


def _of_keras_0(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of Keras 0, where the class is the name and the arguments lie beside it, as Keras 1 would write it."""
    kind, arguments = entry["name"], {key: value for key, value in entry.items() if key not in ("name", "layers")}
    if "layers" in entry:
        return {"class_name": kind, "config": [_of_keras_0(layer) for layer in entry["layers"]]}
    if "custom_name" in arguments:
        arguments["name"] = arguments["custom_name"]
    return {"class_name": kind, "config": arguments}


def _net(description: dict[str, Any], major: int) -> Net:
    kind, config = description["class_name"], description["config"]
    if (
        kind not in NETWORKS
        or not isinstance(config, dict | list)
        or (isinstance(config, dict) and "layers" not in config)
    ):
        raise UserError(
            f"expected a sequential or functional model, found one of the class {shown(kind)}, whose layers only its "
            "code knows; give the function that builds it with --model or builders="
        )
    if kind == "Sequential" or isinstance(config, list):
        return _sequential(config, major)
    return _functional(config, major)


def _sequential(config: Any, major: int) -> Net:
    """A chain of layers."""
    entries = config if isinstance(config, list) else config["layers"]
    if not entries:
        raise UserError("expected a model of layers, found one without any")
    name = "" if isinstance(config, list) else config.get("name") or ""
    entries = [_entry(entry) for entry in entries]
    first = entries[0]["config"] if isinstance(entries[0]["config"], dict) else {}
    shape = _input_shape(first, major)
    if shape is None and entries[0]["class_name"] in NETWORKS:
        shape = _net(entries[0], major).input_shape
    for written in () if isinstance(config, list) else ("build_input_shape", "batch_input_shape"):
        if shape is None and isinstance(config.get(written), list):
            shape = _sample(config[written])
    if shape is None:
        shape = _guessed_shape(entries[0]["class_name"])
    source = "the input"
    layers = [LayerSpec(source, "InputLayer", {}, [[]], "InputLayer")]
    names: set[str] = set()
    for position, entry in enumerate(entries):
        if entry["class_name"] == "InputLayer":
            if position:
                raise UserError("expected one input, found another in the middle of the layers")
            continue
        own = _name(entry, position, names)
        layers.append(_layer(own, entry, [[Output(layers[-1].name, 0)]], major))
        if layers[-1].kind == "Merge":
            raise UserError("expected a chain of layers, found Merge, which joins several; save a functional model")
    return Net(name, layers, source, Output(layers[-1].name, 0), shape)


def _functional(config: dict[str, Any], major: int) -> Net:
    """A graph of layers with one input and one output."""
    entries = [_entry(entry) for entry in config["layers"]]
    inputs, outputs = _outputs(config["input_layers"]), _outputs(config["output_layers"])
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(f"expected one input and one output, found {len(inputs)} and {len(outputs)}")
    names: set[str] = set()
    layers, shape = [], None
    known = {entry.get("name") or entry["config"].get("name") for entry in entries}
    for position, entry in enumerate(entries):
        own = _name(entry, position, names)
        calls = [_call(node, known) for node in entry.get("inbound_nodes", [])]
        if own == inputs[0].layer:
            shape, calls = _input_shape(entry["config"], major), [[]]
        layers.append(_layer(own, entry, calls, major))
    used = [*(output for layer in layers for call in layer.calls for output in outputs_in(call)), outputs[0]]
    for layer in layers:
        if layer.kind == "InputLayer" and layer.name != inputs[0].layer:
            raise UserError("expected one input, found several")
        if layer.net is not None:
            # Keras 2 may count the making of a model in a model as its first application, and does not list it.
            last = max((output.call for output in used if output.layer == layer.name), default=0)
            layer.calls[:0] = [[]] * min(1, max(0, last + 1 - len(layer.calls)))
    return Net(config.get("name") or "", layers, inputs[0].layer, outputs[0], shape)


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """A layer's entry, with a class that is not Keras' under its whole name."""
    if "class_name" not in entry and "name" in entry:
        entry = _of_keras_0(entry)
    kind, module, registered = entry["class_name"], entry.get("module"), entry.get("registered_name")
    if isinstance(registered, str) and ">" in registered:
        kind = registered
    # Keras' own layers come from keras.layers, in Keras 2 also from where TensorFlow kept them.
    elif isinstance(module, str) and module.partition(".")[0] not in ("keras", "tf_keras", "tensorflow"):
        kind = f"{module}.{kind}"
    if not isinstance(kind, str) or not isinstance(entry["config"], dict | list):
        raise TypeError("a layer's class is a name, and its arguments an object")
    return {**entry, "class_name": kind}


def _name(entry: dict[str, Any], position: int, taken: set[str]) -> str:
    """A layer's own name; in Keras 0 and in lists of nested models there may be none."""
    config = entry["config"]
    name = entry.get("name") if isinstance(entry.get("name"), str) else None
    if isinstance(config, dict):
        name = config.get("name") or name
    if name is None:
        name = f"layer_{position}"
    if not isinstance(name, str) or name in taken:
        raise UserError("expected layers with names of their own, found two with the same name")
    taken.add(name)
    return name


def _outputs(written: Any) -> list[Output]:
    """The ends of a functional model: `[name, 0, 0]`, or a list or an object of these."""
    if isinstance(written, dict):
        written = list(written.values())
    if len(written) == 3 and isinstance(written[0], str) and isinstance(written[1], int):
        written = [written]
    return [_output(tensor) for tensor in written]


def _output(written: Any) -> Output:
    """`[name, application, number]`, of which only the first number is had here."""
    name, call, number = written[:3]
    if not isinstance(name, str) or not isinstance(call, int) or call < 0 or number != 0:
        raise UserError("expected layers with one output, found one with several")
    return Output(name, call)


def _call(node: Any, known: set[str]) -> list[Any]:
    """The arguments of one application of a layer, as either version of Keras writes them."""
    if isinstance(node, dict):
        arguments = [_argument(argument) for argument in node["args"]]
        # Keras 3 records whether it built the layer for training, and goes by how the whole model is called.
        options = {key: _argument(value) for key, value in node.get("kwargs", {}).items() if key != "training"}
    else:
        tensors = [node] if isinstance(node[0], str) else node
        outputs = [_output(tensor) for tensor in tensors]
        arguments = [outputs if len(outputs) > 1 else outputs[0]]
        options = dict(tensors[0][3]) if len(tensors[0]) > 3 and tensors[0][3] else {}
        for key, value in options.items():
            if isinstance(value, list) and len(value) >= 3 and value[0] in known:
                options[key] = _output(value)
    options = {key: value for key, value in options.items() if value not in (None, False) and key != "name"}
    if options:
        # Operations may have their second argument by name, as TFOpLambda's `y`; who makes them knows their order.
        arguments.append(options)
    return arguments


def outputs_in(arguments: Any) -> list[Output]:
    """The outputs among the arguments of an application."""
    if isinstance(arguments, Output):
        return [arguments]
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    return [output for item in arguments for output in outputs_in(item)] if isinstance(arguments, list) else []


def _argument(value: Any) -> Any:
    """An argument in a call of Keras 3: a tensor, a list of tensors or a constant."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        return _output(value["config"]["keras_history"])
    if isinstance(value, list):
        return [_argument(item) for item in value]
    if isinstance(value, dict):
        raise UserError(f"expected a layer applied to tensors and numbers, found {shown(value.get('class_name'))}")
    return value


def _layer(name: str, entry: dict[str, Any], calls: list[list[Any]], major: int) -> LayerSpec:
    """A layer by Keras 3's names."""
    written, config = entry["class_name"], entry["config"]
    if written in NETWORKS:
        return LayerSpec(name, "network", {}, calls, written, _net(entry, major))
    if written == "InputLayer":
        return LayerSpec(name, "InputLayer", {}, calls, written)
    if written == "TFOpLambda" or _is_operation(written, entry, calls):
        function = config["function"] if written == "TFOpLambda" else written
        if function not in OPERATIONS:
            raise UserError(f"layer {shown(name)}: expected a layer of Keras, found the operation {shown(function)}")
        return _operation(name, OPERATIONS[function], config, calls, written)
    if calls and any(isinstance(call[-1], dict) for call in calls if call):
        raise UserError(f"layer {shown(name)}: expected an application without options, found one with some")
    if WITHOUT_EFFECT.fullmatch(written):
        return LayerSpec(name, "Identity", {}, calls, written)
    kind, settings = _arguments(name, written, config, major)
    return LayerSpec(name, kind, settings, calls, written)


def _is_operation(written: str, entry: dict[str, Any], calls: list[list[Any]]) -> bool:
    """Whether an entry of Keras 3 is an operation and no layer; `.h5` files do not say, and some have the same name."""
    if written not in OPERATIONS:
        return False
    if "module" in entry:
        return str(entry["module"]).startswith("keras.src.ops")
    return written not in SAME_NAMES or any(len(call) > 1 for call in calls)


def _operation(name: str, operation: str, config: dict[str, Any], calls: list[list[Any]], written: str) -> LayerSpec:
    """An operation: its arguments by position; what it takes by another name is an axis or a second number."""
    ordered = []
    for call in calls:
        options = call[-1] if isinstance(call[-1], dict) else {}
        values = list(options.values())
        if len(values) > 1:
            raise UserError(f"layer {shown(name)}: expected an operation of two arguments, found more")
        arguments = [argument for argument in call if not isinstance(argument, dict)] + values
        own = config.get("axis") if operation in ("expand_dims", "softmax") else None
        ordered.append(arguments if own is None or len(arguments) > 1 else [*arguments, own])
    return LayerSpec(name, "operation", {"operation": operation}, ordered, written)


def _arguments(name: str, written: str, config: dict[str, Any], major: int) -> tuple[str, dict[str, Any]]:
    """The class of Keras 3 and its arguments, of any layer that is none of the special ones."""
    kind = CLASSES.get(written, written)
    if kind == "Merge":
        return _merge(name, config)
    if kind == "Lambda":
        return kind, {"function": _function_name(config.get("function"))}
    settings = {}
    for old, value in config.items():
        key = ARGUMENTS.get(old, old)
        if (old, kind) == ("output_dim", "Embedding") or (old == "length" and "size" in config):
            key = old
        if (key == "input_dim" and kind != "Embedding") or IGNORED.fullmatch(old):
            continue
        settings[key] = value
    if "nb_row" in settings:
        settings["kernel_size"] = [settings.pop("nb_row"), settings.pop("nb_col")]
    if "data_format" in settings:
        formats = {"th": "channels_first", "tf": "channels_last", None: "channels_last", "default": "channels_last"}
        settings["data_format"] = formats.get(settings["data_format"], settings["data_format"])
    if isinstance(settings.get("size"), int) and kind == "UpSampling2D":
        settings["size"] = [settings["size"]] * 2
    if kind == "LeakyReLU" and "alpha" in settings:
        settings["negative_slope"] = settings.pop("alpha")
    if written == "ThresholdedReLU":
        settings["threshold"] = settings.pop("theta")
    if kind == "InstanceNormalization":
        _only(name, settings, {"axis": None, "center": True, "scale": True})
    if kind == "BatchNormalization":
        _only(name, settings, {"mode": 0})
        if isinstance(settings.get("axis"), list) and len(settings["axis"]) == 1:
            (settings["axis"],) = settings["axis"]
    if kind in RECURRENT:
        _only(name, settings, {"stateful": False, "return_state": False, "time_major": False})
    if kind == "GRU" and major < 3:
        settings.setdefault("reset_after", False)
    if re.fullmatch(r"SeparableConv[12]D|DepthwiseConv[12]D|Conv[123]DTranspose", kind):
        _only(name, settings, {"groups": 1})
    if kind in ("Bidirectional", "TimeDistributed"):
        for key in ("layer", "backward_layer"):
            if settings.get(key) is not None:
                settings[key] = _inner(name, settings[key], major)
    for key in ("activation", "recurrent_activation"):
        if key in settings:
            settings[key] = _activation(name, settings[key], major)
    return kind, settings


def _only(name: str, settings: dict[str, Any], expected: dict[str, Any]) -> None:
    """Takes out arguments that may have one value only."""
    for key, value in expected.items():
        if key in settings and settings.pop(key) not in (value, None):
            raise UserError(f"layer {shown(name)}: expected {key} {value}, found another, which is not translated")


def _inner(name: str, entry: Any, major: int) -> LayerSpec:
    """The layer in a wrapper or an activation."""
    entry = _entry(entry)
    own = entry["config"].get("name")
    return _layer(own if isinstance(own, str) else name, entry, [], major)


def _activation(name: str, activation: Any, major: int) -> Any:
    """The name of an activation, or the layer that it is."""
    if isinstance(activation, dict):
        if activation.get("class_name") == "function":
            return _activation(name, activation["config"], major)
        return _inner(name, activation, major)
    if isinstance(activation, str):
        activation = activation.removesuffix("_v2").removeprefix("mnist_minimal>")
        if activation == "hard_sigmoid" and major < 3:
            return "keras2_hard_sigmoid"
    return activation


def _function_name(function: Any) -> str | None:
    """The name of a Lambda's function, if it has one; its code differs from Python to Python."""
    if isinstance(function, dict) and function.get("class_name") == "function":
        function = function.get("config")
    return function if isinstance(function, str) else None


def _merge(name: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Merge of Keras 1, whose kind is an argument."""
    mode = config.get("mode")
    if mode not in MERGE_MODES:
        raise UserError(f"layer {shown(name)}: expected Merge by {', '.join(MERGE_MODES)}, found {shown(mode)}")
    return MERGE_MODES[mode], {"axis": config.get("concat_axis", -1)} if mode == "concat" else {}


def _input_shape(config: dict[str, Any], major: int) -> tuple[int | None, ...] | None:
    """The shape of one sample as a first layer says it, or None."""
    for key in ("batch_input_shape", "batch_shape"):
        if isinstance(config.get(key), list):
            return _sample(config[key])
    if isinstance(config.get("input_shape"), list):
        return tuple(config["input_shape"])
    if isinstance(config.get("input_dim"), int):
        return (config["input_dim"],)
    build = config.get("build_config")
    if isinstance(build, dict) and isinstance(build.get("input_shape"), list):
        return _sample(build["input_shape"])
    return None


def _sample(shape: list[Any]) -> tuple[int | None, ...] | None:
    """A shape without its batch."""
    return tuple(shape[1:]) if len(shape) > 1 else None


def _guessed_shape(kind: str) -> tuple[int, ...] | None:
    """The shape that an image of a digit has for a layer that comes first."""
    kind = CLASSES.get(kind, kind)
    if kind == "Dense":
        return (784,)
    if kind == "Flatten":
        return (28, 28)
    return (28, 28, 1) if re.search("2D$", kind) or kind == "Rescaling" else None
