"""MNIST, found, checked and split: the only place that reads image data.

A data set is four arrays. The images of `Dataset` and `Splits` are uint8 of shape (n, 28, 28, 1) in [0, 255], 0 the
background; the labels are int64 of shape (n,) in 0 .. 9.
"""

import hashlib
import json
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_minimal.data.choice import DATASETS, ENVIRONMENT_VARIABLE, Choice
from mnist_minimal.data.reading import read
from mnist_minimal.errors import UserError, one_line

# The MD5 sums of the four idx files of MNIST.
MNIST_MD5 = {
    "x_train": "6bbc9ace898e44ae57da46a324031adb",
    "y_train": "a25bea736e30d166cdddb491f175f624",
    "x_test": "2646ac647ad5339dbf082846283269ea",
    "y_test": "27ae3e4e09519cfbb04c329615203637",
}


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
        notice: What whoever sees figures of it must know, in lines for any command: that the digits took MNIST's place,
            why, and how to get MNIST; that EMNIST's images are transposed; or "".
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
    if path is not None:
        # No shell does it in `--data=~/x`, nor in a variable's value that is quoted.
        path = os.path.expanduser(path)
    if choice.name is not None:
        return _load_named(choice, path)
    if choice.dataset == "digits":
        if path is not None:
            raise UserError(f"--dataset digits comes with scikit-learn and reads no file; leave out --data {path}")
        return _load_digits(notice="")
    if path is not None:
        arrays, _ = read(Path(path))
        _check_is_mnist(arrays, path)
        return _dataset("mnist", path, arrays)
    try:
        return _load_from_keras()
    except MnistUnavailableError as unavailable:
        if choice.dataset == "mnist":
            raise UserError(f"MNIST was found nowhere: {unavailable}. {HOW_TO_GET_MNIST}") from unavailable
        return _load_digits(
            notice="Using scikit-learn's small digits, not MNIST, which could not be had: "
            f"{unavailable}. Accuracies on them can't be compared with any on MNIST.\n{HOW_TO_GET_MNIST}"
        )


def checksums(dataset: Dataset) -> dict[str, str]:
    """The SHA-256 of each of the four arrays, by name: of its type, its shape as JSON and its bytes, rows first."""
    found = {}
    for name in MNIST_MD5:
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


EMNIST_NOTICE = (
    "EMNIST's files have every image transposed, rows for columns, and they are taken as they are: a model trained on "
    "them reads MNIST's digits wrongly, and one trained on MNIST reads these wrongly."
)


HOW_TO_GET_MNIST = (
    "To get MNIST, download https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz (11 MB) and give it "
    f"with --data mnist.npz, or set {ENVIRONMENT_VARIABLE} to it."
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
    arrays, files = read(Path(path), name)
    if not _parts_beside_mnist(arrays):
        raise UserError(f"{path}: these images are MNIST; leave out --dataset-name {name}")
    is_emnist = any("emnist" in each.lower() for each in [name, *(file.name for file in files)])
    return _dataset(name, path, arrays, EMNIST_NOTICE if is_emnist else "")


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


def _parts_beside_mnist(arrays: dict[str, np.ndarray]) -> list[str]:
    """The arrays whose bytes, laid out as an idx file, do not have the MD5 sum of MNIST's."""
    wrong = []
    for key, expected in MNIST_MD5.items():
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
            f"{where}: found other data than MNIST's in {', '.join(wrong)}, by the checksum; to train on these images "
            "all the same, name them with --dataset-name"
        )
