"""Data: found, checked, refused and split."""

import gzip
import hashlib
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mnist_minimal.data.choice import Choice
from mnist_minimal.data.sets import IMAGES, Dataset, held_out, load, split
from mnist_minimal.errors import UserError
from tests.conftest import OFFLINE

GENERATOR = np.random.default_rng(0)


def random_arrays(train: int = 30, test: int = 10) -> dict[str, np.ndarray]:
    """Images of noise, in MNIST's shapes and types."""
    return {
        "x_train": GENERATOR.integers(0, 256, (train, 28, 28), dtype=np.uint8),
        "y_train": GENERATOR.integers(0, 10, train, dtype=np.uint8),
        "x_test": GENERATOR.integers(0, 256, (test, 28, 28), dtype=np.uint8),
        "y_test": GENERATOR.integers(0, 10, test, dtype=np.uint8),
    }


def write_npz(folder: Path, **changed: np.ndarray | None) -> Path:
    path = folder / "images.npz"
    arrays = {**random_arrays(), **changed}
    np.savez_compressed(path, **{key: array for key, array in arrays.items() if array is not None})
    return path


IDX_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def idx_bytes(array: np.ndarray) -> bytes:
    """The array as LeCun's page describes an idx file."""
    header = np.array([0x0800 + array.ndim, *array.shape], dtype=">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, arrays: dict[str, np.ndarray], zipped: bool = False) -> Path:
    for key, name in IDX_NAMES.items():
        content = idx_bytes(arrays[key])
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content, 1) if zipped else content)
    return folder


def load_named(path: Path) -> Dataset:
    return load(Choice(path=str(path), name="noise"))


def test_mnist_from_an_npz(mnist_path):
    dataset = load(Choice(path=mnist_path))
    assert (dataset.name, dataset.notice) == ("mnist", "")
    assert dataset.x_train.shape == (60_000, 28, 28, 1)
    assert dataset.x_test.shape == (10_000, 28, 28, 1)
    assert dataset.x_train.dtype == np.uint8
    assert dataset.y_train.dtype == np.int64
    # The counts of the ten digits in the test set, as published with the set.
    assert np.bincount(dataset.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize("zipped", [pytest.param(False, marks=pytest.mark.slow), True])
def test_mnist_from_the_four_idx_files(mnist_path, tmp_path, zipped):
    with np.load(mnist_path) as arrays:
        write_idx(tmp_path, arrays, zipped)
    original = load(Choice(path=mnist_path))
    dataset = load(Choice("mnist", str(tmp_path)))
    assert dataset.name == "mnist"
    for name in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(dataset, name), getattr(original, name))


def test_the_environment_names_the_file_where_no_option_does(mnist_path, monkeypatch):
    monkeypatch.setenv("MNIST_MINIMAL_DATA", mnist_path)
    assert load(Choice()).origin == mnist_path


def test_one_changed_pixel_is_not_mnist(mnist_path, tmp_path):
    with np.load(mnist_path) as original:
        arrays = dict(original)
    arrays["x_test"][17, 3, 4] ^= 1
    np.savez(tmp_path / "almost.npz", **arrays)
    with pytest.raises(UserError, match=r"almost\.npz: found other data than MNIST's in x_test, .*--dataset-name"):
        load(Choice(path=str(tmp_path / "almost.npz")))


def test_mnist_needs_no_other_name(mnist_path):
    with pytest.raises(UserError, match="these images are MNIST; leave out --dataset-name fashion"):
        load(Choice(path=mnist_path, name="fashion"))


def test_images_that_are_not_mnist_are_used_under_a_name_of_their_own(tmp_path):
    dataset = load_named(write_npz(tmp_path))
    assert dataset.name == "noise"
    assert dataset.x_train.shape == (30, 28, 28, 1)


