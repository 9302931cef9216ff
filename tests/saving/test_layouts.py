"""Every layout in which a Keras saved models, against what that Keras gave or what SciPy makes of the same numbers."""

import functools
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from scipy.signal import correlate2d
from scipy.special import softmax

from experiments.oracles import in_double
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.saving import pixels
from mnist_minimal.saving.identify import plan
from mnist_minimal.saving.saved_model import load, load_described, needs_code, save
from tests.conftest import REPOSITORY
from tests.model_files import randomized
from tests.rounding import rounding_of
from tests.saving.test_saving import images  # noqa: F401  A fixture.

FIXTURES = REPOSITORY / "tests" / "fixtures"

# What is computed of a file's arrays says whether they are where they belong. Keras computes it in double precision, so
# that its own rounding, another one on every processor, does not hide a difference.
EXACT = {"rtol": 1e-9, "atol": 1e-12}

# A network whose outputs are worked out without Keras: a convolution, a pool, a dense layer.


def single(values: np.ndarray) -> np.ndarray:
    """Numbers that a file has exactly, in double precision."""
    return values.astype(np.float32).astype(np.float64)


random = np.random.default_rng(3)
KERNEL, BIAS = single(random.normal(size=(5, 5, 1, 2))), single(random.normal(size=2))
DENSE, OFFSET = single(random.normal(size=(72, 10)) / 8), single(random.normal(size=10))


def expected(batch: np.ndarray, channels_first: bool = False) -> np.ndarray:
    """What the network makes of images (n, 28, 28) in [0, 1]."""
    convolved = np.stack(
        [[correlate2d(image, KERNEL[:, :, 0, c], "valid") + BIAS[c] for c in range(2)] for image in batch]
    )
    pooled = np.maximum(convolved, 0).reshape(len(batch), 2, 6, 4, 6, 4).max((3, 5))
    flat = pooled if channels_first else pooled.transpose(0, 2, 3, 1)
    return softmax(flat.reshape(len(batch), -1) @ DENSE + OFFSET, axis=1)


def write(path: Path, groups: dict[str, dict[str, np.ndarray]], top: str = "", **attributes: str) -> Path:
    """Named layers as Keras 1 and 2 write them."""
    with h5py.File(path, "w") as file:
        for name, value in attributes.items():
            file.attrs[name] = value
        group = file.create_group(top) if top else file
        group.attrs["layer_names"] = [name.encode() for name in groups]
        for layer, arrays in groups.items():
            group.create_group(layer).attrs["weight_names"] = [name.encode() for name in arrays]
            for name, values in arrays.items():
                group[layer][name] = values.astype(np.float32)
    return path


def turned(kernel: np.ndarray) -> np.ndarray:
    """A kernel as Theano has it."""
    return kernel[::-1, ::-1]


def th(kernel: np.ndarray) -> np.ndarray:
    """A kernel in the order (filters, channels, rows, columns)."""
    return kernel.transpose(3, 2, 0, 1)


def keras_1(kernel: np.ndarray, ending: str = "") -> dict[str, dict[str, np.ndarray]]:
    return {
        "convolution2d_1": {f"convolution2d_1_W{ending}": kernel, f"convolution2d_1_b{ending}": BIAS},
        "maxpooling2d_1": {},
        "dropout_1": {},
        "flatten_1": {},
        "dense_1": {f"dense_1_W{ending}": DENSE, f"dense_1_b{ending}": OFFSET},
    }


def keras_1_json(ordering: str, shape: list[int]) -> list[dict]:
    first = {
        "name": "convolution2d_1",
        "batch_input_shape": [None, *shape],
        "trainable": True,
        "input_dtype": "float32",
    }
    convolution = {"nb_filter": 2, "nb_row": 5, "nb_col": 5, "border_mode": "valid", "subsample": [1, 1]}
    more = {"init": "glorot_uniform", "W_regularizer": None, "b_constraint": None, "bias": True, "activation": "relu"}
    pool = {"pool_size": [4, 4], "strides": [4, 4], "border_mode": "valid", "dim_ordering": ordering}
    return [
        {"class_name": "Convolution2D", "config": {**first, **convolution, **more, "dim_ordering": ordering}},
        {"class_name": "MaxPooling2D", "config": {"name": "maxpooling2d_1", "trainable": True, **pool}},
        {"class_name": "Dropout", "config": {"name": "dropout_1", "p": 0.25}},
        {"class_name": "Flatten", "config": {"name": "flatten_1", "trainable": True}},
        {
            "class_name": "Dense",
            "config": {"name": "dense_1", "output_dim": 10, "activation": "softmax", "input_dim": 72},
        },
    ]


