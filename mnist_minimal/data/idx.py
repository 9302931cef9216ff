"""idx files, the form in which MNIST and the sets made like it are published: found in folders, and read without trust.

An idx file is two zero bytes, the type (8, unsigned bytes; of QMNIST's labels 12, integers of four bytes, the highest
first), the number of axes, their lengths, the numbers. What is a gzip file is known by its first bytes: browsers unpack
files and keep the name, and unpackers keep it too.
"""

import gzip
import io
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mnist_minimal import content, files
from mnist_minimal.errors import UserError, one_line

# The idx file of each array, as http://yann.lecun.com/exdb/mnist names it.
NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}

# EMNIST's files have the name of one of its sets before it, and "test" for "t10k"; some unpackers make a dash a dot.
FILE_NAME = re.compile(
    r"(?P<set>emnist-\w+-)?(?P<part>train|t10k|test)-(?P<kind>images[-.]idx3|labels[-.]idx1)-ubyte(?P<gz>\.gz)?"
)

# What a file of images begins with, and one of labels: MNIST's, and QMNIST's with further columns behind the class.
IMAGES, LABELS, QMNIST_LABELS = (bytes([0, 0, *form]) for form in ((8, 3), (8, 1), (12, 2)))
BYTES = np.dtype(np.uint8)
TYPES: dict[int, tuple[str, np.dtype]] = {8: ("unsigned bytes", BYTES), 12: ("integers of four bytes", np.dtype(">i4"))}

# What a file says that is not there whole.
INCOMPLETE = "download or copy it again"

SAVEZ = "numpy.savez(PATH, x_train=..., y_train=..., x_test=..., y_test=...)"

# What to do with files of other kinds.
STEPS = {
    **content.STEPS,
    content.PICKLE: f"a pickle may run any code and is never opened here: save its arrays with {SAVEZ}",
    content.CSV: f"read it with pandas and save its columns as arrays with {SAVEZ}",
    content.PARQUET: f"read it with pandas and save its columns as arrays with {SAVEZ}",
    content.SPREADSHEET: f"read it with pandas and save its columns as arrays with {SAVEZ}",
    content.MATLAB: f"read it with scipy.io.loadmat and save its arrays with {SAVEZ}",
    content.HDF5: f"read it with h5py and save its arrays with {SAVEZ}",
    content.NPY: f"save the four arrays together with {SAVEZ}",
}


def array_of(name: str) -> tuple[str, str] | None:
    """The set ("" or as "emnist-digits-") and the array ("x_train") that a file of this name holds; None for others."""
    match = FILE_NAME.fullmatch(name)
    if not match:
        return None
    axis, part = "x" if match["kind"].startswith("images") else "y", "train" if match["part"] == "train" else "test"
    return match["set"] or "", f"{axis}_{part}"


def sets_in(files: Iterable[Path], name: str | None = None) -> list[dict[str, Path]]:
    """The whole sets of four idx files among the files of one folder, each array's file by the array's name.

    Of a file that is there packed and unpacked, the unpacked one is taken. Of EMNIST's sets, "emnist_digits" names one.
    """
    found: dict[str, dict[str, Path]] = {}
    # The shortest name last, so that it stays.
    for path in sorted(files, key=lambda path: -len(path.name)):
        place = array_of(path.name)
        if place:
            found.setdefault(place[0], {})[place[1]] = path
    whole = {name: files for name, files in sorted(found.items()) if len(files) == len(NAMES)}
    named = f"{name}-".replace("_", "-")
    return [whole[named]] if named in whole else list(whole.values())


def shapes(paths: Mapping[str, Path]) -> dict[str, tuple[int, ...]]:
    """The shape of each array, as its file says.

    Raises:
        UserError: if a file is no idx file of images or labels.
    """
    return {key: layout(path, IMAGES if key.startswith("x") else LABELS)[0] for key, path in paths.items()}


def layout(path: Path, *forms: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the type of an idx file's numbers, as it says.

    Args:
        path: The file.
        forms: What it may begin with: some of IMAGES, LABELS and QMNIST_LABELS.

    Raises:
        UserError: if it is no idx file of one of these forms.
    """
    with _opened(path) as file:
        form = file.read(4)
        lengths = file.read(4 * form[3]) if form in forms else b""
    if form not in forms or len(lengths) < 4 * form[3]:
        expected = " or ".join(
            f"an idx file of {TYPES[form[2]][0]} with {form[3]} {'axis' if form[3] == 1 else 'axes'}, which begins "
            f"with {form.hex()}"
            for form in forms
        )
        raise UserError(f"{path}: {content.refusal(files.first_bytes(path), expected, INCOMPLETE, STEPS)}")
    return tuple(np.frombuffer(lengths, ">u4").tolist()), TYPES[form[2]][1]


def array(path: Path, shape: tuple[int, ...], dtype: np.dtype = BYTES) -> np.ndarray:
    """The numbers of an idx file, to be called where its `layout` has been found right.

    Raises:
        UserError: if the file has more or fewer of them, or can't be read.
    """
    size = math.prod(shape) * dtype.itemsize
    with _opened(path) as file:
        file.read(4 + 4 * len(shape))
        body = file.read(size + 1)
    if len(body) != size:
        found = "more" if len(body) > size else f"{len(body):,}"
        raise UserError(
            f"{path}: found {found} bytes after the header, expected {size:,} for its shape {shape}; {INCOMPLETE}"
        )
    return np.frombuffer(body, dtype).reshape(shape)


@contextmanager
def _opened(path: Path) -> Iterator[gzip.GzipFile | io.BufferedReader]:
    packed = content.kind_of(files.first_bytes(path)) == content.GZIP
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            yield file
    except EOFError as error:
        raise UserError(f"{path}: found a gzip file that is cut off, expected a whole one; {INCOMPLETE}") from error
    except (OSError, zlib.error) as error:
        raise UserError(
            f"{path}: found a file that can't be read ({one_line(error)}), expected an idx file; {INCOMPLETE}"
        ) from error
