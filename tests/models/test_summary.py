import re
from math import prod

import keras
import numpy as np
import pytest
from keras import layers

from mnist_minimal.analysis.tables import layer_lines
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.models.counting import LayerRow, layer_table
from mnist_minimal.saving.saved_model import load, save
from mnist_minimal.summary import main
from tests.conftest import REPOSITORY


def rows(model: keras.Model) -> dict[str, LayerRow]:
    return {row.name: row for row in layer_table(model)}


@pytest.mark.parametrize("name", MODELS)
def test_names_shapes_and_parameters_are_those_of_keras(name):
    model = MODELS[name]()
    table = layer_table(model)
    # A layer that is applied more than once has no single output; its other rows are checked by name.
    assert list(dict.fromkeys(row.name for row in table)) == [layer.name for layer in model.layers[1:]]
    assert sum(row.trainable for row in table) == sum(prod(weights.shape) for weights in model.trainable_weights)
    assert sum(row.non_trainable for row in table) == sum(
        prod(weights.shape) for weights in model.non_trainable_weights
    )
    assert table[-1].output_shape == model.output.shape[1:]


def test_every_row_of_a_chain_without_sharing_is_what_keras_says():
    model = MODELS["sep997"]()
    for row, layer in zip(layer_table(model), model.layers[1:], strict=True):
        assert row.name == layer.name
        assert row.kind == type(layer).__name__
        assert row.output_shape == layer.output.shape[1:]
        assert row.trainable == layer.count_params()


def test_sep997_worked_by_hand():
    table = rows(MODELS["sep997"]())
    assert {name: row.macs for name, row in table.items() if row.macs} == {
        "conv1": 26 * 26 * 9 * 7,
        "sepconv2": 11 * 11 * (9 * 7 + 7 * 10),
        "sepconv3": 9 * 9 * (9 * 10 + 10 * 10),
        "sepconv4": 7 * 7 * (9 * 10 + 10 * 11),
        "sepconv5": 5 * 5 * (9 * 11 + 11 * 12),
        "classes": 12 * 10,
    }
    assert sum(row.macs for row in table.values()) == 42_588 + 16_093 + 15_390 + 9_800 + 5_775 + 120
    fields = {"rescaling": 1, "conv1": 3, "leaky1": 3, "pool1": 4, "sepconv2": 8, "sepconv3": 12, "sepconv4": 16}
    fields |= {"sepconv5": 20, "average": "whole image", "classes": "whole image"}
    assert {name: table[name].receptive_field for name in fields} == fields


def test_a_mixed_chain_worked_by_hand():
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 5, strides=2, padding="same", name="strided"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
            layers.Conv2D(8, 3, dilation_rate=2, groups=4, name="dilated"),
            layers.AveragePooling2D(2, name="pool"),
            layers.Conv2D(6, (1, 3), name="wide"),
            layers.Dense(5, name="pointwise"),
            layers.Flatten(name="flat"),
            layers.Dense(10, name="classes"),
        ]
    )
    table = rows(model)
    expected = {
        # name: output shape, MACs, receptive field
        "strided": ((14, 14, 8), 14 * 14 * 25 * 8, 5),
        "norm": ((14, 14, 8), 0, 5),
        "relu": ((14, 14, 8), 0, 5),
        "depthwise": ((12, 12, 16), 12 * 12 * 9 * 16, 5 + 2 * 2),
        "dilated": ((8, 8, 8), 8 * 8 * 9 * 4 * 8, 9 + 4 * 2),
        "pool": ((4, 4, 8), 0, 17 + 1 * 2),
        # The first of 19 + 2 * 4 columns is padding.
        "wide": ((4, 2, 6), 4 * 2 * 3 * 8 * 6, 26),
        "pointwise": ((4, 2, 5), 4 * 2 * 6 * 5, 26),
        "flat": ((40,), 0, 26),
        "classes": ((10,), 40 * 10, "whole image"),
    }
    assert {name: (table[name].output_shape, table[name].macs, table[name].receptive_field) for name in expected} == (
        expected
    )
    assert (table["norm"].trainable, table["norm"].non_trainable) == (16, 16)