def keras_2_layers(data_format: str, shape: list[int], initializer: dict) -> list[dict]:
    first = {"name": "conv2d_1", "trainable": True, "batch_input_shape": [None, *shape], "dtype": "float32"}
    convolution = {"filters": 2, "kernel_size": [5, 5], "strides": [1, 1], "padding": "valid", "dilation_rate": [1, 1]}
    more = {"data_format": data_format, "activation": "relu", "use_bias": True, "kernel_initializer": initializer}
    pool = {"pool_size": [4, 4], "padding": "valid", "strides": [4, 4], "data_format": data_format}
    dense = {"units": 10, "activation": "softmax", "use_bias": True, "kernel_initializer": initializer}
    return [
        {"class_name": "Conv2D", "config": {**first, **convolution, **more, "kernel_regularizer": None}},
        {"class_name": "MaxPooling2D", "config": {"name": "max_pooling2d_1", "trainable": True, **pool}},
        {"class_name": "Dropout", "config": {"name": "dropout_1", "rate": 0.25, "noise_shape": None, "seed": None}},
        {"class_name": "Flatten", "config": {"name": "flatten_1", "trainable": True}},
        {"class_name": "Dense", "config": {"name": "dense_1", "trainable": True, **dense}},
    ]


def keras_2(kernel: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    return {
        "conv2d_1": {"conv2d_1/kernel:0": kernel, "conv2d_1/bias:0": BIAS},
        "max_pooling2d_1": {},
        "dropout_1": {},
        "flatten_1": {},
        "dense_1": {"dense_1/kernel:0": DENSE, "dense_1/bias:0": OFFSET},
    }


INITIALIZER = {"class_name": "VarianceScaling", "config": {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform"}}
IN_TENSORFLOW_1 = {"class_name": "GlorotUniform", "config": {"seed": None, "dtype": "float32"}}
LAST, FIRST = [28, 28, 1], [1, 28, 28]


def numbered(folder: Path) -> Path:
    """Keras 0.3 on Theano: no names, the class as a name in the JSON."""
    arrays = [[th(turned(KERNEL)), BIAS], [], [], [], [DENSE, OFFSET]]
    with h5py.File(folder / "model.h5", "w") as file:
        file.attrs["nb_layers"] = len(arrays)
        for number, values in enumerate(arrays):
            group = file.create_group(f"layer_{number}")
            group.attrs["nb_params"] = len(values)
            for position, value in enumerate(values):
                group[f"param_{position}"] = value.astype(np.float32)
    described = []
    for entry in keras_1_json("th", FIRST):
        config = dict(entry["config"])
        config["custom_name"] = config.pop("name")
        config.pop("batch_input_shape", None)
        described.append({**config, "name": entry["class_name"]})
    described[0]["input_shape"] = FIRST
    (folder / "model.json").write_text(json.dumps({"name": "Sequential", "layers": described, "optimizer": {}}))
    return folder / "model.h5"


def keras_1_theano(folder: Path) -> Path:
    """Weights of Keras 1 on Theano, beside the JSON."""
    model = {"class_name": "Sequential", "keras_version": "1.2.2", "config": keras_1_json("th", FIRST)}
    (folder / "architecture.json").write_text(json.dumps(json.dumps(model)))
    (folder / "other.json").write_text('{"a": 1}')
    return write(folder / "weights.h5", keras_1(th(turned(KERNEL))))


def keras_1_tensorflow(folder: Path) -> Path:
    """A model of Keras 1 on TensorFlow."""
    model = {"class_name": "Sequential", "config": keras_1_json("tf", LAST)}
    return write(
        folder / "m.h5", keras_1(KERNEL, ":0"), "model_weights", keras_version="1.2.2", model_config=json.dumps(model)
    )


def keras_2_file(
    version: str, backend: str, data_format: str, as_list: bool, initializer: dict = INITIALIZER
) -> Callable[[Path], Path]:
    """A model of Keras 2."""

    def make(folder: Path) -> Path:
        entries = keras_2_layers(data_format, FIRST if data_format == "channels_first" else LAST, initializer)
        config = entries if as_list else {"name": "sequential_1", "layers": entries}
        model = {"class_name": "Sequential", "config": config}
        kernel = turned(KERNEL) if backend == "theano" else KERNEL
        attributes = {"keras_version": version, "backend": backend, "model_config": json.dumps(model)}
        return write(folder / "m.h5", keras_2(kernel), "model_weights", **attributes)

    return make


def weights_of_another_run(folder: Path) -> Path:
    """Weights of Keras 2 whose names count on from another model's, beside the JSON."""
    entries = keras_2_layers("channels_last", LAST, INITIALIZER)
    model = {"class_name": "Sequential", "config": entries, "keras_version": "2.2.2", "backend": "tensorflow"}
    (folder / "m.json").write_text(json.dumps(model))
    groups = {name.replace("_1", "_3"): arrays for name, arrays in keras_2(KERNEL).items()}
    return write(folder / "m.h5", groups, keras_version="2.2.2", backend="tensorflow")


@pytest.mark.parametrize(
    ("make", "layout", "version", "channels_first"),
    [
        (numbered, "H0", "0", True),
        (keras_1_theano, "H1", "1.2.2", True),
        (keras_1_tensorflow, "H2", "1.2.2", False),
        (keras_2_file("2.1.3", "theano", "channels_first", True), "H2", "2.1.3", True),
        (keras_2_file("2.2.4", "tensorflow", "channels_last", False), "H3", "2.2.4", False),
        (keras_2_file("2.2.4-tf", "tensorflow", "channels_first", False, IN_TENSORFLOW_1), "H4", "2.2.4-tf", True),
        (weights_of_another_run, "H7", "2.2.2", False),
    ],
)
def test_old_files_compute_what_scipy_does(make, layout, version, channels_first, tmp_path, images):  # noqa: F811
    loaded = load_described(make(tmp_path))
    assert (loaded.layout, loaded.keras_version, loaded.outputs) == (layout, version, "probabilities")
    batch = images[..., 0].astype(np.float64) / 255
    given = batch[:, None] if channels_first else batch[..., None]
    np.testing.assert_allclose(in_double(loaded.model)(given), expected(batch, channels_first), **EXACT)
    assert (loaded.turned is not None) == (layout == "H0")


def test_keras_0_does_not_say_whose_kernels_it_has(tmp_path, images):  # noqa: F811
    loaded = load_described(numbered(tmp_path))
    batch = images[..., 0].astype(np.float64) / 255
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file["layer_0/param_0"][...] = th(KERNEL)
    tensorflow = load_described(tmp_path / "model.h5")
    np.testing.assert_allclose(in_double(tensorflow.turned)(batch[:, None]), expected(batch, True), **EXACT)
    assert not np.allclose(loaded.turned(batch[:, None]), expected(batch, True), atol=1e-2)


# What tf_keras saved, and what Keras 3 does


@pytest.fixture(scope="module")
def of_keras_2(images) -> Callable[[str], tuple[np.ndarray, np.ndarray, float]]:  # noqa: F811
    """What a network was given, what Keras 2 made of it, and how far rounding may be from that, in whichever file."""

    @functools.cache
    def of(name: str) -> tuple[np.ndarray, np.ndarray, float]:
        model = load(FIXTURES / f"keras2_{name}.h5")
        given = images.reshape(-1, *model.input_shape[1:]) / (1 if name == "graph" else 255)
        # That of half precision, which rounds by 2**-11 where single does by 2**-24, is here computed in whole.
        allowed = 2e-3 if name == "mixed" else rounding_of(model, given)
        return given, np.loadtxt(FIXTURES / f"keras2_{name}.csv", delimiter=","), allowed

    return of


@pytest.mark.parametrize("name", ["chain", "graph", pytest.param("recurrent", marks=pytest.mark.slow), "mixed"])
@pytest.mark.parametrize(("ending", "layout"), [("h5", "H5"), ("keras", "Z2")])
def test_files_of_keras_2_compute_what_they_did_there(name, ending, layout, of_keras_2):
    loaded = load_described(FIXTURES / f"keras2_{name}.{ending}")
    assert (loaded.layout, loaded.keras_version) == (layout, "2.21.0")
    given, expected, allowed = of_keras_2(name)
    np.testing.assert_allclose(loaded.model(given), expected, rtol=0, atol=allowed)
    assert loaded.outputs == {"graph": "logits", "recurrent": "sigmoids"}.get(name, "probabilities")


def rearranged(rename: Callable[[str], str]) -> bytes:
    """The chain of Keras 2.15 with its groups under other names, and its metadata of 2.13."""
    with zipfile.ZipFile(FIXTURES / "keras2_chain.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = io.BytesIO()
    with h5py.File(io.BytesIO(members["model.weights.h5"])) as old, h5py.File(weights, "w") as new:
        for layer in old["layers"]:
            group = new.create_group(rename(layer))
            if "vars" in old["layers"][layer]:
                old.copy(f"layers/{layer}/vars", group)
    members["model.weights.h5"] = weights.getvalue()
    members["metadata.json"] = b'{"keras_version": "2.13.1", "date_saved": "2023-10-01@00:00:00"}'
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    "rename",
    [
        lambda layer: f"_layer_checkpoint_dependencies/{layer}",
        # On Windows; and the numbers may go on from another model's.
        lambda layer: f"_layer_checkpoint_dependencies\\{layer.replace('dense', 'dense_4')}",
    ],
)
def test_the_tree_of_keras_2_13(rename, tmp_path, images):  # noqa: F811
    (tmp_path / "m.keras").write_bytes(rearranged(rename))
    loaded = load_described(tmp_path / "m.keras")
    assert (loaded.layout, loaded.keras_version) == ("Z1", "2.13.1")
    expected = np.loadtxt(FIXTURES / "keras2_chain.csv", delimiter=",")
    allowed = rounding_of(loaded.model, images / 255)
    np.testing.assert_allclose(loaded.model(images / 255), expected, rtol=0, atol=allowed)


def branched() -> keras.Model:
    """A network of this Keras that is no chain, with a model in it and what only acts in training."""
    image = keras.Input((28, 28, 1))
    x = layers.GaussianNoise(0.1)(layers.RandomRotation(0.1)(image / 255.0))
    inner = keras.Sequential([layers.Conv2D(4, 3, strides=2), layers.BatchNormalization(), layers.ReLU()])
    x = inner(x)
    shared = layers.SeparableConv2D(4, 3, padding="same", activation="leaky_relu")
    x = layers.Add()([shared(shared(x)), layers.SpatialDropout2D(0.1)(x)])
    x = layers.Bidirectional(layers.LSTM(3))(layers.Reshape((13, 52))(x))
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


@pytest.fixture(scope="module")
def network() -> keras.Model:
    model = branched()
    random = np.random.default_rng(5)
    model.set_weights([random.uniform(0.1, 0.5, weights.shape) for weights in model.get_weights()])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def allowed(network, images) -> float:  # noqa: F811
    """How far rounding may move what the network makes of the images."""
    return rounding_of(network, images)


@pytest.mark.parametrize(("ending", "layout"), [("h5", "H6"), ("keras", "Z3"), ("weights.h5", "W")])
def test_files_of_this_keras(ending, layout, network, allowed, tmp_path, images):  # noqa: F811
    path = tmp_path / f"m.{ending}"
    if layout == "W":
        network.save_weights(path)
        path.with_name("m.json").write_text(network.to_json())
    else:
        network.save(path)
    loaded = load_described(path)
    assert loaded.layout == layout
    np.testing.assert_allclose(loaded.model(images), network(images), rtol=0, atol=allowed)
    # What was made of it is a model as any other.
    loaded.model.save(tmp_path / "again.keras")
    np.testing.assert_allclose(load(tmp_path / "again.keras")(images), network(images), rtol=0, atol=allowed)


@pytest.mark.parametrize("ending", ["h5", "keras", "weights.h5"])
def test_the_same_by_its_builder(ending, network, allowed, tmp_path, images):  # noqa: F811
    path = tmp_path / f"m.{ending}"
    network.save_weights(path) if ending == "weights.h5" else network.save(path)
    loaded = load_described(path, {"branched": branched})
    assert loaded.name == "branched"
    np.testing.assert_allclose(loaded.model(images), network(images), rtol=0, atol=allowed)
    with pytest.raises(UserError, match=r"it is not sep997|expected the arrays of one of the models sep997"):
        load(path, {"sep997": MODELS["sep997"]})


def test_a_network_is_compared_with_those_of_as_many_parameters_alone(network, tmp_path):
    network.save(tmp_path / "foreign.h5")
    randomized("sep697").save_weights(tmp_path / "published.weights.h5")
    for name, built in (("foreign.h5", 0), ("published.weights.h5", 1)):
        plan.cache_clear()
        load(tmp_path / name)
        assert plan.cache_info().currsize == built


def test_weights_of_no_published_model_need_a_builder(network, tmp_path):
    network.save_weights(tmp_path / "m.weights.h5")
    found = rf"sep697 \(697 parameters\); found others, of {network.count_params():,} parameters; give the function"
    with pytest.raises(UserError, match=found):
        load(tmp_path / "m.weights.h5")


def test_compressed_chunked_and_in_the_newest_form(network, tmp_path, images):  # noqa: F811
    network.save(tmp_path / "m.h5")

    def copy(old: h5py.Group, new: h5py.Group) -> None:
        new.attrs.update(old.attrs)
        for name, item in old.items():
            if isinstance(item, h5py.Group):
                copy(item, new.create_group(name, track_order=True))
            else:
                chunks = {"chunks": True, "compression": "gzip", "shuffle": True} if item.shape else {}
                new.create_dataset(name, data=item[()].astype(">f8"), **chunks)

    with h5py.File(tmp_path / "m.h5") as old, h5py.File(tmp_path / "new.h5", "w", libver="latest") as new:
        copy(old, new)
    np.testing.assert_array_equal(load(tmp_path / "new.h5")(images), load(tmp_path / "m.h5")(images))


def test_names_that_are_cut_into_several_attributes(tmp_path, images):  # noqa: F811
    path = keras_2_file("2.2.4", "tensorflow", "channels_last", False)(tmp_path)
    with h5py.File(path, "r+") as file:
        group = file["model_weights"]
        names = list(group.attrs["layer_names"])
        del group.attrs["layer_names"]
        group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:2], names[2:]
    batch = images.astype(np.float64) / 255
    np.testing.assert_allclose(in_double(load(path))(batch), expected(batch[..., 0]), **EXACT)


# The published network of keras-contrib's layers


def contrib_file(path: Path, model: keras.Model) -> Path:
    """The 1,936-parameter network as Keras 2.2.4 with keras-contrib describes it: pixels are scaled outside."""
    described = json.loads(model.to_json())["config"]
    entries, weights = [], {}
    for entry in described["layers"]:
        name, config = entry["config"]["name"], dict(entry["config"])
        nodes = [[[*node["args"][0]["config"]["keras_history"], {}]] for node in entry["inbound_nodes"]]
        kind = entry["class_name"]
        if kind == "Rescaling":
            continue
        if kind == "InputLayer":
            config = {
                "batch_input_shape": config["batch_shape"],
                "dtype": "float32",
                "sparse": False,
                "name": "rescaling",
            }
        if kind == "InstanceNormalization":
            config |= {"axis": None, "center": True, "scale": True, "beta_initializer": {"class_name": "Zeros"}}
        for key in ("module", "registered_name"):
            config.pop(key, None)
        name = config["name"]
        entries.append({"name": name, "class_name": kind, "config": config, "inbound_nodes": nodes})
        layer = model.get_layer(entry["config"]["name"])
        weights[name] = {f"{name}/{w.name}:0": np.asarray(w) for w in layer.weights} if kind != "InputLayer" else {}
    (name, call, tensor) = (
        described["output_layers"] if isinstance(described["output_layers"][0], str) else described["output_layers"][0]
    )
    ends = {"input_layers": [["rescaling", 0, 0]], "output_layers": [[name, call, tensor]]}
    config = {"class_name": "Model", "config": {"name": "model_1", "layers": entries, **ends}}
    return write(
        path, weights, "model_weights", keras_version="2.2.4", backend="tensorflow", model_config=json.dumps(config)
    )


def test_keras_contribs_normalization_becomes_ours(tmp_path, images):  # noqa: F811
    model = randomized("shared1936")
    path = contrib_file(tmp_path / "m.h5", model)
    loaded = load_described(path)
    assert (loaded.name, loaded.raw_pixels, loaded.model.count_params()) == (None, False, 1936)
    batch = images.astype(np.float64)
    # Keras has 1 / 255 in single precision.
    np.testing.assert_allclose(in_double(loaded.model)(batch / 255), in_double(model)(batch), rtol=1e-5)
    # With the pixels divided in front it is the published network; a builder may say so too.
    for whole in (pixels.adapt(loaded, "1"), load(path, {"shared1936": MODELS["shared1936"]})):
        assert whole.name == "shared1936"
        np.testing.assert_array_equal(whole(images), model(images))


# What is not of Keras


class Halved(layers.Layer):
    """A class of the user's own."""

    def build(self, input_shape: Sequence[int]) -> None:
        self.factor = self.add_weight(shape=(), name="factor")

    def call(self, x: object) -> object:
        return x * self.factor / 2


def foreign(kind: Callable[[], keras.Layer]) -> keras.Model:
    return keras.Sequential(
        [keras.Input((28, 28, 1)), kind(), layers.Flatten(), layers.Dense(10, activation="softmax")]
    )


def doubled(x: object) -> object:
    return x * 2


@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.parametrize(
    ("kind", "objects", "named"),
    [
        (Halved, {"Halved": Halved}, r"(tests\.saving\.test_layouts\.)?Halved"),
        (lambda: layers.Lambda(doubled, name="twice"), {"doubled": doubled}, "Lambda"),
        (lambda: layers.Lambda(lambda x: x * 2, name="twice"), {"twice": doubled}, "Lambda"),
    ],
)
def test_foreign_code_is_the_users_or_none(ending, kind, objects, named, tmp_path, images):  # noqa: F811
    model = foreign(kind)
    model.set_weights([np.random.default_rng(2).normal(size=weights.shape) for weights in model.get_weights()])
    path = tmp_path / f"m.{ending}"
    model.save(path)
    assert len(needs_code(model)) == 1
    with pytest.raises(UserError, match=f"found one of the class '{named}', whose code is not run from a file"):
        load(path)
    for loaded in (load(path, custom_objects=objects), load(path, {"mine": lambda: foreign(kind)})):
        np.testing.assert_allclose(loaded(images), model(images), rtol=0, atol=rounding_of(model, images))


def test_a_builder_may_add_a_rescaling_and_a_softmax_and_nothing_else(tmp_path, images):  # noqa: F811
    inside = [layers.Flatten(), layers.Dense(10)]
    model = keras.Sequential([keras.Input((28, 28, 1)), *inside])
    model.save(tmp_path / "m.h5")

    def with_both() -> keras.Model:
        return keras.Sequential(
            [keras.Input((28, 28, 1)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(10), layers.Softmax()]
        )

    def with_more() -> keras.Model:
        return keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(10), layers.ReLU()])

    loaded = load_described(tmp_path / "m.h5", {"both": with_both})
    assert (loaded.raw_pixels, loaded.outputs) == (True, "probabilities")
    batch = images.astype(np.float64)
    expected = softmax(in_double(model)(batch / 255), axis=1)
    np.testing.assert_allclose(in_double(loaded.model)(batch), expected, rtol=1e-5)
    with pytest.raises(UserError, match="expected another layer activation at the end, found none"):
        load(tmp_path / "m.h5", {"more": with_more})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"class_name": "LocallyConnected2D"}, "found one of the class 'LocallyConnected2D'"),
        ({"class_name": "QuantizeWrapper"}, "found one of the class 'QuantizeWrapper'"),
        ({"config": {"name": "x", "strange": 3}, "class_name": "ReLU"}, "expected arguments of ReLU, found 'strange'"),
        ({"config": {"name": "x", "mode": 1}, "class_name": "BatchNormalization"}, "expected mode 0, found another"),
        ({"config": {"name": "x", "units": 2, "stateful": True}, "class_name": "LSTM"}, "expected stateful False"),
    ],
)
def test_what_stays_out_is_named(edit, message, tmp_path):
    entries = keras_2_layers("channels_last", LAST, INITIALIZER)
    entries[1].update(edit)
    model = {"class_name": "Sequential", "config": entries}
    path = write(
        tmp_path / "m.h5", keras_2(KERNEL), "model_weights", keras_version="2.1.3", model_config=json.dumps(model)
    )
    with pytest.raises(UserError, match=message):
        load(path)


