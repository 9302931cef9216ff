"""Every reader is given every kind of file that is not its own, and says what it found before what it expected."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mnist_minimal as mm
from mnist_minimal import content
from mnist_minimal.errors import UserError
from tests.data.test_data import random_arrays, write_idx
from tests.foreign_files import FOREIGN

# What a reader makes of a file with this content; it raises a UserError.
Reader = Callable[[Path, bytes], object]


def read_data(folder: Path, found: bytes) -> object:
    path = folder / "mnist.npz"
    path.write_bytes(found)
    return mm.load_data(path, name="noise")


def read_idx(folder: Path, found: bytes) -> object:
    (write_idx(folder, random_arrays()) / "t10k-images-idx3-ubyte").write_bytes(found)
    return mm.load_data(folder, name="noise")


def read_packed_idx(folder: Path, found: bytes) -> object:
    (write_idx(folder, random_arrays(), zipped=True) / "train-labels-idx1-ubyte.gz").write_bytes(found)
    return mm.load_data(folder, name="noise")


# By what is read: the reader, and the kinds that are its own, which it refuses for other reasons.
READERS: dict[str, tuple[Reader, set[str]]] = {
    "data": (read_data, {"zip"}),
    "idx": (read_idx, set()),
    "packed idx": (read_packed_idx, set()),
}
CASES = [(name, kind) for name, (_, own) in READERS.items() for kind in FOREIGN if kind not in own]

# Causes that nobody has looked for, and what only a defect is.
UNESTABLISHED = ("is it complete", "damaged", "corrupt", "defect", "Traceback")


@pytest.mark.parametrize(("reader", "kind"), CASES)
def test_what_was_found_is_said_before_what_was_expected(tmp_path, reader, kind):
    found, words = FOREIGN[kind]
    with pytest.raises(UserError) as caught:
        READERS[reader][0](tmp_path, found)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    before, _, after = message.replace(str(tmp_path), "").partition("expected")
    assert words in before, message
    # And what to do.
    assert ";" in after, message
    assert not any(word in message for word in UNESTABLISHED), message


@pytest.mark.parametrize("kind", FOREIGN)
def test_few_bytes_tell_as_much_as_all(kind):
    found, words = FOREIGN[kind]
    assert words in content.found(found[: content.FIRST_BYTES])
    assert content.kind_of(found) == content.kind_of(found[: content.FIRST_BYTES])


def test_a_zip_archive_that_is_no_npz_is_refused_by_what_is_in_it(tmp_path):
    with pytest.raises(UserError, match=r"mnist\.npz: found readme\.txt in it and no x_train, .* save them with numpy"):
        read_data(tmp_path, FOREIGN["zip"][0])


def test_a_pickle_is_not_opened(tmp_path):
    marker = tmp_path / "it ran"
    with pytest.raises(UserError, match="a pickle may run any code and is never opened"):
        read_data(
            tmp_path,
            b"\x80\x02cos\nmkdir\nX" + len(str(marker)).to_bytes(4, "little") + str(marker).encode() + b"\x85R.",
        )
    assert not marker.exists()


def test_text_cut_inside_a_letter_is_text():
    text = ("a" + "é" * content.FIRST_BYTES).encode()[: content.FIRST_BYTES]
    assert content.kind_of(text) == content.TEXT


def test_arrays_under_other_names_are_named(tmp_path):
    np.savez(tmp_path / "images.npz", np.zeros(3), np.zeros(3))
    with pytest.raises(UserError, match=r"found arr_0, arr_1 in it and no x_train"):
        mm.load_data(tmp_path / "images.npz")
