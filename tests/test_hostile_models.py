"""Files of models that are damaged or mean harm: refused with the reason, nothing run, nothing read beside the file."""

import io
import json
import marshal
import os
import re
import shutil
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from mnist_minimal.errors import UserError
from mnist_minimal.saving import load
from tests.model_files import edit_config, layer_config, refused, replace_members

# What would be run


def test_a_lambda_is_named_and_not_run(saved, tmp_path):
    marker = tmp_path / "was_run"
    code = marshal.dumps(compile(f"open({str(marker)!r}, 'w').close()", "", "exec"))

    def put_lambda(model: dict) -> None:
        entry = layer_config(model, "leaky1")
        entry["class_name"] = "Lambda"
        function = {"class_name": "__lambda__", "config": {"code": code.hex(), "defaults": None, "closure": None}}
        entry["config"] = {"name": "leaky1", "trainable": True, "function": function, "arguments": {}}

    edit_config(saved, put_lambda)
    message = refused(saved)
    assert "layer 'leaky1'" in message
    assert "found 'Lambda', which none of them has" in message
    assert not marker.exists()


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_a_lambda_as_keras_writes_it_is_not_run(ending, tmp_path):
    marker = tmp_path / "was_run"
    path = str(marker)
    pixels = keras.Input((28, 28, 1))
    run = layers.Lambda(lambda x: (open(path, "w").close(), x)[1], output_shape=(28, 28, 1), name="trap")
    model = keras.Model(pixels, layers.Dense(10)(layers.Flatten()(run(pixels))))
    model(np.zeros((1, 28, 28, 1)))
    marker.unlink()
    model.save(tmp_path / f"model.{ending}")
    assert "layer 'trap'" in refused(tmp_path / f"model.{ending}")
    assert not marker.exists()
    # The trap is a real one: Keras would fall into it.
    loaded = keras.models.load_model(tmp_path / f"model.{ending}", safe_mode=False)
    loaded(np.zeros((1, 28, 28, 1)))
    assert marker.exists()


def test_a_class_of_a_foreign_package_is_not_keras_own(saved):
    def register(model: dict) -> None:
        layer_config(model, "conv1")["registered_name"] = "foreign>Conv2D"

    edit_config(saved, register)
    assert "found 'foreign>Conv2D', which none of them has" in refused(saved)


# What is damaged, leads elsewhere or is larger than it looks


def test_no_file_a_folder_and_a_pipe_are_refused(tmp_path):
    assert refused(tmp_path / "none.h5") == "expected a model's file, found none of this name"
    assert refused(tmp_path) == "expected a model's file, found a folder"
    os.mkfifo(tmp_path / "pipe.h5")
    assert refused(tmp_path / "pipe.h5") == "expected a model's file, found a device or a pipe"


