"""MNIST, found, checked and split: the only place that reads image data.

A data set is four arrays. The images of `Dataset` and `Splits` are uint8 of shape (n, 28, 28, 1) in [0, 255], 0 the
background; the labels are int64 of shape (n,) in 0 .. 9.
"""

import gzip
import hashlib
import os
import re
import socket
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_minimal.errors import UserError

ENVIRONMENT_VARIABLE = "MNIST_MINIMAL_DATA"

# The idx file of each array, and its MD5 sum when it is MNIST's; http://yann.lecun.com/exdb/mnist names the files.
IDX_FILES = {
    "x_train": ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
    "y_train": ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    "x_test": ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
    "y_test": ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c629615203637"),
}

# A file may not make us take more memory than this for one array; MNIST's largest has 47,040,000 bytes.
MAX_ARRAY_BYTES = 500_000_000

DOWNLOAD_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Dataset:
    """A data set as published: a training and a test set.

    Attributes:
        name: "mnist", "digits" or the name the user gave a file of other images; the column `dataset` of the results.
        origin: Where the arrays came from, in words.
        x_train, x_test: uint8 (n, 28, 28, 1) in [0, 255].
        y_train, y_test: int64 (n,) in 0 .. 9.
    """

    name: str
    origin: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True)
class Splits:
    """What one training run may see: images to train on, to monitor, and to test on once.

    Attributes:
        dataset: Name of the data set.
        protocol: "source", where the monitored images are the test set, or "holdout".
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


def split(dataset: Dataset, protocol: str) -> Splits:
    """Splits a data set by one of the two protocols.

    "source" monitors the test set, as every published recipe does. "holdout" takes the last twelfth of the training set
    (5,000 images of MNIST) for the schedule, the stopping and the choice of epoch.

    Raises:
        ValueError: if the protocol is neither.
    """
    if protocol == "source":
        return Splits(
            dataset.name,
            protocol,
            dataset.x_train,
            dataset.y_train,
            dataset.x_test,
            dataset.y_test,
            dataset.x_test,
            dataset.y_test,
        )
    if protocol == "holdout":
        kept = len(dataset.x_train) - len(dataset.x_train) // 12
        return Splits(
            dataset.name,
            protocol,
            dataset.x_train[:kept],
            dataset.y_train[:kept],
            dataset.x_train[kept:],
            dataset.y_train[kept:],
            dataset.x_test,
            dataset.y_test,
        )
    raise ValueError(f"expected the protocol 'source' or 'holdout', found {protocol!r}")
