"""MNIST and other images, found, checked and split: the only place that reads image data.

A data set is four arrays. The images of `Dataset` and `Splits` are uint8 of shape (n, height, width, channels) in
[0, 255], MNIST's (n, 28, 28, 1) with 0 the background; the labels are int64 of shape (n,), classes counted from 0.
"""

import functools
import hashlib
import importlib
import itertools
import json
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_minimal.data import forms
from mnist_minimal.data.choice import DATASETS, ENVIRONMENT_VARIABLE, KERAS_DATASETS, Choice, Fold
from mnist_minimal.data.random import FOLDS, permutation, stream
from mnist_minimal.data.reading import checked, read
from mnist_minimal.errors import UserError, one_line

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# The MD5 sums of the four idx files of MNIST.
MNIST_MD5 = {
    "x_train": "6bbc9ace898e44ae57da46a324031adb",
    "y_train": "a25bea736e30d166cdddb491f175f624",
    "x_test": "2646ac647ad5339dbf082846283269ea",
    "y_test": "27ae3e4e09519cfbb04c329615203637",
}


DOWNLOAD_TIMEOUT_SECONDS = 20

# Sizes of the sets that everybody has, training and test set together.
IMAGES = {"mnist": 70_000, "digits": 1_797, "fashion_mnist": 70_000, "cifar10": 60_000, "cifar100": 60_000}

# Names that a file of other images may not take: they have a meaning of their own in `--dataset` or in a study's name.
# Those of Keras' sets it may: a copy of one is that set.
RESERVED_NAMES = {*DATASETS, "holdout"} - {*KERAS_DATASETS}


@dataclass(frozen=True)
class Dataset:
    """A data set as published: a training and a test set.

    Attributes:
        name: One of `choice.DATASETS` but "auto", or the name the user gave a file of other images; of a fold its own,
            as "mnist-fold3of10"; the column `dataset` of the results.
        origin: Where the arrays came from, in words.
        notice: What whoever sees figures of it must know, in lines for any command: that the digits took MNIST's place,
            why, and how to get MNIST; that EMNIST's images are transposed; or "".
        x_train, x_test: uint8 (n, height, width, channels) in [0, 255].
        y_train, y_test: int64 (n,) in 0 .. classes - 1.
    """

    name: str
    origin: str
    notice: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """Number of classes: one more than the highest label."""
        return 1 + int(max(self.y_train.max(), self.y_test.max()))


@dataclass(frozen=True)
class Splits:
    """What one training run may see: images to train on, to monitor, and to test on once.

    Attributes:
        dataset: Name of the data set.
        protocol: "source", where the published recipe says what is monitored, mostly the test set, or "holdout".
        x_train, x_val, x_test: uint8 (n, height, width, channels) in [0, 255].
        y_train, y_val, y_test: int64 (n,) in 0 .. classes - 1.
        targets: float32 (n, classes), the probabilities to learn of each training image, which sum up to 1; None where
            these are its label alone.
    """

    dataset: str
    protocol: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    targets: np.ndarray | None = None


def load(choice: Choice) -> Dataset:
    """Finds, reads and checks a data set.

    "mnist" comes from the path, else from Keras' cache or download. "auto" is the same, but takes the digits where
    there is no path and Keras has no MNIST and can fetch none. "digits" are scikit-learn's 1,797 scans of 8x8 pixels
    resized to 28x28, of which the last 297 are the test set. Keras' other sets come from its cache or download. Of a
    fold, `folded` says which images are which.

    Raises:
        UserError: if the file is absent, damaged, of another shape or type, or not MNIST (and no name was given for
            it); if another set than "auto" was asked for and can't be had; if the options contradict each other; if
            there are fewer images than folds.
    """
    dataset = _load_whole(choice)
    return dataset if choice.fold is None else folded(dataset, choice.fold)


