"""A trial's state after its last finished epoch, on disk, from which a killed trial is resumed to the same bits.

Weights, the optimizer's moments and what the recipe's callbacks remember. The figures of the epochs stand in the
history, of which a checkpoint knows only how far it went: it is as large after the last epoch as after the first. With
these, and with batches and dropout that follow from seed and epoch, the next epoch does not depend on whether the trial
was ever stopped.
"""

import json
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnist_minimal import content, files
from mnist_minimal.data import archive
from mnist_minimal.errors import UserError, one_line
from mnist_minimal.files import atomic_write
from mnist_minimal.training.history import History

Arrays = list[np.ndarray]

# What each callback of a recipe carries from one epoch to the next, beside the best weights.
CALLBACK_STATE = {
    "LearningRateScheduler": (),
    "ReduceLROnPlateau": ("best", "wait", "cooldown_counter"),
    "EarlyStopping": ("best", "wait", "best_epoch", "stopped_epoch"),
}

# What a file may unpack to, and what of it may be the state in JSON.
MAX_BYTES = 500_000_000
MAX_STATE_BYTES = 4_000_000

AGAIN = "the trial starts again"


def unreadable(path: Path, error: Exception, again: str) -> str:
    """What is said of a file that raised this where a checkpoint was expected, and what follows from it."""
    found = content.refusal(files.first_bytes(path), "a checkpoint", again, {})
    if found.startswith(f"found {content.ZIP},"):
        return f"found a checkpoint that can't be read ({one_line(error)}); {again}"
    return found


class Checkpoint:
    """The state of one trial in a file, read when this is made and written after every epoch.

    Args:
        path: The file, an .npz; need not be there yet. None keeps the state in memory alone.
        identity: What must be equal for the trial to be resumed from the file: model, recipe, data, seed, trainer,
            version, of JSON's types. A file of another trial is of no use to this one and is written over.
        shapes: Shapes of the model's arrays in the order of `get_weights`; None where any will do. Of a user's own
            model they may have changed since the file was written; the trial then starts again.
        history: Where the figures of the epochs go.

    Attributes:
        epochs: Number of finished epochs in the file; 0 where there is none that fits.
        train_seconds, cpu_seconds: Time spent on them.
        stopped: Whether training was at its end.
        reason: Why training was ended from outside before its recipe would have, or "".
    """

    def __init__(
        self,
        path: Path | None = None,
        identity: dict[str, Any] | None = None,
        shapes: Sequence[tuple[int, ...]] | None = None,
        history: History | None = None,
    ) -> None:
        self.path, self.identity = path, identity
        self.history = History() if history is None else history
        self.epochs = 0
        self.train_seconds = self.cpu_seconds = 0.0
        self.stopped = False
        self.reason = ""
        self.callbacks: list[list[Any]] = []
        self.arrays: dict[str, Arrays] = {}
        if path is None or not path.exists():
            return
        try:
            self._read(path, shapes)
        except UserError as error:
            print(f"{path}: {error}; {AGAIN}", file=sys.stderr)
        except (AttributeError, *archive.CORRUPT_FILE_ERRORS) as error:
            print(f"{path}: {unreadable(path, error, AGAIN)}", file=sys.stderr)

    def _read(self, path: Path, shapes: Sequence[tuple[int, ...]] | None) -> None:
        if not path.is_file():
            raise UserError("expected a checkpoint, found a folder, a device or a pipe")
        with archive.opened(path) as npz:
            size = sum(member.file_size for member in npz.infolist())
            if size > MAX_BYTES:
                raise UserError(f"expected a checkpoint of at most {MAX_BYTES:,} bytes, found {size:,}")
            if archive.member(npz, "state.npy").file_size > MAX_STATE_BYTES:
                raise UserError(f"expected at most {MAX_STATE_BYTES:,} bytes of state, found more")
            state = json.loads(archive.array(npz, "state").tobytes())
            for name, value in (self.identity or {}).items():
                if state["identity"].get(name) != value:
                    raise UserError(f"of another trial, which differs in its {name}")
            arrays = {kind: _arrays(npz, kind, count) for kind, count in state["arrays"].items()}
        _check_state(state)
        for kind in arrays.keys() - {"optimizer"}:
            found = [array.shape for array in arrays[kind]]
            if shapes is not None and found != list(shapes):
                raise UserError(f"expected weights of the shapes that the model has now, {shapes}, found {found}")
        self.history.resume(state["history"], state["epochs"])
        self.epochs, self.stopped, self.reason = state["epochs"], state["stopped"], state["reason"]
        self.train_seconds, self.cpu_seconds = state["train_seconds"], state["cpu_seconds"]
        self.callbacks, self.arrays = state["callbacks"], arrays

    def write(self) -> None:
        """Puts the state on disk, whole."""
        if self.path is None:
            return
        state = {
            "identity": self.identity,
            "epochs": self.epochs,
            "history": self.history.position(),
            "stopped": self.stopped,
            "reason": self.reason,
            "train_seconds": self.train_seconds,
            "cpu_seconds": self.cpu_seconds,
            "callbacks": self.callbacks,
            "arrays": {kind: len(arrays) for kind, arrays in self.arrays.items()},
        }
        flat: dict[str, Any] = {
            f"{kind}-{index}": array for kind, arrays in self.arrays.items() for index, array in enumerate(arrays)
        }
        with atomic_write(self.path) as temporary:
            np.savez(temporary, state=np.frombuffer(json.dumps(state).encode(), np.uint8), **flat)