def test_a_layer_without_its_arrays_is_refused(tmp_path):
    entries = keras_2_layers("channels_last", LAST, INITIALIZER)
    model = {"class_name": "Sequential", "config": entries}
    attributes = {"keras_version": "2.1.3", "model_config": json.dumps(model)}
    groups = keras_2(KERNEL)
    groups["dense_1"] = {"dense_1/kernel:0": DENSE}
    with pytest.raises(UserError, match="layer 'dense_1': expected 2 arrays"):
        load(write(tmp_path / "fewer.h5", groups, "model_weights", **attributes))
    groups["dense_1"] = {"dense_1/kernel:0": DENSE.T, "dense_1/bias:0": OFFSET}
    with pytest.raises(UserError, match=r"expected an array kernel of the shape \(72, 10\), found \(10, 72\)"):
        load(write(tmp_path / "turned.h5", groups, "model_weights", **attributes))
    del groups["dense_1"]
    with pytest.raises(UserError, match="expected the arrays of 2 layers, found those of 1"):
        load(write(tmp_path / "none.h5", groups, "model_weights", **attributes))


@pytest.mark.parametrize("name", MODELS)
def test_the_published_models_need_no_code(name):
    assert needs_code(MODELS[name]()) == []


@pytest.fixture
def hostile_keras_json():
    """What a user's keras.json may say."""
    before = keras.config.image_data_format(), keras.config.floatx()
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    yield
    keras.config.set_image_data_format(before[0])
    keras.config.set_floatx(before[1])


