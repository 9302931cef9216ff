"""Where people have their data: a folder, one above it, one with an .npz, names that unpackers and browsers left."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import mnist_minimal as mm
from mnist_minimal.data import reading
from mnist_minimal.errors import UserError
from tests.data.test_data import IDX_NAMES, idx_bytes, random_arrays, write_idx, write_npz

ARRAYS = random_arrays()


def write_files(folder: Path, name="{}", pack=lambda content: content) -> Path:
    """The four idx files, their names as `name` makes them."""
    for key, idx_name in IDX_NAMES.items():
        path = folder / (name(idx_name) if callable(name) else name.format(idx_name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack(idx_bytes(ARRAYS[key])))
    return folder


def assert_read(path: Path | str, name: str = "noise") -> None:
    dataset = mm.load_data(path, name=name)
    for key, expected in ARRAYS.items():
        np.testing.assert_array_equal(getattr(dataset, key).squeeze(), expected)


@pytest.mark.parametrize(
    "name",
    [
        "{}",
        "raw/{}",
        "MNIST/raw/{}",  # torchvision's.
        "data/MNIST/raw/{}",
        "{0}/{0}",  # Kaggle's: a folder for each file.
        lambda name: f"{name}/{name.replace('-idx', '.idx')}",
        lambda name: f"{'train' if name.startswith('train') else 'test'}/{name}",
        "{}.gz",
    ],
)
def test_idx_files_are_found_below_the_folder(tmp_path, name):
    assert_read(write_files(tmp_path, name))


@pytest.mark.parametrize("name", ["{}", "{}.gz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_gzip_is_known_by_its_content(tmp_path, name, pack):
    assert_read(write_files(tmp_path, name, pack))


def test_packed_and_unpacked_files_beside_each_other_are_one_set(tmp_path):
    write_files(tmp_path / "MNIST/raw", "{}.gz", gzip.compress)
    assert_read(write_files(tmp_path / "MNIST/raw").parent)


def test_four_levels_below_is_too_deep(tmp_path):
    write_files(tmp_path, "a/b/c/d/{}")
    with pytest.raises(
        UserError, match=r"found no train-images-idx3-ubyte or .*\.gz, but a; expected .* 3 levels below"
    ):
        mm.load_data(tmp_path, name="noise")


@pytest.mark.parametrize("place", ["mnist.npz", "datasets/fashion.npz", "a/b/c/images.npz"])
def test_an_npz_in_a_folder_is_found(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(write_npz(tmp_path, **ARRAYS), tmp_path / place)
    assert_read(tmp_path)


def test_keras_own_folder_of_data_sets(tmp_path):
    # There lie mnist.npz, other sets' .npz, and a folder of Fashion-MNIST's idx files.
    write_idx(tmp_path, random_arrays())
    (tmp_path / "fashion-mnist").mkdir()
    for path in list(tmp_path.glob("*ubyte")):
        path.rename(tmp_path / "fashion-mnist" / path.name)
    write_npz(tmp_path, **ARRAYS).rename(tmp_path / "mnist.npz")
    np.savez(tmp_path / "reuters.npz", x=np.zeros(3))
    assert_read(tmp_path)


def test_several_sets_are_named_and_none_is_taken(tmp_path):
    write_files(tmp_path, "MNIST/raw/{}")
    write_files(tmp_path, "FashionMNIST/raw/{}")
    with pytest.raises(
        UserError, match=r"found several sets in it \(FashionMNIST/raw, MNIST/raw\), expected one; name"
    ):
        mm.load_data(tmp_path, name="noise")
    assert_read(tmp_path / "MNIST")


def test_several_archives_are_named_and_none_is_taken(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path).rename(tmp_path / name)
    with pytest.raises(UserError, match=r"found several sets in it \(a\.npz, b\.npz\), expected one"):
        mm.load_data(tmp_path, name="noise")


def test_one_missing_file_is_named_beside_those_that_are_there(tmp_path):
    write_files(tmp_path, "raw/{}")
    (tmp_path / "raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match=r"found no t10k-labels-idx1-ubyte or .*, but t10k-images-idx3-ubyte, train-"):
        mm.load_data(tmp_path, name="noise")


def test_a_folder_without_data_is_refused_with_what_is_in_it(tmp_path):
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("label,pixel0\n")
    with pytest.raises(UserError, match=r"found no train-images-idx3-ubyte or .*, but test\.csv, train\.csv; expected"):
        mm.load_data(tmp_path, name="noise")


def test_a_single_idx_file_is_told_from_its_folder(tmp_path):
    write_files(tmp_path)
    with pytest.raises(
        UserError, match=r"found an idx file.*, expected .*; name the folder that all four idx files are in"
    ):
        mm.load_data(tmp_path / "train-images-idx3-ubyte", name="noise")


def test_a_circle_of_links_ends(tmp_path):
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "linked").mkdir()
    write_files(tmp_path / "elsewhere")
    (tmp_path / "linked/raw").symlink_to(tmp_path / "elsewhere")
    assert_read(tmp_path)


def test_nobody_waits_for_a_large_folder_to_be_looked_through(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_ENTRIES", 50)
    for position in range(60):
        (tmp_path / f"{position}").touch()
    with pytest.raises(UserError, match=r"found more than 50 files and folders .*; name the folder that they are in"):
        mm.load_data(tmp_path, name="noise")


EMNIST = "gzip/emnist-{}-{}.gz"


def emnist(part: str):
    return lambda name: EMNIST.format(part, name.replace("t10k", "test"))


def test_emnist_is_found_and_says_that_it_is_transposed(tmp_path):
    write_files(tmp_path, emnist("digits"), gzip.compress)
    assert_read(tmp_path, "emnist_digits")
    notice = mm.load_data(tmp_path, name="digits28").notice
    assert "EMNIST" in notice
    assert "transposed" in notice
    assert mm.load_data(write_npz(tmp_path), name="noise").notice == ""
    assert "transposed" in mm.load_data(tmp_path / "images.npz", name="emnist").notice


def test_one_of_emnists_sets_is_chosen_by_its_name(tmp_path):
    write_files(tmp_path, emnist("digits"), gzip.compress)
    write_files(tmp_path, emnist("mnist"), lambda content: content[:-1])
    with pytest.raises(UserError, match=r"found several sets in it \(gzip: emnist-digits, gzip: emnist-mnist\)"):
        mm.load_data(tmp_path, name="noise")
    assert_read(tmp_path, "emnist_digits")


def test_a_tilde_is_the_home_in_paths_and_in_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_files(tmp_path / "data")
    assert_read("~/data")
    assert_read(Path("~/data"))
    monkeypatch.setenv("MNIST_MINIMAL_DATA", "~/nowhere")
    with pytest.raises(UserError, match=f"{tmp_path}/nowhere: found nothing there"):
        mm.load_data("mnist")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_below_is_passed_over(tmp_path):
    (tmp_path / "closed").mkdir(0o000)
    write_files(tmp_path / "open")
    assert_read(tmp_path)