@pytest.mark.parametrize("dataset", ["auto", "mnist"])
def test_images_that_are_not_mnist_are_refused_without_one(tmp_path, dataset):
    with pytest.raises(UserError, match="found other data than MNIST's in x_train, y_train, x_test, y_test"):
        load(Choice(dataset, str(write_npz(tmp_path))))


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"x_test": None}, "found x_train, y_train, y_test in it and no x_test, expected the arrays x_train, "),
        (
            {"x_train": np.zeros((30, 32, 32), np.uint8)},
            "found images of 32x32x1 in x_train and of 28x28x1 in x_test, expected one size",
        ),
        (
            {"x_train": np.zeros((30, 900), np.uint8)},
            r"found uint8 of shape \(30, 900\) in x_train, expected images of shape \(n, height, width\) or \(n, h",
        ),
        (
            {"x_train": np.zeros((30, 3, 28, 28), np.uint8)},
            r"found uint8 of shape \(30, 3, 28, 28\) in x_train, expected images of shape \(n, height, width\) or \(n,",
        ),
        ({"y_train": np.zeros(29, np.uint8)}, "found 30 images in x_train and 29 labels"),
        ({"y_test": np.full(10, 256)}, r"found labels 256 \.\. 256 in y_test, expected classes counted from 0, at m"),
        ({"y_test": np.full(10, -1, np.int64)}, "found labels -1 .. -1 in y_test"),
        ({"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, np.uint8)}, "at least one"),
        ({"y_train": np.array([{}] * 30, dtype=object)}, r"found object of shape \(30,\) in y_train, expected labels"),
    ],
)
def test_a_wrong_npz_is_refused_with_what_was_found(tmp_path, changed, complaint):
    with pytest.raises(UserError, match=complaint):
        load_named(write_npz(tmp_path, **changed))


def test_a_truncated_npz_is_refused(tmp_path):
    path = write_npz(tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"images\.npz: found a zip archive without its end, .* expected an \.npz"):
        load_named(path)