def branches(x):
    """Branches of several fields, joined in three ways; a network in the network, for images of any size, twice."""
    x = layers.Conv2D(2, 3, padding="same", name="first")(x)
    any_size = keras.Input((None, None, 2))
    inner = keras.Model(any_size, layers.DepthwiseConv2D(3, name="inside")(layers.BatchNormalization()(any_size)))
    twice = inner(inner(x))
    x = layers.Concatenate(name="joined")([layers.Cropping2D(2, name="cropped")(x), twice, twice])
    x = layers.Conv2D(6, 3, groups=3, padding="same", name="grouped")(x)
    weights = layers.Dense(6, "sigmoid", name="weights")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Add(name="added")([layers.Multiply(name="multiplied")([x, weights]), x / 2])
    return layers.Dense(3, name="classes")(layers.Flatten(name="flat")(x))


def windows(x):
    """Windows of all kinds, one after the other."""
    x = layers.Conv2D(2, 3, dilation_rate=2, name="dilated")(layers.ZeroPadding2D(((3, 0), (2, 1)), name="padded")(x))
    x = layers.SeparableConv2D(2, (1, 3), name="separable")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.AveragePooling2D(2, strides=1, padding="same", name="pool")(x)
    x = layers.UpSampling2D((2, 3), name="up")(x)
    x = layers.Conv2DTranspose(2, 3, strides=2, padding="same", name="transposed")(x)
    x = layers.Conv2DTranspose(1, 2, strides=3, name="apart")(x)
    x = layers.AveragePooling2D(5, name="pooled")(x)
    return layers.GlobalAveragePooling2D(name="average")(x)


def rows_of_pixels(x):
    """Rows as a sequence."""
    x = layers.Conv1D(3, 3, padding="causal", dilation_rate=2, name="causal")(x)
    x = layers.TimeDistributed(layers.Dense(2), name="each")(x)
    x = layers.Conv1D(3, 2, name="conv")(layers.AveragePooling1D(2, name="pool")(x))
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    return layers.GRU(3, name="recurrent")(x)


def channels_first(x):
    """As `load` makes layers that take the channels first."""
    x = layers.Conv2D(2, 3, name="conv")(layers.Permute((2, 3, 1), name="channels_last")(x))
    x = layers.AveragePooling2D(2, name="pool")(x)
    return layers.Flatten(name="flat")(layers.Permute((3, 1, 2), name="channels_first")(x))


def flat(x):
    """Pixels in a row, made an image again, and a side way on those in the row."""
    image = layers.Conv2D(1, 3, strides=3, name="conv")(layers.Reshape((12, 12, 1), name="image")(x))
    return layers.Concatenate(name="joined")([layers.Flatten(name="flat")(image), layers.Dense(2, name="dense")(x)])


def recurrent(x):
    """A recurrent layer on rows of pixels."""
    return layers.GRU(2, name="one way")(layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="both")(x))


