"""Trials in threads of this process, for a trainer that leaves Python's lock alone or hands its work to processes."""

import _thread
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

from mnist_minimal.engines.policy import Policy
from mnist_minimal.errors import UserError, plain
from mnist_minimal.trial import EpochReport, Outcome, StoppedError, Train, Trial


@dataclass(frozen=True)
class _Question:
    report: EpochReport
    # Why the trial is to stop, or ""; None where the job is over.
    answer: "queue.SimpleQueue[str | None]"


class ThreadEngine:
    """Trains each seed in a free place, which is a thread.

    The threads speak by SimpleQueues alone. Ctrl-C raises an exception anywhere in the code of the thread that runs the
    engine, and where that is inside of a lock of Python's, as those of a ThreadPoolExecutor and a Future are, the lock
    is never released: the job would hang. `threading.Thread.start` waits in such a lock too, `_thread`'s does not.

    Args:
        train: Trains one seed; called from the places' threads.
        failed: The row of a failed trial, from its seed and the reason.
        places: Trials that run side by side.
        stop_training: Ends what `train` has begun elsewhere, when the job ends before its trials do.
    """

    def __init__(
        self,
        train: Train,
        failed: Callable[[int, str], Trial],
        places: int = 1,
        stop_training: Callable[[], None] = lambda: None,
    ) -> None:
        self.train, self.failed, self.places, self.stop_training = train, failed, places, stop_training

    def run(self, seeds: Iterable[int], policies: Sequence[Policy]) -> Generator[Outcome, None, None]:
        """Takes the next seed whenever a place is free, and yields what came of each in the order in which they end.

        A trial that raises is an outcome too, with the exception as its reason. When the iterator is closed, the trials
        that still run end at their next epoch, without an outcome.

        Args:
            seeds: The seeds; may have no end. The next one is asked for when it can start.
            policies: Learn of every event, and decide whether a trial stops at its milestone.

        Raises:
            UserError: if that was raised while a trial was trained: the next one would end likewise.
        """
        source, running, places = iter(seeds), 0, 0
        questions: list[_Question] = []
        owner = _Owner()
        work: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        try:
            for _ in range(self.places):
                _thread.start_new_thread(self._work, (work, owner, ended))
                # One that an interrupt leaves uncounted is not waited for: it has no seed.
                places += 1
            while True:
                while running < self.places and (seed := next(source, None)) is not None:
                    for policy in policies:
                        policy.trial_started(seed)
                    work.put(seed)
                    running += 1
                questions = [question for question in questions if not _answered(question, policies)]
                if not running:
                    return
                match owner.events.get():
                    case EpochReport() as report:
                        for policy in policies:
                            policy.epoch_ended(report)
                    case _Question() as question:
                        questions.append(question)
                    case Outcome() as outcome:
                        running -= 1
                        yield outcome
                    case error:
                        raise error
        finally:
            owner.stop()
            self.stop_training()
            for _ in range(self.places):
                work.put(None)
            for _ in range(places):
                ended.get()

    def _work(self, work: "queue.SimpleQueue[int | None]", owner: "_Owner", ended: "queue.SimpleQueue[None]") -> None:
        """Trains one seed after the other, until there is None."""
        try:
            while (seed := work.get()) is not None:
                self._train(seed, owner)
        finally:
            ended.put(None)

    def _train(self, seed: int, owner: "_Owner") -> None:
        try:
            owner.events.put(Outcome(self.train(seed, owner)))
        except Exception as error:
            if isinstance(error, UserError):
                owner.events.put(error)
            elif not owner.stopped.is_set():
                owner.events.put(Outcome(self.failed(seed, reason(error))))
        except BaseException as error:
            owner.events.put(error)


class _Owner:
    """What the places' threads say, for the thread that runs the engine."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[EpochReport | _Question | Outcome | BaseException] = queue.SimpleQueue()
        self.stopped = threading.Event()
        self.asked: list[queue.SimpleQueue[str | None]] = []

    def report(self, epoch: EpochReport) -> None:
        if self.stopped.is_set():
            raise StoppedError
        self.events.put(epoch)

    def ask(self, epoch: EpochReport) -> str:
        question = _Question(epoch, queue.SimpleQueue())
        # Before `report` looks whether the job was stopped, so that no question is overlooked by `stop`.
        self.asked.append(question.answer)
        self.report(epoch)
        self.events.put(question)
        if (reason := question.answer.get()) is None:
            raise StoppedError
        return reason

    def stop(self) -> None:
        """Ends the trials at their next epoch, and those that wait for an answer."""
        self.stopped.set()
        for answer in self.asked:
            answer.put(None)


def _answered(question: _Question, policies: Sequence[Policy]) -> bool:
    """Answers a question if all policies can."""
    reasons = [policy.reason_to_stop(question.report) for policy in policies]
    if None in reasons:
        return False
    question.answer.put(next(filter(None, reasons), ""))
    return True


class TrialError(Exception):
    """A trial failed elsewhere; the message is the reason, in one line."""


def reason(error: BaseException) -> str:
    """Why a trial failed, in one line of at most 300 characters."""
    return str(error) if isinstance(error, TrialError) else plain(f"{type(error).__name__}: {error}", 300)
