"""The child process that alone opens files of models: `python -I child.py FOLDER ...`, those of h5py and NumPy.

The HDF5 library is a hundred thousand lines of C that have never been safe with damaged files. So it runs here, where
it can take no more memory or time than the limits let it, can write no file and open none, and whatever becomes of it,
the process that asked goes on.

On standard input comes a file as its length (8 bytes, big-endian) and its bytes, then the next one. For each, frames
go to standard output: a letter, a length and as many bytes. `H` is a JSON text of what there is in the file, see
`Contents` in `reader.py`; an `A` follows for every array in it, float32, little-endian, rows first; `.` ends them. `E`,
with the reason, ends them early: the file is refused.
"""

# Python asks for these when they are first needed, and then no file can be opened any more.
import encodings.ascii
import encodings.cp437  # noqa: F401
import io
import json
import math
import os
import signal
import sys
import zipfile
from typing import IO, Any

sys.path.extend(sys.argv[1:])

import h5py
import numpy as np

try:
    import resource
except ImportError:  # Windows has no such limits.
    resource = None  # type: ignore[assignment]

MEMORY_BYTES = 2**30
CPU_SECONDS = 2
BYTES_PER_CPU_SECOND = 2**23

MAX_ARRAYS_BYTES = 2**28
MAX_TEXT_BYTES = 10_000_000
MAX_ARRAYS = 5_000
MAX_GROUPS = 20_000
MAX_DEPTH = 30

# Attributes that say what a model is; all others are left alone.
TEXTS = ("model_config", "keras_version", "backend", "layer_names", "weight_names")
NUMBERS = ("nb_layers", "nb_params")

# What an optimizer keeps is as large as two models.
SKIPPED = ("optimizer", "optimizer_weights")


# What the user can do about a file that is none of a model, and about one that can't be read.
OTHER_FILE = "name the file that model.save(...) wrote"
AGAIN = "save or download it again"


def unreadable(found: str) -> str:
    """What to tell of a file that can't be read to its end."""
    return f"found {found}, expected a model saved by Keras; {AGAIN}"


class RefusedError(Exception):
    """The file is not read, for the reason in the message."""


def contents(data: bytes) -> tuple[dict[str, Any], list[h5py.Dataset]]:
    """What there is in a file, and its arrays, not yet read."""
    head: dict[str, Any] = {"container": "hdf5", "config": None, "metadata": None}
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            head["container"] = "zip"
            head["config"] = parsed(member(archive, "config.json", MAX_TEXT_BYTES))
            if "metadata.json" in archive.namelist():
                head["metadata"] = parsed(member(archive, "metadata.json", MAX_TEXT_BYTES))
            data = member(archive, "model.weights.h5", MAX_ARRAYS_BYTES)
    file = h5py.File(io.BytesIO(data), "r")
    groups: dict[str, dict[str, Any]] = {}
    arrays: list[h5py.Dataset] = []
    walk(file, "", 0, groups, arrays, set())
    if sum(4 * math.prod(array.shape) for array in arrays) > MAX_ARRAYS_BYTES:
        raise RefusedError(f"expected arrays of at most {MAX_ARRAYS_BYTES:,} bytes in all, found more")
    described = groups[""].pop("model_config", None)
    if described is not None:
        head["config"] = parsed(described)
    head["groups"] = groups
    head["arrays"] = [[array.name.lstrip("/"), list(array.shape)] for array in arrays]
    return head, arrays


def member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """One file of an archive, of at most so many bytes."""
    infos = [info for info in archive.infolist() if info.filename == name]
    if not infos:
        there = ", ".join(archive.namelist()[:5])[:100] or "nothing"
        raise RefusedError(
            f"found a zip archive with {there!a} in it and no {name}, expected a .keras file; {OTHER_FILE}"
        )
    if len(infos) > 1:
        raise RefusedError(f"found {len(infos)} files {name} in the archive, expected one; {AGAIN}")
    if infos[0].file_size > most:
        raise RefusedError(f"expected at most {most:,} bytes in {name}, found {infos[0].file_size:,}")
    with archive.open(infos[0]) as file:
        return file.read(most)


