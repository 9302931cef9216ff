"""MNIST, found, checked and split: the only place that reads image data.

A data set is four arrays. The images of `Dataset` and `Splits` are uint8 of shape (n, 28, 28, 1) in [0, 255], 0 the
background; the labels are int64 of shape (n,) in 0 .. 9.
"""

import gzip
import hashlib
import io
import json
import math
import os
import re
import socket
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_minimal.data import archive
from mnist_minimal.data.choice import DATASETS, ENVIRONMENT_VARIABLE, Choice
from mnist_minimal.errors import UserError, one_line

# The idx file of each array, and its MD5 sum when it is MNIST's; http://yann.lecun.com/exdb/mnist names the files.
IDX_FILES = {
    "x_train": ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
    "y_train": ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    "x_test": ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
    "y_test": ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
}

# The four arrays together may have as many bytes, nine times MNIST's 54,950,000. To read them takes at most twice as
# much memory, whatever there is in a file.
MAX_BYTES = 500_000_000
DOWNLOAD_TIMEOUT_SECONDS = 20

# Sizes of the training sets that everybody has.
TRAINING_IMAGES = {"mnist": 60_000, "digits": 1_500}

# Names that a file of other images may not take: they have a meaning of their own in `--dataset` or in a study's name.
RESERVED_NAMES = {*DATASETS, "holdout"}


@dataclass(frozen=True)
class Dataset:
    """A data set as published: a training and a test set.

    Attributes:
        name: "mnist", "digits" or the name the user gave a file of other images; the column `dataset` of the results.
        origin: Where the arrays came from, in words.
        notice: That the digits took MNIST's place, and why, in a paragraph for any command; or "".
        x_train, x_test: uint8 (n, 28, 28, 1) in [0, 255].
        y_train, y_test: int64 (n,) in 0 .. 9.
    """

    name: str
    origin: str
    notice: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True)
class Splits:
    """What one training run may see: images to train on, to monitor, and to test on once.

    Attributes:
        dataset: Name of the data set.
        protocol: "source", where the published recipe says what is monitored, mostly the test set, or "holdout".
        x_train, x_val, x_test: uint8 (n, 28, 28, 1) in [0, 255].
        y_train, y_val, y_test: int64 (n,) in 0 .. 9.
    """

    dataset: str
    protocol: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load(choice: Choice) -> Dataset:
    """Finds, reads and checks a data set.

    "mnist" comes from the path, else from Keras' cache or download. "auto" is the same, but takes the digits where
    there is no path and Keras has no MNIST and can fetch none. "digits" are scikit-learn's 1,797 scans of 8x8 pixels
    resized to 28x28, of which the last 297 are the test set.

    Raises:
        UserError: if the file is absent, damaged, of another shape or type, or not MNIST (and no name was given for
            it); if "mnist" was asked for and can't be had; if the options contradict each other.
    """
    if choice.dataset not in DATASETS:
        raise UserError(
            f"expected the images of {choice.dataset}, which come with no package; give their file with --data PATH "
            f"--dataset-name {choice.dataset}, or other images with --dataset"
        )
    path = choice.path
    if path is None and choice.dataset != "digits":
        path = os.environ.get(ENVIRONMENT_VARIABLE) or None
    if choice.name is not None:
        return _load_named(choice, path)
    if choice.dataset == "digits":
        if path is not None:
            raise UserError(f"--dataset digits comes with scikit-learn and reads no file; leave out --data {path}")
        return _load_digits(notice="")
    if path is not None:
        arrays = _read(Path(path))
        _check_is_mnist(arrays, path)
        return _dataset("mnist", path, arrays)
    try:
        return _load_from_keras()
    except MnistUnavailableError as unavailable:
        if choice.dataset == "mnist":
            raise UserError(f"MNIST was found nowhere: {unavailable}. {HOW_TO_GET_MNIST}") from unavailable
        return _load_digits(
            notice="Using scikit-learn's small digits, not MNIST, which could not be had: "
            f"{unavailable}. Accuracies on them can't be compared with any on MNIST. {HOW_TO_GET_MNIST}"
        )


def checksums(dataset: Dataset) -> dict[str, str]:
    """The SHA-256 of each of the four arrays, by name: of its type, its shape as JSON and its bytes, rows first."""
    found = {}
    for name in IDX_FILES:
        array = np.ascontiguousarray(getattr(dataset, name))
        digest = hashlib.sha256(json.dumps([array.dtype.str, array.shape]).encode())
        digest.update(array.data)
        found[name] = digest.hexdigest()
    return found


