"""The unfinished trials of a study that were trained together, in one file, from which each is resumed.

It is what `training.checkpoint` is for one trial, with an axis for the trials: the arrays of the program's state, and
what the callbacks remember. Their epochs' figures stand in their histories.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnist_minimal import files
from mnist_minimal.data import archive
from mnist_minimal.errors import UserError
from mnist_minimal.training.checkpoint import unreadable
from mnist_minimal.training.slots.callbacks import MEMORY

# What a file may unpack to, and what of it may be text: 10,000 trials have some 4 MB.
MAX_BYTES = 4_000_000_000
MAX_STATE_BYTES = 50_000_000

AGAIN = "its trials start again"


@dataclass(frozen=True)
class Saved:
    """An unfinished trial.

    Attributes:
        state: Its row of each array of the program's state, by name.
        memory: MEMORY, without axes.
        history: How far its history went.
        ended: Whether its training was at its end.
        train_seconds, cpu_seconds: Time spent on it.
    """

    state: Mapping[str, np.ndarray]
    memory: np.ndarray
    history: dict[str, Any]
    ended: bool
    train_seconds: float
    cpu_seconds: float


def write(path: Path, identity: Mapping[str, Any], trials: Mapping[int, Saved]) -> None:
    """Puts trials, by their seeds and at least one, in a file that is there whole or not at all.

    Raises:
        UserError: if it can't be written.
    """
    found = list(trials.values())
    text = {
        "identity": identity,
        "trials": [
            {
                "seed": seed,
                "history": trial.history,
                "ended": trial.ended,
                "train_seconds": trial.train_seconds,
                "cpu_seconds": trial.cpu_seconds,
            }
            for seed, trial in trials.items()
        ],
    }
    arrays: dict[str, Any] = {
        f"state-{name}": np.stack([trial.state[name] for trial in found]) for name in found[0].state
    }
    memory = np.stack([trial.memory for trial in found])
    arrays |= {f"memory-{name}": memory[name] for name in MEMORY.names or ()}
    with files.atomic_write(files.reject_symlink(path)) as temporary:
        np.savez(temporary, text=np.frombuffer(json.dumps(text).encode(), np.uint8), **arrays)


def read(path: Path, identity: Mapping[str, Any], like: Mapping[str, np.ndarray]) -> dict[int, Saved]:
    """The trials of a file, by their seeds; {} where there is none, or none of use, which is said.

    Args:
        path: The file.
        identity: What must be equal for a trial to be resumed: model, recipe, data, version, of JSON's types.
        like: A row of the program's state, whose names, shapes and types the file's have to have.
    """
    if not path.exists():
        return {}
    try:
        return _read(path, identity, like)
    except UserError as error:
        print(f"{path}: {error}; {AGAIN}", file=sys.stderr)
    except (AttributeError, *archive.CORRUPT_FILE_ERRORS) as error:
        print(f"{path}: {unreadable(path, error, AGAIN)}", file=sys.stderr)
    return {}


def _read(path: Path, identity: Mapping[str, Any], like: Mapping[str, np.ndarray]) -> dict[int, Saved]:
    if not path.is_file():
        raise UserError("expected a checkpoint, found a folder, a device or a pipe")
    with archive.opened(path) as npz:
        size = sum(member.file_size for member in npz.infolist())
        if size > MAX_BYTES:
            raise UserError(f"expected a checkpoint of at most {MAX_BYTES:,} bytes, found {size:,}")
        if archive.member(npz, "text.npy").file_size > MAX_STATE_BYTES:
            raise UserError(f"expected at most {MAX_STATE_BYTES:,} bytes of text, found more")
        text = json.loads(archive.array(npz, "text").tobytes())
        for name, value in identity.items():
            if text["identity"].get(name) != value:
                raise UserError(f"of other trials, which differ in their {name}")
        trials = text["trials"]
        _check(trials)
        count = len(trials)
        state = {name: _array(npz, f"state-{name}", (count, *row.shape), row.dtype) for name, row in like.items()}
        memory = np.zeros(count, MEMORY)
        for name in MEMORY.names or ():
            memory[name] = _array(npz, f"memory-{name}", (count,), MEMORY[name])
    return {
        trial["seed"]: Saved(
            {name: rows[place] for name, rows in state.items()},
            memory[place],
            trial["history"],
            trial["ended"],
            trial["train_seconds"],
            trial["cpu_seconds"],
        )
        for place, trial in enumerate(trials)
        if memory["epochs"][place] > 0
    }


def _array(npz: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    found = archive.layout(npz, name)
    if found != (shape, dtype):
        raise UserError(f"expected {name} of shape {shape} and {dtype}, found {found[0]} and {found[1]}")
    return archive.array(npz, name)


def _check(trials: Sequence[Mapping[str, Any]]) -> None:
    """Refuses a list whose values are not of the types that `write` gives them."""
    right = isinstance(trials, list) and all(
        isinstance(trial["seed"], int)
        and isinstance(trial["history"], dict)
        and isinstance(trial["ended"], bool)
        and all(isinstance(trial[name], int | float) for name in ("train_seconds", "cpu_seconds"))
        for trial in trials
    )
    if not right or len({trial["seed"] for trial in trials}) < len(trials):
        raise UserError("expected the state of some trials, found something else")
