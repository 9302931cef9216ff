"""Models saved and loaded: every array comes back, by whichever Keras it was written, and other models are named."""

import json
import os
import stat
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import mnist_minimal
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS, parameters
from mnist_minimal.saving import saved_model
from mnist_minimal.saving.saved_model import load, save
from mnist_minimal.training.evaluation import evaluate, probabilities
from tests.conftest import REPOSITORY
from tests.model_files import edit_config, layer_config, randomized, refused
from tests.rounding import rounding_of

KERAS2_FULL = REPOSITORY / "tests" / "fixtures" / "keras2_sep997.h5"
KERAS2_PROBABILITIES = REPOSITORY / "tests" / "fixtures" / "keras2_sep997.csv"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """The images of fixtures/keras2_sep997.py: white rectangles."""
    images = np.zeros((4, 28, 28, 1), np.float32)
    for i in range(4):
        images[i, 4:10, 4 : 4 + 6 * (i + 1)] = 255
    return images


# What is saved can be loaded


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("ending", ["h5", pytest.param("keras", marks=pytest.mark.slow)])
def test_a_saved_model_loads_with_every_array(name, ending, tmp_path):
    model = randomized(name)
    save(model, tmp_path / f"model.{ending}")
    loaded = mnist_minimal.load(tmp_path / f"model.{ending}")
    assert loaded.name == name
    for found, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_keras_itself_reads_what_is_saved(ending, tmp_path, images):
    model = randomized("sep697")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    save(model, tmp_path / f"model.{ending}")
    by_keras = keras.models.load_model(tmp_path / f"model.{ending}", compile=False)
    np.testing.assert_array_equal(by_keras(images), model(images))


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_the_layers_of_a_published_model_for_images_of_another_size_are_another_model(ending, tmp_path):
    published = randomized("sep997")
    pixels = tensor = keras.Input((20, 24, 1))
    for layer in published.layers[1:]:
        tensor = type(layer).from_config(layer.get_config())(tensor)
    model = keras.Model(pixels, tensor, name="smaller")
    model.set_weights(published.get_weights())
    save(model, tmp_path / f"model.{ending}")
    loaded = mnist_minimal.load(tmp_path / f"model.{ending}")
    assert (loaded.name, loaded.input_shape) == ("smaller", (None, 20, 24, 1))
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 1)).astype(np.float32)
    np.testing.assert_array_equal(loaded(images), model(images))


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_the_optimizer_is_not_saved_and_the_model_keeps_it(ending, tmp_path):
    model = randomized("sep697")
    save(model, tmp_path / f"bare.{ending}")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    optimizer = model.optimizer
    save(model, tmp_path / f"trained.{ending}")
    assert (tmp_path / f"trained.{ending}").stat().st_size == (tmp_path / f"bare.{ending}").stat().st_size
    assert model.optimizer is optimizer


def test_saving_warns_of_nothing(tmp_path, caplog, capfd):
    save(randomized("sep697"), tmp_path / "model.h5")
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_the_place_is_taken_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "model.h5"
    path.write_bytes(b"the model before")

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            save(randomized("sep697"), path)
    assert path.read_bytes() == b"the model before"
    assert os.listdir(tmp_path) == ["model.h5"]
    save(randomized("sep697"), path)
    assert os.listdir(tmp_path) == ["model.h5"]
    assert load(path).name == "sep697"


def test_others_may_read_a_saved_model_as_any_new_file(tmp_path):
    save(randomized("sep697"), tmp_path / "model.h5")
    (tmp_path / "other").touch()
    assert stat.S_IMODE((tmp_path / "model.h5").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


@pytest.mark.parametrize("name", ["model", "model.hdf5", "model.pkl", "model.h5.bak"])
def test_other_endings_are_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"expected a name that ends in \.h5 or \.keras"):
        save(randomized("sep697"), tmp_path / name)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        save(randomized("sep697"), tmp_path / "folder" / "model.h5")


