import re
from math import prod

import keras
import numpy as np
import pytest
from keras import layers

from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.models.counting import LayerRow, layer_table
from mnist_minimal.saving.saved_model import save
from mnist_minimal.summary import main


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
    fields |= {"sepconv5": 20, "average": 28, "classes": 28}
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
        "wide": ((4, 2, 6), 4 * 2 * 3 * 8 * 6, 19 + 2 * 4),
        "pointwise": ((4, 2, 5), 4 * 2 * 6 * 5, 27),
        # 4 rows and 2 columns, 4 pixels apart: 19 + 3 * 4 rows, 27 + 4 columns.
        "flat": ((40,), 0, 31),
        "classes": ((10,), 40 * 10, 31),
    }
    assert {name: (table[name].output_shape, table[name].macs, table[name].receptive_field) for name in expected} == (
        expected
    )
    assert (table["norm"].trainable, table["norm"].non_trainable) == (16, 16)


def test_the_receptive_field_is_where_the_gradient_is():
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("takes the gradient with TensorFlow")
    chain = [
        layers.Conv2D(2, 3, kernel_initializer="ones", name="a"),
        layers.Conv2D(2, 3, dilation_rate=2, kernel_initializer="ones", name="b"),
        layers.AveragePooling2D(2, name="c"),
        layers.SeparableConv2D(2, 3, depthwise_initializer="ones", pointwise_initializer="ones", name="d"),
        layers.DepthwiseConv2D(3, strides=2, depthwise_initializer="ones", name="e"),
        layers.AveragePooling2D(3, strides=1, padding="same", name="f"),
    ]
    model = keras.Sequential([keras.Input((64, 64, 1)), *chain])
    table = rows(model)
    image = tensorflow.Variable(np.ones((1, 64, 64, 1), np.float32))
    for layer in chain:
        output = keras.Model(model.inputs[0], layer.output)
        with tensorflow.GradientTape() as tape:
            images = output(image)
            middle = images[0, images.shape[1] // 2, images.shape[2] // 2, 0]
        reached = np.flatnonzero(tape.gradient(middle, image)[0, :, :, 0].numpy().any(axis=0))
        assert table[layer.name].receptive_field == reached[-1] - reached[0] + 1


def test_a_layer_applied_again_computes_again_but_has_its_parameters_once():
    pixels = keras.Input((28, 28, 1))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    x = layers.Conv2D(4, 3, padding="same", name="first")(pixels)
    table = layer_table(keras.Model(pixels, shared(shared(shared(x)))))
    assert [row.name for row in table][1:] == ["shared", "shared", "shared"]
    assert [row.trainable for row in table][1:] == [148, 0, 0]
    assert [row.macs for row in table][1:] == 3 * [28 * 28 * 9 * 4 * 4]
    assert [row.receptive_field for row in table][1:] == [5, 7, 9]


def test_what_is_not_known_is_refused_and_not_counted_wrong():
    pixels = keras.Input((28, 28, 1))
    with pytest.raises(UserError, match="layer up: expected a convolution or pooling of images, found Conv2DTranspose"):
        layer_table(keras.Model(pixels, layers.Conv2DTranspose(1, 3, name="up")(pixels)))
    with pytest.raises(UserError, match="expected a chain of layers"):
        layer_table(keras.Model(pixels, layers.Add()([pixels, layers.ReLU()(pixels)])))


def test_a_name_and_a_file_of_it_give_the_same_table(tmp_path, capsys):
    save(MODELS["sep697"](), tmp_path / "model.h5")
    printed = []
    for arguments in (["sep697"], ["--model", "sep697"], [str(tmp_path / "model.h5")]):
        assert main(arguments) == 0
        printed.append(capsys.readouterr().out)
    assert printed == 3 * printed[:1]
    lines = printed[0].splitlines()
    assert len({len(line) for line in lines[1:]}) == 1
    assert re.fullmatch(r"conv1 +Conv2D +28 x 28 x 6 +60 +0 +42,336 +3", lines[3])
    assert re.fullmatch(r"total +697 +0 +80,576 +30", lines[-1])


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