def test_an_npz_of_a_pickle_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "it ran"
    pickled = b"cos\nsystem\n(S'touch \"" + os.fsencode(marker) + b"\"'\ntR."
    path = write_npz(tmp_path, y_test=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_test.npy", pickled)
    with pytest.raises(UserError, match=r"a zip archive that can't be read \(the magic string"):
        load_named(path)
    assert not marker.exists()


def test_a_header_that_declares_a_huge_array_is_refused_before_it_is_made(tmp_path):
    path = write_npz(tmp_path, x_train=None)
    with zipfile.ZipFile(path, "a") as archive, archive.open("x_train.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 28, 28)}
        np.lib.format.write_array_header_1_0(member, header)
    with pytest.raises(
        UserError, match="found 784,000,007,880 bytes of images and labels, expected at most 500,000,000"
    ):
        load_named(path)


def npy(shape: str = "(10,)", descr: str = "'|u1'", version: int = 1) -> bytes:
    """The start of an .npy file whose header says so, and no numbers."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2 if version == 1 else 4, "little") + header


@pytest.mark.parametrize(
    ("member", "complaint"),
    [
        (npy(f"({2**60},)"), "found 1,152,921,504,606,.* expected at most 500,000,000"),
        (npy(f"({2**64},)"), "expected at most 500,000,000"),
        (npy("(-10,)"), r"lengths of 0 and more, found the shape \(-10,\)"),
        (npy("(10,)"), r"expected 10 bytes in y_test for its shape \(10,\), found 0"),
        (npy("(10,)") + bytes(11), r"expected 10 bytes in y_test for its shape \(10,\), found 11"),
        (npy("(10.0,)"), "a zip archive that can't be read"),
        (npy("(" * 400 + ")" * 400), "a zip archive that can't be read"),
        (npy("-" * 900 + "1"), "a zip archive that can't be read"),
        (npy("(10,)", "'|V10'"), "expected labels"),
        (npy("(10,)", "[('a\x1b[31m', '<i4')]"), "can't be read|expected labels"),
        (npy("(10,)", "'" + "x" * 2000 + "'"), "a zip archive that can't be read"),
        (npy(version=2)[:8] + b"\xff\xff\xff\xff" + b" " * 50_000_000, "a zip archive that can't be read"),
        (npy(version=9) + bytes(10), "a zip archive that can't be read"),
    ],
)
def test_a_hostile_header_is_refused(tmp_path, member, complaint):
    path = write_npz(tmp_path, y_test=None)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("y_test.npy", member)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=complaint) as error:
            load_named(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert str(error.value).isprintable()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_arrays_that_are_there_twice_are_refused(tmp_path):
    path = write_npz(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_test.npy", npy())
    with pytest.raises(UserError, match=r"expected one y_test\.npy in the archive, found 2"):
        load_named(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compressions_in_an_npz_are_refused(tmp_path, method):
    path = write_npz(tmp_path, y_test=None)
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("y_test.npy", npy() + bytes(10))
    with pytest.raises(UserError, match=r"expected y_test\.npy stored or deflated"):
        load_named(path)


def test_an_encrypted_npz_is_refused(tmp_path):
    path = write_npz(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"expected y_test\.npy readable in the archive, found it encrypted"):
        load_named(path)


def test_a_size_that_is_not_the_members_is_refused(tmp_path):
    # The directory of the archive says that y_test has 2**62 bytes, in the field that zip64 has for it.
    path = write_npz(tmp_path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    name_end = entry + 46 + int.from_bytes(content[entry + 28 : entry + 30], "little")
    more = (1).to_bytes(2, "little") + (8).to_bytes(2, "little") + (2**62).to_bytes(8, "little")
    content[entry + 24 : entry + 28] = b"\xff" * 4
    content[entry + 30 : entry + 32] = len(more).to_bytes(2, "little")
    content[name_end:name_end] = more
    end = content.rindex(b"PK\x05\x06")
    size = int.from_bytes(content[end + 12 : end + 16], "little") + len(more)
    content[end + 12 : end + 16] = size.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"expected 10 bytes in y_test for its shape \(10,\), found 4,611,686,018,427"):
        load_named(path)


def test_a_million_names_in_an_npz_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "images.npz"
    name = b"x_train.npy"
    entry = b"PK\x01\x02" + bytes(24) + len(name).to_bytes(2, "little") + bytes(16) + name
    end = b"PK\x05\x06" + bytes(4) + b"\xff" * 4 + (1_000_000 * len(entry)).to_bytes(4, "little") + bytes(6)
    path.write_bytes(b"PK\x03\x04" + entry * 1_000_000 + end)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="expected a list of files of at most 500,000 bytes, found 57,000,000"):
            load_named(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with named pipes")
def test_a_pipe_and_a_device_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for path in (tmp_path / "pipe.npz", Path("/dev/zero")):
        with pytest.raises(UserError, match="found a device or a pipe there"):
            load_named(path)
    folder = tmp_path / "idx"
    folder.mkdir()
    write_idx(folder, random_arrays())
    (folder / IDX_NAMES["y_test"]).unlink()
    os.mkfifo(folder / IDX_NAMES["y_test"])
    with pytest.raises(UserError, match="found no t10k-labels-idx1-ubyte"):
        load_named(folder)


def test_a_gzip_bomb_is_refused_where_its_images_end(tmp_path):
    write_idx(tmp_path, random_arrays(), zipped=True)
    path = tmp_path / f"{IDX_NAMES['x_train']}.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(idx_bytes(random_arrays()["x_train"]))
        for _ in range(200):
            file.write(bytes(1_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"\.gz: found more bytes after the header, expected 23,520"):
            load_named(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["npz", "idx"])
def test_reading_takes_at_most_twice_the_bytes_that_the_arrays_may_have(tmp_path, monkeypatch, form):
    # The bound holds for any value of it, so that 500 MB need not be tried.
    monkeypatch.setattr("mnist_minimal.data.reading.MAX_BYTES", 5_000_000)
    arrays = random_arrays(train=6000, test=300)
    arrays["x_train"] = np.asfortranarray(arrays["x_train"])
    path = write_npz(tmp_path, **arrays) if form == "npz" else write_idx(tmp_path, arrays, zipped=True)
    tracemalloc.start()
    try:
        dataset = load_named(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * 5_000_000 + 1_000_000
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(dataset.x_train[..., 0], arrays["x_train"])
    arrays = random_arrays(train=6000, test=600)
    path = write_npz(tmp_path, **arrays) if form == "npz" else write_idx(tmp_path, arrays, zipped=True)
    with pytest.raises(UserError, match="found 5,181,000 bytes of images and labels, expected at most 5,000,000"):
        load_named(path)


def test_a_missing_file_is_an_error_even_where_the_digits_would_do(tmp_path):
    with pytest.raises(UserError, match=r"found nothing there, .* check --data"):
        load(Choice("auto", str(tmp_path / "nowhere.npz")))


def test_a_folder_without_idx_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="found no train-images-idx3-ubyte"):
        load_named(tmp_path)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: content[:-1], "found 23,519 bytes after the header, expected 23,520"),
        (lambda content: content + b"x", "found more bytes after the header, expected 23,520"),
        (
            lambda content: b"\0\0\x0d\x03" + content[4:],
            "found an idx file that begins with the bytes 00000d03, expected .* begins with 00000803",
        ),
        (lambda content: b"", "found an empty file, expected an idx file"),
        (lambda content: content[:4] + b"\xff\xff\xff\xff" + content[8:], "expected at most 500,000,000"),
    ],
)
def test_a_wrong_idx_file_is_refused_with_what_was_found(tmp_path, damage, complaint):
    write_idx(tmp_path, random_arrays())
    path = tmp_path / IDX_NAMES["x_train"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"train-images-idx3-ubyte: .*{complaint}"):
        load_named(tmp_path)


def test_a_truncated_gzip_file_is_refused(tmp_path):
    write_idx(tmp_path, random_arrays(), zipped=True)
    path = tmp_path / f"{IDX_NAMES['x_test']}.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz: found a gzip file that is cut off"):
        load_named(tmp_path)


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        (Choice("digits", path="x.npz"), "leave out --data x.npz"),
        (Choice("mnist", name="fashion"), "leave out --dataset mnist"),
        (Choice(name="fashion"), "add --data PATH"),
        (
            Choice(path="x.npz", name="../up"),
            r"expected a --dataset-name \(in Python dataset_name=\) of lower-case letters",
        ),
        (Choice(path="x.npz", name="holdout"), "expected a --dataset-name"),
        (
            Choice().or_recorded("fashion"),
            "images of fashion, .* give their file with --data PATH --dataset-name fashion",
        ),
    ],
)
def test_contradicting_options_are_refused(choice, complaint):
    with pytest.raises(UserError, match=complaint):
        load(choice)


def test_the_digits_are_scikit_learns_in_28_by_28():
    from sklearn.datasets import load_digits

    dataset = load(Choice("digits"))
    assert dataset.name == "digits"
    assert dataset.x_train.shape == (1500, 28, 28, 1)
    assert dataset.x_test.shape == (297, 28, 28, 1)
    assert (dataset.x_train.min(), dataset.x_train.max()) == (0, 255)
    np.testing.assert_array_equal(dataset.y_test, load_digits().target[1500:])
    # Averaged back to 7x7 cells of 4x4 pixels the scans must still be the same pictures.
    scans = load_digits().images[1500:]
    cells = dataset.x_test[..., 0].reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(297, -1)
    cell_scans = np.stack([np.kron(scan, np.ones((7, 7))).reshape(7, 8, 7, 8).mean(axis=(1, 3)) for scan in scans])
    assert np.corrcoef(cells.ravel(), cell_scans.ravel())[0, 1] > 0.98


def test_what_a_study_recorded_is_used_where_the_user_leaves_it_open():
    assert Choice().or_recorded("digits") == Choice("digits")
    assert Choice().or_recorded(None) == Choice("mnist")
    for choice in (Choice("digits"), Choice("mnist"), Choice(path="x.npz"), Choice(path="x.npz", name="noise")):
        assert choice.or_recorded("mnist") == choice.or_recorded("digits") == choice


LOAD = "from mnist_minimal.data.sets import load; from mnist_minimal.data.choice import Choice; d = load(Choice({!r}));"


def test_digits_that_a_caller_has_changed_are_whole_for_the_next():
    first = load(Choice("digits"))
    expected = first.x_train.copy()
    first.x_train[:], first.y_train[:] = 0, 10
    again = load(Choice("digits"))
    np.testing.assert_array_equal(again.x_train, expected)
    assert again.y_train.max() == 9


@pytest.mark.slow
def test_where_mnist_can_not_be_had_the_digits_take_its_place_and_it_is_said(run_python):
    finished = run_python("-c", LOAD.format("auto") + "print(d.name, d.notice)", **OFFLINE)
    assert finished.returncode == 0, finished.stderr
    assert "digits Using scikit-learn's small digits, not MNIST, which could not be had: Keras has" in finished.stdout
    # Not every command that loads data trains.
    assert "Training" not in finished.stdout


@pytest.mark.slow
def test_where_mnist_is_asked_for_nothing_takes_its_place(run_python):
    finished = run_python("-c", LOAD.format("mnist"), **OFFLINE)
    assert finished.returncode == 1
    assert "UserError: MNIST was found nowhere" in finished.stderr


@pytest.mark.slow
def test_keras_cache_is_used_before_its_download(run_python, tmp_path, mnist_path):
    # Keras' cache accepts only its own file, by its SHA-256; a file that holds MNIST in another compression is no test.
    content = Path(mnist_path).read_bytes() if Path(mnist_path).is_file() else b""
    if hashlib.sha256(content).hexdigest() != "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1":
        pytest.skip("the MNIST at hand is not byte for byte the file that Keras downloads")
    (tmp_path / "keras/datasets").mkdir(parents=True)
    (tmp_path / "keras/datasets/mnist.npz").write_bytes(content)
    finished = run_python("-c", LOAD.format("mnist") + "print(d.origin)", **OFFLINE)
    assert finished.stdout.strip().endswith("keras.datasets.mnist"), finished.stderr


def test_source_protocol_monitors_the_test_set():
    dataset = load(Choice("digits"))
    splits = split(dataset, "source")
    np.testing.assert_array_equal(splits.x_val, dataset.x_test)
    np.testing.assert_array_equal(splits.x_train, dataset.x_train)


def test_holdout_protocol_takes_5000_of_mnists_60000_off_the_training_set():
    images, labels = np.arange(60_000), np.arange(60_000) % 10
    dataset = Dataset("mnist", "", "", images, labels, images[:10], labels[:10])
    splits = split(dataset, "holdout")
    assert (len(splits.x_train), len(splits.x_val)) == (55_000, 5_000)
    assert not set(splits.x_train) & set(splits.x_val)
    np.testing.assert_array_equal(splits.x_test, images[:10])


def test_the_sizes_of_the_sets_are_those_of_the_arrays(mnist_path):
    for name, choice in {"mnist": Choice("mnist", mnist_path), "digits": Choice("digits")}.items():
        dataset = load(choice)
        training = IMAGES[name] - len(dataset.x_test)
        assert training == len(dataset.x_train)
        for protocol, share in (("source", 0.0), ("source", 0.1), ("holdout", 0.0), ("holdout", 0.1)):
            kept = len(split(dataset, protocol, share).x_train)
            assert held_out(training, protocol, share) == len(dataset.x_train) - kept


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="expected the protocol 'source' or 'holdout', found 'train'"):
        split(load(Choice("digits")), "train")
