"""The runner: what is missing of a study is trained, and every trial is recorded as it ends."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Protocol

from mnist_minimal.engines.policy import Policy
from mnist_minimal.engines.processes import ProcessTrain
from mnist_minimal.engines.threads import ThreadEngine
from mnist_minimal.study.job import Job
from mnist_minimal.study.ledger import Ledger
from mnist_minimal.study.policies import MedianStopping
from mnist_minimal.study.worker import failed_trial, make_train, make_train_in_own_process
from mnist_minimal.trial import Outcome, Trial

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset


class Engine(Protocol):
    """Anything that trains seeds: threads, processes, machines."""

    def run(self, seeds: Iterable[int], policies: Sequence[Policy]) -> Generator[Outcome, None, None]:
        """Takes the next seed when a place is free, and yields what came of each as it ends."""


def run_trials(engine: Engine, ledger: Ledger, seeds: Iterable[int], policies: Sequence[Policy]) -> None:
    """Trains seeds and appends each trial to the study's CSV when it ends, until a policy ends the job.

    Args:
        engine: Trains them.
        ledger: The CSV of the study, which this process owns.
        seeds: The seeds that are missing; may have no end.
        policies: Learn of every event, in this order, and may end the job.

    Raises:
        UserError: if a policy ends the job so, if a trial can't be trained, or if a file can't be written or read.
        KeyboardInterrupt: on Ctrl-C; what was finished is recorded, and what was not is resumed by the next job.
    """
    with closing(engine.run(seeds, policies)) as outcomes:
        for outcome in outcomes:
            ledger.append(outcome.trial)
            # Kept until the row is on disk: a kill before it costs no epoch.
            ledger.study.checkpoint(outcome.trial.seed).unlink(missing_ok=True)
            # Every policy learns of it, whichever of them ends the job.
            if True in [policy.trial_ended(outcome.trial) for policy in policies]:
                return


def missing(ledger: Ledger, seeds: Iterable[int]) -> Iterator[int]:
    """The seeds that are neither finished nor stopped yet, each looked up when it is asked for."""
    for seed in seeds:
        if not ledger.has_done(seed):
            yield seed
        else:
            # A kill may have come between its row and this.
            ledger.study.checkpoint(seed).unlink(missing_ok=True)


def rules_of(job: Job, dataset: "Dataset", before: Sequence[Trial]) -> list[MedianStopping]:
    """The median stopping rule of a job, where its recipe has one."""
    from mnist_minimal.data import sets

    if job.recipe.median_stopping is None:
        return []
    monitored = sets.split(dataset, job.protocol, job.recipe.validation_share).y_val
    return [MedianStopping(job.recipe.median_stopping, job.study, before, len(monitored))]


def engine_of(job: Job, dataset: "Dataset") -> ThreadEngine:
    """The engine of a job: threads over the core; over Keras, whose state is one for the whole process, processes."""
    failed = partial(failed_trial, job)
    if job.trainer == "keras" and job.places > 1:
        train = ProcessTrain(partial(make_train_in_own_process, job), job.places)
        return ThreadEngine(train, failed, job.places, stop_training=train.stop)
    return ThreadEngine(make_train(job, dataset), failed, job.places)