@pytest.mark.parametrize(
    ("shape", "build"),
    [
        ((12, 12, 1), branches),
        ((15, 14, 1), windows),
        ((12, 12), rows_of_pixels),
        ((1, 12, 12), channels_first),
        ((144,), flat),
        ((8, 8), recurrent),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_receptive_field_is_what_changes_an_output(shape, build):
    pixels = keras.Input(shape)
    model = keras.Model(pixels, build(pixels))
    random = np.random.default_rng(0)
    # Positive, so that nothing cancels out.
    model.set_weights([random.uniform(0.05, 0.2, weights.shape) for weights in model.get_weights()])
    size = (12, 12) if shape == (144,) else tuple(length for length in shape if length > 1)
    image = random.uniform(0.1, 1, shape).astype(np.float32)
    changed = image + np.eye(image.size, dtype=np.float32).reshape(-1, *shape)
    found = {row.name: row.receptive_field for row in layer_table(model)}
    known = [layer for layer in model.layers[1:] if layer.name in found]
    assert len(known) >= len(model.layers) - 3
    outputs = keras.Model(pixels, [layer.output for layer in known])(np.concatenate([image[None], changed]))
    for layer, output in zip(known, outputs, strict=True):
        before, *after = keras.ops.convert_to_numpy(output)
        # By output and pixel, up to rounding.
        reached = (np.abs(np.array(after) - before) > 3e-6 * np.abs(before)).reshape(*size, -1).transpose(2, 0, 1)
        sides = [[1 + np.ptp(np.flatnonzero(one.any(axis=axis))) for axis in (1, 0)] for one in reached if one.any()]
        whole = all(side == list(size) for side in sides)
        assert found[layer.name] == ("whole image" if whole else max(map(max, sides))), layer.name


def test_a_layer_applied_again_computes_again_but_has_its_parameters_once():
    pixels = keras.Input((28, 28, 1))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    x = layers.Conv2D(4, 3, padding="same", name="first")(pixels)
    table = layer_table(keras.Model(pixels, shared(shared(shared(x)))))
    assert [row.name for row in table][1:] == ["shared", "shared", "shared"]
    assert [row.trainable for row in table][1:] == [148, 0, 0]
    assert [row.macs for row in table][1:] == 3 * [28 * 28 * 9 * 4 * 4]
    assert [row.receptive_field for row in table][1:] == [5, 7, 9]


IMAGE, FIRST, ROWS = (28, 28, 2), (2, 28, 28), (28, 20)


@pytest.mark.parametrize(
    ("shape", "apply", "macs"),
    [
        (FIRST, layers.Conv2D(4, 3, data_format="channels_first"), 26 * 26 * 9 * 2 * 4),
        (FIRST, layers.DepthwiseConv2D(3, data_format="channels_first"), 26 * 26 * 9 * 2),
        (IMAGE, layers.Conv2DTranspose(4, 3, strides=2), 28 * 28 * 9 * 2 * 4),
        (IMAGE, layers.Dense(5), 28 * 28 * 2 * 5),
        (IMAGE, layers.PReLU(), 0),
        (IMAGE, layers.LayerNormalization(), 0),
        (IMAGE, layers.GlobalMaxPooling2D(), 0),
        (IMAGE, keras.activations.relu, 0),
        (IMAGE, lambda x: 1 - x / 255, 0),
        (ROWS, layers.Conv1D(4, 3), 26 * 3 * 20 * 4),
        (ROWS, layers.SeparableConv1D(4, 3), 26 * (3 * 20 + 20 * 4)),
        (ROWS, layers.SimpleRNN(4), 28 * (20 * 4 + 4 * 4)),
        (ROWS, layers.LSTM(4), 28 * 4 * (20 * 4 + 4 * 4)),
        (ROWS, layers.GRU(4), 28 * 3 * (20 * 4 + 4 * 4)),
        (ROWS, layers.Bidirectional(layers.LSTM(3)), 2 * 28 * 4 * (20 * 3 + 3 * 3)),
        (ROWS, layers.TimeDistributed(layers.Dense(5)), 28 * 20 * 5),
        (
            ROWS,
            lambda x: layers.MultiHeadAttention(2, 3, value_dim=5)(x, x),
            # Kernels of queries and keys, of values, of the output; scores and sums.
            2 * (28 * 2 * 20 * 3 + 28 * 20 * 5 + 28 * 5 * 20 + 28 * 28 * (3 + 5)),
        ),
        (ROWS, lambda x: layers.Attention()([x, x]), 28 * 28 * (20 + 20)),
        (ROWS, lambda x: layers.Dot(2)([x, x]), 28 * 28 * 20),
        (ROWS, lambda x: layers.Dot(1)([x, x]), 20 * 20 * 28),
    ],
)
def test_multiply_accumulates_worked_by_hand(shape, apply, macs):
    pixels = keras.Input(shape)
    model = keras.Model(pixels, apply(pixels))
    table = layer_table(model)
    assert sum(row.macs for row in table) == macs
    assert sum(row.trainable + row.non_trainable for row in table) == model.count_params()
    assert table[-1].output_shape == model.output_shape[1:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions_of_macs", "millions_of_parameters"),
    # Table 4 of https://arxiv.org/abs/1801.04381, and table 8 of https://arxiv.org/abs/1704.04861.
    [("MobileNetV2", 300, 3.4), ("MobileNet", 569, 4.2)],
)
def test_known_networks_have_what_their_papers_say(name, millions_of_macs, millions_of_parameters):
    model = getattr(keras.applications, name)(weights=None)
    table = layer_table(model)
    assert sum(row.macs for row in table) / 1e6 == pytest.approx(millions_of_macs, abs=1)
    assert sum(row.trainable for row in table) / 1e6 == pytest.approx(millions_of_parameters, rel=0.05)
    assert sum(row.trainable + row.non_trainable for row in table) == model.count_params()


def graph() -> keras.Model:
    pixels = keras.Input((28, 28, 1), name="pixels")
    first = layers.Conv2D(4, 3, padding="same", name="first")(pixels)
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    inner = keras.Sequential([keras.Input((None, None, 4)), layers.BatchNormalization(name="norm")], name="inner")
    joined = layers.Add(name="joined")([shared(first), shared(shared(first)), inner(inner(first))])
    return keras.Model(pixels, layers.Dense(10, name="classes")(layers.Flatten(name="flat")(joined)))


def test_a_graph_has_its_layers_in_order_with_what_they_take():
    model = graph()
    table = layer_table(model)
    assert [(row.name, row.inbound) for row in table] == [
        ("first", (-1,)),
        ("shared", (0,)),
        ("shared", (0,)),
        ("shared", (2,)),
        ("inner/norm", (0,)),
        ("inner/norm", (4,)),
        ("joined", (1, 3, 5)),
        ("flat", (6,)),
        ("classes", (7,)),
    ]
    assert [row.receptive_field for row in table] == [3, 5, 5, 7, 3, 3, 7, 7, "whole image"]
    assert [row.macs for row in table[1:4]] == 3 * [28 * 28 * 9 * 4 * 4]
    assert sum(row.trainable for row in table) == 40 + 148 + 8 + 31370
    assert sum(row.trainable + row.non_trainable for row in table) == model.count_params() == 40 + 148 + 16 + 31370


def test_the_lines_of_a_graph_say_what_each_layer_takes():
    lines = layer_lines(layer_table(graph())).splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "trainable", "other", "MACs", "field", "takes"]
    assert re.fullmatch(r"first +Conv2D +28 x 28 x 4 +40 +0 +28,224 +3", lines[1])
    assert re.fullmatch(r"shared +Conv2D +28 x 28 x 4 +0 +0 +112,896 +5  first", lines[3])
    assert re.fullmatch(r"joined .* 7  shared #1, shared #3, inner/norm #2", lines[7])
    assert re.fullmatch(r"total +31,566 +8 +398,272 +whole image", lines[-1])


class Own(layers.Dense):
    """A class of a user's own, which may compute what it likes."""


def test_what_is_not_known_is_not_counted_wrong():
    pixels = keras.Input((28, 28, 1))
    x = layers.Dense(2)(Own(3, name="own")(pixels))
    x = layers.GlobalAveragePooling2D()(layers.Lambda(lambda x: x + 1)(x))
    table = layer_table(keras.Model(pixels, x))
    assert [row.macs for row in table] == [None, 28 * 28 * 3 * 2, None, 0]
    assert [row.receptive_field for row in table] == 4 * [None]
    *_, own, _, _, _, total, note = layer_lines(table).splitlines()
    assert re.fullmatch(r"own +Own +28 x 28 x 3 +6 +0 +\? +\?", own)
    assert re.fullmatch(r"total +14 +0 +4,704 +\?", total)
    assert note.endswith("the total is without them.")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: Subclassed(), "expected a functional or sequential model that is built, found Subclassed"),
        (lambda: keras.Model([x := keras.Input((2,)), keras.Input((2,))], x), "expected a model with one input"),
        (lambda: keras.Model(x := keras.Input((2,)), [x, x]), "one output, found 1 and 2"),
        (
            lambda: keras.Sequential([keras.Input((None, None, 1)), layers.ReLU()]),
            r"of one shape, found \(None, None, 1",
        ),
    ],
)
def test_other_models_are_refused(model, message):
    with pytest.raises(UserError, match=message):
        layer_table(model())