def folded(dataset: Dataset, fold: Fold) -> Dataset:
    """A fold of a data set: one part of all its images is the test set, the others are the training set.

    All images, the training set before the test set, are put into one random order (`data.random`), the same for ever,
    and cut into N parts in a row whose sizes differ by one at most; the K-th is the test set, and the training set
    begins with the part after it and ends with the one before it. So classes and writers are spread over all parts:
    MNIST's test set is of other writers than its training set and its halves are not equally hard, so that parts in
    the order of the files would differ by more than chance. It also means that most writers of a fold's test set are
    in its training set, too, as they are not in MNIST as published. The protocol "holdout" monitors the end of the
    training set, which is another part for each fold where there are twelve folds or fewer.

    Raises:
        UserError: if there are fewer images than folds.
    """
    images = np.concatenate([dataset.x_train, dataset.x_test])
    labels = np.concatenate([dataset.y_train, dataset.y_test])
    if fold.folds > len(images):
        raise UserError(f"expected a fold of at most {len(images):,}, the images of {dataset.name}, found {fold}")
    start, end = ((fold.number - past) * len(images) // fold.folds for past in (1, 0))
    order = np.roll(permutation(stream(0, FOLDS, 0), len(images)), -start)
    test, train = np.split(order, [end - start])
    return replace(
        dataset,
        name=fold.name_of(dataset.name),
        x_train=images[train],
        y_train=labels[train],
        x_test=images[test],
        y_test=labels[test],
    )


def _load_whole(choice: Choice) -> Dataset:
    """The data set of a choice as it was published."""
    if choice.dataset not in DATASETS:
        raise UserError(
            f"expected the images of {choice.dataset}, which come with no package; give their file with --data PATH "
            f"--dataset-name {choice.dataset}, or other images with --dataset"
        )
    path = choice.path
    packaged = choice.dataset in ("digits", *KERAS_DATASETS)
    if path is None and not packaged:
        path = os.environ.get(ENVIRONMENT_VARIABLE) or None
    if path is not None:
        # No shell does it in `--data=~/x`, nor in a variable's value that is quoted.
        path = os.path.expanduser(path)
    if choice.name is not None:
        return _load_named(choice, path)
    if packaged and path is not None:
        package = "scikit-learn" if choice.dataset == "digits" else "Keras"
        raise UserError(f"--dataset {choice.dataset} comes with {package} and reads no file; leave out --data {path}")
    if choice.dataset == "digits":
        return _load_digits(notice="")
    if choice.dataset in KERAS_DATASETS:
        try:
            return _load_from_keras(choice.dataset)
        except UnavailableError as unavailable:
            raise UserError(
                f"{choice.dataset} was found nowhere: {unavailable}; put its files where Keras looks for them, or "
                f"give a copy with --data PATH --dataset-name {choice.dataset}"
            ) from unavailable
    if path is not None:
        arrays, _ = read(Path(path))
        _check_is_mnist(arrays, path)
        return _dataset("mnist", path, arrays)
    try:
        dataset = _load_from_keras("mnist")
    except UnavailableError as unavailable:
        if choice.dataset == "mnist":
            raise UserError(f"MNIST was found nowhere: {unavailable}. {HOW_TO_GET_MNIST}") from unavailable
        return _load_digits(
            notice="Using scikit-learn's small digits, not MNIST, which could not be had: "
            f"{unavailable}. Accuracies on them can't be compared with any on MNIST.\n{HOW_TO_GET_MNIST}"
        )
    _check_is_mnist(vars(dataset), "Keras' mnist.npz")
    return dataset


def of_arrays(arrays: "Sequence[ArrayLike]", name: str | None = None) -> Dataset:
    """A data set of the user's own arrays.

    Args:
        arrays: Training images, their labels, test images and theirs, in any form that `data.forms` takes; or these in
            two pairs, as `load_data` of Keras' own sets returns them.
        name: What the images are called in results; "mnist" for those of MNIST, and "arrays" for others without.

    Raises:
        UserError: if they are no images and labels, or the name is not one for them.
    """
    expected = "expected four arrays: (x_train, y_train, x_test, y_test)"
    if not isinstance(arrays, list | tuple):
        raise UserError(f"found a {type(arrays).__name__} as the data, {expected}")
    if len(arrays) == 2 and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in arrays):
        arrays = list(itertools.chain.from_iterable(arrays))  # type: ignore[arg-type]
    if len(arrays) != len(MNIST_MD5):
        raise UserError(f"found {len(arrays)} arrays, {expected}")
    try:
        found = {key: np.asarray(array) for key, array in zip(MNIST_MD5, arrays, strict=True)}
    except ValueError as error:
        raise UserError(
            f"found what NumPy makes no array of ({one_line(error)}), expected images and labels"
        ) from error
    found = checked(found, "the arrays")
    if not _parts_beside_mnist(found):
        if name not in (None, "mnist"):
            raise UserError(f"found MNIST's images, expected others under the name {name}; leave the name out")
        return _dataset("mnist", "arrays", found)
    if name is not None:
        _check_name(name)
    return _dataset(name or "arrays", "arrays", found)


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


