"""A trial's state after its last finished epoch, on disk, so that a killed trial goes on and ends with the same bits.

Weights, the optimizer's moments, what the recipe's callbacks remember, and the history: with them, and with batches and
dropout that follow from seed and epoch, the next epoch does not depend on whether the trial was ever stopped.
"""

import json
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnist_minimal.files import written_whole

Arrays = list[np.ndarray]

# What each callback of a recipe carries from one epoch to the next, beside the best weights.
CALLBACK_STATE = {
    "LearningRateScheduler": (),
    "ReduceLROnPlateau": ("best", "wait", "cooldown_counter"),
    "EarlyStopping": ("best", "wait", "best_epoch", "stopped_epoch"),
}


class Checkpoint:
    """The state of one trial in a file, read when this is made and written after every epoch.

    Args:
        path: The file, an .npz; need not be there yet. None keeps the state in memory alone.
        identity: What must be equal for the trial to go on from the file: model, recipe, data, seed, trainer, version.
            A file of another trial is of no use to this one and is written over.

    Attributes:
        epochs: Number of finished epochs in the file; 0 where there is none that fits.
        history: Their figures, by name.
        train_seconds, cpu_seconds: Time spent on them.
        stopped: Whether training was at its end.
        reason: Why training was ended from outside before its recipe would have, or "".
    """

    def __init__(self, path: Path | None = None, identity: dict[str, Any] | None = None) -> None:
        self.path, self.identity = path, identity
        self.epochs = 0
        self.history: dict[str, list[float]] = {}
        self.train_seconds = self.cpu_seconds = 0.0
        self.stopped = False
        self.reason = ""
        self.callbacks: dict[str, dict[str, Any]] = {}
        self.arrays: dict[str, Arrays] = {}
        if path is None or not path.exists():
            return
        try:
            self._read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            print(f"{path}: damaged ({error}); the trial starts anew", file=sys.stderr)

    def _read(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            state = json.loads(file["state"].tobytes())
            if state["identity"] != self.identity:
                return
            arrays = {kind: [file[f"{kind}-{index}"] for index in range(n)] for kind, n in state["arrays"].items()}
        self.epochs, self.history, self.stopped = state["epochs"], state["history"], state["stopped"]
        self.reason = state.get("reason", "")
        self.train_seconds, self.cpu_seconds = state["train_seconds"], state["cpu_seconds"]
        self.callbacks, self.arrays = state["callbacks"], arrays

    def write(self) -> None:
        """Puts the state on disk, whole."""
        if self.path is None:
            return
        state = {
            "identity": self.identity,
            "epochs": self.epochs,
            "history": self.history,
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
        with written_whole(self.path) as temporary:
            np.savez(temporary, state=np.frombuffer(json.dumps(state).encode(), np.uint8), **flat)


class Resumption(keras.callbacks.Callback):
    """Puts a trial into the state of its checkpoint when training begins, and writes the checkpoint after each epoch.

    It stands behind all callbacks whose state it keeps.

    Args:
        checkpoint: The checkpoint.
        kept: The recipe's callbacks.
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
        self.checkpoint = checkpoint
        self.kept = {type(callback).__name__: callback for callback in kept}
        self.optimizer_state, self.restore_optimizer = optimizer_state, restore_optimizer
        self.cpu_seconds = cpu_seconds

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.started = time.perf_counter()
        self.spent = self.checkpoint.train_seconds, self.checkpoint.cpu_seconds
        if not self.checkpoint.epochs:
            return
        self.model.set_weights(self.checkpoint.arrays["weights"])
        self.restore_optimizer(self.checkpoint.arrays["optimizer"])
        for name, values in self.checkpoint.callbacks.items():
            for attribute, value in values.items():
                setattr(self.kept[name], attribute, value)
        if stopping := self.kept.get("EarlyStopping"):
            stopping.best_weights = self.checkpoint.arrays["best_weights"]

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        checkpoint = self.checkpoint
        for name, value in (logs or {}).items():
            checkpoint.history.setdefault(name, []).append(float(value))
        checkpoint.epochs = epoch + 1
        checkpoint.stopped = bool(self.model.stop_training)
        checkpoint.train_seconds = self.spent[0] + time.perf_counter() - self.started
        checkpoint.cpu_seconds = self.spent[1] + self.cpu_seconds()
        checkpoint.callbacks = {
            name: {attribute: getattr(callback, attribute) for attribute in CALLBACK_STATE[name]}
            for name, callback in self.kept.items()
        }
        checkpoint.arrays = {"weights": self.model.get_weights(), "optimizer": self.optimizer_state()}
        if stopping := self.kept.get("EarlyStopping"):
            checkpoint.arrays["best_weights"] = stopping.best_weights
        checkpoint.write()