@pytest.mark.parametrize("name", ["chain", "graph", pytest.param("recurrent", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("hostile_keras_json")
def test_the_users_keras_json_changes_nothing(name, of_keras_2):
    model = load(FIXTURES / f"keras2_{name}.h5")
    given, expected, allowed = of_keras_2(name)
    np.testing.assert_allclose(model(given), expected, rtol=0, atol=allowed)


def test_a_saved_model_folder_is_named(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(UserError, match="found a SavedModel of TensorFlow"):
        load(tmp_path)


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_what_was_made_of_an_old_file_is_saved_and_read_again(ending, tmp_path, images):  # noqa: F811
    old = load(FIXTURES / "keras2_chain.h5")
    save(old, tmp_path / f"m.{ending}")
    again = load(tmp_path / f"m.{ending}")
    np.testing.assert_allclose(again(images / 255), old(images / 255), rtol=0, atol=rounding_of(old, images / 255))


# Gates in another order, and an activation of another slope


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.clip(0.2 * x + 0.5, 0, 1)


def test_the_gates_of_keras_1_in_their_order(tmp_path, images):  # noqa: F811
    random = np.random.default_rng(4)
    w, u, b = ({gate: random.normal(size=size) / 5 for gate in "icfo"} for size in ((28, 3), (3, 3), (3,)))
    dense, offset = random.normal(size=(3, 10)), random.normal(size=10)
    entries = [
        {
            "class_name": "LSTM",
            "config": {
                **{"name": "lstm_1", "batch_input_shape": [None, 28, 28], "output_dim": 3, "input_dim": 28},
                **{"activation": "tanh", "inner_activation": "hard_sigmoid", "init": "glorot_uniform"},
                **{"inner_init": "orthogonal", "forget_bias_init": "one", "return_sequences": False, "stateful": False},
                **{"go_backwards": False, "dropout_W": 0.0, "consume_less": "cpu", "unroll": False, "input_length": 28},
            },
        },
        {"class_name": "Dense", "config": {"name": "dense_1", "output_dim": 10, "activation": "linear"}},
    ]
    arrays = {
        f"lstm_1_{kind}_{gate}": values[gate] for gate in "icfo" for kind, values in zip("WUb", (w, u, b), strict=True)
    }
    model = {"class_name": "Sequential", "config": entries}
    groups = {"lstm_1": arrays, "dense_1": {"dense_1_W": dense, "dense_1_b": offset}}
    path = write(tmp_path / "m.h5", groups, "model_weights", keras_version="1.1.1", model_config=json.dumps(model))
    batch = images[..., 0].astype(np.float64) / 255
    hidden, cell = np.zeros((len(batch), 3)), np.zeros((len(batch), 3))
    for row in batch.transpose(1, 0, 2):
        i, c, f, o = (row @ w[gate] + hidden @ u[gate] + b[gate] for gate in "icfo")
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        hidden = sigmoid(o) * np.tanh(cell)
    model = load(path)
    np.testing.assert_allclose(model(batch), hidden @ dense + offset, rtol=0, atol=rounding_of(model, batch))