class UnavailableError(Exception):
    """Keras has a set of images not in its cache and can't download it."""


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
        x_train=np.ascontiguousarray(arrays["x_train"]),
        y_train=arrays["y_train"].astype(np.int64),
        x_test=np.ascontiguousarray(arrays["x_test"]),
        y_test=arrays["y_test"].astype(np.int64),
    )


def _load_named(choice: Choice, path: str | None) -> Dataset:
    name = choice.name or ""
    if choice.dataset != "auto":
        raise UserError(f"--dataset-name {name} names the images of --data; leave out --dataset {choice.dataset}")
    _check_name(name)
    if path is None:
        raise UserError(f"--dataset-name {name} needs the file of its images; add --data PATH")
    arrays, files = read(Path(path), name)
    if not _parts_beside_mnist(arrays):
        raise UserError(f"{path}: these images are MNIST; leave out --dataset-name {name}")
    is_emnist = any("emnist" in each.lower() for each in [name, *(file.name for file in files)])
    return _dataset(name, path, arrays, EMNIST_NOTICE if is_emnist else "")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", name) or name in RESERVED_NAMES:
        raise UserError(
            f"expected a --dataset-name (in Python dataset_name=) of lower-case letters, digits and _ that is none of "
            f"{', '.join(sorted(RESERVED_NAMES))}, found {name!r}"
        )


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of scikit-learn's digits: enlarging them takes longer than an epoch of a tiny network."""
    # Imported here: both take longer to import than a command has time for its --help.
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = zoom(digits.images * (255 / 16), (1, 3.5, 3.5), order=1, mode="nearest", grid_mode=True)
    return forms.pixels(np.rint(pixels).astype(np.uint8)), digits.target


def _load_digits(notice: str) -> Dataset:
    # What a caller changes in his arrays is no change of the next one's.
    images, labels = (array.copy() for array in _digits())
    arrays = {"x_train": images[:-297], "y_train": labels[:-297], "x_test": images[-297:], "y_test": labels[-297:]}
    return _dataset("digits", "scikit-learn's load_digits()", arrays, notice)


def _load_from_keras(name: str) -> Dataset:
    from mnist_minimal.models.defaults import keras_defaults

    module = importlib.import_module(f"keras.datasets.{name}")
    before = socket.getdefaulttimeout()
    # Keras' download has no time limit of its own and would wait for minutes where a firewall swallows it.
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        # With channels last.
        with keras_defaults():
            (x_train, y_train), (x_test, y_test) = module.load_data()
    # Keras passes on whatever urllib, the file system or a damaged cache raised.
    except Exception as error:
        raise UnavailableError(f"Keras has no usable copy and its download failed ({one_line(error)})") from error
    finally:
        socket.setdefaulttimeout(before)
    arrays = {
        **{"x_train": forms.pixels(x_train), "x_test": forms.pixels(x_test)},
        **{"y_train": forms.classes(y_train), "y_test": forms.classes(y_test)},
    }
    return _dataset(name, f"keras.datasets.{name}", arrays)


def _parts_beside_mnist(arrays: dict[str, np.ndarray]) -> list[str]:
    """The arrays whose bytes, laid out as an idx file, do not have the MD5 sum of MNIST's."""
    wrong = []
    for key, expected in MNIST_MD5.items():
        # Without the axis of one channel.
        shape = arrays[key].shape[:3]
        lengths = b"".join(length.to_bytes(4, "big") for length in shape)
        digest = hashlib.md5(bytes([0, 0, 8, len(shape)]) + lengths, usedforsecurity=False)
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
