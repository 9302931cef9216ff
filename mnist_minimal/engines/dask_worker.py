"""What a worker of a Dask cluster does for the engine: it is made ready for a job once, and then trains seeds."""

import contextlib
import time
from collections import OrderedDict
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle

from mnist_minimal.engines.threads import reason
from mnist_minimal.errors import UserError
from mnist_minimal.trial import EpochReport, Owner, StoppedError, Trial
from mnist_minimal.version import version

if TYPE_CHECKING:
    from distributed import Worker

# A trial tells of its epochs no more often: a thousand workers have thousands of epochs a second.
SECONDS_BETWEEN_REPORTS = 2.0

# Of so many jobs a worker keeps what it has made ready.
MAX_READY = 4


class SharedMissingError(Exception):
    """A worker has not what all trials of the job share, and must be sent it."""


class Sent(Protocol):
    """What a worker sends back of a trial."""

    @property
    def trial(self) -> Trial | None:
        """The row, or None where the trial has not come to its end."""


class RemoteTrain(Protocol):
    """Trains the seeds of a job on a worker."""

    def places(self, threads: int) -> int:
        """How many it trains at once on a worker of so many threads."""

    def __call__(self, seed: int, parcel: Any, owner: Owner) -> Sent:
        """Trains one seed, given what the coordinator has of it; on StoppedError it gives what that has come to."""

    def close(self) -> None:
        """Lets go of what the job has taken on this worker."""


_READY: "OrderedDict[str, RemoteTrain]" = OrderedDict()


def make_ready(name: str, wanted: str, make_train: bytes, shared: bytes | None) -> tuple[str, Any]:
    """Makes this process ready for a job's trials, of which it tells how many it trains at once.

    The answer is of plain types, which another version of this package knows too.
    """
    if version() != wanted:
        return "refused", f"it has mnist_minimal {version()}, expected {wanted}"
    try:
        _READY[name] = cloudpickle.loads(make_train)(shared)
    except SharedMissingError:
        return "needs", ""
    except Exception as error:
        return "refused", str(error) if isinstance(error, UserError) else reason(error)
    while len(_READY) > MAX_READY:
        _READY.popitem(last=False)[1].close()
    return "ready", _READY[name].places(_threads())


def train(name: str, seed: int, parcel: Any, answer: str | None) -> tuple[str, Any]:
    """Trains a seed; what came of it, and what belongs to that."""
    remote_train = _READY.get(name)
    if remote_train is None:  # The worker was started again.
        return "not ready", None
    owner = _Coordinator(name, answer)
    if remote_train.places(_threads()) > _threads():
        from distributed import secede

        # It waits for a device that trains many at once, and leaves its thread to the next.
        secede()
    try:
        sent = remote_train(seed, parcel, owner)
    # What a user could fix is wrong with this worker; elsewhere the trial may do.
    except UserError as error:
        return "refused", str(error)
    except Exception as error:
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
    """

    def __init__(self, topic: str, answer: str | None) -> None:
        from distributed import get_worker

        self.topic, self.answer = topic, answer
        self.worker: Worker = get_worker()
        self.key = self.worker.get_current_task()
        self.question: EpochReport | None = None
        self.reported = 0.0

    def report(self, epoch: EpochReport) -> None:
        task = self.worker.state.tasks.get(self.key)
        if task is None or task.state == "cancelled" or self.worker.status.name in ("closing", "closed", "failed"):
            raise StoppedError
        if time.monotonic() - self.reported >= SECONDS_BETWEEN_REPORTS:
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
