"""The runner: what is missing of a study is trained, and every trial is recorded as it ends."""

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from mnist_minimal.engines.policy import Policy
from mnist_minimal.engines.processes import ProcessTrain
from mnist_minimal.engines.slots import SlotEngine
from mnist_minimal.engines.threads import ThreadEngine
from mnist_minimal.study import identity, ledger
from mnist_minimal.study.job import Job, data_facts, make_job
from mnist_minimal.study.ledger import Ledger
from mnist_minimal.study.ownership import owned
from mnist_minimal.study.plan import Plan
from mnist_minimal.study.policies import FailuresInARow, Interruption, MedianStopping, Until
from mnist_minimal.study.progress import Display
from mnist_minimal.study.teaching import check as check_teacher
from mnist_minimal.study.worker import failed_trial, make_train, make_train_in_own_process
from mnist_minimal.training.slots import device
from mnist_minimal.trial import FAILED, Outcome, Trial

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset
    from mnist_minimal.engines.dask import DaskEngine


class Engine(Protocol):
    """Anything that trains seeds: threads, processes, machines."""

    @property
    def places(self) -> int:
        """How many trials run side by side."""

    def run(self, seeds: Iterable[int], policies: Sequence[Policy]) -> Generator[Outcome, None, None]:
        """Takes the next seed when a place is free, and yields what came of each as it ends."""


@dataclass(frozen=True)
class Begun:
    """A study whose job has begun.

    Attributes:
        job: The job.
        table: Its CSV.
        seeds: Those that are missing, one or more; may have no end.
        done: How many trials of the plan are finished or stopped already.
        failed: Seeds that have failed before.
        policies: Those that the plan and its recipe ask for.
    """

    job: Job
    table: Ledger
    seeds: Iterator[int]
    done: int
    failed: list[int]
    policies: list[Policy]


def carry_out(
    plan: Plan,
    say: Callable[[str], None],
    display: Callable[[int | None, int, int], Display],
    interrupted: threading.Event,
) -> bool:
    """Trains what of a plan is not recorded yet, and records it.

    Args:
        plan: The plan.
        say: Gets what the user must know, in sentences.
        display: Makes what shows the job, from the number of its trials or None, how many are done, and `jobs`.
        interrupted: Set where the job is to end.

    Returns:
        Whether none of the plan's seeds has failed without coming to its end since.

    Raises:
        UserError: if the study is not one that such trials belong to, if another process owns it, if a trial can't be
            trained, or if a file can't be written or read.
        KeyboardInterrupt: on Ctrl-C; what was finished is recorded, and what was not is resumed by the same plan.
    """
    look_at_teacher(plan, say)
    with owned(plan.study, runs=plan.runs, seed=plan.seed, jobs=plan.jobs or 1):
        begun = begin(plan, say)
        if begun is None:
            return True
        try:
            _train(plan, begun, say, display, interrupted)
        except device.DeviceError as error:
            give_up_jax([plan], error, say)
            if (begun := begin(plan, say)) is not None:
                _train(plan, begun, say, display, interrupted)
        return none_failed(plan, Ledger(plan.study))


def _train(
    plan: Plan,
    begun: Begun,
    say: Callable[[str], None],
    display: Callable[[int | None, int, int], Display],
    interrupted: threading.Event,
) -> None:
    with engine_for(plan, begun, say) as engine:
        shown = display(plan.runs, begun.done, engine.places)
        failures = FailuresInARow(begun.failed)
        policies = [shown, Interruption(interrupted), *begun.policies, failures]
        try:
            run_trials(engine, begun.table, begun.seeds, policies)
        finally:
            shown.close()


def give_up_jax(plans: Sequence[Plan], error: device.DeviceError, say: Callable[[str], None]) -> None:
    """Forgets that studies, which this process owns, were begun with JAX, which "auto" took and whose device fails.

    Raises:
        DeviceError: the given one, where JAX was asked for, or has trained anything of them.
    """
    if any(plan.trainer != "auto" or plan.study.slots.exists() or Ledger(plan.study).trials() for plan in plans):
        raise error
    device.give_up()
    say(f"Training without JAX: {str(error).partition(';')[0]}.")
    for plan in plans:
        plan.study.json.unlink(missing_ok=True)


def look_at_teacher(plan: Plan, say: Callable[[str], None]) -> None:
    """Says what is to be known of a plan's teacher.

    Raises:
        UserError: if it may not teach these trials.
    """
    if warned := check_teacher(plan.recipe, plan.teacher, plan.dataset, plan.protocol):
        say(warned)


