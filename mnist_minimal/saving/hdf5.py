"""HDF5 files as Keras writes them, read byte by byte and without trust.

The HDF5 library is made for files of friends: some that are damaged make it write past its memory or never return
(experiments/LOG.md has the figures). What Keras writes through h5py is a small part of the format, its earliest form,
and this is a reader of that part alone. It knows neither filters nor other files; whatever it does not know is refused.

Source: "HDF5 File Format Specification Version 3.0", The HDF Group, whose names of the parts are used here.
"""

import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mnist_minimal.errors import UserError
from mnist_minimal.models.architecture import shown

SIGNATURE = b"\x89HDF\r\n\x1a\n"

# All that is read of one file; every part counts as this much more than it has. That bounds what a file can take whose
# parts lie inside each other: some seconds, and 200 MB of memory.
MAX_READ_BYTES = 16_000_000
PART_BYTES = 24
MAX_MEMBERS = 10_000
MAX_NAME_BYTES = 250
NOWHERE = b"\xff" * 8

# Header messages, section IV.A.2.
DATASPACE, LINK_INFO, DATATYPE, EXTERNAL_FILES, LINK, LAYOUT = 0x01, 0x02, 0x03, 0x07, 0x06, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15
USED = {DATASPACE, LINK_INFO, DATATYPE, EXTERNAL_FILES, LINK, LAYOUT, FILTERS, ATTRIBUTE, SYMBOL_TABLE, ATTRIBUTE_INFO}

# Values of the fields of messages.
SHARED = 2
HARD_LINK, SOFT_LINK = 0, 2
COMPACT, CONTIGUOUS = 0, 1
STRING, VARIABLE_LENGTH = 3, 9


def _float_type(dtype: str, exponent_bits: int) -> bytes:
    """The datatype message of an IEEE 754 number, but for its first byte."""
    size = np.dtype(dtype).itemsize
    bits, big = 8 * size, dtype.startswith(">")
    mantissa_bits, bias = bits - 1 - exponent_bits, 2 ** (exponent_bits - 1) - 1
    bits_of_class = bytes([0x20 | big, bits - 1, 0])
    return bits_of_class + struct.pack("<IHHBBBBI", size, 0, bits, mantissa_bits, exponent_bits, 0, mantissa_bits, bias)


FLOATS = {
    _float_type(order + kind, exponent_bits): np.dtype(order + kind)
    for order in "<>"
    for kind, exponent_bits in (("f2", 5), ("f4", 8), ("f8", 11))
}


@dataclass(frozen=True)
class Message:
    """One message of an object's header: its type, its flags and its content."""

    kind: int
    flags: int
    content: bytes


@dataclass(frozen=True)
class Array:
    """An array of floating-point numbers that is there in one piece; not read yet.

    Attributes:
        name: Its path in the file.
        shape: Its shape, as the file says; to be compared with what is expected before `numbers` is called.
        dtype: float16, float32 or float64 of either byte order.
        file: The file.
        start: Where its bytes begin, None where they lie in `content`.
        size: How many bytes the file says there are.
        content: The bytes of a small array that lie in its header.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    file: "File"
    start: int | None
    size: int
    content: bytes = b""

    def numbers(self) -> np.ndarray:
        """The array.

        Raises:
            UserError: if there are not as many bytes as the shape needs, or not all of them lie in the file.
        """
        size = math.prod(self.shape) * self.dtype.itemsize
        if size != self.size:
            raise UserError(f"expected {size:,} bytes in {shown(self.name)}, found {self.size:,}")
        content = self.content[:size] if self.start is None else self.file.part(self.start, size)
        return np.frombuffer(content, self.dtype).reshape(self.shape)


class File:
    """An HDF5 file.

    Args:
        content: All of it.

    Attributes:
        root: The group with everything in it.

    Raises:
        UserError: if it is none, or of another form than Keras' files; so do all that read from it.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._read_bytes = 0
        self._objects: dict[int, Object] = {}
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}
        if self.part(0, 8) != SIGNATURE:
            raise UserError("expected an HDF5 file, found another")
        version, _, _, _, _, offset_bytes, length_bytes = self.fields(8, "7B")
        base, _, end = self.fields(24, "QQQ")
        if (version, offset_bytes, length_bytes, base) != (0, 8, 8, 0):
            raise UserError("expected HDF5 in its earliest form, as Keras writes it, found another form")
        if end > len(content):
            raise UserError(f"expected an undamaged .h5 file of {end:,} bytes, found one of {len(content):,}")
        self.root = self.object(self.fields(64, "Q")[0], "/")

    def part(self, start: int, size: int) -> bytes:
        """Some bytes of the file."""
        self._read_bytes += size + PART_BYTES
        if self._read_bytes > MAX_READ_BYTES:
            raise UserError("expected a small model's file, found one of too many parts, or of parts inside others")
        if start + size > len(self._content):
            raise UserError(
                f"expected an undamaged .h5 file, found that it leads to byte {start + size:,}, past its end"
            )
        return self._content[start : start + size]

    def fields(self, start: int, layout: str) -> tuple[int, ...]:
        """Some little-endian numbers of the file, by their letters of the module struct."""
        return _numbers(self.part(start, struct.calcsize(f"<{layout}")), layout)

    def object(self, address: int, name: str) -> "Object":
        """What lies at an address, under the name by which it was found first."""
        if address not in self._objects:
            self._objects[address] = Object(self, address, name)
        return self._objects[address]

    def heap_object(self, collection: int, index: int) -> bytes:
        """A text in a global heap, section III.E."""
        if collection not in self._heaps:
            signature, _, size = self.part(collection, 4), *self.fields(collection + 4, "IQ")
            if signature != b"GCOL":
                raise UserError("expected an undamaged .h5 file, found texts that lie outside its heaps")
            objects, at, end = {}, collection + 16, collection + size
            while at + 16 <= end:
                number, _, _, length = self.fields(at, "HHIQ")
                if number == 0:
                    break
                objects[number] = (at + 16, length)
                at += 16 + (length + 7) // 8 * 8
            self._heaps[collection] = objects
        if index not in self._heaps[collection]:
            raise UserError("expected an undamaged .h5 file, found texts that are not in its heaps")
        return self.part(*self._heaps[collection][index])


