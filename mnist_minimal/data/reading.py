"""The four arrays in what a user names: an .npz in Keras' layout, or a folder with one or with idx files in it."""

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mnist_minimal import content, files
from mnist_minimal.data import archive, forms, idx
from mnist_minimal.errors import UserError, one_line, plain

# The four arrays together may have as many bytes, nine times MNIST's 54,950,000. To read them takes at most twice as
# much memory, whatever there is in a file.
MAX_BYTES = 500_000_000

# Below the folder that was named: torchvision's root has its files in MNIST/raw, Kaggle's each in a folder of its name.
LEVELS = 3

# Folders and files that are looked through at most, so that nobody waits who has named his home.
MAX_ENTRIES = 20_000

# What stands at the end of every zip archive, within this many bytes.
ZIP_END, ZIP_END_BYTES = b"PK\x05\x06", 70_000

EXPECTED = "an .npz in the layout of keras.datasets.mnist or a folder of the four idx files"

# The columns of QMNIST's labels, of which the first is the class.
QMNIST_COLUMNS = 8

STEPS = {**idx.STEPS, content.IDX: "name the folder that all four idx files are in"}


def read(path: Path, name: str | None = None) -> tuple[dict[str, np.ndarray], list[Path]]:
    """The four arrays `x_train`, `y_train`, `x_test` and `y_test` of what a user names.

    Args:
        path: An .npz with these arrays in any form that `forms` takes; or a folder that has one in it, or the four idx
            files, packed or not, up to LEVELS below; of several the least deep, and the idx files before an .npz.
        name: The name that the user gave the images; "emnist_digits" chooses the files emnist-digits-... among others.

    Returns:
        Images uint8 (n, height, width, channels), labels integers (n,) from 0; and the files that they are from.

    Raises:
        UserError: if there is nothing of the kind, or there are several; or as of what was found.
    """
    found = _find(path, name) if path.is_dir() else path
    if isinstance(found, Path) and not found.is_file():
        there = "a device or a pipe" if path.exists() else "nothing"
        raise UserError(f"{path}: found {there} there, expected {EXPECTED}; check --data")
    arrays, files = (_read_npz(found), [found]) if isinstance(found, Path) else (_read_idx(found), [*found.values()])
    _check_labels(path, arrays)
    return arrays, files