@pytest.mark.parametrize("data", [b"", b"P", b"not a model", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_other_contents_are_refused(data, tmp_path):
    (tmp_path / "model.h5").write_bytes(data)
    assert refused(tmp_path / "model.h5").startswith("expected a")


@pytest.mark.parametrize("source", ["saved", "zipped"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(source, kept, request):
    path = request.getfixturevalue(source)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert refused(path).startswith("expected an undamaged .h5 ")


def test_a_large_file_is_refused(tmp_path):
    with (tmp_path / "model.h5").open("wb") as file:
        file.truncate(5_000_000)
    assert "expected a small model's file of at most 4,000,000 bytes" in refused(tmp_path / "model.h5")


KERNEL = "model_weights/conv1/conv1/kernel"


def replaced_kernel(path: Path, **dataset: object) -> None:
    """Puts another dataset in place of the first kernel."""
    with h5py.File(path, "r+") as file:
        del file[KERNEL]
        file.create_dataset(KERNEL, **dataset)


def test_a_huge_declared_shape_is_refused_before_it_is_read(saved):
    replaced_kernel(saved, shape=(10**6, 10**6, 10), dtype="f4")
    assert "layer 'conv1': expected arrays of the shapes [(3, 3, 1, 7), (7,)]" in refused(saved)


@pytest.mark.parametrize("dtype", ["i4", "u1", "S4", "c8", h5py.string_dtype(), h5py.ref_dtype])
def test_what_is_not_floating_point_is_refused(dtype, saved):
    replaced_kernel(saved, shape=(3, 3, 1, 7), dtype=dtype)
    assert f"expected floating-point numbers in '/{KERNEL}'" in refused(saved)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_weights_that_are_not_finite_as_float32_are_refused(value, saved):
    data = np.zeros((3, 3, 1, 7))
    data[1, 1, 0, 3] = value
    replaced_kernel(saved, data=data)
    assert refused(saved) == "expected finite weights, found others in '/model_weights/conv1/conv1/kernel'"


def test_doubles_of_the_other_byte_order_are_read(saved):
    data = np.random.default_rng(0).normal(size=(3, 3, 1, 7))
    replaced_kernel(saved, data=data.astype(">f8"))
    np.testing.assert_array_equal(load(saved).get_layer("conv1").get_weights()[0], data.astype(np.float32))


def test_storage_outside_the_file_is_refused(saved, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(252))
    replaced_kernel(saved, shape=(3, 3, 1, 7), dtype="f4", external=[(str(tmp_path / "secret"), 0, 252)])
    assert f"expected '/{KERNEL}' in one piece in the file" in refused(saved)


def test_a_virtual_dataset_is_refused(saved, tmp_path):
    shutil.copy(saved, tmp_path / "other.h5")
    layout = h5py.VirtualLayout((3, 3, 1, 7), "f4")
    layout[...] = h5py.VirtualSource(tmp_path / "other.h5", KERNEL, (3, 3, 1, 7))
    with h5py.File(saved, "r+") as file:
        del file[KERNEL]
        file.create_virtual_dataset(KERNEL, layout)
    assert f"expected '/{KERNEL}' in one piece in the file" in refused(saved)


def test_compressed_arrays_are_refused(saved):
    replaced_kernel(saved, data=np.zeros((3, 3, 1, 7), "f4"), compression="gzip")
    assert "found it compressed, chunked or elsewhere" in refused(saved)


@pytest.mark.parametrize("place", [KERNEL, "model_weights/conv1/conv1", "model_weights/conv1", "model_weights"])
@pytest.mark.parametrize("link", [h5py.ExternalLink("other.h5", "/"), h5py.SoftLink("/model_weights/conv1")])
def test_links_are_not_followed(place, link, saved, tmp_path):
    shutil.copy(saved, tmp_path / "other.h5")
    with h5py.File(saved, "r+") as file:
        del file[place]
        file[place] = link
    assert re.search("found (it in a newer form, as for )?a link that leads elsewhere", refused(saved))


@pytest.mark.parametrize(
    "name", ["/../other", "..", ".", "", "/", "conv1/../conv1", "//conv1", "../model_weights/conv1"]
)
def test_names_that_lead_elsewhere_are_refused(name, saved):
    with h5py.File(saved, "r+") as file:
        file["model_weights"].attrs["layer_names"] = [name.encode(), b"conv1"]
    assert re.match("expected (the name of a layer|'conv1/..' in the group)", refused(saved))
    with h5py.File(saved, "r+") as file:
        file["model_weights"].attrs["layer_names"] = [b"conv1"]
        file["model_weights/conv1"].attrs["weight_names"] = [name.encode()]
    assert refused(saved).startswith("expected ")


@pytest.mark.parametrize(
    ("place", "name"),
    [("", "model_config"), ("model_weights", "layer_names"), ("model_weights/conv1", "weight_names")],
)
@pytest.mark.parametrize("value", [7, np.arange(3), np.array([["a"]], "S1"), np.full(257, b"conv1"), b"\xff"])
def test_odd_attributes_are_refused(place, name, value, saved):
    with h5py.File(saved, "r+") as file:
        del file[f"/{place}"].attrs[name]
        file[f"/{place}"].attrs[name] = value
    assert refused(saved).startswith(("expected ", "layer 'conv1': expected arrays"))


def test_a_long_description_is_refused(saved):
    edit_config(saved, lambda model: model.update(more="x" * 1_000_000))
    assert refused(saved) == "expected a shorter text in the attribute model_config, found more"


def test_deep_json_is_refused(saved):
    with h5py.File(saved, "r+") as file:
        file.attrs["model_config"] = '{"class_name": ' + "[" * 100_000 + "]" * 100_000 + "}"
    assert "expected the description of a Keras model as JSON" in refused(saved)


def test_activations_inside_activations_end(saved):
    # Either the JSON is too deep for Python, or what walks down it must give up.
    inner = '{"class_name": "Activation", "config": {"name": "x", "activation": '
    with h5py.File(saved, "r+") as file:
        text = file.attrs["model_config"]
        file.attrs["model_config"] = text.replace('"linear"', inner * 900 + '"linear"' + "}}" * 900, 1)
    assert refused(saved).startswith("expected ")


@pytest.mark.parametrize(
    "config",
    [
        None,
        7,
        [],
        {},
        {"class_name": "Functional"},
        {"class_name": "Functional", "config": 3},
        {"class_name": "Functional", "config": {"layers": 3}},
        {"class_name": "Functional", "config": {"layers": [3]}},
        {"class_name": "Functional", "config": {"layers": [{"class_name": 1, "config": {"name": 2}}]}},
        {"class_name": "Functional", "config": {"layers": [], "output_layers": []}},
        {"class_name": "Functional", "config": {"layers": [], "output_layers": ["x", -1, 0]}},
        {"class_name": "Functional", "config": {"layers": [], "output_layers": ["x\n\x1b[31m\u2028", 0, 0]}},
        {"class_name": "Sequential", "config": {"layers": []}},
        {"class_name": "Sequential", "config": {"layers": [{"class_name": "\n\x1b", "config": {"name": "\n"}}]}},
        {"class_name": "Sequential\n\x1b[31m", "config": {}},
    ],
)
def test_odd_descriptions_are_refused(config, saved):
    with h5py.File(saved, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)
    refused(saved)


def test_deep_and_cyclic_groups_do_no_harm(saved):
    with h5py.File(saved, "r+") as file:
        group = file["model_weights/conv1"]
        group["back"] = group
        group["deep/" + "/".join("x" * 2000)] = 1.0
    assert load(saved).name == "sep997"
    with h5py.File(saved, "r+") as file:
        file["model_weights/conv1"].attrs["weight_names"] = [b"back/" * 5 + b"conv1/kernel"]
    assert "layer 'conv1': expected arrays" in refused(saved)
    with h5py.File(saved, "r+") as file:
        file["model_weights/conv1"].attrs["weight_names"] = [b"back/" * 50 + b"conv1/kernel"]
    assert refused(saved).startswith("expected a layer at most 10 groups deep, found 'conv1/back/")


def test_a_heap_that_the_hdf5_library_would_never_leave_is_refused(saved):
    data = bytearray(saved.read_bytes())
    first = data.index(b"GCOL") + 16
    data[first : first + 16] = bytes(16)
    saved.write_bytes(data)
    assert refused(saved) == "expected an undamaged .h5 file, found texts that are not in its heaps"


def test_every_flipped_byte_is_survived(saved):
    # Damage may go unseen (a weight is a little different) or be refused; nothing else may come of it.
    original = saved.read_bytes()
    random = np.random.default_rng(5)
    outcomes = set()
    for position in random.choice(len(original), 40, replace=False):
        data = bytearray(original)
        data[position] ^= 1 << int(random.integers(8))
        saved.write_bytes(data)
        try:
            outcomes.add(load(saved).name)
        except UserError:
            outcomes.add("refused")
    assert outcomes == {"sep997", "refused"}


def test_a_zip_bomb_is_refused(zipped):
    replace_members(zipped, config=b" " * 100_000_000)
    assert zipped.stat().st_size < 1_000_000
    assert refused(zipped) == "expected at most 1,000,000 bytes in config.json, found 100,000,000"


def test_a_zip_bomb_that_understates_its_size_is_refused(zipped):
    replace_members(zipped, weights=b"\x89HDF\r\n\x1a\n" + bytes(50_000_000))
    data = zipped.read_bytes()
    zipped.write_bytes(data.replace((50_000_008).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    assert refused(zipped).startswith("expected an undamaged .h5 or .keras file, found: ")


def test_a_keras_file_without_its_parts_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    assert refused(path) == "expected the description of a Keras model as JSON, found something else"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", "")
    assert refused(path) == "expected one config.json in the archive, found 0"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_descriptions_in_a_keras_file_are_refused(zipped):
    with zipfile.ZipFile(zipped, "a") as archive:
        archive.writestr("config.json", "{}")
    assert refused(zipped) == "expected one config.json in the archive, found 2"


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compressions_are_refused(method, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("config.json", "{}")
    assert "expected config.json stored or deflated" in refused(path)


def test_links_in_the_weights_of_a_keras_file_are_not_followed(zipped):
    with zipfile.ZipFile(zipped) as archive:
        data = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(data, "r+") as file:
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars/0"] = h5py.ExternalLink("other.h5", "/x")
    replace_members(zipped, weights=data.getvalue())
    assert "found a link that leads elsewhere" in refused(zipped)
