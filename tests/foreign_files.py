"""Small files of the kinds that people have under another kind's name, each with the words by which it is known."""

import gzip
import io
import pickle
import tarfile
import zipfile

import h5py
import numpy as np


def _written(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _hdf5(file: io.BytesIO) -> None:
    with h5py.File(file, "w") as hdf5:
        hdf5["numbers"] = np.arange(3)


def _zip(file: io.BytesIO) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")


def _tar(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("train-images-idx3-ubyte"), io.BytesIO())


def _workbook(file: io.BytesIO) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")


_PICKLE = pickle.dumps({"x_train": [0] * 100})

FOREIGN = {
    "hdf5": (_written(_hdf5), "HDF5"),
    "zip": (_written(_zip), "zip"),
    "spreadsheet": (_written(_workbook), "spreadsheet"),
    "npy": (_written(lambda file: np.save(file, np.arange(3))), "NumPy array"),
    "idx": (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0]), "idx"),
    "pickle": (_PICKLE, "pickle"),
    "gzip of a pickle": (gzip.compress(_PICKLE), "a gzip file of a pickle"),
    "gzip of a tar": (gzip.compress(_written(_tar)), "a gzip file of a tar"),
    "tar": (_written(_tar), "tar archive"),
    "csv": (b"label,pixel0,pixel1\r\n5,0,0\r\n0,0,12\r\n", "CSV"),
    "csv with a byte order mark": ("\ufefflabel;pixel0\n5;0\n".encode(), "CSV"),
    "csv in UTF-16": ("label,pixel0\n5,0\n".encode("utf-16"), "not in UTF-8"),
    "csv in another encoding": ("label,Gr\xf6\xdfe\n5,0\n".encode("cp1252"), "not in UTF-8"),
    "parquet": (b"PAR1" + bytes(20) + b"PAR1", "Parquet"),
    "matlab": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(200), "MATLAB"),
    "web page": (b"\n<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head></html>\n", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4830000\n", "Git LFS"),
    "json": (b'{"class_name": "Sequential"}', "JSON"),
    "text": (b"see the wiki for where the data went\n", "text"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(30), "PNG"),
    "empty": (b"", "empty"),
    "unknown": (bytes(range(250, 100, -1)), "no format that is known"),
}
