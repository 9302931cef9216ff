"""How far a study is, looked at from outside: from its files alone, while another process may be training it."""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_minimal.errors import UserError
from mnist_minimal.files import read_json
from mnist_minimal.study import history, identity, ledger
from mnist_minimal.study.study import Study
from mnist_minimal.trial import FAILED, Trial

# A trial of which nothing was heard for so many times what an epoch has taken on average, and at least so many seconds,
# is taken to hang.
STALE_EPOCHS, STALE_SECONDS = 20, 120


@dataclass(frozen=True)
class Underway:
    """A trial that has been begun and is not at its end.

    Attributes:
        seed: Its seed.
        epochs: Finished epochs.
        accuracy: The monitored accuracy after the last of them, in [0, 1].
        silent: Seconds since then.
        stale: Whether it is longer silent than its epochs explain, or nobody trains it: the same command resumes it.
    """

    seed: int
    epochs: int
    accuracy: float
    silent: float
    stale: bool


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        study: The study.
        done: Trials that are finished or were stopped early.
        failed: Seeds that failed and have come to no end since.
        asked: How many trials the job that is running was asked for; None where it is without end, or none is running.
        asked_done: How many of these are done.
        owner: Who trains it, in words; "" where nobody does.
        underway: Trials between their first epoch and their end.
        max_epochs: The cap on the epochs, or None where the study does not tell.
        left: Seconds that the running job will take, estimated; None where nothing is known yet or there is no end.
    """

    study: Study
    done: int
    failed: int
    asked: int | None
    asked_done: int
    owner: str
    underway: list[Underway]
    max_epochs: int | None
    left: float | None


def progress(study: Study) -> Progress:
    """How far a study is; reads its files and changes nothing.

    Raises:
        UserError: if its CSV or its JSON is damaged.
    """
    rows, owner = ledger.read(study.csv), _owner(study)
    done = ledger.done(rows)
    seeds = {trial.seed for trial in done}
    max_epochs = identity.read(study).get("max_epochs")
    epoch_seconds = _epoch_seconds(done)
    underway = [
        found for path in _histories(study, seeds) if (found := _underway(path, bool(owner), epoch_seconds)) is not None
    ]
    asked, left, asked_done = None, None, 0
    if owner and (runs := owner.get("runs")) is not None:
        asked = int(runs)
        asked_done = sum(owner["seed"] <= seed < owner["seed"] + asked for seed in seeds)
        left = _left(done, underway, asked - asked_done, int(owner["jobs"]), epoch_seconds)
    return Progress(
        study,
        len(done),
        len({trial.seed for trial in rows if trial.status == FAILED} - seeds),
        asked,
        asked_done,
        f"process {owner['process']} on {owner['host']} since {owner['since']}" if owner else "",
        underway,
        max_epochs if isinstance(max_epochs, int) else None,
        left,
    )


def find(folder: Path) -> list[Study]:
    """The studies in a folder, those too that have no row yet."""
    tables = {csv.stem for csv in ledger.find(folder) if ledger.is_ledger(csv)}
    begun = {path.parent.name for kept in ("owner.json", "*.checkpoint.npz") for path in folder.glob(f"*/{kept}")}
    return [Study(folder, name) for name in sorted(tables | begun)]


def _owner(study: Study) -> dict[str, Any]:
    """Who owns a study, as `owned` has written it; {} where nobody does, or the process has gone."""
    try:
        owner = read_json(study.owner)
        if not {"process", "host", "since", "runs", "seed", "jobs"} <= owner.keys():
            return {}
        here = owner["host"] == socket.gethostname()
        return {} if here and not _is_alive(int(owner["process"])) else owner
    # It is just beginning or ending.
    except (OSError, UserError, AttributeError, TypeError, ValueError):
        return {}


def _is_alive(process: int) -> bool:
    if os.name == "nt":
        return True  # There the signal 0 is no question but ends the process.
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _histories(study: Study, done: set[int]) -> list[Path]:
    """The histories of the trials that are not done, by seed."""
    found = [path for path in study.folder.glob("*.csv") if path.stem.isascii() and path.stem.isdecimal()]
    return sorted((path for path in found if int(path.stem) not in done), key=lambda path: int(path.stem))


def _underway(path: Path, owned: bool, epoch_seconds: float) -> Underway | None:
    try:
        accuracies = history.read(path)["val_accuracy"]
        silent = max(0.0, time.time() - path.stat().st_mtime)
    # It is just being written, or begun again.
    except (OSError, UserError):
        return None
    stale = not owned or silent > max(STALE_SECONDS, STALE_EPOCHS * epoch_seconds)
    return Underway(int(path.stem), len(accuracies), accuracies[-1], silent, stale)


def _epoch_seconds(done: Sequence[Trial]) -> float:
    """How long an epoch took on average; 0 where no trial is done."""
    epochs = sum(trial.epochs or 0 for trial in done)
    return sum(trial.train_seconds or 0 for trial in done) / epochs if epochs else 0.0


def _left(
    done: Sequence[Trial], underway: Sequence[Underway], to_go: int, jobs: int, epoch_seconds: float
) -> float | None:
    """Seconds until a job is at its end, by the mean of the trials that are done."""
    if not done or not epoch_seconds:
        return None
    mean = sum(trial.train_seconds or 0 for trial in done) / len(done)
    begun = [min(mean, trial.epochs * epoch_seconds) for trial in underway if not trial.stale]
    return max(0.0, to_go * mean - sum(begun)) / jobs