def parsed(text: Any) -> Any:
    """What a JSON text says."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise RefusedError("expected the description of a Keras model as JSON, found something else") from None


def walk(
    group: h5py.Group,
    path: str,
    depth: int,
    groups: dict[str, dict[str, Any]],
    arrays: list[h5py.Dataset],
    seen: set[int],
) -> None:
    """Collects the groups under one, with their attributes, and the arrays; no link is followed."""
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        return
    seen.add(address)
    if depth > MAX_DEPTH:
        raise RefusedError(f"expected groups at most {MAX_DEPTH} deep, found deeper ones")
    if len(groups) >= MAX_GROUPS:
        raise RefusedError(f"expected at most {MAX_GROUPS:,} groups, found more")
    groups[path] = attributes(group)
    for name in group:
        if depth == 0 and name in SKIPPED:
            continue
        inner = f"{path}/{name}".lstrip("/")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise RefusedError(f"expected {inner!a} to lie in the file, found a link that leads elsewhere")
        found = group[name]
        if isinstance(found, h5py.Group):
            walk(found, inner, depth + 1, groups, arrays, seen)
        elif isinstance(found, h5py.Dataset) and found.shape is not None:
            arrays.append(checked(found, inner))
            if len(arrays) > MAX_ARRAYS:
                raise RefusedError(f"expected at most {MAX_ARRAYS:,} arrays, found more")


def attributes(group: h5py.Group) -> dict[str, Any]:
    """A group's attributes that say what a model is; a list that was too long for one attribute is put together."""
    found: dict[str, Any] = {}
    for name in NUMBERS:
        if name in group.attrs:
            found[name] = int(group.attrs[name])
    for name in TEXTS:
        if name in group.attrs:
            found[name] = text(group.attrs[name], name)
        elif f"{name}0" in group.attrs:
            found[name], part = [], 0
            while f"{name}{part}" in group.attrs:
                found[name] += text(group.attrs[f"{name}{part}"], name)
                part += 1
    return found


def text(value: Any, name: str) -> Any:
    """An attribute that is a text, or a list of texts, of either of HDF5's kinds."""
    if isinstance(value, np.ndarray):
        if value.size > MAX_ARRAYS:
            raise RefusedError(f"expected at most {MAX_ARRAYS:,} texts in {name}, found {value.size:,}")
        return [text(item, name) for item in value.ravel().tolist()]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if not isinstance(value, str):
        raise RefusedError(f"expected a text in the attribute {name}, found {type(value).__name__}")
    if len(value) > MAX_TEXT_BYTES:
        raise RefusedError(f"expected at most {MAX_TEXT_BYTES:,} bytes of text in the attribute {name}, found more")
    return value


def checked(array: h5py.Dataset, path: str) -> h5py.Dataset:
    """An array of numbers that lies in the file."""
    if array.dtype.kind not in "fiu":
        raise RefusedError(f"expected an array of numbers in {path!a}, found {str(array.dtype)!a}")
    if array.is_virtual or array.external:
        raise RefusedError(f"expected {path!a} to lie in the file, found an array that lies in another")
    size = math.prod(array.shape) * max(4, array.dtype.itemsize)
    if size > 2 * MAX_ARRAYS_BYTES:
        raise RefusedError(f"expected arrays of at most {MAX_ARRAYS_BYTES:,} bytes, found {size:,} in {path!a}")
    return array


def serve(data: bytes, output: IO[bytes]) -> None:
    """Answers one file."""
    try:
        head, arrays = contents(data)
        frame(output, b"H", json.dumps(head).encode())
        for array in arrays:
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(array[()], "<f4")
            frame(output, b"A", values.reshape(-1).view(np.uint8).data)
        frame(output, b".", b"")
    except RefusedError as error:
        frame(output, b"E", str(error).encode())
    except MemoryError:
        frame(output, b"E", b"expected a file that can be read in little memory, found one that needs more")
    except Exception as error:
        # What zipfile, zlib, h5py and NumPy raise on what is damaged has no end.
        kind = "a zip archive" if data.startswith(b"PK") else "an HDF5 file"
        reason = str(error)[:150] or type(error).__name__
        frame(output, b"E", unreadable(f"{kind} that can't be read ({reason})").encode())


def frame(output: IO[bytes], kind: bytes, payload: bytes | memoryview) -> None:
    """One frame of an answer."""
    output.write(kind + len(payload).to_bytes(8, "big"))
    output.write(payload)
    output.flush()


def limit() -> bool:
    """Sets the limits that last; returns whether the system has them."""
    if resource is None:
        return False
    all_set = True
    # Standard input, output, error and the copy of the output are open; nothing else ever is.
    for name, most in (("RLIMIT_FSIZE", 0), ("RLIMIT_NOFILE", 4), ("RLIMIT_AS", MEMORY_BYTES)):
        try:
            resource.setrlimit(getattr(resource, name), (most, most))
        except (ValueError, OSError, AttributeError):  # macOS keeps no limit of memory.
            all_set = False
    return all_set


def allow_time(size: int) -> None:
    """Allows a file of so many bytes its processor time, after which the system ends this process."""
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = math.ceil(used.ru_utime + used.ru_stime) + CPU_SECONDS + size // BYTES_PER_CPU_SECOND
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main() -> None:
    """Answers files until the input ends; says first, as one byte, whether it is limited."""
    # The terminal's Ctrl-C is for the process that asked.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, output = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What a library prints must not get between the frames.
    output.write(b"1" if limit() else b"0")
    output.flush()
    while len(length := source.read(8)) == 8:
        size = int.from_bytes(length, "big")
        allow_time(size)
        serve(source.read(size), output)


if __name__ == "__main__":
    main()
