"""What a worker of a Dask cluster does for the engine: it is made ready for a job once, and then trains seeds."""

import contextlib
import math
import time
from collections import OrderedDict
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle

from mnist_minimal.engines.threads import reason
from mnist_minimal.errors import UserError
from mnist_minimal.models.defaults import pin_keras_defaults
from mnist_minimal.models.silence import silence_tensorflow
from mnist_minimal.trial import EpochReport, Owner, StoppedError
from mnist_minimal.version import version

if TYPE_CHECKING:
    from distributed import Worker

# Of so many jobs a worker keeps what it has made ready.
MAX_READY = 4


class SharedMissingError(Exception):
    """A worker has not what all trials of the job share, and must be sent it."""


class Sent(Protocol):
    """What a worker sends back of a trial."""

    @property
    def trial(self) -> Any:
        """The row, or None where the trial has not come to its end; of what is no trial, what stands for it."""


class RemoteTrain(Protocol):
    """Trains the seeds of a job on a worker."""

    def places(self, threads: int) -> int:
        """How many it trains at once on a worker of so many threads."""

    def __call__(self, seed: int, parcel: Any, owner: Owner, /) -> Sent:
        """Trains one seed, given what the coordinator has of it; on StoppedError it gives what that has come to."""

    def notice(self) -> str:
        """What the user must know of how it trains here, a line or ""."""

    def close(self) -> None:
        """Lets go of what the job has taken on this worker; trials that are still in end at their next epoch."""


_READY: "OrderedDict[str, RemoteTrain]" = OrderedDict()


def make_ready(name: str, wanted: str, make_train: bytes, shared: bytes | None) -> tuple[str, Any]:
    """Makes this process ready for a job's trials; tells how many it trains at once and what the user must know.

    The answer is of plain types, which another version of this package knows too.
    """
    if version() != wanted:
        return "refused", f"it has mnist_minimal {version()}, expected {wanted}"
    # Before what comes imports Keras and TensorFlow.
    pin_keras_defaults()
    silence_tensorflow()
    try:
        _READY[name] = cloudpickle.loads(make_train)(shared)
    except SharedMissingError:
        return "needs", ""
    except Exception as error:
        return "refused", str(error) if isinstance(error, UserError) else reason(error)
    while len(_READY) > MAX_READY:
        _READY.popitem(last=False)[1].close()
    return "ready", (_READY[name].places(_threads()), _READY[name].notice())


def close(name: str) -> None:
    """Lets go of a job."""
    if found := _READY.pop(name, None):
        found.close()


def train(name: str, seed: int, parcel: Any, answer: str | None, seconds: float) -> tuple[str, Any]:
    """Trains a seed, of which epochs are reported so many seconds apart; what came of it, and what belongs to that."""
    remote_train = _READY.get(name)
    if remote_train is None:  # The worker was started again.
        return "not ready", None
    owner = _Coordinator(name, answer, seconds)
    if remote_train.places(_threads()) > _threads():
        from distributed import secede

        # It waits for a device that trains many at once, and leaves its thread to the next.
        secede()
    try:
        sent = remote_train(seed, parcel, owner)
    # What a user could fix is wrong with this worker; elsewhere the trial may do.
    except UserError as error:
        return "refused", str(error)
    # A full disk or memory is this worker's, unless the trial has it everywhere.
    except (OSError, MemoryError) as error:
        return "unwell", reason(error)
    # An exit, of a user's own callback, would close the worker, and the next one that is given the trial.
    except (Exception, SystemExit) as error:
        return "failed", reason(error)
    if owner.question is not None:
        return "asked", (owner.question, sent)
    return ("ended", sent) if sent.trial else ("stopped", None)


def _threads() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)


class _Coordinator:
    """The owner of the study, from a worker; to be made in the thread of the task.

    Args:
        topic: Under which it hears of epochs.
        answer: Why the trial is to stop at the rule's epoch, or ""; None where it has not been asked.
        seconds: The time between two epochs that it hears of; a thousand workers have thousands a second.
    """

    def __init__(self, topic: str, answer: str | None, seconds: float) -> None:
        from distributed import get_worker

        self.topic, self.answer, self.seconds = topic, answer, seconds
        self.worker: Worker = get_worker()
        self.key = self.worker.get_current_task()
        self.question: EpochReport | None = None
        self.reported = -math.inf

    def report(self, epoch: EpochReport) -> None:
        task = self.worker.state.tasks.get(self.key)
        if task is None or task.state == "cancelled" or self.worker.status.name in ("closing", "closed", "failed"):
            raise StoppedError
        if time.monotonic() - self.reported >= self.seconds:
            self.reported = time.monotonic()
            # Whether it is heard is of no account for the trial; what has a milestone is asked or read in the history.
            with contextlib.suppress(Exception):
                self.worker.log_event(self.topic, (self.key, *astuple(replace(epoch, milestone=None))))

    def ask(self, epoch: EpochReport) -> str:
        if self.answer is None:
            self.question = epoch
            raise StoppedError
        self.report(epoch)
        return self.answer