def split(dataset: Dataset, protocol: str, validation_share: float = 0.0) -> Splits:
    """Splits a data set by one of the two protocols.

    "source" monitors what the published recipe does: the test set, or the last `validation_share` of the training set.
    "holdout" takes the last twelfth of the training set (5,000 images of MNIST), or that share, for the schedule, the
    stopping and the choice of epoch.

    Args:
        dataset: The images.
        protocol: "source" or "holdout".
        validation_share: `Recipe.validation_share`, in [0, 1).

    Raises:
        ValueError: if the protocol is neither.
    """
    if protocol not in ("source", "holdout"):
        raise ValueError(f"expected the protocol 'source' or 'holdout', found {protocol!r}")
    x_val, y_val = dataset.x_test, dataset.y_test
    kept = len(dataset.x_train) - held_out(len(dataset.x_train), protocol, validation_share)
    if kept < len(dataset.x_train):
        x_val, y_val = dataset.x_train[kept:], dataset.y_train[kept:]
    return Splits(
        dataset.name,
        protocol,
        dataset.x_train[:kept],
        dataset.y_train[:kept],
        x_val,
        y_val,
        dataset.x_test,
        dataset.y_test,
    )


def held_out(images: int, protocol: str, validation_share: float = 0.0) -> int:
    """How many images at the end of a training set `split` takes off it to monitor; 0 where it monitors the test set.

    Args:
        images: Size of the training set.
        protocol: "source" or "holdout".
        validation_share: `Recipe.validation_share`, in [0, 1).
    """
    if validation_share:
        return images - int(images * (1 - validation_share))  # As Keras' `validation_split` rounds.
    return images // 12 if protocol == "holdout" else 0


class MnistUnavailableError(Exception):
    """Keras has no MNIST in its cache and can't download it."""


HOW_TO_GET_MNIST = (
    f"To use MNIST, give --data PATH (or set {ENVIRONMENT_VARIABLE}) to an mnist.npz in Keras' layout or to a folder "
    "of the four idx files."
)


def _dataset(name: str, origin: str, arrays: dict[str, np.ndarray], notice: str = "") -> Dataset:
    return Dataset(
        name=name,
        origin=origin,
        notice=notice,
        x_train=np.ascontiguousarray(arrays["x_train"])[..., np.newaxis],
        y_train=arrays["y_train"].astype(np.int64),
        x_test=np.ascontiguousarray(arrays["x_test"])[..., np.newaxis],
        y_test=arrays["y_test"].astype(np.int64),
    )


def _load_named(choice: Choice, path: str | None) -> Dataset:
    name = choice.name or ""
    if choice.dataset != "auto":
        raise UserError(f"--dataset-name {name} names the images of --data; leave out --dataset {choice.dataset}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", name) or name in RESERVED_NAMES:
        raise UserError(
            f"expected a --dataset-name of lower-case letters, digits and _ that is none of "
            f"{', '.join(sorted(RESERVED_NAMES))}, found {name!r}"
        )
    if path is None:
        raise UserError(f"--dataset-name {name} needs the file of its images; add --data PATH")
    arrays = _read(Path(path))
    if not _parts_beside_mnist(arrays):
        raise UserError(f"{path}: these images are MNIST; leave out --dataset-name {name}")
    return _dataset(name, path, arrays)


def _load_digits(notice: str) -> Dataset:
    # Imported here: both take longer to import than a command has time for its --help.
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = zoom(digits.images * (255 / 16), (1, 3.5, 3.5), order=1, mode="nearest", grid_mode=True)
    images, labels = np.rint(pixels).astype(np.uint8), digits.target
    arrays = {"x_train": images[:-297], "y_train": labels[:-297], "x_test": images[-297:], "y_test": labels[-297:]}
    return _dataset("digits", "scikit-learn's load_digits()", arrays, notice)


