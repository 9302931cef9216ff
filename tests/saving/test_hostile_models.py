"""Files of models that are damaged or mean harm: refused with the reason, nothing run, nothing read beside the file."""

import io
import json
import marshal
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from mnist_minimal import content
from mnist_minimal.errors import UserError
from mnist_minimal.saving.saved_model import load
from tests.model_files import edit_config, layer_config, refused, replace_members
from tests.test_content import FILES

# A corpus of files that would have something run, read or written, or memory taken, as .h5 and as .keras

KERNELS = {".h5": "model_weights/conv1/conv1/kernel", ".keras": "layers/conv2d/vars/0"}


def tamper(path: Path, edit: Callable[[h5py.File, str, dict], None]) -> None:
    """Changes a model's file in either format.

    Args:
        path: The file.
        edit: Changes the HDF5 file that it is given, the first kernel in it of the path that it is given, or the
            description of the layer conv1.
    """
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            model = json.loads(file.attrs["model_config"])
            edit(file, KERNELS[".h5"], layer_config(model, "conv1"))
            file.attrs["model_config"] = json.dumps(model)
        return
    with zipfile.ZipFile(path) as archive:
        model = json.loads(archive.read("config.json"))
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights, "r+") as file:
        edit(file, KERNELS[".keras"], layer_config(model, "conv1"))
    replace_members(path, config=json.dumps(model).encode(), weights=weights.getvalue())


def lambda_of_marshalled_code(file: h5py.File, kernel: str, layer: dict) -> None:
    code = marshal.dumps(compile("open('was_run', 'w').close()", "", "exec"))
    function = {"class_name": "__lambda__", "config": {"code": code.hex(), "defaults": None, "closure": None}}
    layer.update(class_name="Lambda", config={"name": "conv1", "function": function, "arguments": {}})


def class_by_import_path(file: h5py.File, kernel: str, layer: dict) -> None:
    layer.update(module="os", class_name="system", registered_name=None, config={"name": "conv1", "command": "touch x"})


def activation_by_import_path(file: h5py.File, kernel: str, layer: dict) -> None:
    activation = {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "function"}
    layer["config"]["activation"] = activation


def external_link(file: h5py.File, kernel: str, layer: dict) -> None:
    del file[kernel]
    file[kernel] = h5py.ExternalLink("secret.h5", "/kernel")


def soft_link(file: h5py.File, kernel: str, layer: dict) -> None:
    file["elsewhere"] = np.zeros((3, 3, 1, 7), np.float32)
    del file[kernel]
    file[kernel] = h5py.SoftLink("/elsewhere")


def external_storage(file: h5py.File, kernel: str, layer: dict) -> None:
    del file[kernel]
    file.create_dataset(kernel, (3, 3, 1, 7), "f4", external=[("secret", 0, 252)])


def virtual_dataset(file: h5py.File, kernel: str, layer: dict) -> None:
    del file[kernel]
    layout = h5py.VirtualLayout((3, 3, 1, 7), "f4")
    layout[...] = h5py.VirtualSource("secret.h5", "kernel", (3, 3, 1, 7))
    file.create_virtual_dataset(kernel, layout)


def huge_shape(file: h5py.File, kernel: str, layer: dict) -> None:
    del file[kernel]
    file.create_dataset(kernel, (10**6, 10**6, 10), "f4")


def huge_shape_of_chunks(file: h5py.File, kernel: str, layer: dict) -> None:
    del file[kernel]
    file.create_dataset(kernel, (10**6, 10**6, 10), "f4", chunks=True, compression="gzip", fillvalue=1)


def deep_groups(file: h5py.File, kernel: str, layer: dict) -> None:
    del file[kernel]
    file.create_group(kernel + "/x" * 2000)


def wrong_dtype(file: h5py.File, kernel: str, layer: dict) -> None:
    del file[kernel]
    file[kernel] = np.zeros((3, 3, 1, 7), np.complex64)


def huge_layer(file: h5py.File, kernel: str, layer: dict) -> None:
    layer["config"]["filters"] = 10**9


def huge_output(file: h5py.File, kernel: str, layer: dict) -> None:
    layer.update(class_name="UpSampling2D", config={"name": "conv1", "size": [10**4, 10**4]})


CORPUS = {
    lambda_of_marshalled_code: "found one of the class 'Lambda', whose code is not run",
    class_by_import_path: "found one of the class 'os.system', whose code is not run",
    activation_by_import_path: "expected an activation of Keras, found 'exec'",
    external_link: "a link that leads elsewhere",
    soft_link: "a link that leads elsewhere",
    external_storage: "found an array that lies in another",
    virtual_dataset: "found an array that lies in another",
    huge_shape: "expected arrays of at most 268,435,456 bytes",
    huge_shape_of_chunks: "expected arrays of at most 268,435,456 bytes",
    deep_groups: "expected groups at most 30 deep",
    wrong_dtype: "expected an array of numbers",
    huge_layer: "expected a layer of the file's weights, found a larger one",
    huge_output: "expected at most 16,777,216 outputs, found more",
}

