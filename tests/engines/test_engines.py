"""The engine of threads, and the processes behind its places."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction

import pytest

from mnist_minimal.engines.policy import Policy
from mnist_minimal.engines.processes import ProcessTrain
from mnist_minimal.engines.threads import ThreadEngine
from mnist_minimal.errors import UserError
from mnist_minimal.trial import EpochReport, Owner, StoppedError, Trial
from tests.study.test_ledger import FAILED, TRIAL


def train(seed: int, owner: Owner) -> Trial:
    owner.report(EpochReport(seed, 1, 1, 200, 0.97, 0.97))
    return replace(TRIAL, seed=seed)


def failed(seed: int, reason: str) -> Trial:
    return replace(FAILED, seed=seed, reason=reason)


class Told(Policy):
    """Remembers in which thread it was told what."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.threads: set[int] = set()

    def note(self, event: str, seed: int) -> None:
        self.events.append((event, seed))
        self.threads.add(threading.get_ident())

    def trial_started(self, seed: int) -> None:
        self.note("started", seed)

    def epoch_ended(self, report: EpochReport) -> None:
        self.note("epoch", report.seed)


def run(engine: ThreadEngine, seeds: Iterable[int], *policies: Policy) -> dict[int, Trial]:
    return {outcome.trial.seed: outcome.trial for outcome in engine.run(seeds, policies)}


@pytest.mark.parametrize("places", [1, 2, 5])
def test_every_seed_is_trained_once_in_as_many_places_as_there_are(places):
    running: set[int] = set()
    most: list[int] = []

    def train_slowly(seed, owner):
        running.add(seed)
        most.append(len(running))
        time.sleep(0.02)
        running.discard(seed)
        return train(seed, owner)

    told = Told()
    outcomes = run(ThreadEngine(train_slowly, failed, places), range(12), told)
    assert sorted(outcomes) == list(range(12))
    assert max(most) == places
    assert [seed for event, seed in told.events if event == "started"] == list(range(12))
    assert sorted(seed for event, seed in told.events if event == "epoch") == list(range(12))
    # Whoever decides is asked by one thread, and needs no locks.
    assert told.threads == {threading.get_ident()}


def test_the_next_seed_is_asked_for_when_a_place_is_free():
    taken: list[int] = []

    def seeds():
        for seed in itertools.count():
            taken.append(seed)
            yield seed

    outcomes = ThreadEngine(train, failed, 2).run(seeds(), [])
    next(outcomes)
    assert len(taken) == 2
    next(outcomes)
    assert len(taken) == 3
    outcomes.close()


def test_an_exception_is_the_outcome_of_its_trial_and_the_others_go_on():
    def fail_at_one(seed, owner):
        if seed == 1:
            raise MemoryError("no\nroom")
        return train(seed, owner)

    outcomes = run(ThreadEngine(fail_at_one, failed, 2), range(4))
    assert (outcomes[1].status, outcomes[1].reason) == ("failed", "MemoryError: no room")
    assert {outcomes[seed].status for seed in (0, 2, 3)} == {"finished"}


@pytest.mark.parametrize("places", [1, 3])
def test_an_error_of_the_user_ends_all(places):
    stopped: list[int] = []

    def refuse_at_zero(seed, owner):
        if seed == 0:
            raise UserError("this can't be trained")
        try:
            while True:
                owner.report(EpochReport(seed, 1, 1, 200, 0.97, 0.97))
                time.sleep(0.01)
        except StoppedError:
            stopped.append(seed)
            raise

    with pytest.raises(UserError, match="this can't be trained"):
        run(ThreadEngine(refuse_at_zero, failed, places), range(10))
    assert sorted(stopped) == list(range(1, places))


def test_closing_the_outcomes_ends_the_trials_beside_and_what_they_began_elsewhere():
    released = threading.Event()

    def train_or_wait(seed, owner):
        if seed == 0:
            assert released.wait(30)
            owner.report(EpochReport(seed, 2, 2, 200, 0.9, 0.9))
            pytest.fail("went on")
        return train(seed, owner)

    outcomes = ThreadEngine(train_or_wait, failed, 2, stop_training=released.set).run(range(10), [])
    assert next(outcomes).trial.seed == 1
    outcomes.close()
    assert released.is_set()


