"""What a file is, by its first bytes: people name files by what they believe to be in them."""

import string

# As many bytes of a file as `kind_of` looks at.
FIRST_BYTES = 512

HDF5 = "an HDF5 file"
ZIP = "a zip archive"
GZIP = "a gzip file"
NPY = "a NumPy array (.npy)"
PICKLE = "a pickle"
PARQUET = "a Parquet table"
LFS = "a Git LFS pointer"
HTML = "a web page (HTML)"
JSON = "a JSON text"
CSV = "a table as text (CSV)"
TEXT = "a text"
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
}

# What to do instead, where one step is known.
STEPS = {
    GZIP: "unpack it first, as with gunzip",
    LFS: "fetch the file itself with `git lfs pull`",
    HTML: "download the file itself, not the page about it",
    PICKLE: "a pickle may run any code and is never opened; save the numbers with numpy.savez or the model with Keras",
    PARQUET: "read it with pandas and save the numbers with numpy.savez",
    CSV: "read it with pandas and save the numbers with numpy.savez",
}


def kind_of(first_bytes: bytes) -> str:
    """What a file is whose first bytes (FIRST_BYTES of them, or all) these are, as words: "a zip archive"."""
    if not first_bytes:
        return EMPTY
    for beginning, kind in BEGINNINGS.items():
        if first_bytes.startswith(beginning):
            return kind
    # A pickle of protocol 2 and later says so; older ones are text, and no one uses them for data any more.
    if first_bytes[0] == 0x80 and first_bytes[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PICKLE
    try:
        text = first_bytes.decode("utf-8-sig", errors="strict" if len(first_bytes) < FIRST_BYTES else "ignore")
    except UnicodeDecodeError:
        return UNKNOWN
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


def found(first_bytes: bytes) -> str:
    """`kind_of` with the one step that helps, where one is known: "a gzip file; unpack it first, as with gunzip"."""
    kind = kind_of(first_bytes)
    return f"{kind}; {STEPS[kind]}" if kind in STEPS else kind