class Subclassed(keras.Model):
    """A model whose layers are in its code."""


@pytest.mark.parametrize("name", ["chain", "graph", "recurrent", "mixed"])
@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_files_of_keras_2(name, ending, capsys):
    path = REPOSITORY / "tests" / "fixtures" / f"keras2_{name}.{ending}"
    assert main([str(path)]) == 0
    model = load(path)
    total = re.search(r"^total +([\d,]+) +([\d,]+) ", capsys.readouterr().out, re.MULTILINE)
    trainable, other = (int(number.replace(",", "")) for number in total.groups())
    assert trainable + other == model.count_params()
    assert other == sum(prod(weights.shape) for weights in model.non_trainable_weights)


def test_a_name_and_a_file_of_it_give_the_same_table(tmp_path, capsys):
    save(MODELS["sep697"](), tmp_path / "model.h5")
    printed = []
    for arguments in (["sep697"], ["--model", "sep697"], [str(tmp_path / "model.h5")]):
        assert main(arguments) == 0
        printed.append(capsys.readouterr().out)
    assert printed == 3 * printed[:1]
    lines = printed[0].splitlines()
    assert len({len(line) for line in lines[1:-2]}) == 1
    assert re.fullmatch(r"conv1 +Conv2D +28 x 28 x 6 +60 +0 +42,336 +3", lines[3])
    assert re.fullmatch(r"total +697 +0 +80,576 +whole image", lines[-3])
    # The scale of the pixels is a number too. At 8 bits there are 16 arrays with a scale each.
    assert lines[-2].startswith("To run it 698 numbers have to be stored")
    assert lines[-1] == f"Bytes: {698 * 4:,} in 32 bits, {697 * 2 + 4:,} in 16 bits, {697 + 16 * 4 + 4} in 8 bits."