def test_what_is_too_large_to_be_loaded_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "MAX_FILE_BYTES", saved_model.ROOM)
    with pytest.raises(UserError, match="found a model of 697 parameters; expected one whose file has at most"):
        save(randomized("sep697"), tmp_path / "model.h5")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_a_network_of_a_million_parameters(ending, tmp_path):
    inside = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(1400, "relu"), layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((28, 28, 1)), *inside])
    save(model, tmp_path / f"model.{ending}")
    for found, expected in zip(load(tmp_path / f"model.{ending}").get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


# Models of other layers


@keras.saving.register_keras_serializable(package="test_saving")
class Scale(layers.Layer):
    """A layer of a package's own: one factor."""

    def build(self, input_shape: tuple) -> None:
        self.factor = self.add_weight(shape=(), name="factor")

    def call(self, x: object) -> object:
        return x * self.factor


def mixed(pooling: type[keras.Layer] = layers.AveragePooling2D) -> keras.Model:
    """Shared layers, untrained statistics, a class of its own, names given by Keras and more than ten of a kind."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Conv2D(4, 3, use_bias=False)(pixels)
    shared = layers.SeparableConv2D(4, 3, padding="same")
    for _ in range(3):
        x = layers.ReLU()(shared(x))
        x = Scale()(x)
    x = pooling(3)(x)
    for _ in range(11):
        x = layers.Conv2D(4, 1)(x)
        x = layers.BatchNormalization()(x)
    x = layers.ReLU()(layers.Dense(10)(layers.Flatten()(x)))
    return keras.Model(pixels, layers.Softmax()(x), name=f"mixed{pooling.__name__}")


@pytest.fixture
def more_models(monkeypatch):
    """Two more models, of the same arrays."""
    for pooling in (layers.AveragePooling2D, layers.MaxPooling2D):
        name = f"mixed{pooling.__name__}"
        monkeypatch.setitem(MODELS, name, lambda pooling=pooling: mixed(pooling))
        monkeypatch.setitem(parameters.ELEMENTS, name, mixed(pooling).count_params())


@pytest.mark.parametrize("name", [pytest.param("mixedAveragePooling2D", marks=pytest.mark.slow), "mixedMaxPooling2D"])
@pytest.mark.parametrize("ending", ["h5", pytest.param("keras", marks=pytest.mark.slow), "weights.h5"])
@pytest.mark.usefixtures("more_models")
def test_models_of_all_kinds_of_layers(name, ending, tmp_path, images):
    model = randomized(name)
    path = tmp_path / f"model.{ending}"
    if ending == "weights.h5":
        model.save_weights(path)
    else:
        save(model, path)
    loaded = load(path)
    assert loaded.name == name
    np.testing.assert_array_equal(loaded(images), model(images))


@pytest.mark.usefixtures("more_models")
def test_the_channels_may_be_counted_from_either_end(tmp_path):
    # Keras 2 writes the axis of a BatchNormalization as [3].
    path = tmp_path / "model.h5"
    save(MODELS["mixedMaxPooling2D"](), path)

    def change(axis: object) -> None:
        def edit(model: dict) -> None:
            for entry in model["config"]["layers"]:
                if entry["class_name"] == "BatchNormalization":
                    entry["config"]["axis"] = axis

        edit_config(path, edit)

    change([3])
    assert load(path).name == "mixedMaxPooling2D"
    change([1])
    assert "expected axis -1, found 1" in refused(path, "mixedMaxPooling2D")


@pytest.mark.usefixtures("more_models")
def test_layers_that_share_no_weights_are_another_model(tmp_path):
    path = tmp_path / "model.h5"
    save(MODELS["mixedMaxPooling2D"](), path)

    def share_more(model: dict) -> None:
        # The second 1x1 convolution takes the place of the third; they are applied alike.
        text = json.dumps(model)
        names = [entry["name"] for entry in model["config"]["layers"] if entry["class_name"] == "Conv2D"]
        second, third = (layer_config(model, name) for name in names[2:4])
        model.update(json.loads(text.replace(f'["{names[3]}", 0, 0]', f'["{names[2]}", 1, 0]')))
        second, third = (layer_config(model, name) for name in names[2:4])
        second["inbound_nodes"] += third["inbound_nodes"]
        model["config"]["layers"].remove(third)

    edit_config(path, share_more)
    assert "expected the same layers to be applied more than once" in refused(path, "mixedMaxPooling2D")


# What others saved


def test_a_full_keras_2_model_computes_what_it_did_there(images):
    model = load(KERAS2_FULL)
    assert model.name == "sep997"
    recorded = np.loadtxt(KERAS2_PROBABILITIES, delimiter=",")
    np.testing.assert_allclose(probabilities(model, images), recorded, rtol=0, atol=rounding_of(model, images))


def test_keras_2_weights_only(tmp_path, images):
    # `save_weights` of Keras 2 writes what its `save` writes into the group model_weights.
    path = tmp_path / "weights.h5"
    with h5py.File(KERAS2_FULL) as full, h5py.File(path, "w") as weights:
        group = full["model_weights"]
        for name in group:
            group.copy(name, weights)
        for name, value in group.attrs.items():
            weights.attrs[name] = value
    np.testing.assert_array_equal(load(path)(images), load(KERAS2_FULL)(images))


def test_keras_3_weights_only(tmp_path, images):
    model = randomized("sep697")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = load(tmp_path / "model.weights.h5")
    assert loaded.name == "sep697"
    np.testing.assert_array_equal(loaded(images), model(images))


@pytest.mark.parametrize("ending", ["h5", "keras", "weights.h5"])
def test_other_names_and_activations_inside_the_layers(ending, tmp_path, images):
    # Ten of a class and more: their names don't sort as they count.
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Rescaling(1 / 255, name="zz")])
    model.add(layers.Conv2D(6, 3, padding="same", activation=layers.LeakyReLU(negative_slope=0.2), name="b"))
    model.add(layers.MaxPooling2D())
    for position, channels in enumerate((5, 9, 10, 8)):
        model.add(layers.SeparableConv2D(channels, 3, activation="leaky_relu", name=f"a{9 - position}"))
        model.add(layers.Dropout(0.3))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    model.add(layers.Softmax())
    random = np.random.default_rng(2)
    model.set_weights([random.normal(size=weights.shape) for weights in model.get_weights()])
    path = tmp_path / f"model.{ending}"
    if ending == "weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    loaded = load(path)
    assert loaded.name == "sep697"
    np.testing.assert_allclose(loaded(images), model(images), rtol=0, atol=rounding_of(model, images))


def test_the_published_weights_score_what_was_published(mnist_path):
    folder = os.environ.get("MNIST_MINIMAL_REFERENCE")
    if folder is None:
        pytest.skip("needs the source's weights: set MNIST_MINIMAL_REFERENCE to the folder they are in")
    from mnist_minimal.data import sets
    from mnist_minimal.data.choice import Choice

    mnist = sets.load(Choice(path=mnist_path))
    found = evaluate(load(Path(folder, "sep697_source_author_0.9903.h5")), mnist.x_test, mnist.y_test)
    assert (found.correct, found.size) == (9903, 10000)


# Files that hold none of the models


@pytest.mark.parametrize(
    ("layer", "key", "value", "message"),
    [
        ("conv1", "padding", "same", "layer 'conv1': expected padding 'valid', found 'same'"),
        ("conv1", "filters", 8, "layer 'conv1': expected filters 7, found 8"),
        ("conv1", "kernel_size", [5, 5], "layer 'conv1': expected kernel_size [3, 3], found [5, 5]"),
        ("conv1", "use_bias", False, "layer 'conv1': expected use_bias True, found False"),
        ("conv1", "activation", "relu", "layer 'conv1': expected negative_slope 0.2, found 0.0"),
        ("sepconv4", "strides", [2, 2], "layer 'sepconv4': expected strides [1, 1], found [2, 2]"),
        ("sepconv5", "activation", "evil>run", "layer 'sepconv5': expected function 'relu', found 'evil>run'"),
        ("sepconv2", "dilation_rate", [2, 2], "layer 'sepconv2': expected dilation_rate [1, 1], found [2, 2]"),
        ("leaky3", "negative_slope", 0.3, "layer 'leaky3': expected negative_slope 0.2, found 0.3"),
        ("pool1", "pool_size", [3, 3], "layer 'pool1': expected pool_size [2, 2], found [3, 3]"),
        ("rescaling", "scale", 1.0, "layer 'rescaling': expected scale 0.00392156862745098, found 1.0"),
        ("rescaling", "scale", 10**400, "found one that can't be read as that"),
        ("classes", "units", 11, "layer 'classes': expected units 10, found 11"),
        ("classes", "activation", "sigmoid", "layer 'classes': expected function 'softmax', found 'sigmoid'"),
    ],
)
def test_another_setting_is_named(layer, key, value, message, saved):
    edit_config(saved, lambda model: layer_config(model, layer)["config"].update({key: value}))
    assert message in refused(saved, "sep997")


def test_settings_without_effect_may_differ(saved):
    def change(model: dict) -> None:
        layer_config(model, "dropout3")["config"]["rate"] = 0.5
        layer_config(model, "conv1")["config"]["kernel_initializer"] = {"class_name": "__lambda__", "config": {}}
        layer_config(model, "conv1")["config"]["trainable"] = False

    edit_config(saved, change)
    assert load(saved).name == "sep997"


def test_a_layer_too_many_and_one_too_few_are_named(tmp_path):
    model = MODELS["sep997"]()
    save(keras.Model(model.inputs, layers.ReLU(name="more")(model.output)), tmp_path / "more.h5")
    assert "layer 'more': expected no more layers" in refused(tmp_path / "more.h5", "sep997")
    save(keras.Model(model.inputs, model.get_layer("average").output), tmp_path / "fewer.h5")
    assert "expected another layer Dense at the end, found none" in refused(tmp_path / "fewer.h5", "sep997")


def test_layers_in_another_order_are_named(saved):
    def swap(model: dict) -> None:
        # conv1 -> leaky1 -> pool1 -> dropout1 becomes conv1 -> pool1 -> leaky1 -> dropout1.
        leaky, pool, dropout = (layer_config(model, name) for name in ("leaky1", "pool1", "dropout1"))
        nodes = [layer["inbound_nodes"] for layer in (dropout, leaky, pool)]
        leaky["inbound_nodes"], pool["inbound_nodes"], dropout["inbound_nodes"] = nodes

    edit_config(saved, swap)
    assert "layer 'pool1': expected a layer activation, found 'MaxPooling2D'" in refused(saved, "sep997")


def test_two_outputs_are_refused(tmp_path):
    pixels = keras.Input((28, 28, 1))
    keras.Model(pixels, [layers.Conv2D(7, 3)(pixels), layers.Conv2D(7, 3)(pixels)]).save(tmp_path / "two.h5")
    assert refused(tmp_path / "two.h5") == "expected one input and one output, found 1 and 2"


def test_a_cycle_in_the_description_ends(saved):
    def loop(model: dict) -> None:
        layer_config(model, "rescaling")["inbound_nodes"] = layer_config(model, "pool1")["inbound_nodes"]

    edit_config(saved, loop)
    assert "found a cycle" in refused(saved)


def test_a_builder_may_load_a_model_itself(tmp_path):
    save(randomized("sep697"), tmp_path / "model.h5")
    assert load(tmp_path / "model.h5", {"own": lambda: load(tmp_path / "model.h5")}).count_params() == 697


def test_arrays_of_another_model_are_refused_by_their_number(tmp_path):
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(10)])
    model.save_weights(tmp_path / "model.weights.h5")
    message = refused(tmp_path / "model.weights.h5")
    assert "sep997 (997 parameters), sep697 (697 parameters)" in message
    assert "found others, of 7,850 parameters" in message


def test_right_shapes_under_the_names_of_other_layers_are_refused(tmp_path):
    # Average for maximum pooling has no arrays that could tell; the names do.
    path = tmp_path / "weights.h5"
    with h5py.File(KERAS2_FULL) as full, h5py.File(path, "w") as weights:
        group = full["model_weights"]
        for name in group:
            group.copy(name, weights, name.replace("max_", "average_"))
        weights.attrs["layer_names"] = [name.replace("max_", "average_") for name in group.attrs["layer_names"]]
    assert "expected the layers of sep997, whose shapes these are" in refused(path)


def test_missing_arrays_are_refused(saved):
    with h5py.File(saved, "r+") as file:
        file["model_weights/conv1"].attrs["weight_names"] = [b"conv1/kernel"]
    assert "layer 'conv1': expected 2 arrays, of the shapes [(3, 3, 1, 7), (7,)], found 1" in refused(saved)
