"""The reader of HDF5 files against h5py, which writes them, and with files whose parts lead in circles."""

import io
import struct
import tracemalloc
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from mnist_minimal.errors import UserError
from mnist_minimal.saving.hdf5 import File


def written(write: Callable[[h5py.File], object]) -> File:
    """A file as h5py writes it, read by our reader."""
    return File(content(write))


def content(write: Callable[[h5py.File], object]) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as hdf5:
        write(hdf5)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 4, 5), (0, 2)])
@pytest.mark.parametrize("layout", ["contiguous", "compact"])
def test_arrays_are_what_h5py_wrote(dtype, shape, layout):
    numbers = np.asarray(np.random.default_rng(0).normal(size=shape), dtype)

    def write(hdf5: h5py.File) -> None:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout({"contiguous": h5py.h5d.CONTIGUOUS, "compact": h5py.h5d.COMPACT}[layout])
        space, kind = (
            h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR),
            h5py.h5t.py_create(numbers.dtype),
        )
        h5py.h5d.create(hdf5.id, b"a", kind, space, properties).write(h5py.h5s.ALL, h5py.h5s.ALL, numbers)

    file = written(write)
    array = file.object(file.root.children["a"], "/a").array(file)
    assert (array.shape, array.dtype) == (numbers.shape, numbers.dtype)
    if numbers.size:  # Of an array without elements h5py writes nothing.
        np.testing.assert_array_equal(array.numbers(), numbers)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("text", ["text"]),
        ("Ümläut \u2713", ["Ümläut \u2713"]),
        ("x" * 100_000, ["x" * 100_000]),
        ("", [""]),
        (np.bytes_(b"fixed"), ["fixed"]),
        ([b"one", b"three"], ["one", "three"]),
        (["one", "three", ""], ["one", "three", ""]),
        (np.array([], "S1"), []),
        (h5py.Empty("S1"), []),
    ],
)
def test_texts_are_what_h5py_wrote(value, texts):
    file = written(lambda hdf5: hdf5.attrs.update(other=1, wanted=value, more=[2.0]))
    assert file.root.texts(file, "wanted", most=10, most_bytes=200_000) == texts
    assert file.root.texts(file, "absent", most=10, most_bytes=200_000) == []
    assert file.root.has_attribute("wanted")
    assert not file.root.has_attribute("absent")


@pytest.mark.parametrize("count", [0, 1, 8, 9, 100, 3000])
def test_the_names_in_a_group_are_what_h5py_wrote(count):
    # Several nodes and levels of the tree of names, in an order that is not theirs.
    names = [f"n{position * 7919 % 3001}" for position in range(count)]
    file = written(lambda hdf5: [hdf5.create_group(name) for name in names])
    assert list(file.root.children) == sorted(names)
    assert all(file.object(address, name).is_group for name, address in file.root.children.items())


def test_many_attributes_lie_in_several_blocks():
    values = {f"a{position}": f"value {position}" for position in range(60)}
    file = written(lambda hdf5: hdf5.attrs.update(values))
    assert {name: file.root.texts(file, name, 1, 100)[0] for name in values} == values


SYMBOL_TABLE = b"\x11\x00\x10\x00"


def with_root_tree(node: bytes) -> bytes:
    """An HDF5 file whose root group has this node as its tree of names; `SELF` in it stands for its own address."""
    data = bytearray(content(lambda hdf5: hdf5.create_group("layers")))
    message = data.index(SYMBOL_TABLE)
    address = struct.pack("<Q", len(data))
    data[message + 8 : message + 16] = address
    return bytes(data + node.replace(b"SELFSELF", address))


def with_root_header(messages: bytes) -> bytes:
    """An HDF5 file whose root group has this header; `SELF` in it stands for the address of its messages."""
    data = bytearray(content(lambda hdf5: hdf5.create_group("layers")))
    header = len(data)
    data[64:72] = struct.pack("<Q", header)
    data += struct.pack("<BBHII4x", 1, 0, 65535, 1, len(messages))
    return bytes(data + messages.replace(b"SELFSELF", struct.pack("<Q", header + 16)))


NOWHERE = b"\xff" * 16


def tree(children: int) -> bytes:
    """A node of a tree of names that is its own child, so many times."""
    return b"TREE" + struct.pack("<BBH", 0, 0, children) + NOWHERE + children * (bytes(8) + b"SELFSELF") + bytes(8)


def table(names: int, entries: int) -> bytes:
    """A table of names that says how many it has, and has another number of them."""
    return b"SNOD" + struct.pack("<BBH", 1, 0, names) + entries * struct.pack("<QQII16x", 8, 96, 0, 0)


CONTINUED = struct.pack("<HHB3x", 16, 16, 0) + b"SELFSELF" + struct.pack("<Q", 24)

CIRCLES = {
    "a tree with itself in it": (with_root_tree(tree(2)), "parts inside others"),
    "a tree with itself in it very often": (with_root_tree(tree(65535)), "parts inside others"),
    "many names": (with_root_tree(table(65535, 65535)), "at most 10,000 names"),
    "names past the end": (with_root_tree(table(65535, 1)), "past its end"),
    "no tree": (with_root_tree(b"NODE" + bytes(100)), "damage in their place"),
    "a header that goes on in itself": (with_root_header(CONTINUED), "parts inside others"),
    "many messages": (with_root_header(450_000 * struct.pack("<HHB3x", 3, 0, 0)), "too many parts"),
    "a message past the end": (with_root_header(struct.pack("<HHB3x", 17, 65535, 0)), "past its end"),
}


@pytest.mark.parametrize(("data", "complaint"), CIRCLES.values(), ids=CIRCLES)
def test_parts_that_lead_in_circles_or_out_of_the_file_are_refused(data, complaint):
    with pytest.raises(UserError, match=complaint):
        File(data)


@pytest.mark.parametrize("circle", ["many names", "a tree with itself in it very often"])
def test_a_file_takes_no_more_memory_than_the_bound(circle):
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            File(CIRCLES[circle][0])
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


def test_texts_that_lie_on_each_other_are_bounded_together():
    # 200 references to one text of 90 kB.
    data = content(lambda hdf5: hdf5.attrs.update(wanted=["x" * 90_000] + [str(n) for n in range(199)]))
    first = data.index(struct.pack("<I", 90_000))
    reference = data[first : first + 16]
    data = data[:first] + reference * 200 + data[first + 16 * 200 :]
    file = File(data)
    with pytest.raises(UserError, match="expected a shorter text in the attribute wanted"):
        file.root.texts(file, "wanted", most=256, most_bytes=1_000_000)


@pytest.mark.parametrize("libver", ["v108", "latest"])
def test_newer_forms_are_refused_with_the_reason(libver):
    file = io.BytesIO()
    with h5py.File(file, "w", libver=libver) as hdf5:
        hdf5["a"] = [1.0]
    with pytest.raises(UserError, match="expected HDF5 in its earliest form, as Keras writes it, found another form"):
        File(file.getvalue())
