"""What a file is by its first bytes, of files that the libraries themselves write."""

import gzip
import io
import pickle
import zipfile

import h5py
import numpy as np
import pytest

from mnist_minimal import content


def written(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


FILES = {
    content.HDF5: written(lambda file: h5py.File(file, "w").close()),
    content.ZIP: written(lambda file: zipfile.ZipFile(file, "w").writestr("a", "b")),
    content.GZIP: gzip.compress(b"x"),
    content.NPY: written(lambda file: np.save(file, np.zeros(3))),
    content.PICKLE: pickle.dumps({"x": 1}),
    content.PARQUET: b"PAR1\x15\x04\x15",
    content.LFS: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4830000\n",
    content.HTML: b"\n<!DOCTYPE html>\n<html><head><title>404</title>",
    content.JSON: b'{"class_name": "Sequential", "config": []}',
    content.CSV: b"label,pixel0,pixel1\n5,0,0\n0,1",
    content.TEXT: "mean \u00e4 of the\nweights\n".encode(),
    content.EMPTY: b"",
    content.UNKNOWN: bytes(range(256)),
}


@pytest.mark.parametrize("kind", FILES)
def test_kinds(kind):
    assert content.kind_of(FILES[kind]) == kind


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_binary_protocol(protocol):
    assert content.kind_of(pickle.dumps([1, 2], protocol)) == content.PICKLE


def test_a_text_that_is_cut_off_in_a_character():
    text = ("label;" + "\u00e4" * 600).encode()
    assert content.kind_of(text[: content.FIRST_BYTES]) == content.CSV


def test_the_step_to_take_is_told():
    step = "name another"
    assert content.refusal(FILES[content.LFS], "a model", step) == (
        "found a Git LFS pointer, expected a model; fetch the file itself with `git lfs pull`"
    )
    assert content.refusal(FILES[content.TEXT], "a model", step) == (
        "found a text that begins with 'mean \\xe4 of the', expected a model; name another"
    )
    assert content.refusal(gzip.compress(FILES[content.NPY]), "a model", step) == (
        "found a gzip file of a NumPy array (.npy), expected a model; unpack it first, as with gunzip"
    )
    assert content.refusal(FILES[content.LFS], "a model", step, {}).endswith("; name another")
