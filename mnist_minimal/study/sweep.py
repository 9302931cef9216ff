"""Several settings of a model, each a study of its own: side by side in one program where JAX trains, else in turn."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Protocol

from mnist_minimal.engines.policy import Policy
from mnist_minimal.engines.slots import SlotEngine
from mnist_minimal.errors import UserError
from mnist_minimal.models.lookup import builder
from mnist_minimal.recipes import Recipe
from mnist_minimal.study import ledger
from mnist_minimal.study.job import recorded_trainer
from mnist_minimal.study.ownership import owned
from mnist_minimal.study.plan import SEEDS, Plan
from mnist_minimal.study.policies import FailuresInARow, Interruption, OnlyFailuresError
from mnist_minimal.study.progress import Display, trial_line
from mnist_minimal.study.runner import Begun, begin, carry_out, give_up_jax, look_at_teacher, none_failed
from mnist_minimal.training.slots import device
from mnist_minimal.trial import EpochReport, Trial


class DisplayOf(Protocol):
    """Makes what shows a job, as `study.progress.display`."""

    def __call__(
        self,
        total: int | None,
        done: int,
        jobs: int,
        line: Callable[[Trial], str] | None = None,
        name: Callable[[int], str] | None = None,
    ) -> Display: ...


def carry_out_all(
    plans: Sequence[Plan], say: Callable[[str], None], display: DisplayOf, interrupted: threading.Event
) -> bool:
    """Trains what of some plans is not recorded yet, and records it.

    Args:
        plans: The plans, which differ in their recipes alone and have an end.
        say: As of `carry_out`.
        display: Makes what shows a job.
        interrupted: Set where the job is to end.

    Returns:
        Whether none of the plans' seeds has failed without coming to its end since.

    Raises:
        UserError: if two of the plans are of one study; or as of `carry_out`.
        KeyboardInterrupt: on Ctrl-C; what was finished is recorded, and what was not is resumed by the same plans.
    """
    names = [plan.study.name for plan in plans]
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise UserError(f"expected recipes that differ from one another, found two of {twice[0]}; leave one out")
    if not _by_jax(plans, say):
        return _carry_out_in_turn(plans, say, display, interrupted)
    from mnist_minimal.training.slots.numbers import structure

    together: list[tuple[Recipe, list[Plan]]] = []
    for plan in plans:
        shared = structure(plan.recipe)
        found = next((group for known, group in together if known == shared), None)
        if found is None:
            together.append((shared, found := []))
        found.append(plan)
    fine = True
    for _, group in together:
        try:
            fine &= _carry_out_together(group, say, display, interrupted)
        except _GivenUpError:
            fine &= _carry_out_in_turn(group, say, display, interrupted)
    return fine


class _GivenUpError(Exception):
    """The device of JAX, which "auto" took, has failed before anything was trained."""


def _carry_out_in_turn(
    plans: Sequence[Plan], say: Callable[[str], None], display: DisplayOf, interrupted: threading.Event
) -> bool:
    """`carry_out` of one plan after the other; one whose trials only fail does not keep the next from its own."""
    fine = True
    for plan in plans:
        say(f"{plan.study.name}:")
        try:
            fine &= carry_out(plan, say, display, interrupted)
        except OnlyFailuresError as error:
            say(f"{error}.")
            fine = False
    return fine


def _by_jax(plans: Sequence[Plan], say: Callable[[str], None]) -> bool:
    """Whether JAX trains the plans here: as they were begun, or by the number of all their trials together."""
    first = plans[0]
    if first.dask is not None:
        return False
    if first.trainer != "auto":
        if first.trainer == "jax":
            device.require()
        return first.trainer == "jax"
    recorded = {recorded_trainer(plan.study, ledger.read(plan.study.csv)) for plan in plans} - {None}
    if recorded:
        return recorded == {"jax"}
    import keras

    from mnist_minimal.training.trainers import choose

    with keras.device("cpu"):
        model = (first.build or builder(first.model))()
    trials = sum(plan.runs or 0 for plan in plans)
    for plan in plans:
        chosen, notice = choose("auto", model, None, plan.recipe, trials)
        if chosen != "jax":
            # Without JAX each study says itself what trains it, but not why it is not JAX.
            if "JAX" in notice:
                say(notice)
            return False
    say(notice)
    return True


def _carry_out_together(
    plans: Sequence[Plan], say: Callable[[str], None], display: DisplayOf, interrupted: threading.Event
) -> bool:
    """`carry_out` of plans whose recipes have one structure: their trials share the places of one program."""
    from mnist_minimal.study.slots import make_slots, tell

    with ExitStack() as stack:
        begun: list[tuple[Plan, Begun]] = []
        for plan in plans:
            look_at_teacher(plan, say)
            stack.enter_context(owned(plan.study, runs=plan.runs, seed=plan.seed, jobs=plan.jobs or 1))
            if len(plans) > 1:
                say(f"{plan.study.name}:")
            if (found := begin(replace(plan, trainer="jax"), say)) is not None:
                begun.append((plan, found))
        if not begun:
            return True
        asked = sum((plan.runs or 0) - found.done for plan, found in begun)
        try:
            slots = make_slots([found.job for _, found in begun], plans[0].dataset, asked, say)
        except device.DeviceError as error:
            give_up_jax([plan for plan, _ in begun], error, say)
            raise _GivenUpError from error
        tell(slots)
        engine = SlotEngine(slots, slots.failed)

        def line(trial: Trial) -> str:
            return f"{begun[trial.seed // SEEDS][0].study.name}: {trial_line(_own(trial))}"

        def name(key: int) -> str:
            return f"{begun[key // SEEDS][0].study.name}, seed {key % SEEDS}"

        done = sum(found.done for _, found in begun)
        shown = display(done + asked, done, engine.places, line, name)
        of_studies = [
            _OfStudy(number, [*found.policies, FailuresInARow(found.failed)]) for number, (_, found) in enumerate(begun)
        ]
        policies: list[Policy] = [shown, Interruption(interrupted), *of_studies]
        try:
            with closing(engine.run(_keys([found for _, found in begun], of_studies), policies)) as outcomes:
                for outcome in outcomes:
                    plan, found = begun[outcome.trial.seed // SEEDS]
                    trial = _own(outcome.trial)
                    found.table.append(trial)
                    plan.study.checkpoint(trial.seed).unlink(missing_ok=True)
                    for policy in policies:
                        policy.trial_ended(outcome.trial)
        except device.DeviceError as error:
            give_up_jax([plan for plan, _ in begun], error, say)
            raise _GivenUpError from error
        finally:
            shown.close()
        for (plan, _), own in zip(begun, of_studies, strict=True):
            if own.given_up:
                say(f"{plan.study.name}: {own.given_up}.")
        return all(none_failed(plan, found.table) for plan, found in begun)


def _keys(begun: Sequence[Begun], of_studies: "Sequence[_OfStudy]") -> Iterator[int]:
    """What the trials are known by, the studies in turn, so that all of them come on alike, but those given up."""
    left = {number: found.seeds for number, found in enumerate(begun)}
    while left:
        for number, seeds in list(left.items()):
            if of_studies[number].given_up or (seed := next(seeds, None)) is None:
                del left[number]
            else:
                yield number * SEEDS + seed


def _own(trial: Trial) -> Trial:
    """A trial with its own seed, where it has what it is known by."""
    return replace(trial, seed=trial.seed % SEEDS)


class _OfStudy(Policy):
    """The policies of one of the studies: they learn of its own trials alone.

    Args:
        number: The study's number among them.
        policies: Its policies.
    """

    def __init__(self, number: int, policies: Sequence[Policy]) -> None:
        self.number, self.policies = number, policies
        # Why no more of its trials are started, or "": the others' have nothing to do with it.
        self.given_up = ""

    def trial_started(self, seed: int) -> None:
        if seed // SEEDS == self.number:
            for policy in self.policies:
                policy.trial_started(seed % SEEDS)

    def epoch_ended(self, report: EpochReport) -> None:
        if report.seed // SEEDS == self.number:
            for policy in self.policies:
                policy.epoch_ended(replace(report, seed=report.seed % SEEDS))

    def reason_to_stop(self, report: EpochReport) -> str | None:
        if report.seed // SEEDS != self.number:
            return ""
        own = replace(report, seed=report.seed % SEEDS)
        reasons = [policy.reason_to_stop(own) for policy in self.policies]
        return None if None in reasons else next(filter(None, reasons), "")

    def trial_ended(self, trial: Trial) -> bool:
        if trial.seed // SEEDS == self.number:
            try:
                for policy in self.policies:
                    policy.trial_ended(_own(trial))
            except OnlyFailuresError as error:
                self.given_up = str(error)
        return False