def read_labelled(images: Path, labels: Path, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images and their labels in two idx files, packed or not, as MNIST and QMNIST have them.

    Args:
        images: The file of images.
        labels: The file of labels: one a byte, or QMNIST's of eight integers an image, the first of which is the class.
        start: How many images at the beginning are left out, as of QMNIST's test set MNIST's own 10,000.

    Returns:
        Images uint8 (n, height, width, 1) in [0, 255], n > 0; labels int64 (n,) from 0.

    Raises:
        UserError: if a file is none of these, or they do not belong together, or no image is left.
    """
    for path in (images, labels):
        if not path.is_file():
            raise UserError(f"{path}: found no file of this name, expected an idx file; check the name")
    shape, _ = idx.layout(images, idx.IMAGES)
    labels_shape, dtype = idx.layout(labels, idx.LABELS, idx.QMNIST_LABELS)
    if labels_shape[1:] not in ((), (QMNIST_COLUMNS,)):
        raise UserError(
            f"{labels}: found integers of shape {labels_shape}, expected QMNIST's labels, {QMNIST_COLUMNS} integers an "
            "image; give its file ...-labels-idx2-int.gz"
        )
    if shape[0] != labels_shape[0] or 0 in shape:
        raise UserError(
            f"{labels}: found {labels_shape[0]:,} labels, and {shape[0]:,} images of {size_text(shape[1:])} in "
            f"{images}, expected as many labels as images and at least one pixel; give the two files of one set"
        )
    if (size := math.prod(shape)) > MAX_BYTES:
        raise UserError(f"{images}: found {size:,} bytes of images, expected at most {MAX_BYTES:,}")
    if start >= shape[0]:
        raise UserError(f"{images}: found {shape[0]:,} images, expected more than the {start:,} that are left out")
    classes = idx.array(labels, labels_shape, dtype).reshape(shape[0], -1)[start:, 0].astype(np.int64)
    if classes.min() < 0:
        raise UserError(f"{labels}: found the label {classes.min()}, expected classes counted from 0; check the file")
    return forms.pixels(idx.array(images, shape)[start:]), classes


def checked(arrays: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The four arrays as `read` gives them, from any form that `forms` takes.

    Args:
        arrays: By the names `x_train`, `y_train`, `x_test` and `y_test`.
        where: What to call them in an error.

    Raises:
        UserError: as of what was found.
    """
    _check_layouts(dict.fromkeys(arrays, where), {key: (array.shape, array.dtype) for key, array in arrays.items()})
    found = {key: _in_one_form(array, key) for key, array in arrays.items()}
    _check_labels(where, found)
    return found


def _in_one_form(array: np.ndarray, key: str) -> np.ndarray:
    return (forms.pixels if key.startswith("x") else forms.classes)(array, key)


def _check_labels(where: str | Path, arrays: dict[str, np.ndarray]) -> None:
    for part in ("train", "test"):
        labels = arrays[f"y_{part}"]
        if labels.min() < 0 or labels.max() >= forms.MAX_CLASSES:
            raise UserError(
                f"{where}: found labels {labels.min()} .. {labels.max()} in y_{part}, expected classes counted from 0, "
                f"at most {forms.MAX_CLASSES} of them; number them so"
            )


def _find(folder: Path, name: str | None) -> dict[str, Path] | Path:
    """The idx files of each array, or the .npz, in a folder or below."""
    level, seen = [folder], 0
    idx_files: list[Path] = []
    for _ in range(LEVELS + 1):
        below: list[Path] = []
        sets: list[dict[str, Path]] = []
        archives: list[Path] = []
        for place in level:
            entries = _entries(place, must=place == folder)
            seen += len(entries)
            if seen > MAX_ENTRIES:
                raise UserError(
                    f"{folder}: found more than {MAX_ENTRIES:,} files and folders and no data among them, expected "
                    f"{EXPECTED}; name the folder that they are in"
                )
            below += [entry for entry in entries if entry.is_dir()]
            files = [entry for entry in entries if entry.is_file()]
            here = idx.sets_in(files, name)
            sets += here
            archives += [] if here else [entry for entry in files if entry.suffix == ".npz"]
            idx_files += [entry for entry in files if idx.array_of(entry.name)]
        # Keras keeps its mnist.npz beside other sets.
        named = [entry for entry in archives if entry.name == "mnist.npz"]
        found: list[dict[str, Path] | Path] = [*sets, *(named if len(named) == 1 and not sets else archives)]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(_where(folder, one) for one in found)
            raise UserError(
                f"{folder}: found several sets in it ({plain(several, 300)}), expected one; name that "
                "one, or put its files into a folder of their own"
            )
        level = below
    return _scattered(folder, idx_files)


def _scattered(folder: Path, idx_files: list[Path]) -> dict[str, Path]:
    """The four idx files where each is in a folder of its own."""
    by_array: dict[str, list[Path]] = {key: [] for key in idx.NAMES}
    for path in idx_files:
        place = idx.array_of(path.name)
        assert place is not None
        by_array[place[1]].append(path)
    for key, paths in by_array.items():
        if not paths:
            there = ", ".join(path.name for path in idx_files or _entries(folder, must=True)[:6])
            raise UserError(
                f"{folder}: found no {idx.NAMES[key]} or {idx.NAMES[key]}.gz, but {plain(there, 300) or 'nothing'}; "
                f"expected the four idx files or an .npz in it, or up to {LEVELS} levels below"
            )
        # The packed and the unpacked file in one folder are one.
        if len({path.parent for path in paths}) > 1:
            places = plain(", ".join(str(path.parent) for path in paths), 300)
            raise UserError(
                f"{folder}: found several {idx.NAMES[key]} in {places}, expected one; name the folder of the four files"
            )
    return {key: min(paths, key=lambda path: len(path.name)) for key, paths in by_array.items()}


def _entries(folder: Path, must: bool) -> list[Path]:
    """What is in a folder, in order; nothing where it can't be read, unless it must be."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        if must:
            raise
        return []


def _where(folder: Path, found: dict[str, Path] | Path) -> str:
    """A found set in words, below the folder."""
    if isinstance(found, Path):
        return str(found.relative_to(folder))
    path = found["x_train"]
    place = idx.array_of(path.name)
    prefix = place[0].rstrip("-") if place else ""
    return f"{path.parent.relative_to(folder)}{f': {prefix}' if prefix else ''}"


def _check_layouts(where: Mapping[str, Path | str], layouts: dict[str, tuple[tuple[int, ...], np.dtype]]) -> None:
    """Refuses the four arrays by their shapes and types, before any of them is read.

    Args:
        where: The file of each array, or what else it is from.
        layouts: Shape and type of each array.
    """
    for key, (shape, dtype) in layouts.items():
        if key.startswith("x"):
            right = forms.is_images(shape, dtype)
            expected = "images of shape (n, height, width) or (n, height, width, channels)"
        else:
            right = forms.is_labels(shape, dtype)
            expected = "labels of shape (n,), (n, 1) or one-hot (n, classes)"
        if not right:
            raise UserError(f"{where[key]}: found {dtype} of shape {shape} in {key}, expected {expected}")
    sizes = {key: math.prod(shape) * dtype.itemsize for key, (shape, dtype) in layouts.items()}
    if sum(sizes.values()) > MAX_BYTES:
        largest = where[max(sizes, key=lambda key: sizes[key])]
        raise UserError(
            f"{largest}: found {sum(sizes.values()):,} bytes of images and labels, expected at most {MAX_BYTES:,}"
        )
    train, test = (forms.image_shape(layouts[key][0]) for key in ("x_train", "x_test"))
    if train != test:
        raise UserError(
            f"{where['x_test']}: found images of {size_text(train)} in x_train and of {size_text(test)} in x_test, "
            "expected one size; save them so"
        )
    for part in ("train", "test"):
        images, labels = (layouts[f"{axis}_{part}"][0][0] for axis in "xy")
        if images != labels or not images:
            raise UserError(
                f"{where[f'y_{part}']}: found {images} images in x_{part} and {labels} labels in y_{part}, expected as "
                "many labels as images and at least one"
            )


def size_text(shape: Sequence[int] | None) -> str:
    """An image's shape as people say it, "32x32x3"."""
    return "x".join(map(str, shape or ()))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with _npz_opened(path) as npz:
        missing = [key for key in idx.NAMES if f"{key}.npy" not in npz.namelist()]
        if missing:
            there = ", ".join(name.removesuffix(".npy") for name in npz.namelist()[:8])
            raise UserError(
                f"found {plain(there, 300) or 'nothing'} in it and no {', '.join(missing)}, expected the arrays "
                f"{', '.join(idx.NAMES)} as in keras.datasets.mnist; save them with {idx.SAVEZ}"
            )
        layouts = {key: archive.layout(npz, key) for key in idx.NAMES}
    _check_layouts(dict.fromkeys(idx.NAMES, path), layouts)
    with _npz_opened(path) as npz:
        return {key: _in_one_form(archive.array(npz, key), key) for key in idx.NAMES}


@contextmanager
def _npz_opened(path: Path) -> Iterator[zipfile.ZipFile]:
    beginning = files.first_bytes(path)
    if content.kind_of(beginning) != content.ZIP:
        raise UserError(f"{path}: {content.refusal(beginning, EXPECTED, 'check --data', STEPS)}")
    try:
        with archive.opened(path) as npz:
            yield npz
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except archive.CORRUPT_FILE_ERRORS as error:
        found, step = "a zip archive without its end, that is, a part of one", idx.INCOMPLETE
        if _has_end(path):
            found, step = f"a zip archive that can't be read ({one_line(error)})", "save or download it again"
        raise UserError(
            f"{path}: found {found}, expected an .npz in the layout of keras.datasets.mnist; {step}"
        ) from error


def _has_end(path: Path) -> bool:
    """Whether a zip archive has the record that stands at the end of every one."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - ZIP_END_BYTES))
        return ZIP_END in file.read(ZIP_END_BYTES)


def _read_idx(paths: dict[str, Path]) -> dict[str, np.ndarray]:
    shapes = idx.shapes(paths)
    _check_layouts(paths, {key: (shape, np.dtype(np.uint8)) for key, shape in shapes.items()})
    arrays = {key: idx.array(path, shapes[key]) for key, path in paths.items()}
    return {key: forms.pixels(array) if key.startswith("x") else array for key, array in arrays.items()}