def _load_from_keras() -> Dataset:
    import keras

    before = socket.getdefaulttimeout()
    # Keras' download has no time limit of its own and would wait for minutes where a firewall swallows it.
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
    # Keras passes on whatever urllib, the file system or a damaged cache raised.
    except Exception as error:
        raise MnistUnavailableError(f"Keras has no usable copy and its download failed ({one_line(error)})") from error
    finally:
        socket.setdefaulttimeout(before)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    _check_is_mnist(arrays, "Keras' mnist.npz")
    return _dataset("mnist", "keras.datasets.mnist", arrays)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The four arrays of an .npz or of a folder of idx files, checked for shape, type and labels."""
    if path.is_dir():
        arrays = _read_idx(path)
    elif path.is_file():
        arrays = _read_npz(path)
    else:
        found = "a device or a pipe" if path.exists() else "nothing"
        raise UserError(f"{path}: expected an .npz file or a folder of idx files, found {found} there; check --data")
    for part in ("train", "test"):
        labels = arrays[f"y_{part}"]
        if labels.min() < 0 or labels.max() > 9:
            raise UserError(
                f"{path}: expected labels 0 .. 9, found {labels.min()} .. {labels.max()} in y_{part}; the data must "
                "have ten classes"
            )
    return arrays


def _check_layouts(where: dict[str, Path], layouts: dict[str, tuple[tuple[int, ...], np.dtype]]) -> None:
    """Refuses the four arrays by their shapes and types, before any of them is read.

    Args:
        where: The file of each array.
        layouts: Shape and type of each array.
    """
    for key, (shape, dtype) in layouts.items():
        if key.startswith("x"):
            right = len(shape) == 3 and shape[1:] == (28, 28) and dtype == np.uint8
            expected = "uint8 images of shape (n, 28, 28)"
        else:
            right = len(shape) == 1 and dtype.kind in "iu"
            expected = "integer labels of shape (n,)"
        if not right:
            raise UserError(f"{where[key]}: expected {key} to be {expected}, found {dtype} of shape {shape}")
    sizes = {key: math.prod(shape) * dtype.itemsize for key, (shape, dtype) in layouts.items()}
    if sum(sizes.values()) > MAX_BYTES:
        largest = where[max(sizes, key=lambda key: sizes[key])]
        raise UserError(
            f"{largest}: expected at most {MAX_BYTES:,} bytes of images and labels, found {sum(sizes.values()):,}"
        )
    for part in ("train", "test"):
        images, labels = (layouts[f"{axis}_{part}"][0][0] for axis in "xy")
        if images != labels or not images:
            raise UserError(
                f"{where[f'y_{part}']}: expected as many labels as images and at least one, found {images} images in "
                f"x_{part} and {labels} labels in y_{part}"
            )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with _npz_opened(path) as npz:
        missing = [key for key in IDX_FILES if f"{key}.npy" not in npz.namelist()]
        if missing:
            raise UserError(
                f"expected the arrays {', '.join(IDX_FILES)} as in keras.datasets.mnist, found no {', '.join(missing)}"
            )
        layouts = {key: archive.layout(npz, key) for key in IDX_FILES}
    _check_layouts(dict.fromkeys(IDX_FILES, path), layouts)
    with _npz_opened(path) as npz:
        return {key: archive.array(npz, key) for key in IDX_FILES}


@contextmanager
def _npz_opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with archive.opened(path) as npz:
            yield npz
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except archive.CORRUPT_FILE_ERRORS as error:
        raise UserError(
            f"{path}: expected an .npz in the layout of keras.datasets.mnist, found a file that can't be read as one "
            f"({one_line(error)}); is it complete?"
        ) from error


def _read_idx(folder: Path) -> dict[str, np.ndarray]:
    """Four idx files: two zero bytes, the type 8 (unsigned byte), the number of axes, their lengths, the bytes."""
    paths = {key: _idx_path(folder, name) for key, (name, _) in IDX_FILES.items()}
    shapes = {key: _idx_shape(path, axes=3 if key.startswith("x") else 1) for key, path in paths.items()}
    _check_layouts(paths, {key: (shape, np.dtype(np.uint8)) for key, shape in shapes.items()})
    return {key: _idx_array(path, shapes[key]) for key, path in paths.items()}


def _idx_path(folder: Path, name: str) -> Path:
    """One of the idx files in a folder, under the name that it has there, compressed or not."""
    for variant in (name, name.replace("-idx", ".idx")):
        for candidate in (folder / variant, folder / f"{variant}.gz"):
            if candidate.is_file():
                return candidate
    raise UserError(f"{folder}: expected the four idx files of MNIST, found no {name} or {name}.gz")


@contextmanager
def _idx_opened(path: Path) -> Iterator[gzip.GzipFile | io.BufferedReader]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: expected a complete gzip file, found one that can't be read ({one_line(error)})"
        ) from error


def _idx_shape(path: Path, axes: int) -> tuple[int, ...]:
    start = bytes([0, 0, 8, axes])
    with _idx_opened(path) as file:
        header = file.read(4 + 4 * axes)
    if len(header) < 4 + 4 * axes or header[:4] != start:
        raise UserError(
            f"{path}: expected an idx file of unsigned bytes with {axes} axes (it starts with {start.hex()}), found a "
            f"start of {header[:4].hex() or 'no bytes at all'}"
        )
    return tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, len(header), 4))


def _idx_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    with _idx_opened(path) as file:
        file.read(4 + 4 * len(shape))
        body = file.read(size + 1)
    if len(body) != size:
        found = "more" if len(body) > size else f"{len(body):,}"
        raise UserError(
            f"{path}: expected {size:,} bytes after the header for shape {shape}, found {found}; is it complete?"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def _parts_beside_mnist(arrays: dict[str, np.ndarray]) -> list[str]:
    """The arrays whose bytes, laid out as an idx file, do not have the MD5 sum of MNIST's."""
    wrong = []
    for key, (_, expected) in IDX_FILES.items():
        lengths = b"".join(length.to_bytes(4, "big") for length in arrays[key].shape)
        digest = hashlib.md5(bytes([0, 0, 8, arrays[key].ndim]) + lengths, usedforsecurity=False)
        digest.update(np.ascontiguousarray(arrays[key], np.uint8).data)
        if digest.hexdigest() != expected:
            wrong.append(key)
    return wrong


def _check_is_mnist(arrays: dict[str, np.ndarray], where: str) -> None:
    wrong = _parts_beside_mnist(arrays)
    if wrong:
        raise UserError(
            f"{where}: expected MNIST, found other data in {', '.join(wrong)} (its checksum is not MNIST's); to train "
            "on these images all the same, name them with --dataset-name"
        )
