"""Where a search lies: Optuna's journal, what it was begun with, and who works on which trial.

Every number of a search is in its journal, so that what was killed is resumed from it, and processes on one machine or
on one file system with locks may share it. A process holds a lock as long as it lives; a trial that runs, by the
journal, and whose process has gone is taken over by the next one, which finds the trainings that were finished.
"""

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from mnist_minimal.errors import UserError, one_line
from mnist_minimal.files import reject_symlink
from mnist_minimal.searching.evaluation import Score

# Of a trial: who works on it, its candidate with its name and parameters, the most that it could have, and the number
# of the trial from which it differs in numbers alone, if there is one.
WORKER, CANDIDATE, NAME, PARAMS, LIMIT, BESIDE = "worker", "candidate", "name", "params", "limit", "beside"

# Of a trial that is judged at the highest rung: the core's pace, where something else has trained it.
CORE_PACE = "core_pace"

# Of the study: what it was begun with, the names of the finalists, and what the times begin with at which each process
# worked on it.
FACTS, FINALISTS, WORKED = "facts", "finalists", "worked_"

# What a search was begun with that was begun before one could choose.
BEFORE = {"--trainer": "native", "--settings": None}


class JournalLock(JournalFileOpenLock):
    """A lock that ends with its process, unlike Optuna's own, which a killed process leaves behind for half a minute.

    Args:
        path: The file that is locked.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.lock = FileLock(path)

    def acquire(self) -> bool:
        self.lock.acquire()
        return True

    def release(self) -> None:
        self.lock.release()


class Storage:
    """The files of a search, and this process as one of its workers.

    Args:
        out: The folder of the search; made where there is none.

    Raises:
        UserError: if it can't be written to.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.journal = out / "journal.log"
        self.workers = out / "workers"
        self.name = uuid.uuid4().hex
        try:
            reject_symlink(out).mkdir(parents=True, exist_ok=True)
            reject_symlink(self.workers).mkdir(exist_ok=True)
            # Who joins, leaves, takes a trial, or asks who else is there, does so alone; of one process each thread has
            # a lock of its own, which it may take again while it holds it.
            self.taking = FileLock(reject_symlink(out / "taking.lock"))
            self.alive = FileLock(self.workers / f"{self.name}.lock")
            self.join()
            self.testing = FileLock(reject_symlink(out / "testing.lock"))
            self.lock = JournalLock(reject_symlink(out / "journal.lock"))
            self._cut_torn_line()
        except (OSError, NotImplementedError) as error:
            where, why = getattr(error, "filename", None) or out, getattr(error, "strerror", None) or one_line(error)
            raise UserError(f"{where}: can't be written or read ({why}); choose another folder with --out") from error

    def study(
        self,
        facts: Mapping[str, Any],
        sampler: optuna.samplers.BaseSampler,
        pruner: optuna.pruners.BasePruner,
    ) -> optuna.Study:
        """The search in this folder, begun now where there is none.

        Args:
            facts: What it is begun with, of JSON's types.
            sampler: What proposes.
            pruner: What stops.

        Raises:
            UserError: if it was begun with other facts, named by the first that differs, or its journal is damaged.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(reject_symlink(self.journal)), self.lock))
            study = optuna.create_study(
                storage=storage,
                study_name="search",
                direction="maximize",
                sampler=sampler,
                pruner=pruner,
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{self.journal}: expected the journal of a search, found another file or a damaged one "
                f"({one_line(error)}); restore it or use another --out"
            ) from error
        with self.taking:
            found = study.user_attrs.get(FACTS)
            if found is None:
                study.set_user_attr(FACTS, dict(facts))
                return study
        begun = BEFORE | found
        for name, value in facts.items():
            if begun.get(name) != value:
                raise UserError(
                    f"{self.journal}: this search was begun with {name} {begun.get(name)}, and now it would be {value};"
                    " give what it was begun with, or another folder with --out"
                )
        return study

    def take_over(self, study: optuna.Study) -> Trial | None:
        """A trial whose worker has gone, for this one to end; None where there is none."""
        with self.taking:
            left_behind = self.left_behind(study)
            return self._own(Trial(study, left_behind[0]._trial_id)) if left_behind else None

    def ask(self, study: optuna.Study, beside: Trial | None = None) -> Trial:
        """A new trial for this worker; beside another, whose candidate is known, one that differs in numbers alone."""
        with self.taking:
            if beside:
                # From its very beginning, for whoever takes it over.
                known = {BESIDE: beside.number, LIMIT: beside.user_attrs[LIMIT]}
                study.enqueue_trial({}, known)
            return self._own(study.ask())

    def left_behind(self, study: optuna.Study) -> list[FrozenTrial]:
        """The trials that run, by the journal, and whose worker has gone."""
        with self.taking:
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            return [trial for trial in running if not self._is_alive(trial.user_attrs.get(WORKER, ""))]

    def others(self) -> int:
        """How many other processes work on the search."""
        with self.taking:
            return sum(self._is_alive(path.stem) for path in self.workers.glob("*.lock") if path.stem != self.name)

    def join(self) -> None:
        """Makes this process one that works on the search, as others see it."""
        # While nobody looks: who did between the file's making and its locking would take it for a dead worker's.
        with self.taking:
            self.alive.acquire(timeout=0)

    def leave(self) -> None:
        """Ends this process' part in the search, as others see it; its trials are ended or may be taken over."""
        with self.taking:
            self.alive.release()
            with suppress(OSError):
                os.unlink(self.alive.lock_file)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Ends this process' part in the search with the block."""
        try:
            yield
        finally:
            self.leave()

    def _own(self, trial: Trial) -> Trial:
        trial.set_user_attr(WORKER, self.name)
        return trial

    def _is_alive(self, worker: str) -> bool:
        """Whether a worker's process lives; this one's own trials are in its hands. Asked while `taking` is held."""
        if worker == self.name:
            return True
        path = self.workers / f"{worker}.lock"
        if not worker or not path.exists():
            return False
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        with suppress(OSError):
            path.unlink()
        return False

    def _cut_torn_line(self) -> None:
        """Cuts off what a kill in the middle of a writing has left, to which the next line would be joined."""
        with self.lock.lock, suppress(FileNotFoundError), reject_symlink(self.journal).open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def note_work(study: optuna.Study, worker: str, begun: float, until: float) -> None:
    """Notes from when until when a process has worked on a search, in seconds since 1970."""
    study.set_user_attr(f"{WORKED}{worker}", [round(begun, 2), round(until, 2)])


