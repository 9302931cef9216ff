"""What a file is, by its first bytes: people name files by what they believe to be in them."""

import string
import zlib
from collections.abc import Mapping

from mnist_minimal.errors import plain

# As many bytes of a file as `kind_of` looks at.
FIRST_BYTES = 512

HDF5 = "an HDF5 file"
ZIP = "a zip archive"
GZIP = "a gzip file"
NPY = "a NumPy array (.npy)"
IDX = "an idx file"
TAR = "a tar archive"
MATLAB = "a MATLAB file (.mat)"
PICKLE = "a pickle"
PARQUET = "a Parquet table"
LFS = "a Git LFS pointer"
HTML = "a web page (HTML)"
JSON = "a JSON text"
CSV = "a table as text (CSV)"
TEXT = "a text"
NOT_UTF8 = "a text that is not in UTF-8"
SPREADSHEET = "a spreadsheet's own file (.xlsx or .ods)"
EMPTY = "an empty file"
UNKNOWN = "bytes of no format that is known here"

BEGINNINGS = {
    b"\x89HDF\r\n\x1a\n": HDF5,
    b"PK\x03\x04": ZIP,
    b"PK\x05\x06": ZIP,
    b"\x1f\x8b": GZIP,
    b"\x93NUMPY": NPY,
    b"PAR1": PARQUET,
    b"version https://git-lfs": LFS,
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"%PDF": "a PDF file",
    b"MATLAB 5.0": MATLAB,
    b"\xff\xfe": NOT_UTF8,
    b"\xfe\xff": NOT_UTF8,
}

# The first file in a zip archive stands at byte 30, its name first.
ZIPPED = {
    b"[Content_Types].xml": SPREADSHEET,
    b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet": SPREADSHEET,
}

IDX_TYPES = (b"\x08", b"\x09", b"\x0b", b"\x0c", b"\x0d", b"\x0e")

# What to do instead, where one step is known, whatever the file is wanted for.
STEPS = {
    GZIP: "unpack it first, as with gunzip",
    TAR: "unpack it first, as with tar -xf",
    LFS: "fetch the file itself with `git lfs pull`",
    HTML: "download the file itself, not the page about it",
}

# The same where a text is wanted.
TEXT_STEPS = {
    **STEPS,
    NOT_UTF8: "save it as UTF-8",
    SPREADSHEET: "open it in the spreadsheet and save it as CSV in UTF-8",
}


def kind_of(first_bytes: bytes) -> str:
    """What a file is whose first bytes (FIRST_BYTES of them, or all) these are, as words: "a zip archive"."""
    if not first_bytes:
        return EMPTY
    for name, kind in ZIPPED.items():
        if first_bytes.startswith(b"PK\x03\x04") and first_bytes.startswith(name, 30):
            return kind
    for beginning, kind in BEGINNINGS.items():
        if first_bytes.startswith(beginning):
            return kind
    # Two zero bytes, the type of the numbers, how many axes they have.
    if (
        first_bytes[:2] == b"\0\0"
        and first_bytes[2:3] in IDX_TYPES
        and first_bytes[3:4] in (b"\1", b"\2", b"\3", b"\4")
    ):
        return IDX
    if first_bytes[257:262] == b"ustar":
        return TAR
    # A pickle of protocol 2 and later says so; older ones are text, and no one uses them for data any more.
    if first_bytes[0] == 0x80 and first_bytes[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PICKLE
    try:
        text = first_bytes.decode("utf-8-sig", errors="strict" if len(first_bytes) < FIRST_BYTES else "ignore")
    except UnicodeDecodeError:
        letters = sum(byte >= 0x20 or byte in string.whitespace.encode() for byte in first_bytes)
        beyond = sum(byte >= 0x80 for byte in first_bytes)
        return NOT_UTF8 if letters == len(first_bytes) > 4 * beyond else UNKNOWN
    if not all(character.isprintable() or character in string.whitespace for character in text):
        return UNKNOWN
    return _kind_of_text(text.lstrip())


def _kind_of_text(text: str) -> str:
    """What a text is that begins so."""
    if text[:1] == "<":
        return HTML if any(word in text.lower() for word in ("<!doctype html", "<html", "<head", "<body")) else TEXT
    if text[:1] in ("{", "["):
        return JSON
    lines = [line for line in text.splitlines() if line.strip()]
    for delimiter in ",;\t":
        # The last line may be cut off.
        counts = {line.count(delimiter) for line in lines[: max(1, len(lines) - 1)]}
        if len(counts) == 1 and counts != {0}:
            return CSV
    return TEXT


def unpacked(first_bytes: bytes) -> bytes:
    """The first bytes of what a gzip file holds, as far as they follow from its own first bytes; b"" of any other."""
    try:
        return zlib.decompressobj(wbits=31).decompress(first_bytes, FIRST_BYTES)
    except zlib.error:
        return b""


def described(first_bytes: bytes) -> tuple[str, str]:
    """What a file is, in words, and the kind of what is in it: ("a gzip file of a pickle", PICKLE), (HTML, HTML)."""
    kind = kind_of(first_bytes)
    inside = unpacked(first_bytes) if kind == GZIP else b""
    if not inside or (within := kind_of(inside)) == UNKNOWN:
        return kind, kind
    return f"{GZIP} of {within}", within


def refusal(first_bytes: bytes, expected: str, step: str, steps: Mapping[str, str] = STEPS) -> str:
    """What to tell the user of a file of another kind: what was found, what was expected, and one step to take.

    Args:
        first_bytes: FIRST_BYTES of the file, or all.
        expected: What it should have been, in words.
        step: What to do where `steps` has nothing for its kind.
        steps: What to do, by kind.
    """
    what, kind = described(first_bytes)
    words = f"found {what}"
    if kind in (CSV, TEXT, JSON) and what == kind:
        line = first_bytes.decode("utf-8-sig", errors="ignore").strip().partition("\n")[0]
        words += f" that begins with {plain(line, 60)!r}" if line else " of white space"
    elif kind in (UNKNOWN, IDX):
        words += f" that begins with the bytes {first_bytes[:4].hex()}"
    otherwise = step if what == kind else steps.get(GZIP, step)
    return f"{words}, expected {expected}; {steps.get(kind, otherwise)}"