def begin(plan: Plan, say: Callable[[str], None]) -> Begun | None:
    """Begins the job of a plan, whose study this process owns; None where there is nothing left to do.

    Raises:
        UserError: if the study is not one that such trials belong to, or if a file can't be written or read.
    """
    study = plan.study
    identity.check(study, data_facts(plan))
    table = Ledger(study)
    before = table.trials()
    done = [trial for trial in ledger.done(before) if trial.seed in plan.seeds]
    if done:
        trials = f"{len(done)} of the {plan.runs}" if plan.runs else str(len(done))
        say(f"{trials} trials are in {study.csv} already and are not trained again.")
    until = [Until(plan.until)] if plan.until is not None else []
    for policy, trial in itertools.product(until, done):
        if policy.trial_ended(trial):
            say(f"Seed {trial.seed} has reached {plan.until} before, with {trial.best_accuracy}.")
            return None
    left = missing(table, plan.seeds)
    first = next(left, None)
    if first is None:
        # What is kept of trials whose rows are there, as after an end by --until.
        study.slots.unlink(missing_ok=True)
        return None
    job, notice = make_job(plan, before)
    if notice:
        say(notice)
    failed = [trial.seed for trial in before if trial.status == FAILED]
    policies: list[Policy] = [*until, *rules_of(job, plan.dataset, before)]
    return Begun(job, table, itertools.chain([first], left), len(done), failed, policies)


def none_failed(plan: Plan, table: Ledger) -> bool:
    """Whether none of the plan's seeds has failed without coming to its end since."""
    return all(trial.seed not in plan.seeds or table.has_done(trial.seed) for trial in table.trials())


def run_trials(engine: Engine, table: Ledger, seeds: Iterable[int], policies: Sequence[Policy]) -> None:
    """Trains seeds and appends each trial to the study's CSV when it ends, until a policy ends the job.

    Args:
        engine: Trains them.
        table: The CSV of the study, which this process owns.
        seeds: The seeds that are missing; may have no end.
        policies: Learn of every event, in this order, and may end the job.

    Raises:
        UserError: if a policy ends the job so, if a trial can't be trained, or if a file can't be written or read.
        KeyboardInterrupt: on Ctrl-C; what was finished is recorded, and what was not is resumed by the next job.
    """
    with closing(engine.run(seeds, policies)) as outcomes:
        for outcome in outcomes:
            table.append(outcome.trial)
            # Kept until the row is on disk: a kill before it costs no epoch.
            table.study.checkpoint(outcome.trial.seed).unlink(missing_ok=True)
            # Every policy learns of it, whichever of them ends the job.
            if True in [policy.trial_ended(outcome.trial) for policy in policies]:
                return


def missing(table: Ledger, seeds: Iterable[int]) -> Iterator[int]:
    """The seeds that are neither finished nor stopped yet, each looked up when it is asked for."""
    for seed in seeds:
        if not table.has_done(seed):
            yield seed
        else:
            # A kill may have come between its row and this.
            table.study.checkpoint(seed).unlink(missing_ok=True)


def rules_of(job: Job, dataset: "Dataset", before: Sequence[Trial]) -> list[MedianStopping]:
    """The median stopping rule of a job, where its recipe has one."""
    from mnist_minimal.data import sets

    if job.recipe.median_stopping is None:
        return []
    monitored = sets.split(dataset, job.protocol, job.recipe.validation_share).y_val
    return [MedianStopping(job.recipe.median_stopping, job.study, before, len(monitored))]


@contextmanager
def engine_for(
    plan: Plan, begun: Begun, say: Callable[[str], None]
) -> "Iterator[ThreadEngine | SlotEngine | DaskEngine]":
    """The engine that trains the job of a plan: of this process, or of the plan's Dask cluster.

    Raises:
        UserError: if there is no such cluster.
    """
    job = begun.job
    if plan.dask is None:
        yield engine_of(job, plan.dataset, None if plan.runs is None else plan.runs - begun.done, say)
        return
    from mnist_minimal.engines.dask import DaskEngine, connected
    from mnist_minimal.study.remote import remote

    with connected(plan.dask, plan.jobs or 1) as client:
        engine = DaskEngine(client, remote(job, plan.dataset), partial(failed_trial, job), say)
        say(
            f"The trials go to the Dask cluster at {client.scheduler.address}, whose workers have {engine.places} "
            f"threads now; {client.dashboard_link} shows what they do."
        )
        yield engine


def engine_of(job: Job, dataset: "Dataset", asked: int | None, say: Callable[[str], None]) -> ThreadEngine | SlotEngine:
    """The engine of a job.

    Threads over the core; over Keras, whose state is one for the whole process, processes; over JAX, which trains many
    trials in one call, the slots of its device.

    Args:
        job: The job.
        dataset: Its images.
        asked: How many trials there are to train, at most; None for no end.
        say: Gets what the user must know, in sentences.
    """
    if job.trainer == "jax":
        from mnist_minimal.study.slots import make_slots, tell

        slots = make_slots([job], dataset, asked, say)
        tell(slots)
        return SlotEngine(slots, slots.failed)
    failed, places = partial(failed_trial, job), job.places or 1
    if job.trainer == "keras" and places > 1:
        train = ProcessTrain(partial(make_train_in_own_process, job), places)
        return ThreadEngine(train, failed, places, stop_training=train.stop)
    return ThreadEngine(make_train(job, dataset), failed, places)