def worked(study: optuna.Study) -> list[tuple[float, float]]:
    """From when until when each process has worked on a search, in seconds since 1970."""
    found = [times for key, times in study.user_attrs.items() if key.startswith(WORKED)]
    return [(begun, until) for begun, until in found]


def score_key(rung: int, place: int) -> str:
    """Under which a trial has the score of one of its trainings."""
    return f"score_{rung}_{place}"


def final_key(name: str, place: int) -> str:
    """Under which the study has the score of one of a finalist's trainings."""
    return f"final_{name}_{place}"


def scores(trial: FrozenTrial) -> dict[tuple[int, int], Score]:
    """The scores of a trial's trainings that are finished, by rung and place, in this order."""
    found = {}
    for key, value in trial.user_attrs.items():
        if key.startswith("score_"):
            _, rung, place = key.split("_")
            found[int(rung), int(place)] = Score(**value)
    return dict(sorted(found.items()))


def finals(study: optuna.Study) -> dict[str, list[Score]]:
    """The scores of the finalists' trainings that are finished, by name, in the order in which they were chosen."""
    attributes = study.user_attrs
    found: dict[str, list[Score]] = {}
    for name in attributes.get(FINALISTS, []):
        keys = sorted(
            (key for key in attributes if key.startswith(f"final_{name}_")), key=lambda key: int(key.rpartition("_")[2])
        )
        found[name] = [Score(**attributes[key]) for key in keys]
    return found


def plain(score: Score) -> dict[str, Any]:
    """A score as the journal has it."""
    return asdict(score)
