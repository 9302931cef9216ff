"""Evaluations of candidates on the workers of a Dask cluster, by its engine: each is what a trial is there."""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_minimal.data.choice import Choice
from mnist_minimal.engines.dask import DaskEngine, Remote
from mnist_minimal.errors import UserError
from mnist_minimal.searching.evaluation import Score, evaluate, without_test_set
from mnist_minimal.study.images import find_images, packed
from mnist_minimal.trial import EpochReport, Owner, StoppedError

if TYPE_CHECKING:
    import numpy as np
    from distributed import Client

    from mnist_minimal.data.sets import Dataset

# How often an evaluation looks whether the search is interrupted.
SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Task:
    """One evaluation, as `evaluate` takes it."""

    candidate: Mapping[str, Any]
    seed: int
    fold: int | None
    epochs: int
    probabilities: "np.ndarray | None"


@dataclass(frozen=True)
class Evaluated:
    """What came of a task.

    Attributes:
        number: The task's.
        score: What the candidate came to; None where it was not evaluated to the end.
        reason: Why it could not be evaluated, or "".
    """

    number: int
    score: Score | None = None
    reason: str = ""

    @property
    def trial(self) -> "Evaluated | None":
        """What the engine hands on, as it does a trial's row; None where it has not come to its end."""
        return self if self.score else None


class OnCluster:
    """`evaluate` on the workers of a Dask cluster, between the beginning and the end of a block.

    Threads bring tasks and wait; a thread of its own runs the engine, which takes the tasks for seeds.

    Args:
        client: Of the cluster.
        dataset: The images.
        choice: Where a worker finds them, if it has them; else they are sent there.
        say: Gets what the user must know, in sentences.
    """

    def __init__(self, client: "Client", dataset: "Dataset", choice: Choice, say: Callable[[str], None]) -> None:
        from mnist_minimal.data import sets

        self.tasks: dict[int, Task] = {}
        self.answers: dict[int, queue.SimpleQueue[Evaluated | BaseException]] = {}
        self.arriving: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.numbers = itertools.count()
        self.lock = threading.Lock()
        self.error: BaseException | None = None
        remote = Remote(
            make_train=partial(make_remote_evaluation, choice, sets.checksums(dataset)),
            shared=partial(packed, dataset),
            pack=self.tasks.get,
            # The answer goes to who waits for it.
            unpack=lambda number, sent: None,
        )
        self.engine = DaskEngine(client, remote, _failed, say)
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "OnCluster":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.call(_close)
        self.thread.join()

    @property
    def places(self) -> int:
        """How many evaluations run side by side with the workers that there are now; 1 where there is none yet."""
        return self.engine.places

    def __call__(
        self,
        candidate: Mapping[str, Any],
        seed: int,
        fold: int | None,
        epochs: int,
        probabilities: "np.ndarray | None",
        look: Callable[[], None],
    ) -> Score:
        """As `evaluate`; `look` is called twice a second, and what it raises ends the waiting.

        Raises:
            UserError: if the scheduler is lost, no worker can evaluate, or this could not be evaluated on several.
        """
        answer: queue.SimpleQueue[Evaluated | BaseException] = queue.SimpleQueue()
        with self.lock:
            if self.error:
                raise self.error
            number = next(self.numbers)
            self.tasks[number], self.answers[number] = Task(candidate, seed, fold, epochs, probabilities), answer
        self.arriving.put(number)
        self.engine.call(_look_for_tasks)
        while True:
            look()
            try:
                found = answer.get(timeout=SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                continue
            if isinstance(found, BaseException):
                raise found
            if found.score is None:
                raise UserError(
                    f"expected a score of a candidate, found that it can't be evaluated ({found.reason}); look at the "
                    "workers, and the same command resumes the search"
                )
            return found.score

    def _serve(self) -> None:
        """Runs the engine until the block ends."""
        try:
            with closing(self.engine.run(self._numbers(), [])) as outcomes:
                for outcome in outcomes:
                    evaluated: Any = outcome.trial
                    del self.tasks[evaluated.number]
                    self.answers.pop(evaluated.number).put(evaluated)
        except BaseException as error:
            with self.lock:
                self.error = error
                for answer in self.answers.values():
                    answer.put(error)

    def _numbers(self) -> Iterator[int | None]:
        """The tasks as they arrive; None where there is none yet."""
        while True:
            try:
                yield self.arriving.get_nowait()
            except queue.Empty:
                yield None


class _ClosedError(Exception):
    """The block has ended."""


def _close() -> None:
    raise _ClosedError


def _look_for_tasks() -> None:
    """Nothing but a reason for the engine to look."""


def _failed(number: int, reason: str) -> Any:
    return Evaluated(number, None, reason)


def make_remote_evaluation(choice: Choice, checksums: Mapping[str, str], images: bytes | None) -> "RemoteEvaluation":
    """What evaluates candidates on this machine, the first thing of a search that is called here.

    Args:
        choice: Where the images are found.
        checksums: Theirs.
        images: The data set, as it was sent; None where it is to be read here.

    Raises:
        SharedMissingError: if these images are not here, and none were sent.
        UserError: if the core can't run here or gives other bits, or the images sent are others.
    """
    from mnist_minimal.training import core
    from mnist_minimal.training.keras_fit import set_memory_growth
    from mnist_minimal.training.trainers import numerics

    set_memory_growth()
    core.require()
    if (bits := numerics("native")) != core.NUMERICS:
        raise UserError(f"expected the bits of numerics {core.NUMERICS}, found that they are {bits}; install it again")
    return RemoteEvaluation(find_images(choice, checksums, images))


class RemoteEvaluation:
    """Evaluates a candidate in each thread of a worker.

    Args:
        dataset: The images.
    """

    def __init__(self, dataset: "Dataset") -> None:
        self.dataset, self.blind = dataset, without_test_set(dataset)

    def places(self, threads: int) -> int:
        """One a thread."""
        return threads

    def notice(self) -> str:
        """Nothing."""
        return ""

    def __call__(self, number: int, task: Task, owner: Owner) -> Evaluated:
        """Evaluates one, of whose epochs alone the number is reported."""
        report = EpochReport(number, 0, 0, task.epochs, 0.0, 0.0)

        def end_epoch() -> None:
            nonlocal report
            report = replace(report, epoch=report.epoch + 1, trained=report.trained + 1)
            owner.report(report)

        dataset = self.dataset if task.fold is None else self.blind
        try:
            score = evaluate(task.candidate, task.seed, task.fold, task.epochs, dataset, task.probabilities, end_epoch)
        except StoppedError:
            return Evaluated(number)
        return Evaluated(number, score)

    def close(self) -> None:
        """Nothing is left of it."""