seen: list[tuple[str, object]] | None = None


def watch(event: str, arguments: tuple) -> None:
    if seen is not None:
        seen.append((event, arguments[0] if arguments else None))


sys.addaudithook(watch)

# What Python tells an audit hook of when something is run or goes out of the process.
FORBIDDEN = ("exec", "compile", "import", "marshal.", "pickle.", "subprocess.", "os.", "socket.", "ctypes.", "shutil.")


@pytest.mark.parametrize("source", ["saved", "zipped"])
@pytest.mark.parametrize("edit", CORPUS, ids=lambda edit: edit.__name__)
def test_the_corpus_is_refused_and_nothing_run_or_read_beside_the_file(edit, source, request, tmp_path, monkeypatch):
    global seen
    path = request.getfixturevalue(source)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(252))
    with h5py.File("secret.h5", "w") as file:
        file["kernel"] = np.zeros((3, 3, 1, 7), np.float32)
    load(path)  # What is imported at first use is imported now.
    tamper(path, edit)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    seen = []
    try:
        with pytest.raises(UserError) as error:
            load(path)
    finally:
        events, seen = seen, None
    assert re.search(CORPUS[edit], str(error.value)), str(error.value)
    assert {os.fspath(what) for event, what in events if event == "open"} == {str(path)}
    assert [event for event, _ in events if event.startswith(FORBIDDEN)] == []
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_the_watch_sees_what_is_opened_and_run():
    global seen
    seen = []
    try:
        eval(marshal.loads(marshal.dumps(compile(f"open({os.devnull!r}).close()", "", "eval"))))
    finally:
        events, seen = seen, None
    assert ("open", os.devnull) in events
    assert {"compile", "exec", "marshal.loads"} <= {event for event, _ in events}


def test_the_corpus_is_read_where_nothing_was_changed(saved, zipped):
    for path in (saved, zipped):
        tamper(path, lambda file, kernel, layer: None)
        assert load(path).name == "sep997"


# What would be run


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
    assert "found one of the class 'foreign>Conv2D', whose code is not run" in refused(saved)


# What is damaged, leads elsewhere or is larger than it looks


def test_no_file_a_folder_and_a_pipe_are_refused(tmp_path):
    assert refused(tmp_path / "none.h5") == "found no file of this name, expected one of a model; check the name"
    assert refused(tmp_path) == "expected a file, found a folder, a pipe or a device; check the name"
    os.mkfifo(tmp_path / "pipe.h5")
    assert refused(tmp_path / "pipe.h5") == refused(tmp_path)


