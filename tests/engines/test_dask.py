"""The engine of a Dask cluster, its workers in threads of this process: every seed once, whatever its workers do."""

import asyncio
import errno
import itertools
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest

from mnist_minimal.engines import dask as engine_module
from mnist_minimal.engines.dask import DaskEngine, Remote
from mnist_minimal.engines.dask_worker import SharedMissingError
from mnist_minimal.engines.policy import Policy
from mnist_minimal.errors import UserError
from mnist_minimal.trial import EpochReport, StoppedError, Trial
from mnist_minimal.version import version
from tests.engines.test_engines import Told, WaitsForLower, failed, run
from tests.study.test_ledger import TRIAL

distributed = pytest.importorskip("distributed")


@dataclass(frozen=True)
class Sent:
    trial: Trial | None
    epochs: int = 0


class Here:
    """A function that is pickled by its number: workers that are threads of this process share what it refers to."""

    def __init__(self, function: Callable) -> None:
        self.function, self.number = function, len(KNOWN)
        KNOWN.append(self)

    def __reduce__(self):
        return known, (self.number,)

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


KNOWN: list[Here] = []


def known(number: int) -> Here:
    return KNOWN[number]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two workers of two threads each, in this process."""
    settings = {"n_workers": 2, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(protocol="tcp", host="127.0.0.1", silence_logs=60, **settings) as cluster:
        yield cluster


@pytest.fixture
def client(cluster) -> Iterator[Any]:
    with distributed.Client(cluster, timeout=20) as client:
        yield client


@dataclass(frozen=True)
class Trains:
    """Has a function train on a worker, as many times at once as this says, or as it has threads."""

    function: Callable
    at_once: int | None = None
    says: str = ""
    closed: Callable = lambda: None

    def places(self, threads: int) -> int:
        return self.at_once or threads

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def notice(self) -> str:
        return self.says

    def close(self) -> None:
        self.closed()


def engine(
    client: Any, train: Callable, said: list[str] | None = None, at_once: int | None = None, **changed: Any
) -> tuple[DaskEngine, dict]:
    """An engine whose workers call `train`, and what came back by seed."""
    kept: dict[int, Any] = {}
    make_train = Here(changed.pop("make_train", lambda shared: Trains(train, at_once)))
    remote = Remote(make_train, **{"shared": lambda: b"", "pack": kept.get, "unpack": kept.__setitem__, **changed})
    return DaskEngine(client, remote, failed, (said if said is not None else []).append), kept


def train_two_epochs(seed, kept, owner):
    for epoch in (1, 2):
        owner.report(EpochReport(seed, epoch, epoch, 200, 0.97, 0.97))
    return Sent(replace(TRIAL, seed=seed))


def test_every_seed_is_trained_once_in_as_many_places_as_there_are_threads(client):
    running: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def train(seed, kept, owner):
        with lock:
            running.append(seed)
            most.append(len(running))
        # A worker may be ready long before the other is.
        while max(most) < 4:
            time.sleep(0.01)
        with lock:
            running.remove(seed)
        if seed == 5:
            raise ValueError("no\nroom")
        if seed == 6:
            sys.exit("no more")
        return train_two_epochs(seed, kept, owner)

    trained, kept = engine(client, train)
    told = Told()
    assert trained.places == 4
    outcomes = run(trained, range(12), told)
    assert sorted(outcomes) == list(range(12))
    assert (outcomes[5].status, outcomes[5].reason) == ("failed", "ValueError: no room")
    assert (outcomes[6].status, outcomes[6].reason) == ("failed", "SystemExit: no more")
    assert sorted(kept) == [seed for seed in range(12) if seed not in (5, 6)]
    assert max(most) == 4
    assert [seed for event, seed in told.events if event == "started"] == list(range(12))
    # Whoever decides is asked by one thread, and needs no locks.
    assert told.threads == {threading.get_ident()}


def test_a_worker_trains_more_at_once_than_it_has_threads_where_it_says_so(client):
    """As a device does, for which the threads only wait."""
    together = threading.Barrier(10, timeout=60)

    def train(seed, kept, owner):
        together.wait()
        return train_two_epochs(seed, kept, owner)

    outcomes = run(engine(client, train, at_once=5)[0], range(10))
    assert {trial.status for trial in outcomes.values()} == {"finished"}


def train_and_ask(seed, kept, owner):
    """Comes to its milestone the later the lower its seed is; an attempt after the question has what was sent."""
    epochs = kept.epochs if kept else 0
    try:
        if not epochs:
            time.sleep(0.05 * (3 - seed % 4))
        reason = owner.ask(EpochReport(seed, 4, 4, 200, 0.97, 0.97, milestone=Fraction(seed)))
    except StoppedError:
        return Sent(None, epochs=3)
    assert epochs == 3
    return Sent(replace(TRIAL, seed=seed, reason=reason, status="stopped" if reason else "finished"))


def test_a_question_is_answered_when_it_can_be_and_keeps_no_place_until_then(client):
    # One worker of one place: the seed that others wait for could never be trained if they waited there.
    outcomes = run(engine(client, train_and_ask, at_once=1)[0], [3, 2, 1, 0, 4, 5], WaitsForLower())
    assert [outcomes[seed].reason for seed in range(6)] == ["", "odd", "", "odd", "", "odd"]


def test_what_all_trials_share_is_sent_to_the_workers_that_lack_it(client):
    asked: list[bytes | None] = []
    packed: list[bytes] = []

    def make_train(shared):
        asked.append(shared)
        if shared is None:
            raise SharedMissingError
        return Trains(train_two_epochs)

    def shared() -> bytes:
        packed.append(b"images")
        return b"images"

    outcomes = run(engine(client, None, make_train=make_train, shared=shared)[0], range(4))
    assert sorted(outcomes) == list(range(4))
    assert set(asked) == {None, b"images"}
    assert packed == [b"images"]


def test_a_worker_that_can_not_train_gets_no_seed_and_is_named(client):
    places: list[str] = []
    bad = sorted(client.nthreads())[0]

    def make_train(shared):
        if distributed.get_worker().address == bad:
            raise UserError("it has other bits")
        return Trains(train)

    def train(seed, kept, owner):
        places.append(owner.worker.address)
        while not said:
            time.sleep(0.01)
        return train_two_epochs(seed, kept, owner)

    said: list[str] = []
    outcomes = run(engine(client, None, said, make_train=make_train)[0], range(8))
    assert sorted(outcomes) == list(range(8))
    assert bad not in places
    assert said == [f"Worker {bad} takes no part: it has other bits"]


def test_an_error_of_the_user_on_one_worker_costs_that_worker_alone(client):
    bad = sorted(client.nthreads())[0]

    def train(seed, kept, owner):
        if owner.worker.address == bad:
            raise UserError("its disk is full")
        while not said:
            time.sleep(0.01)
        return train_two_epochs(seed, kept, owner)

    said: list[str] = []
    outcomes = run(engine(client, train, said)[0], range(8))
    assert {trial.status for trial in outcomes.values()} == {"finished"}
    assert said == [f"Worker {bad} takes no part: its disk is full"]


def test_a_job_that_no_worker_can_train_ends_with_an_error(client, monkeypatch):
    monkeypatch.setattr(engine_module, "SECONDS_UNFIT", 0.5)
    monkeypatch.setattr(engine_module, "version", lambda: "another")
    said: list[str] = []
    with pytest.raises(UserError, match="expected a worker that can train these trials, found 2 that can't"):
        run(engine(client, train_two_epochs, said)[0], range(2))
    assert len(said) == 2
    assert all(line.endswith(f"takes no part: it has mnist_minimal {version()}, expected another") for line in said)


@pytest.fixture
def impatient(monkeypatch) -> None:
    """A coordinator that takes a trial to hang after half a second of silence."""
    changed = {"SILENT_SECONDS": 0.5, "SILENT_TIMES": 0, "SECONDS_BETWEEN_LOOKS": 0.1, "SECONDS_BETWEEN_REPORTS": 0.1}
    for name, value in changed.items():
        monkeypatch.setattr(engine_module, name, value)


def test_a_trial_that_hangs_runs_elsewhere_as_well(client, impatient):
    released, first = threading.Event(), threading.Lock()

    def hang_once(seed, kept, owner):
        if seed == 1 and first.acquire(blocking=False):
            released.wait(30)
        return train_two_epochs(seed, kept, owner)

    outcomes = run(engine(client, hang_once)[0], range(5))
    released.set()
    assert sorted(outcomes) == list(range(5))


def test_the_last_trial_runs_elsewhere_as_well_where_it_is_slow(client, monkeypatch):
    monkeypatch.setattr(engine_module, "SECONDS_BETWEEN_LOOKS", 0.1)
    released, first = threading.Event(), threading.Lock()

    def slow_once(seed, kept, owner):
        if seed == 4 and first.acquire(blocking=False):
            while not released.is_set():
                # It is slow, and does not hang.
                owner.report(EpochReport(seed, 1, 1, 200, 0.97, 0.97))
                time.sleep(0.01)
        return train_two_epochs(seed, kept, owner)

    outcomes = run(engine(client, slow_once)[0], range(5))
    released.set()
    assert {trial.status for trial in outcomes.values()} == {"finished"}
    assert sorted(outcomes) == list(range(5))


def test_a_seed_whose_other_attempt_has_asked_is_not_forgotten(client, impatient):
    """The second attempt asks, the third is lost with its worker, then the first asks what has been answered."""
    attempts = itertools.count()
    second, reported, lost = threading.Event(), threading.Event(), threading.Event()

    def train(seed, kept, owner):
        attempt = next(attempts)
        if attempt == 1:
            second.set()
            assert reported.wait(60)
            # The first one's report is heard before: it does not hang any more.
            time.sleep(0.1)
        if attempt == 2:
            lost.set()
            raise asyncio.CancelledError
        if attempt == 0:
            assert second.wait(60)
            owner.report(EpochReport(seed, 1, 1, 200, 0.97, 0.97))
            reported.set()
            assert lost.wait(60)
            # The loss is known before.
            time.sleep(0.1)
        if attempt < 2:
            with pytest.raises(StoppedError):
                owner.ask(EpochReport(seed, 4, 4, 200, 0.97, 0.97, milestone=Fraction(seed)))
            return Sent(None, epochs=3)
        assert owner.ask(EpochReport(seed, 4, 4, 200, 0.97, 0.97, milestone=Fraction(seed))) == ""
        return Sent(replace(TRIAL, seed=seed))

    assert run(engine(client, train)[0], [7])[7].status == "finished"
    assert next(attempts) == 4


def lost_with(error: str) -> str:
    return f"{engine_module.MAX_LOST} workers were lost with it: {error}"


def test_a_trial_that_workers_are_lost_with_runs_alone_and_is_failed_in_the_end(client):
    running: dict[str, set[int]] = {}
    beside: list[set[int]] = []
    lock = threading.Lock()

    def train(seed, kept, owner):
        address = owner.worker.address
        with lock:
            running.setdefault(address, set()).add(seed)
        time.sleep(0.05)
        with lock:
            others = running[address] - {seed}
            running[address].discard(seed)
        if seed == 3:
            beside.append(others)
            raise asyncio.CancelledError
        return train_two_epochs(seed, kept, owner)

    outcomes = run(engine(client, train)[0], range(40))
    assert sorted(outcomes) == list(range(40))
    assert {seed for seed, trial in outcomes.items() if trial.status == "failed"} == {3}
    assert outcomes[3].reason.startswith(lost_with("CancelledError"))
    assert len(beside) == 5
    assert beside[2:] == 3 * [set()]


def test_a_lost_trial_goes_to_another_machine(client, monkeypatch):
    monkeypatch.setattr(engine_module, "_host", lambda address: address)
    bad = sorted(client.nthreads())[0]
    there: list[int] = []

    def train(seed, kept, owner):
        if owner.worker.address == bad:
            there.append(seed)
            raise asyncio.CancelledError
        # It is busy for longer than the other.
        time.sleep(0.1)
        return train_two_epochs(seed, kept, owner)

    outcomes = run(engine(client, train)[0], range(10))
    assert {trial.status for trial in outcomes.values()} == {"finished"}
    assert sorted(outcomes) == list(range(10))
    assert there
    assert len(set(there)) == len(there)


def test_a_worker_that_is_retired_is_not_lost(client, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_LOST", 1)
    leaving = sorted(client.nthreads())[0]
    training = threading.Event()

    def train(seed, kept, owner):
        if owner.worker.address == leaving:
            training.set()
            try:
                while True:
                    owner.report(EpochReport(seed, 1, 1, 200, 0.97, 0.97))
                    time.sleep(0.01)
            except StoppedError:
                return Sent(None)
        return train_two_epochs(seed, kept, owner)

    def retire() -> None:
        assert training.wait(60)
        client.retire_workers([leaving])

    thread = threading.Thread(target=retire)
    thread.start()
    outcomes = run(engine(client, train)[0], range(4))
    thread.join()
    assert {trial.status for trial in outcomes.values()} == {"finished"}


class Deadly:
    """Trains; one of the seeds is the end of its process."""

    def places(self, threads):
        return threads

    def notice(self):
        return ""

    def __call__(self, seed, kept, owner):
        time.sleep(0.05)
        if seed == 1:
            os._exit(1)
        return train_two_epochs(seed, kept, owner)

    def close(self):
        pass


@pytest.mark.slow
def test_a_trial_that_processes_die_of_is_failed_and_all_others_finish():
    settings = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None}
    with (
        distributed.LocalCluster(host="127.0.0.1", silence_logs=60, **settings) as cluster,
        distributed.Client(cluster) as client,
    ):
        remote = Remote(lambda shared: Deadly(), lambda: b"", lambda seed: None, lambda seed, sent: None)
        outcomes = run(DaskEngine(client, remote, failed, print), range(12))
    assert {seed for seed, trial in outcomes.items() if trial.status == "failed"} == {1}
    assert outcomes[1].reason == lost_with("the worker has gone")
    assert sorted(outcomes) == list(range(12))


def test_a_worker_without_disk_or_memory_takes_no_part(client):
    bad = sorted(client.nthreads())[0]

    def train(seed, kept, owner):
        if owner.worker.address == bad:
            raise OSError(errno.ENOSPC, "No space left on device")
        while not said:
            time.sleep(0.01)
        return train_two_epochs(seed, kept, owner)

    said: list[str] = []
    outcomes = run(engine(client, train, said)[0], range(8))
    assert {trial.status for trial in outcomes.values()} == {"finished"}
    assert said == [f"Worker {bad} takes no part: OSError: [Errno 28] No space left on device"]


def test_a_trial_that_has_no_memory_anywhere_is_failed_and_costs_no_worker(client):
    def train(seed, kept, owner):
        if seed == 2:
            raise MemoryError("no room")
        return train_two_epochs(seed, kept, owner)

    said: list[str] = []
    outcomes = run(engine(client, train, said)[0], range(20))
    assert sorted(outcomes) == list(range(20))
    assert [seed for seed, trial in outcomes.items() if trial.status == "failed"] == [2]
    assert outcomes[2].reason == "MemoryError: no room"
    for address in client.nthreads():
        assert f"Worker {address} takes part again: a trial has failed so elsewhere, too." in said


def test_seeds_that_come_while_others_run_are_trained(client):
    arriving: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def seeds() -> Iterator[int | None]:
        while True:
            try:
                seed = arriving.get_nowait()
            except queue.Empty:
                yield None
                continue
            if seed is None:
                return
            yield seed

    trained = engine(client, train_two_epochs)[0]
    outcomes = trained.run(seeds(), [])
    # Each is brought by another thread once the one before has ended; the last one is the end.
    for seed in (3, 1, 2):
        threading.Timer(0.05, lambda seed=seed: (arriving.put(seed), trained.call(lambda: None))).start()
        assert next(outcomes).trial.seed == seed
    threading.Timer(0.05, lambda: (arriving.put(None), trained.call(lambda: None))).start()
    assert list(outcomes) == []


def test_what_a_call_raises_ends_the_run(client):
    trained = engine(client, train_two_epochs)[0]

    def fail() -> None:
        raise ZeroDivisionError

    threading.Timer(0.2, trained.call, [fail]).start()
    with pytest.raises(ZeroDivisionError):
        list(trained.run(iter(lambda: None, 0), []))


def test_trials_in_many_places_report_their_epochs_seldom(client, monkeypatch):
    monkeypatch.setattr(engine_module, "SECONDS_BETWEEN_REPORTS", 0)

    def train(seed, kept, owner):
        for epoch in range(1, 21):
            owner.report(EpochReport(seed, epoch, epoch, 200, 0.97, 0.97))
            time.sleep(0.01)
        return Sent(replace(TRIAL, seed=seed))

    def epochs(reports_a_second: float) -> int:
        monkeypatch.setattr(engine_module, "REPORTS_A_SECOND", reports_a_second)
        told = Told()
        run(engine(client, train)[0], range(4), told)
        return sum(event == "epoch" for event, _ in told.events)

    assert epochs(10**6) > 40
    # Of the four places each has a minute, so that its trial's first epoch is all that is heard.
    assert epochs(4 / 60) == 4


def test_a_workers_notice_is_said_once_and_it_lets_go_of_the_job_at_its_end(client):
    closed = threading.Event()

    def make_train(shared):
        return Trains(train_two_epochs, says="it has no GPU", closed=closed.set)

    said: list[str] = []
    run(engine(client, None, said, make_train=make_train)[0], range(8))
    assert sorted(said) == sorted(f"Worker {address}: it has no GPU" for address in client.nthreads())
    assert closed.wait(10)


class WaitsForTheFirst(Policy):
    """Lets a trial go on once the first one has ended, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked, self.ended = 0, set[int]()

    def reason_to_stop(self, report: EpochReport) -> str | None:
        self.asked += 1
        return "" if 0 in self.ended else None

    def trial_ended(self, trial: Trial) -> bool:
        self.ended.add(trial.seed)
        return False


