"""Keras' own sets of images by name, from files as Keras keeps them, for there may be no network."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mnist_minimal.data.choice import Choice
from mnist_minimal.data.sets import load
from mnist_minimal.errors import UserError
from tests.conftest import OFFLINE
from tests.data.test_data import IDX_NAMES, idx_bytes, random_arrays, write_npz
from tests.whole import whole_only

LOAD = """
import sys, keras, numpy as np
if "cifar" in sys.argv[1]:
    # The checksum is of the published archive, which is not to be had here.
    keras.src.utils.file_utils.validate_file = lambda *arguments, **options: True
from mnist_minimal.cli.run import run
def main(arguments):
    import mnist_minimal as mm
    found = mm.load_data(arguments[0])
    np.savez("found.npz", x_train=found.x_train, y_train=found.y_train, x_test=found.x_test, y_test=found.y_test)
    print("found", found.name, found.shape, found.classes, found.origin)
    return 0
sys.exit(run(main, sys.argv[1:]))
"""


def write_cifar(folder: Path, prefix: str, batches: dict[str, dict[bytes, object]]) -> None:
    """An archive of pickled batches, as the sets are published, under the name that Keras gives it."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / f"{prefix}-target_archive", "w:gz", compresslevel=1) as archive:
        for name, batch in batches.items():
            content = pickle.dumps(batch, protocol=3)
            member = tarfile.TarInfo(f"{prefix}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.slow
@whole_only
def test_fashion_mnist(run_python, tmp_path):
    folder = tmp_path / "keras/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    arrays = random_arrays()
    for key, name in IDX_NAMES.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(arrays[key]), 1))
    finished = run_python("-c", LOAD, "fashion_mnist", **OFFLINE)
    classes = 1 + max(arrays["y_train"].max(), arrays["y_test"].max())
    assert f"found fashion_mnist (28, 28, 1) {classes} keras.datasets.fashion_mnist" in finished.stdout, finished.stderr
    found = np.load(tmp_path / "found.npz")
    for key in ("x_train", "x_test"):
        np.testing.assert_array_equal(found[key][..., 0], arrays[key])
    for key in ("y_train", "y_test"):
        np.testing.assert_array_equal(found[key], arrays[key])


def planes(count: int) -> np.ndarray:
    """Images as CIFAR's files have them, a row each, one channel after the other: a point of another colour in each."""
    rows = np.zeros((count, 3, 32, 32), np.uint8)
    rows[np.arange(count), np.arange(count) % 3, 5, 7] = 1 + np.arange(count) % 255
    return rows.reshape(count, 3 * 32 * 32)


@pytest.mark.slow
@whole_only
def test_cifar100(run_python, tmp_path):
    fine = {"train": list(range(100)), "test": [99, 3, 0]}
    batches = {part: {b"data": planes(len(labels)), b"fine_labels": labels} for part, labels in fine.items()}
    write_cifar(tmp_path / "keras/datasets", "cifar-100-python", batches)
    finished = run_python("-c", LOAD, "cifar100", **OFFLINE)
    assert "found cifar100 (32, 32, 3) 100 keras.datasets.cifar100" in finished.stdout, finished.stderr
    found = np.load(tmp_path / "found.npz")
    assert found["y_train"].tolist() == fine["train"]
    assert found["y_test"].tolist() == fine["test"]
    assert found["x_train"].shape == (100, 32, 32, 3)
    for index, image in enumerate(found["x_train"]):
        assert image[5, 7].tolist() == [index + 1 if channel == index % 3 else 0 for channel in range(3)]
        assert image.sum() == index + 1


@pytest.mark.slow
def test_cifar10(run_python, tmp_path):
    # Keras takes six batches of ten thousand images and no others.
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    batches = {name: {b"data": planes(10_000), b"labels": [9, *range(10)] * 909 + [0]} for name in names}
    write_cifar(tmp_path / "keras/datasets", "cifar-10-batches-py", batches)
    finished = run_python("-c", LOAD, "cifar10", **OFFLINE)
    assert "found cifar10 (32, 32, 3) 10 keras.datasets.cifar10" in finished.stdout, finished.stderr
    found = np.load(tmp_path / "found.npz")
    assert found["x_train"].shape == (50_000, 32, 32, 3)
    assert found["x_test"][1, 5, 7].tolist() == [0, 2, 0]
    assert found["y_test"][:3].tolist() == [9, 0, 1]


@pytest.mark.slow
def test_a_set_that_can_not_be_had_is_an_error_that_says_what_to_do(run_python):
    finished = run_python("-c", LOAD, "cifar100", **OFFLINE)
    assert finished.returncode == 2
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("error: cifar100 was found nowhere: Keras has no usable copy and its download failed (")
    assert last.endswith("or give a copy with --data PATH --dataset-name cifar100")


def test_what_comes_with_keras_reads_no_file_but_a_copy_may_have_its_name(tmp_path):
    path = str(write_npz(tmp_path))
    with pytest.raises(UserError, match="--dataset cifar10 comes with Keras and reads no file; leave out --data"):
        load(Choice("cifar10", path))
    assert load(Choice(path=path, name="fashion_mnist")).name == "fashion_mnist"