def test_a_model_of_the_users_own_takes_any_input(tmp_path, monkeypatch, capsys):
    (tmp_path / "rows_of_my_own.py").write_text(
        "import keras\n"
        "def net():\n"
        "    return keras.Sequential([keras.Input((784,)), keras.layers.Dense(3), keras.layers.Dense(2)])\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["rows_of_my_own:net"]) == 0
    printed = capsys.readouterr().out
    assert "the pixels, 784, to the output" in printed
    assert re.search(r"^total +2,363 +0 +2,358 +whole image$", printed, re.MULTILINE)


@pytest.mark.parametrize("arguments", [["sep998"], ["--model", "sep998"]])
def test_an_unknown_model_is_told_the_known_ones(arguments):
    with pytest.raises(UserError) as error:
        main(arguments)
    assert "sep998" in str(error.value)
    assert "sep997, sep697" in str(error.value)


def test_nothing_asked_for_is_a_mistake_in_the_command(capsys):
    with pytest.raises(SystemExit) as status:
        main([])
    assert status.value.code == 2
    assert "MODEL_OR_FILE" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["summary", "evaluate"])
def test_help_comes_without_the_heavy_packages(command, run_python):
    done = run_python("-X", "importtime", "-m", f"mnist_minimal.{command}", "--help")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"numpy", "tensorflow", "keras", "pandas", "matplotlib", "sklearn", "scipy", "h5py"}


def test_receptive_fields_of_gap13914_where_its_source_has_others(capsys):
    # By the formula of `layer_table`: 3, 5, 7 for three 3x3 convolutions, 7 for the 1x1, 8 for the pool of 2, and 4
    # more for each 3x3 convolution on pixels 2 apart. The source prints 3, 5, 7, 7, 14, 16, 18: it doubles the field at
    # the pool and leaves the distance at 1.
    rows = [row for row in layer_table(MODELS["gap13914"]()) if row.kind in ("Conv2D", "MaxPooling2D")]
    assert [row.receptive_field for row in rows] == [3, 5, 7, 7, 8, 12, 16]
    assert main(["gap13914"]) == 0
    assert capsys.readouterr().out.endswith("after the convolutions and the pool: 3, 5, 7, 7, 14, 16, 18.\n")