def test_a_policy_that_raises_ends_the_job():
    class Interrupting(Policy):
        def epoch_ended(self, report):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(ThreadEngine(train, failed, 3), itertools.count(), Interrupting())


class WaitsForLower(Policy):
    """Lets a trial go on from its milestone once all lower seeds have come there, and stops the odd ones."""

    def __init__(self) -> None:
        self.there: set[int] = set()

    def epoch_ended(self, report: EpochReport) -> None:
        if report.milestone is not None:
            self.there.add(report.seed)

    def reason_to_stop(self, report: EpochReport) -> str | None:
        if not set(range(report.seed)) <= self.there:
            return None
        return "odd" if report.seed % 2 else ""


def ask_in_reverse(seed: int, owner: Owner) -> Trial:
    """Comes to its milestone the later the lower its seed is, of each four."""
    time.sleep(0.02 * (3 - seed % 4))
    reason = owner.ask(EpochReport(seed, 4, 4, 200, 0.97, 0.97, milestone=Fraction(seed)))
    return replace(TRIAL, seed=seed, reason=reason, status="stopped" if reason else "finished")


def make_ask_in_reverse() -> Callable[[int, Owner], Trial]:
    return ask_in_reverse


@pytest.mark.parametrize("in_processes", [False, True])
def test_a_question_is_answered_when_it_can_be(in_processes):
    places = 2 if in_processes else 4
    asking = ProcessTrain(make_ask_in_reverse, places) if in_processes else ask_in_reverse
    stop = asking.stop if isinstance(asking, ProcessTrain) else lambda: None
    outcomes = run(ThreadEngine(asking, failed, places, stop), range(8), WaitsForLower())
    assert [outcomes[seed].reason for seed in range(8)] == 4 * ["", "odd"]


@pytest.mark.parametrize("in_processes", [False, True])
def test_trials_that_wait_for_an_answer_end_with_the_job(in_processes):
    class Never(Policy):
        def reason_to_stop(self, report):
            return None

        def epoch_ended(self, report):
            if report.seed == 1:
                raise KeyboardInterrupt

    asking = ProcessTrain(make_ask_in_reverse, 2) if in_processes else ask_in_reverse
    stop = asking.stop if isinstance(asking, ProcessTrain) else lambda: None
    with pytest.raises(KeyboardInterrupt):
        run(ThreadEngine(asking, failed, 2, stop), range(8), Never())


def make_fragile_train() -> Callable[[int, Owner], Trial]:
    def die_at_one(seed, owner):
        if seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 2:
            raise ValueError("wrong seed")
        return train(seed, owner)

    return die_at_one


def test_a_process_that_dies_is_a_failed_trial_and_the_others_go_on():
    processes = ProcessTrain(make_fragile_train, 2)
    told = Told()
    outcomes = run(ThreadEngine(processes, failed, 2, processes.stop), range(5), told)
    assert outcomes[1].reason == "the trial's process died (exit code -9); too little memory?"
    assert outcomes[2].reason == "ValueError: wrong seed"
    assert {outcomes[seed].status for seed in (0, 3, 4)} == {"finished"}
    assert sorted(seed for event, seed in told.events if event == "epoch") == [0, 3, 4]


def make_refusing_train() -> Callable[[int, Owner], Trial]:
    raise UserError("no data here")


def test_an_error_of_the_user_in_a_process_is_one_here():
    processes = ProcessTrain(make_refusing_train, 1)
    with pytest.raises(UserError, match="no data here"):
        run(ThreadEngine(processes, failed, 1, processes.stop), range(2))


INTERRUPTED = """
import itertools, random, signal
from contextlib import closing
from mnist_minimal.engines.threads import ThreadEngine
from tests.study.test_ledger import TRIAL

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
random.seed(1)
stopped = 0
for _ in range(300):
    engine = ThreadEngine(lambda seed, owner: TRIAL, lambda seed, reason: TRIAL, places=2)
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.01))
        with closing(engine.run(itertools.count(), [])) as outcomes:
            for _ in outcomes:
                pass
    except KeyboardInterrupt:
        stopped += 1
print(stopped)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that interrupts")
def test_an_interrupt_ends_the_engine_wherever_it_comes(run_python):
    done = run_python("-c", INTERRUPTED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["300"]