@pytest.mark.parametrize("data", [b"", b"P", b"not a model", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_other_contents_are_refused(data, tmp_path):
    (tmp_path / "model.h5").write_bytes(data)
    assert re.match("found .*, expected a model saved by Keras.*; ", refused(tmp_path / "model.h5"))


@pytest.mark.parametrize("source", ["saved", "zipped"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(source, kept, request):
    path = request.getfixturevalue(source)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert re.match(r"found (an HDF5 file|a zip archive) that can't be read \(.*; save or download", refused(path))


def test_a_file_above_the_bound_is_refused_unread(tmp_path):
    with (tmp_path / "model.h5").open("wb") as file:
        file.truncate(300_000_000)
    assert "expected a file of at most 268,435,456 bytes" in refused(tmp_path / "model.h5")


KERNEL = KERNELS[".h5"]


def replaced_kernel(path: Path, **dataset: object) -> None:
    """Puts another dataset in place of the first kernel."""
    with h5py.File(path, "r+") as file:
        del file[KERNEL]
        file.create_dataset(KERNEL, **dataset)


@pytest.mark.parametrize("dtype", ["S4", "c8", h5py.string_dtype(), h5py.ref_dtype])
def test_what_is_not_a_number_is_refused(dtype, saved):
    replaced_kernel(saved, shape=(3, 3, 1, 7), dtype=dtype)
    assert f"expected an array of numbers in '{KERNEL}'" in refused(saved)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_weights_that_are_not_finite_as_float32_are_refused(value, saved):
    data = np.zeros((3, 3, 1, 7))
    data[1, 1, 0, 3] = value
    replaced_kernel(saved, data=data)
    assert refused(saved) == "expected finite weights, found others in 'model_weights/conv1/conv1/kernel'"


def test_doubles_of_the_other_byte_order_are_read(saved):
    data = np.random.default_rng(0).normal(size=(3, 3, 1, 7))
    replaced_kernel(saved, data=data.astype(">f8"))
    np.testing.assert_array_equal(load(saved).get_layer("conv1").get_weights()[0], data.astype(np.float32))


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
    assert re.match("expected (a group .*, found none|the arrays of 6 layers)", refused(saved))
    with h5py.File(saved, "r+") as file:
        file["model_weights"].attrs["layer_names"] = [b"conv1"]
        file["model_weights/conv1"].attrs["weight_names"] = [name.encode()]
    assert "layer 'conv1': expected an array" in refused(saved)


@pytest.mark.parametrize(
    ("place", "name"),
    [("", "model_config"), ("model_weights", "layer_names"), ("model_weights/conv1", "weight_names")],
)
@pytest.mark.parametrize("value", [7, np.arange(3), np.array([["a"]], "S1"), np.full(257, b"conv1"), b"\xff"])
def test_odd_attributes_are_refused(place, name, value, saved):
    with h5py.File(saved, "r+") as file:
        del file[f"/{place}"].attrs[name]
        file[f"/{place}"].attrs[name] = value
    assert refused(saved).startswith(("expected ", "layer 'conv1': expected an array"))


def test_a_long_description_is_refused(saved):
    edit_config(saved, lambda model: model.update(more="x" * 10_000_000))
    assert refused(saved) == "expected at most 10,000,000 bytes of text in the attribute model_config, found more"


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


def test_cyclic_groups_do_no_harm(saved):
    with h5py.File(saved, "r+") as file:
        group = file["model_weights/conv1"]
        group["back"] = group
    assert load(saved).name == "sep997"
    with h5py.File(saved, "r+") as file:
        file["model_weights/conv1"].attrs["weight_names"] = [b"back/" * 5 + b"conv1/kernel"]
    assert "layer 'conv1': expected an array 'back/back" in refused(saved)


@pytest.mark.slow
def test_a_heap_that_the_hdf5_library_never_leaves_ends_by_the_limit_of_time(saved):
    data = bytearray(saved.read_bytes())
    first = data.index(b"GCOL") + 16
    data[first : first + 16] = bytes(16)
    saved.with_name("endless.h5").write_bytes(data)
    assert refused(saved.with_name("endless.h5")).startswith("found a file that takes too long to read, expected")
    assert load(saved).name == "sep997"


@pytest.mark.parametrize("bytes_", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_every_flipped_byte_is_survived(saved, bytes_):
    # Damage may go unseen (a weight is a little different) or be refused; nothing else may come of it.
    original = saved.read_bytes()
    random = np.random.default_rng(5)
    outcomes = set()
    for position in random.choice(len(original), bytes_, replace=False):
        data = bytearray(original)
        data[position] ^= 1 << int(random.integers(8))
        saved.write_bytes(data)
        try:
            outcomes.add(load(saved).name)
        except UserError:
            outcomes.add("refused")
    assert outcomes <= {"sep997", "refused"}
    assert bytes_ < 40 or len(outcomes) == 2


def test_a_zip_bomb_is_refused(zipped):
    replace_members(zipped, config=b" " * 100_000_000)
    assert zipped.stat().st_size < 1_000_000
    assert refused(zipped) == "expected at most 10,000,000 bytes in config.json, found 100,000,000"


def test_a_zip_bomb_that_understates_its_size_is_refused(zipped):
    replace_members(zipped, weights=b"\x89HDF\r\n\x1a\n" + bytes(50_000_000))
    data = zipped.read_bytes()
    zipped.write_bytes(data.replace((50_000_008).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    assert refused(zipped).startswith("found a zip archive that can't be read (Bad CRC-32")


def test_a_keras_file_without_its_parts_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    assert refused(path).startswith("found a zip archive with 'config.json' in it and no model.weights.h5, expected")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", "")
    assert refused(path).startswith("found a zip archive with 'model.weights.h5' in it and no config.json, expected")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_descriptions_in_a_keras_file_are_refused(zipped):
    with zipfile.ZipFile(zipped, "a") as archive:
        archive.writestr("config.json", "{}")
    assert refused(zipped).startswith("found 2 files config.json in the archive, expected one;")


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind not in (content.HDF5, content.ZIP)])
def test_what_is_no_model_is_named_by_its_content(kind, tmp_path):
    (tmp_path / "model.h5").write_bytes(FILES[kind])
    assert re.match(
        rf"found {re.escape(kind)}.*, expected a model saved by Keras \(\.h5 or \.keras\); ",
        refused(tmp_path / "model.h5"),
    )
