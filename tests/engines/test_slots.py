"""The engine of slots, with trials that train nothing."""

import itertools
import threading
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import pytest

from mnist_minimal.engines.policy import Policy
from mnist_minimal.engines.slots import Epoch, SlotEngine
from mnist_minimal.errors import UserError
from mnist_minimal.trial import EpochReport, StoppedError, Trial
from tests.engines.test_engines import Told, WaitsForLower, failed
from tests.study.test_ledger import TRIAL

MILESTONE = 2


class FakeSlots:
    """Trials of as many epochs as `lengths` says, else of 3."""

    def __init__(self, places: int, lengths: dict[int, int] | None = None, resumed: dict[int, int] | None = None):
        self.places, self.lengths, self.resumed = places, lengths or {}, resumed or {}
        self.epochs: dict[int, int] = {}
        self.waiting: set[int] = set()
        self.together: list[int] = []
        self.threads: set[int] = set()
        self.closed = 0

    def free(self) -> int:
        return self.places - len(self.epochs.keys() - self.waiting)

    def start(self, seed: int) -> Epoch | None:
        self.threads.add(threading.get_ident())
        if seed == 90:
            raise MemoryError("no\nroom")
        self.epochs[seed] = self.resumed.get(seed, 0)
        return self.epoch(seed, asks=True) if self.epochs[seed] else None

    def train(self) -> list[Epoch]:
        self.threads.add(threading.get_ident())
        able = sorted(self.epochs.keys() - self.waiting)
        self.together.append(len(able))
        for seed in able:
            self.epochs[seed] += 1
        return [self.epoch(seed, asks=self.epochs[seed] == MILESTONE) for seed in able]

    def epoch(self, seed: int, asks: bool) -> Epoch:
        epochs = self.epochs[seed]
        if seed == 91 and epochs == 2:
            return Epoch(seed, None, failed="DivergedError: nan")
        report = EpochReport(seed, epochs, epochs, 9, 0.5, 0.5, Fraction(seed) if epochs >= MILESTONE else None)
        ended = epochs >= self.lengths.get(seed, 3)
        return Epoch(seed, report, ended, asks and not ended)

    def wait(self, seed: int, *, waiting: bool) -> None:
        (self.waiting.add if waiting else self.waiting.discard)(seed)

    def drop(self, seed: int) -> None:
        self.epochs.pop(seed, None)

    def end(self, seed: int, reason: str) -> Trial:
        if seed == 92:
            raise OSError("broken")
        if seed == 93:
            raise UserError("no such file")
        self.waiting.discard(seed)
        return replace(TRIAL, seed=seed, epochs=self.epochs.pop(seed), reason=reason)

    def close(self) -> None:
        self.closed += 1


class Leaves(Policy):
    """Leaves out a trial at the report of this epoch, or where it is asked about it."""

    def __init__(self, seed: int, epoch: int) -> None:
        self.seed, self.epoch = seed, epoch

    def epoch_ended(self, report: EpochReport) -> None:
        if (report.seed, report.epoch) == (self.seed, self.epoch):
            raise StoppedError

    def reason_to_stop(self, report: EpochReport) -> str | None:
        if report.seed == self.seed:
            raise StoppedError
        return ""


@pytest.mark.parametrize("epoch", [1, 3, 9])
def test_a_trial_that_a_policy_leaves_out_makes_room_for_the_next(epoch):
    """Before its milestone, in its last epoch, or where it is asked at its milestone."""
    slots = FakeSlots(2)
    assert [trial.seed for trial in run(slots, range(5), Leaves(1, epoch))] == [0, 2, 3, 4]
    assert not slots.epochs


def test_seeds_may_come_later():
    slots = FakeSlots(2, {1: 9})
    assert [trial.seed for trial in run(slots, iter([0, None, 1, None, None, 2, None]))] == [0, 2, 1]


def run(slots: FakeSlots, seeds: Iterable[int | None], *policies: Policy) -> list[Trial]:
    return [outcome.trial for outcome in SlotEngine(slots, failed).run(seeds, policies)]


