"""Coverage-guided fuzzing of what reads foreign data: `python -m tests.fuzz_targets TARGET [--runs N] [--seconds S]`.

Each target is one public reader, handed small valid files that were changed bit by bit, field by field or inside what
they pack. A reader may return or raise a UserError; any other exception, a crash, an input that takes longer than
TIMEOUT_SECONDS or more memory than MEMORY_MEGABYTES ends the program with another status than 0, and leaves the input
as `crash-...`, `timeout-...` or `oom-...` in the working folder. Give such a file as CORPUS to run it again.
"""

import argparse
import gzip
import io
import json
import random
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import atheris
import h5py
import numpy as np

with atheris.instrument_imports(include=["mnist_minimal"]):
    from mnist_minimal.data import idx as idx_files
    from mnist_minimal.data import reading, sets
    from mnist_minimal.data.choice import Choice
    from mnist_minimal.errors import UserError
    from mnist_minimal.saving import layouts, reader, translation, wiring

TIMEOUT_SECONDS = 60
MEMORY_MEGABYTES = 1500

FOLDER = Path("fuzzed")
KERAS2 = Path(__file__).parent / "fixtures" / "keras2_sep997.h5"

Mutator = Callable[[bytes, random.Random], bytes]


# Small valid files


def images(count: int) -> dict[str, np.ndarray]:
    """Four arrays of a data set, of as many images each."""
    pixels, labels = np.zeros((count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8)
    return {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}


def npz(compressed: bool) -> bytes:
    """A data set as an .npz."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **images(1))
    return file.getvalue()


def idx(array: np.ndarray) -> bytes:
    """An array as an idx file."""
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def qmnist_labels(count: int) -> bytes:
    """Labels 0 as an idx file of QMNIST's form."""
    return struct.pack(">4B2I", 0, 0, 12, 2, count, 8) + bytes(4 * 8 * count)


def described(layers: int) -> dict[str, Any]:
    """The description of a chain of dense layers in Keras' form."""
    names = [f"l{index}" for index in range(layers)]
    entries: list[dict[str, Any]] = [{"class_name": "InputLayer", "config": {"name": "in"}, "inbound_nodes": []}]
    for before, name in zip(["in", *names], names, strict=False):
        source = {"class_name": "__keras_tensor__", "config": {"keras_history": [before, 0, 0]}}
        activation = {"class_name": "LeakyReLU", "config": {"name": "a", "negative_slope": 0.2}}
        config = {"name": name, "units": 2, "activation": activation if name == "l0" else "relu"}
        node = {"args": [source], "kwargs": {}} if name == "l0" else [[before, 0, 0, {}]]
        entries.append({"class_name": "Dense", "config": config, "inbound_nodes": [node]})
    config = {"name": "m", "layers": entries, "input_layers": [["in", 0, 0]], "output_layers": [[names[-1], 0, 0]]}
    return {"class_name": "Functional", "config": config}


def h5(numbered: bool) -> bytes:
    """A file of two layers' weights, in the layout of `.weights.h5` or in that of `.h5`."""
    file = io.BytesIO()
    with h5py.File(file, "w") as hdf5:
        if numbered:
            for name in ("dense", "dense_1"):
                hdf5[f"layers/{name}/vars/0"] = np.ones((2, 2), np.float32)
                hdf5[f"layers/{name}/vars/1"] = np.ones(2, np.float32)
            # More than one node of a tree of names has room for.
            for position in range(12):
                hdf5.create_group(f"layers/dropout_{position}")
        else:
            hdf5.attrs["model_config"] = json.dumps(described(2))
            weights = hdf5.create_group("model_weights")
            weights.attrs["layer_names"] = ["l0", "l1"]
            for name in ("l0", "l1"):
                weights[f"{name}/k"] = np.ones((2, 2), np.float32)
                weights[name].attrs["weight_names"] = [b"k"]
                # A header of an object in several pieces.
                for position in range(6):
                    weights[name].attrs[f"other{position}"] = "x" * 40
    return file.getvalue()


def keras() -> bytes:
    """A `.keras` file."""
    return zipped({"config.json": json.dumps(described(2)).encode(), "model.weights.h5": h5(numbered=True)}, 8)


def zipped_keras2() -> bytes:
    """The weights of the fixture with what describes them in a file of its own, as a `.keras` file."""
    with h5py.File(KERAS2) as file:
        config = file.attrs["model_config"]
    return zipped({"config.json": config.encode(), "model.weights.h5": KERAS2.read_bytes()}, zipfile.ZIP_DEFLATED)


def zipped(members: dict[str, bytes], method: int) -> bytes:
    """A zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


# Changes


def bytes_changed(content: bytes, generator: random.Random) -> bytes:
    """Bytes flipped, put in, taken out or taken from elsewhere, as libFuzzer does."""
    return atheris.Mutate(content, len(content) + generator.choice((0, 16, 256)))


def words_changed(content: bytes, generator: random.Random) -> bytes:
    """Some numbers set to odd values, and some 8-byte words to others of the file, which in HDF5 are addresses."""
    changed = bytearray(content)
    # Most of an HDF5 file is room left for more.
    used = [position for position, value in enumerate(content) if value]
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        width = generator.choice((1, 2, 4, 8))
        if len(changed) < 2 * width or not used:
            break
        at, other = (min(generator.choice(used), len(changed) - width) // width * width for _ in range(2))
        if width == 8 and generator.random() < 0.7:
            changed[at : at + 8] = changed[other : other + 8]
        else:
            bits = 8 * width
            value = generator.choice((0, 1, 2, 3, 8, 255, 2**bits - 1, 2 ** (bits - 1), generator.getrandbits(bits)))
            changed[at : at + width] = (value % 2**bits).to_bytes(width, "little")
    return bytes(changed)


def hdf5_changed(content: bytes, generator: random.Random) -> bytes:
    """One of the two."""
    return generator.choice((bytes_changed, words_changed, words_changed))(content, generator)


def json_changed(content: bytes, generator: random.Random) -> bytes:
    """One value of a JSON text in another's place, or an odd one."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return bytes_changed(content, generator)
    places: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            waiting.append(node[key])
    if places:
        (node, key), (other, other_key) = generator.choice(places), generator.choice(places)
        odd = (None, True, -1, 10**400, 1e308, "", "x", [], {}, [[]], [0], float("nan"), "\ud800", "Lambda")
        value = json.dumps(other[other_key]) if generator.random() < 0.6 else json.dumps(generator.choice(odd))
        node[key] = json.loads(value)
    return json.dumps(tree).encode()


def member_changed(content: bytes, generator: random.Random) -> bytes:
    """One file of a zip archive changed by what it is, and zipped again with the right sums; or the archive itself."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > 1_000_000:
                return content[: len(content) // 2]
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        members = {}
    if not members or generator.random() < 0.3:
        return hdf5_changed(content, generator)
    name = generator.choice(list(members))
    change = {"json": json_changed, "h5": hdf5_changed}.get(name.rpartition(".")[2], bytes_changed)
    members[name] = change(members[name], generator)
    return zipped(members, generator.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def idx_changed(content: bytes, generator: random.Random) -> bytes:
    """The bytes of an idx file, packed again where they were packed."""
    if content[1:3] != b"\x1f\x8b" or generator.random() < 0.3:
        return hdf5_changed(content, generator)
    try:
        inner = gzip.decompress(content[1:])[:10_000]
    except Exception:
        return hdf5_changed(content, generator)
    return content[:1] + gzip.compress(hdf5_changed(inner, generator), mtime=0)


# Readers


def read_idx(content: bytes) -> None:
    """A folder of idx files, one of which is foreign: the first byte says which one, and whether it is compressed.

    Beyond these four are labels as QMNIST has them, for the images of the test set.
    """
    kind, content = content[0] if content else 0, content[1:]
    if kind // 2 % 5 == 4:
        (FOLDER / "images").write_bytes(idx(images(1)["x_test"]))
        (FOLDER / "labels").write_bytes(content)
        reading.read_labelled(FOLDER / "images", FOLDER / "labels")
        return
    names = list(idx_files.NAMES.values())
    for position, (name, array) in enumerate(zip(names, images(1).values(), strict=True)):
        for path in (FOLDER / name, FOLDER / f"{name}.gz"):
            path.unlink(missing_ok=True)
        foreign = position == kind // 2 % 5
        path = FOLDER / (f"{name}.gz" if foreign and kind % 2 else name)
        path.write_bytes(content if foreign else idx(array))
    sets.load(Choice(path=str(FOLDER), name="fuzzed"))


def read_npz(content: bytes) -> None:
    """A data set in an .npz."""
    path = FOLDER / "fuzzed.npz"
    path.write_bytes(content)
    sets.load(Choice(path=str(path), name="fuzzed"))


def read_model(content: bytes) -> None:
    """All of a model's file: what the child process that opens it gives back, as the network that it describes."""
    contents = reader.READER.read(content)
    found = layouts.stored(contents)
    if found.config is not None:
        net = translation.translate(found.config, found.major)
        wiring.trace(net, None, lambda spec, arguments: None)


@dataclass(frozen=True)
class Target:
    """A reader, how files for it are changed, and the valid files to begin with."""

    read: Callable[[bytes], None]
    change: Mutator
    seeds: tuple[bytes, ...]


def load_model(content: bytes) -> None:
    """All of `saving.load`."""
    with atheris.instrument_imports(include=["mnist_minimal"]):
        from mnist_minimal.saving.saved_model import load
    path = FOLDER / "fuzzed.h5"
    path.write_bytes(content)
    load(path)


def targets() -> dict[str, Target]:
    """The targets by name."""
    arrays = list(images(1).values())
    return {
        "idx": Target(
            read_idx,
            idx_changed,
            (
                b"\x00" + idx(arrays[0]),
                b"\x02" + idx(arrays[1]),
                b"\x01" + gzip.compress(idx(arrays[0]), mtime=0),
                b"\x03" + gzip.compress(idx(arrays[1]), mtime=0),
                b"\x08" + qmnist_labels(len(arrays[3])),
                b"\x09" + gzip.compress(qmnist_labels(len(arrays[3])), mtime=0),
            ),
        ),
        "npz": Target(read_npz, member_changed, (npz(False), npz(True))),
        "h5": Target(read_model, hdf5_changed, (h5(False), h5(True))),
        "keras": Target(read_model, member_changed, (keras(),)),
        "load": Target(load_model, member_changed, (KERAS2.read_bytes(), zipped_keras2())),
    }


def main() -> None:
    """Runs one target; ends the process with status 0 where nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = targets()
    parser.add_argument("target", choices=names)
    parser.add_argument("corpus", nargs="*", type=Path, help="files or a folder to begin with, and to add to")
    parser.add_argument("--runs", type=int, default=-1, help="number of inputs (default: without end)")
    parser.add_argument("--seconds", type=int, default=0, help="time to stop after (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="of the changes; 0 for a new one")
    options = parser.parse_args()
    target = names[options.target]
    FOLDER.mkdir(exist_ok=True)
    corpus = options.corpus
    if not corpus:
        corpus = [FOLDER / "corpus"]
        corpus[0].mkdir(exist_ok=True)
    if corpus[0].is_dir():
        for position, content in enumerate(target.seeds):
            (corpus[0] / f"seed-{position}").write_bytes(content)

    def run(content: bytes) -> None:
        try:
            target.read(content)
        except UserError as error:
            message = str(error)
            if not message.isprintable():
                raise AssertionError(f"a message that is not one plain line: {message!r}") from error

    # They must be valid; and what is imported and built first takes longer than any input may.
    for content in target.seeds:
        target.read(content)

    def change(content: bytes, most: int, seed: int) -> bytes:
        return target.change(content, random.Random(seed))[:most]

    limits = (f"-timeout={TIMEOUT_SECONDS}", f"-rss_limit_mb={MEMORY_MEGABYTES}", "-max_len=60000", "-len_control=0")
    bounds = (f"-runs={options.runs}", f"-max_total_time={options.seconds}", f"-seed={options.seed}")
    arguments = [sys.argv[0], *limits, *bounds, "-print_final_stats=1", *map(str, corpus)]
    atheris.Setup(arguments, run, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