class Object:
    """A group or an array: the messages of one object header of version 1, section IV.A.1.

    Attributes:
        name: The path by which it was found first.
        is_group: Whether it is a group.
        children: The addresses of a group's members by name, in the order of the names; None for a member that is no
            hard link. Empty for what is no group.
    """

    def __init__(self, file: File, address: int, name: str) -> None:
        # The file keeps its objects, so none keeps the file: all of it is freed as soon as nobody has it any more.
        self.name = name
        version, _, _, _, size = file.fields(address, "BBHII")
        if version != 1:
            raise UserError(f"expected {shown(name)} in HDF5's earliest form, as Keras writes it, found another form")
        messages = self._messages(file, address + 16, size)
        # All that is asked for later is looked up here: thousands of names may lead to one object.
        self._by_kind = {message.kind: message for message in messages}
        self.is_group = bool(self._by_kind.keys() & {SYMBOL_TABLE, LINK_INFO, LINK})
        if ATTRIBUTE_INFO in self._by_kind:
            raise UserError(f"expected attributes of {shown(name)} as Keras writes them, found a newer form")
        self._attributes = dict(self._attribute(message) for message in messages if message.kind == ATTRIBUTE)
        members = (member for message in messages for member in self._members(file, message))
        found = list(itertools.islice(members, MAX_MEMBERS + 1))
        if len(found) > MAX_MEMBERS:
            raise UserError(f"expected at most {MAX_MEMBERS:,} names in the group {shown(name)}, found more")
        self.children = dict(sorted(found, key=lambda member: member[0]))

    def texts(self, file: File, name: str, most: int, most_bytes: int) -> list[str]:
        """The text or the list of texts in an attribute; [] where the attribute is absent or empty.

        Args:
            file: The file of the object.
            name: The attribute.
            most: How many texts there may be.
            most_bytes: How many bytes they may have together.
        """
        datatype, shape, value = self._attributes.get(name, (b"", None, b""))
        if shape is None or 0 in shape:
            return []
        kind, bits, size = datatype[0] & 15, datatype[1], int.from_bytes(datatype[4:8], "little")
        if kind not in (STRING, VARIABLE_LENGTH) or (kind == VARIABLE_LENGTH and bits & 15 != 1) or len(shape) > 1:
            raise UserError(f"expected text in the attribute {name}, found something else")
        count = math.prod(shape)
        if count > most or count * size > min(most_bytes, len(value)):
            raise UserError(f"expected at most {most} names of layers in the attribute {name}, found more")
        texts = []
        for start in range(0, count * size, size or 1):
            text = value[start : start + size]
            if kind == VARIABLE_LENGTH:
                length, collection, index = _numbers(text, "IQI")
                text = file.heap_object(collection, index)[:length] if length else b""
            texts.append(text.rstrip(b"\0").decode())
            most_bytes -= len(text)
            if most_bytes < 0:
                raise UserError(f"expected a shorter text in the attribute {name}, found more")
        return texts

    def has_attribute(self, name: str) -> bool:
        """Whether there is an attribute of a name."""
        return name in self._attributes

    def array(self, file: File) -> Array:
        """The array that this is.

        Args:
            file: The file of the object.

        Raises:
            UserError: if it is none, or does not lie in the file in one piece, or holds other than IEEE 754 numbers.
        """
        kinds = self._by_kind
        if self.is_group or not {DATASPACE, DATATYPE, LAYOUT} <= kinds.keys():
            raise UserError(f"expected {shown(self.name)} to be an array, found something else")
        shape, layout = _shape(kinds[DATASPACE].content), kinds[LAYOUT].content
        if shape is None:
            raise UserError(f"expected {shown(self.name)} to be an array, found something else")
        if layout[0] != 3 or layout[1] not in (COMPACT, CONTIGUOUS) or kinds.keys() & {FILTERS, EXTERNAL_FILES}:
            raise UserError(
                f"expected {shown(self.name)} in one piece in the file, found it compressed, chunked or elsewhere"
            )
        datatype = kinds[DATATYPE].content
        dtype = FLOATS.get(datatype[1:20]) if datatype[0] & 15 == 1 and not kinds[DATATYPE].flags & SHARED else None
        if dtype is None:
            raise UserError(f"expected floating-point numbers in {shown(self.name)}, found others")
        if layout[1] == COMPACT:
            (size,) = _numbers(layout[2:], "H")
            return Array(self.name, shape, dtype, file, None, size, layout[4:])
        start, size = _numbers(layout[2:], "QQ")
        return Array(self.name, shape, dtype, file, start, size)

    def _messages(self, file: File, address: int, size: int) -> list[Message]:
        """The messages of use to us in the blocks of a header, of which the first lies at an address."""
        found = []
        blocks = [(address, size)]
        for start, length in blocks:
            at, end = start, start + length
            while at + 8 <= end:
                kind, size, flags = file.fields(at, "HHB")
                content = file.part(at + 8, size)
                at += 8 + size
                if kind == CONTINUATION:
                    start, length = _numbers(content, "QQ")
                    blocks.append((start, length))
                elif kind in USED:
                    found.append(Message(kind, flags, content))
        return found

    def _members(self, file: File, message: Message) -> Iterator[tuple[str, int | None]]:
        """The members of a group that a message lists or leads to."""
        if message.kind == SYMBOL_TABLE:
            yield from self._symbols(file, *_numbers(message.content, "QQ"))
        elif message.kind == LINK:
            yield _link(message.content)
        elif message.kind == LINK_INFO:
            _, flags = _numbers(message.content, "BB")
            at = 2 + 8 * (flags & 1)
            if message.content[at : at + 8] != NOWHERE:
                raise UserError(
                    f"expected the group {shown(self.name)} as Keras writes it, found it in a newer form, as for a "
                    "link that leads elsewhere"
                )

    def _symbols(self, file: File, tree: int, heap: int) -> Iterator[tuple[str, int | None]]:
        """The members in a tree of symbol tables, whose names are in a heap; sections III.A to III.D."""
        damage = UserError(f"expected the names in the group {shown(self.name)}, found damage in their place")
        if file.part(heap, 4) != b"HEAP":
            raise damage
        size, _, start = file.fields(heap + 8, "QQQ")
        names = file.part(start, size)
        waiting = [tree]
        while waiting:
            node = waiting.pop()
            signature = file.part(node, 4)
            if signature == b"TREE":
                _, _, used = file.fields(node + 4, "BBH")
                # A key stands before every child.
                waiting += file.fields(node + 24, f"{2 * used}Q")[1::2]
            elif signature == b"SNOD":
                (used,) = file.fields(node + 6, "H")
                for entry in range(node + 8, node + 8 + 40 * used, 40):
                    offset, address, cache = file.fields(entry, "QQI")
                    name = names[offset : offset + MAX_NAME_BYTES].partition(b"\0")[0].decode()
                    yield name, None if cache == SOFT_LINK else address
            else:
                raise damage

    def _attribute(self, message: Message) -> tuple[str, tuple[bytes, tuple[int, ...] | None, bytes]]:
        """Name, datatype, shape and value of an attribute, section IV.A.2.m."""
        content = message.content
        version, flags, name_size, type_size, space_size = _numbers(content, "BBHHH")
        if message.flags & SHARED or version not in (1, 2, 3) or (version > 1 and flags):
            raise UserError(f"expected attributes of {shown(self.name)} as Keras writes them, found a newer form")
        parts, at = [], 9 if version == 3 else 8
        for size in (name_size, type_size, space_size):
            parts.append(content[at : at + size])
            at += (size + 7) // 8 * 8 if version == 1 else size
        name, datatype, space = parts
        return name.rstrip(b"\0").decode(), (datatype, _shape(space), content[at:])


def _link(content: bytes) -> tuple[str, int | None]:
    """Name and address of a link message, section IV.A.2.g; a group has them once one of its links leads elsewhere."""
    _, flags = _numbers(content, "BB")
    kind = content[2] if flags & 8 else HARD_LINK
    at = 2 + bool(flags & 8) + 8 * bool(flags & 4) + bool(flags & 16)
    width = 1 << (flags & 3)
    end = at + width + int.from_bytes(content[at : at + width], "little")
    name = content[at + width : end].decode()
    return name, _numbers(content[end:], "Q")[0] if kind == HARD_LINK else None


def _shape(dataspace: bytes) -> tuple[int, ...] | None:
    """The shape that a dataspace message tells, section IV.A.2.b; None for that of nothing."""
    version, rank, _, kind = _numbers(dataspace, "BBBB")
    if version not in (1, 2):
        raise UserError("expected a shape as Keras writes it, found another form")
    if version == 2 and kind == 2:
        return None
    return _numbers(dataspace[8 if version == 1 else 4 :], f"{rank}Q")


def _numbers(content: bytes, layout: str) -> tuple[int, ...]:
    """The little-endian numbers at the start of some bytes, by their letters of the module struct."""
    return struct.unpack_from(f"<{layout}", content)