@pytest.mark.parametrize("places", [1, 2, 5, 20])
def test_every_seed_is_trained_once_and_a_place_is_never_empty_while_there_are_seeds(places):
    slots, told = FakeSlots(places), Told()
    trials = run(slots, range(12), told)
    assert sorted(trial.seed for trial in trials) == list(range(12))
    assert [seed for event, seed in told.events if event == "started"] == list(range(12))
    assert sorted(seed for event, seed in told.events if event == "epoch") == sorted(3 * [*range(12)])
    assert sum(slots.together) == 3 * 12
    assert slots.together[0] == min(places, 12)
    # Whoever decides is asked by one thread; what trains runs in another, which no interrupt reaches.
    assert told.threads == {threading.get_ident()}
    assert len(slots.threads) == 1
    assert threading.get_ident() not in slots.threads
    assert slots.closed == 1


def test_a_place_that_is_free_is_the_next_seeds_at_once():
    slots = FakeSlots(2, {0: 1})
    assert [trial.seed for trial in run(slots, range(3))] == [0, 1, 2]
    # 0 beside 1, then 1 beside 2 and 2 to its end.
    assert slots.together == [2, 2, 2, 1]


def test_the_next_seed_is_asked_for_when_a_place_is_free():
    taken: list[int] = []

    def seeds():
        for seed in itertools.count():
            taken.append(seed)
            yield seed

    slots = FakeSlots(2, {0: 1})
    outcomes = SlotEngine(slots, failed).run(seeds(), [])
    assert next(outcomes).trial.seed == 0
    assert len(taken) == 2
    assert next(outcomes).trial.seed == 1
    assert len(taken) == 3
    outcomes.close()
    assert slots.closed == 1


def test_a_trial_that_fails_is_an_outcome_and_the_others_go_on():
    trials = {trial.seed: trial for trial in run(FakeSlots(2), [89, 90, 91, 92, 94])}
    reasons = {seed: trial.reason for seed, trial in trials.items()}
    assert reasons == {
        89: "",
        90: "MemoryError: no room",
        91: "DivergedError: nan",
        92: "OSError: broken",
        94: "",
    }
    assert [trials[seed].status for seed in (90, 91, 92)] == 3 * ["failed"]


def test_an_error_of_the_user_ends_all_and_what_was_trained_is_kept():
    slots = FakeSlots(2)
    with pytest.raises(UserError, match="no such file"):
        run(slots, [93, 94])
    assert slots.closed == 1
    assert slots.epochs[94] == 3


class Interrupting(Policy):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def epoch_ended(self, report: EpochReport) -> None:
        self.epochs -= 1
        if not self.epochs:
            raise KeyboardInterrupt


def test_an_interrupt_ends_all_and_what_was_trained_is_kept():
    slots = FakeSlots(3)
    with pytest.raises(KeyboardInterrupt):
        run(slots, itertools.count(), Interrupting(4))
    assert slots.closed == 1
    assert slots.epochs == {0: 2, 1: 2, 2: 2}


def test_a_question_is_answered_when_it_can_be_and_who_waits_leaves_its_place():
    # The higher seeds were resumed at their milestone, and wait for the lower ones to come there.
    slots = FakeSlots(2, resumed={2: 2, 3: 2})
    trials = run(slots, [2, 3, 0, 1], WaitsForLower())
    assert {trial.seed: (trial.epochs, trial.reason) for trial in trials} == {
        0: (3, ""),
        1: (2, "odd"),
        2: (3, ""),
        3: (2, "odd"),
    }
    assert slots.together[0] == 2
    assert not slots.waiting


def test_seeds_that_can_not_start_end_one_by_one():
    """A source without end would otherwise be asked for ever."""
    slots, asked = FakeSlots(2), itertools.count()
    # Seed 90 is one that can't start.
    outcomes = SlotEngine(slots, failed).run((next(asked) * 0 + 90 for _ in itertools.count()), [])
    assert [next(outcomes).trial.status for _ in range(3)] == 3 * ["failed"]
    outcomes.close()
    assert next(asked) == 3