def _arrays(npz: zipfile.ZipFile, kind: str, count: int) -> Arrays:
    names = [f"{kind}-{index}" for index in range(min(count, len(npz.infolist()) + 1))]
    for name in names:
        _, dtype = archive.layout(npz, name)
        if dtype.kind not in "fiu":
            raise UserError(f"expected numbers in {name}, found {dtype}")
    return [archive.array(npz, name) for name in names]


def _check_state(state: dict[str, Any]) -> None:
    """Refuses a state whose values are not of the types that `write` gives them."""
    numbers = (int, float)
    right = (
        isinstance(state["epochs"], int)
        and state["epochs"] > 0
        and isinstance(state["stopped"], bool)
        and isinstance(state["reason"], str)
        and isinstance(state["history"], dict)
        and all(isinstance(state[name], numbers) for name in ("train_seconds", "cpu_seconds"))
        and isinstance(state["callbacks"], list)
        and all(tuple(values) == CALLBACK_STATE[name] for name, values in state["callbacks"])
        and all(isinstance(value, numbers) for _, values in state["callbacks"] for value in values.values())
    )
    if not right:
        raise UserError("expected the state of a training, found something else")


class Resumption(keras.callbacks.Callback):
    """Puts a trial into the state of its checkpoint when training begins, and writes the checkpoint after each epoch.

    It stands behind all callbacks whose state it keeps.

    Args:
        checkpoint: The checkpoint.
        kept: The recipe's callbacks, in the order in which they were made.
        optimizer_state: Gives the optimizer's arrays.
        restore_optimizer: Takes such arrays back.
        cpu_seconds: Gives the processor time spent since the training began.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        kept: Sequence[keras.callbacks.Callback],
        optimizer_state: Callable[[], Arrays],
        restore_optimizer: Callable[[Arrays], None],
        cpu_seconds: Callable[[], float],
    ) -> None:
        super().__init__()
        self.checkpoint, self.kept = checkpoint, kept
        self.stopping = [callback for callback in kept if isinstance(callback, keras.callbacks.EarlyStopping)]
        self.optimizer_state, self.restore_optimizer = optimizer_state, restore_optimizer
        self.cpu_seconds = cpu_seconds

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.started = time.perf_counter()
        self.spent = self.checkpoint.train_seconds, self.checkpoint.cpu_seconds
        if not self.checkpoint.epochs:
            return
        self._check()
        self.model.set_weights(self.checkpoint.arrays["weights"])
        self.restore_optimizer(self.checkpoint.arrays["optimizer"])
        for callback, (_, values) in zip(self.kept, self.checkpoint.callbacks, strict=True):
            for attribute, value in values.items():
                setattr(callback, attribute, value)
        for place, callback in enumerate(self.stopping):
            callback.best_weights = self.checkpoint.arrays[f"best_weights-{place}"]

    def _check(self) -> None:
        """Refuses a checkpoint that is not of this model, optimizer and callbacks."""
        weights = self.model.get_weights()
        best = {f"best_weights-{place}": weights for place in range(len(self.stopping))}
        expected = {"weights": weights, "optimizer": self.optimizer_state(), **best}
        layouts = [
            {kind: [(array.shape, array.dtype) for array in found] for kind, found in arrays.items()}
            for arrays in (self.checkpoint.arrays, expected)
        ]
        kept = [type(callback).__name__ for callback in self.kept]
        if layouts[0] != layouts[1] or [name for name, _ in self.checkpoint.callbacks] != kept:
            raise UserError(
                f"{self.checkpoint.path}: expected the state of this model, optimizer and schedule, found another; "
                "remove the file, and the trial starts again"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        checkpoint = self.checkpoint
        checkpoint.history.append(logs or {})
        checkpoint.epochs = epoch + 1
        checkpoint.stopped = bool(self.model.stop_training)
        checkpoint.train_seconds = self.spent[0] + time.perf_counter() - self.started
        checkpoint.cpu_seconds = self.spent[1] + self.cpu_seconds()
        names = [type(callback).__name__ for callback in self.kept]
        checkpoint.callbacks = [
            [name, {attribute: getattr(callback, attribute) for attribute in CALLBACK_STATE[name]}]
            for name, callback in zip(names, self.kept, strict=True)
        ]
        best = {f"best_weights-{place}": callback.best_weights for place, callback in enumerate(self.stopping)}
        checkpoint.arrays = {"weights": self.model.get_weights(), "optimizer": self.optimizer_state(), **best}
        checkpoint.write()