def test_policies_are_asked_again_when_a_trial_has_ended_and_not_for_each_epoch(client, monkeypatch):
    monkeypatch.setattr(engine_module, "SECONDS_BETWEEN_REPORTS", 0)
    monkeypatch.setattr(engine_module, "REPORTS_A_SECOND", 10**6)

    def train(seed, kept, owner):
        if seed == 0:
            for epoch in range(100):
                owner.report(EpochReport(seed, epoch, epoch, 200, 0.97, 0.97))
                time.sleep(0.005)
            return Sent(replace(TRIAL, seed=seed))
        return train_and_ask(seed, kept, owner)

    policy, told = WaitsForTheFirst(), Told()
    outcomes = engine(client, train)[0].run(range(2), [policy, told])
    for outcome in outcomes:
        policy.trial_ended(outcome.trial)
    assert policy.ended == {0, 1}
    assert sum(event == "epoch" for event, _ in told.events) > 50
    # Two trials start, one asks, one ends.
    assert policy.asked <= 4


def test_closing_the_outcomes_ends_the_trials_at_their_next_epoch(client):
    ended = threading.Event()

    def train(seed, kept, owner):
        if seed == 0:
            return train_two_epochs(seed, kept, owner)
        try:
            while True:
                owner.report(EpochReport(seed, 1, 1, 200, 0.97, 0.97))
                time.sleep(0.01)
        except StoppedError:
            ended.set()
            return Sent(None)

    outcomes = engine(client, train)[0].run(range(2), [])
    assert next(outcomes).trial.seed == 0
    outcomes.close()
    assert ended.wait(10)


def test_a_worker_that_joins_late_takes_part(cluster, client):
    told = Told()

    class Growing(Told):
        def trial_started(self, seed):
            if seed == 4:
                cluster.scale(3)

    places: set[str] = set()

    def train(seed, kept, owner):
        places.add(owner.worker.address)
        while seed >= 4 and len(places) < 3:
            time.sleep(0.01)
        return train_two_epochs(seed, kept, owner)

    outcomes = run(engine(client, train)[0], range(10), told, Growing())
    assert sorted(outcomes) == list(range(10))
    assert len(places) == 3


def test_no_scheduler_is_said_in_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr(engine_module, "SECONDS_TO_CONNECT", 0.5)
    (tmp_path / "other.json").write_text("{}")
    for address in ("tcp://127.0.0.1:9", "no://where", f"{tmp_path}/none.json", f"{tmp_path}/other.json"):
        with (
            pytest.raises(UserError, match=f"expected a Dask scheduler at {address}, found none .*; start one with"),
            engine_module.connected(address, 1),
        ):
            pass


def test_no_dask_is_said_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="expected the package dask"), engine_module.connected("local", 1):
        pass
