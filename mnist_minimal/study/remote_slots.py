"""Trials in the slots of a worker's device: the seeds that its tasks bring are trained together."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from mnist_minimal.engines.policy import Policy
from mnist_minimal.engines.slots import Epoch, SlotEngine
from mnist_minimal.engines.threads import reason
from mnist_minimal.errors import UserError
from mnist_minimal.study.job import Job
from mnist_minimal.study.parcel import Parcel, remove, study_in, temporary_folder
from mnist_minimal.study.slots import SlotTrials, make_slots
from mnist_minimal.trial import EpochReport, Owner, StoppedError, Trial

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset

Answer = TypeVar("Answer")

SECONDS_BETWEEN_LOOKS = 5.0


class RemoteSlots(Policy):
    """Trains seeds side by side in the slots of this machine's device, whichever threads bring them.

    A trial that asks whether it is to stop starts again once the answer is known: its state is one row of arrays that
    stay on the device.

    Args:
        job: The job, as it came here.
        dataset: Its images.

    Raises:
        UserError: if JAX is not installed here.
    """

    def __init__(self, job: Job, dataset: "Dataset") -> None:
        self.folder = temporary_folder()
        # As many at once as suit the device, whatever was asked for where the job comes from.
        self.job = replace(job, study=study_in(self.folder.name, job), places=None)
        self.slots = make_slots([self.job], dataset, None, lambda _: None)
        self.brought: dict[int, _Brought] = {}
        self.arriving: queue.SimpleQueue[_Brought | None] = queue.SimpleQueue()
        self.closed = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def places(self, threads: int) -> int:
        """How many seeds are trained at once."""
        return self.slots.places

    def notice(self) -> str:
        """The device, where it is no GPU."""
        from mnist_minimal.training.slots import device

        return "" if device.is_gpu() else f"it has no GPU for JAX and trains on {device.description(self.slots.places)}"

    def __call__(self, seed: int, parcel: Parcel, owner: Owner) -> Parcel:
        """Has one trained, and waits for it."""
        brought = _Brought(seed, owner)
        self.arriving.put(brought)
        while True:
            try:
                answer = brought.answer.get(timeout=SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                if not self.thread.is_alive() and not self.closed:
                    raise UserError("the thread that trains here has ended; start the worker again") from None
                if not self.thread.is_alive():
                    return Parcel()
                continue
            if isinstance(answer, Exception):
                raise answer
            return answer

    def close(self) -> None:
        """Ends the thread that trains, once it has nothing to do."""
        self.closed = True
        self.arriving.put(None)

    def epoch_ended(self, report: EpochReport) -> None:
        """Tells the coordinator, who may have stopped the trial."""
        self._ask(report.seed, lambda owner: owner.report(report))

    def reason_to_stop(self, report: EpochReport) -> str | None:
        """The coordinator's answer."""
        return self._ask(report.seed, lambda owner: owner.ask(report))

    def _ask(self, seed: int, question: Callable[[Owner], Answer]) -> Answer:
        try:
            return question(self.brought[seed].owner)
        except StoppedError:
            remove(self.job.study, seed)
            self.brought.pop(seed).answer.put(Parcel())
            raise

    def _serve(self) -> None:
        engine = SlotEngine(_OfWorker(self.slots), self.slots.failed)
        with self.folder:
            while not self.closed:
                if (first := self.arriving.get()) is None:
                    continue
                try:
                    for outcome in engine.run(self._seeds(first), [self]):
                        seed = outcome.trial.seed
                        parcel = Parcel.of(self.job.study, seed, outcome.trial)
                        remove(self.job.study, seed)
                        self.brought.pop(seed).answer.put(parcel)
                # It is this worker's, and no trial's: all that are in run elsewhere.
                except Exception as error:
                    given = error if isinstance(error, UserError) else UserError(reason(error))
                    seeds = list(self.brought)
                    for seed in seeds:
                        self.brought.pop(seed).answer.put(given)
                    for seed in seeds:
                        self.slots.drop(seed)
                        remove(self.job.study, seed)

    def _seeds(self, first: "_Brought") -> Iterator[int | None]:
        """The seeds as they arrive; None where there is none yet."""
        brought: _Brought | None = first
        while True:
            if brought is not None:
                before = self.brought.get(brought.seed)
                self.brought[brought.seed] = brought
                if before is None:
                    yield brought.seed
                else:
                    # It is in already, for a task that was given up.
                    before.answer.put(Parcel())
            try:
                brought = self.arriving.get_nowait()
            except queue.Empty:
                brought = None
                yield None


class _OfWorker:
    """Trials in slots of which none fails because the machine has no disk or memory left: that is a UserError."""

    def __init__(self, slots: SlotTrials) -> None:
        self.slots, self.places = slots, slots.places

    def __getattr__(self, name: str) -> Any:
        return getattr(self.slots, name)

    def start(self, seed: int) -> Epoch | None:
        with _machine_blamed():
            return self.slots.start(seed)

    def end(self, seed: int, reason: str) -> Trial:
        with _machine_blamed():
            return self.slots.end(seed, reason)


@contextmanager
def _machine_blamed() -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError) as error:
        raise UserError(reason(error)) from error


class _Brought:
    """A seed that is to be trained, and where what comes of it is awaited."""

    def __init__(self, seed: int, owner: Owner) -> None:
        self.seed, self.owner = seed, owner
        self.answer: queue.SimpleQueue[Parcel | Exception] = queue.SimpleQueue()
