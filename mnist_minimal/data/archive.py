"""Zip archives and the arrays of an .npz in them, read without trust.

Nothing is unpickled, and nothing that a file only claims is believed: neither how many files there are in an archive,
nor how large one is, nor the shape of an array makes us take memory before it was looked at.
"""

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from mnist_minimal.errors import UserError

# An archive's list of its files: room for some thousand names, where we need a few.
MAX_LIST_BYTES = 500_000

# NumPy's header of an array of numbers has 128 bytes, or a few more.
MAX_HEADER_BYTES = 1_000

# What zipfile, zlib and NumPy raise on files that are cut off or were tampered with.
CORRUPT_FILE_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    EOFError,
    MemoryError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class BoundedReader(io.BufferedReader):
    """A file out of which zipfile can't read a huge list of files at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_LIST_BYTES:
            raise UserError(f"expected a list of files of at most {MAX_LIST_BYTES:,} bytes, found {size:,}")
        return super().read(size)


@contextmanager
def opened(source: Path | bytes) -> Iterator[zipfile.ZipFile]:
    """A zip archive, in a file or in memory.

    Raises:
        UserError: if its list of files is too long.
        BaseException: one of CORRUPT_FILE_ERRORS, if it is no zip archive.
    """
    raw = io.BytesIO(source) if isinstance(source, bytes) else io.FileIO(source)
    with BoundedReader(raw) as file, zipfile.ZipFile(file) as archive:
        yield archive


def member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The file of a name.

    Raises:
        UserError: if it is not there once, is encrypted or is compressed otherwise than by deflate, the one method
            whose need of memory has a bound.
    """
    found = [member for member in archive.infolist() if member.filename == name]
    if len(found) != 1:
        raise UserError(f"expected one {name} in the archive, found {len(found)}")
    if found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"expected {name} stored or deflated in the archive, found another compression")
    if found[0].flag_bits & 1:
        raise UserError(f"expected {name} readable in the archive, found it encrypted")
    return found[0]


def content(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """All of the file of a name, if it neither says that it is larger than `most` bytes nor is so.

    Raises:
        UserError: if it is larger, or as of `member`.
    """
    found = member(archive, name)
    if found.file_size > most:
        raise UserError(f"expected at most {most:,} bytes in {name}, found {found.file_size:,}")
    with archive.open(found) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"expected at most {most:,} bytes in {name}, found more")
    return data


def layout(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and type that the array `name` of an .npz says it has; only its header is read."""
    with archive.open(member(archive, f"{name}.npy")) as file:
        return _header(file)[:2]


def array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """The array `name` of an .npz; to be called where `layout` has been found right.

    Raises:
        UserError: if there are more or fewer bytes than the header says; or as of `member`.
    """
    found = member(archive, f"{name}.npy")
    with archive.open(found) as file:
        shape, dtype, start = _header(file)
    size = math.prod(shape) * dtype.itemsize
    if found.file_size != start + size:
        raise UserError(f"expected {size:,} bytes in {name} for its shape {shape}, found {found.file_size - start:,}")
    with archive.open(found) as file:
        return np.lib.format.read_array(file, allow_pickle=False, max_header_size=MAX_HEADER_BYTES)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and the place of the first number in an .npy file."""
    # NumPy itself would read a header of 4 GB before it finds it too long.
    start = io.BytesIO(file.read(MAX_HEADER_BYTES))
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(start, max_header_size=MAX_HEADER_BYTES)
    if min(shape, default=0) < 0:
        raise UserError(f"expected an array with lengths of 0 and more, found the shape {shape}")
    return shape, dtype, start.tell()
