"""Trials in the slots of one device: all are trained an epoch at a time, in one call, by one thread."""

import _thread
import queue
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mnist_minimal.engines.policy import Policy
from mnist_minimal.engines.threads import reason
from mnist_minimal.errors import UserError
from mnist_minimal.trial import EpochReport, Outcome, StoppedError, Trial

Result = TypeVar("Result")


@dataclass(frozen=True)
class Epoch:
    """A trial after an epoch, or resumed after one.

    Attributes:
        seed: Its seed.
        report: What it reports; None where the training failed in this epoch.
        ended: Whether its training is at its end.
        asks: Whether it has come to its milestone, where policies decide whether it goes on.
        failed: Why the training failed, or "".
    """

    seed: int
    report: EpochReport | None
    ended: bool = False
    asks: bool = False
    failed: str = ""


class Slots(Protocol):
    """Trials that are trained together. It is called from one thread at a time."""

    places: int

    def free(self) -> int:
        """How many more trials there is a place for."""

    def start(self, seed: int) -> Epoch | None:
        """Takes in a trial; where it is resumed, its state is what is given."""

    def train(self) -> list[Epoch]:
        """Trains every trial that is in for an epoch, but those that wait; [] where there is none."""

    def wait(self, seed: int, *, waiting: bool) -> None:
        """Has a trial wait, which leaves its place to others, or go on."""

    def end(self, seed: int, reason: str) -> Trial:
        """The row of a trial that is at its end or was stopped for a reason; it stays in until it is dropped."""

    def drop(self, seed: int) -> None:
        """Leaves out a trial whose row is on disk, or that failed."""

    def close(self) -> None:
        """Keeps what the trials that are in need to be resumed."""


class SlotEngine:
    """Trains the seeds of a job side by side in one call an epoch; a trial that ends leaves its place to the next seed.

    What is called for the trials runs in a thread of its own, which no interrupt reaches: an epoch that was begun is
    either in what `close` keeps or was not begun. Why the threads speak by SimpleQueues alone, `ThreadEngine` tells.

    Args:
        slots: The trials.
        failed: The row of a failed trial, from its seed and the reason.
    """

    def __init__(self, slots: Slots, failed: Callable[[int, str], Trial]) -> None:
        self.slots, self.failed = slots, failed

    @property
    def places(self) -> int:
        """How many trials are trained at once, at most."""
        return self.slots.places

    def run(self, seeds: Iterable[int | None], policies: Sequence[Policy]) -> Generator[Outcome, None, None]:
        """Takes the next seed whenever a place is free, and yields what came of each in the order in which they end.

        When the iterator is closed, the trials that are in are kept as they are after the epoch that is being trained;
        among them is the one that was yielded last, as its row may not be on disk.

        Args:
            seeds: The seeds; may have no end. The next one is asked for when it can start; None where there is none
                yet, with which a run ends where no trial is in.
            policies: Learn of every event, and decide whether a trial stops at its milestone. One that raises
                StoppedError leaves out the trial, of which nothing comes then.

        Raises:
            UserError: if that was raised while the trials were trained.
        """
        source, running = iter(seeds), set[int]()
        questions: dict[int, EpochReport] = {}
        worker = _Worker()
        try:
            while True:
                epochs: list[Epoch] = []
                # One that can't even start takes no place: it is dealt with first, or no seed would be left.
                while (
                    not (epochs and epochs[-1].failed)
                    and self.slots.free() > 0
                    and (seed := next(source, None)) is not None
                ):
                    for policy in policies:
                        policy.trial_started(seed)
                    running.add(seed)
                    epochs += self._started(worker, seed)
                if not epochs:
                    if not running:
                        return
                    epochs = worker.call(self.slots.train)
                for epoch in epochs:
                    if epoch.report is not None:
                        try:
                            for policy in policies:
                                policy.epoch_ended(epoch.report)
                        except StoppedError:
                            self._drop(worker, epoch.seed, running)
                for epoch in epochs:
                    if epoch.seed not in running:
                        continue
                    if epoch.asks and epoch.report is not None:
                        questions[epoch.seed] = epoch.report
                        self.slots.wait(epoch.seed, waiting=True)
                    elif epoch.ended or epoch.failed:
                        yield self._ended(worker, epoch.seed, "", epoch.failed)
                        self._drop(worker, epoch.seed, running)
                for seed in sorted(questions):
                    try:
                        reasons = [policy.reason_to_stop(questions[seed]) for policy in policies]
                    except StoppedError:
                        del questions[seed]
                        self._drop(worker, seed, running)
                        continue
                    if None in reasons:
                        continue
                    del questions[seed]
                    if stopped := next(filter(None, reasons), ""):
                        yield self._ended(worker, seed, stopped)
                        self._drop(worker, seed, running)
                    else:
                        self.slots.wait(seed, waiting=False)
        finally:
            try:
                worker.call(self.slots.close)
            finally:
                worker.stop()

    def _started(self, worker: "_Worker", seed: int) -> list[Epoch]:
        """Takes in a trial; one that can't be is a failed one."""
        try:
            epoch = worker.call(self.slots.start, seed)
        except UserError:
            raise
        except Exception as error:
            return [Epoch(seed, None, failed=reason(error))]
        return [] if epoch is None else [epoch]

    def _drop(self, worker: "_Worker", seed: int, running: set[int]) -> None:
        running.discard(seed)
        worker.call(self.slots.drop, seed)

    def _ended(self, worker: "_Worker", seed: int, stopped: str, failed: str = "") -> Outcome:
        if not failed:
            try:
                return Outcome(worker.call(self.slots.end, seed, stopped))
            except UserError:
                raise
            except Exception as error:
                failed = reason(error)
        return Outcome(self.failed(seed, failed))


class _Worker:
    """A thread that calls functions, one after the other, whatever interrupts who waits for them."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        _thread.start_new_thread(self._work, ())

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What the function gives or raises; one that was called before is waited for."""
        answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self.calls.put((function, arguments, answer))
        result, error = answer.get()
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        """Ends the thread."""
        self.calls.put(None)

    def _work(self) -> None:
        while (call := self.calls.get()) is not None:
            function, arguments, answer = call
            try:
                answer.put((function(*arguments), None))
            except BaseException as error:
                answer.put((None, error))
