"""Trials on the workers of a Dask cluster, of which each may come, go, hang or be of another version at any time.

The engine hands out the seeds itself, one to each place of a worker that has shown that it can train, and takes what
comes back; nothing waits in Dask's own queues, so that it is always known who has what. Whatever happens to a worker
costs the trials that it had, and these run again elsewhere. A trial's outcome is a function of its seed and of the
answer that its question got here, so that it does not matter which of several attempts ends first.

A trial that asks whether it is to stop does not wait on its worker: it is sent back as far as it is, and goes on,
wherever there is a place, once the answer is known. A worker that waited could keep a lower seed from ever being
trained, on whose figure the answer depends.
"""

import asyncio
import contextlib
import json
import logging
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future as ThreadFuture
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from mnist_minimal.engines.dask_worker import RemoteTrain, close, make_ready, train
from mnist_minimal.engines.policy import Policy
from mnist_minimal.engines.threads import reason
from mnist_minimal.errors import UserError, one_line
from mnist_minimal.trial import EpochReport, Outcome, Trial
from mnist_minimal.version import version

if TYPE_CHECKING:
    from distributed import Client, Future

LOCAL = "local"

SECONDS_TO_CONNECT = 20

# A scheduler that has not answered for so long is taken to be lost.
SECONDS_TO_ANSWER = 60

# How often it is asked which workers there are, and looked for trials that hang.
SECONDS_BETWEEN_LOOKS = 1.0

# A trial of which nothing was heard for so many times what is usual, and at least so many seconds, is taken to hang.
SILENT_TIMES, SILENT_SECONDS = 20, 120.0

# Once no seed is left to start, one that has run for so many times the longest that ended runs elsewhere as well.
SLOW_TIMES = 2

# After so many lost workers a trial runs alone on one, so that no other is lost with it; after so many it is to blame.
LOST_TOGETHER, MAX_LOST = 2, 5

# So many workers may be out of disk or memory with a trial; then it is the trial that is to blame.
MAX_UNWELL = 3

# A trial reports an epoch no more often, and all together at most so many a second, but for each one's first.
SECONDS_BETWEEN_REPORTS, REPORTS_A_SECOND = 2.0, 200

# How long a job goes on looking when all workers that there are can't take part.
SECONDS_UNFIT = 300.0

# How long the workers may take to let go of a job at its end.
SECONDS_TO_CLOSE = 2.0

_END = object()


@dataclass(frozen=True)
class Remote:
    """How trials are trained elsewhere.

    Attributes:
        make_train: Makes, on a worker, what trains there; is given what all trials share, or None the first time, and
            raises SharedMissingError where it needs that, UserError where this worker can't train. cloudpickle takes
            it there.
        shared: What all trials share, as bytes; called once, if any worker needs it.
        pack: What goes to a worker with a seed.
        unpack: Keeps what came back of a seed.
    """

    make_train: Callable[[bytes | None], RemoteTrain]
    shared: Callable[[], bytes]
    pack: Callable[[int], Any]
    unpack: Callable[[int, Any], None]


@contextmanager
def connected(address: str, jobs: int | None) -> Iterator["Client"]:
    """A client of a Dask cluster; Dask's own messages are kept back as long.

    Args:
        address: The scheduler's address, as tcp://host:8786, or a file that it has written (--scheduler-file); or LOCAL
            for a cluster on this machine, which ends with the block.
        jobs: How many workers that one has; None for one.

    Raises:
        UserError: if Dask is not installed, or no scheduler answers there.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError(
            "expected the package dask with distributed, found that it is not installed; "
            'pip install "dask[distributed]"'
        ) from error
    # Some of them have levels of their own.
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("distributed", "tornado")]
    loggers = list(map(logging.getLogger, [*names, "asyncio"]))
    levels = [logger.level for logger in loggers]
    with contextlib.ExitStack() as stack:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(logging.CRITICAL + 1)
            stack.callback(logger.setLevel, level)
        if address == LOCAL:
            cluster = LocalCluster(
                n_workers=jobs or 1,
                threads_per_worker=1,
                memory_limit=None,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                # Ctrl-C reaches the whole group of processes; this one decides what ends.
                preload="import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
            )
            stack.callback(cluster.close, timeout=10)
            address = cluster.scheduler_address
        try:
            if address.endswith(".json"):
                # Dask would wait for the file without end.
                with Path(address).expanduser().open() as file:
                    address = json.load(file)["address"]
            client = Client(address, timeout=SECONDS_TO_CONNECT)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"expected a Dask scheduler at {address}, found none ({one_line(error)}); start one with `dask "
                "scheduler`, and workers with `dask worker ADDRESS`"
            ) from error
        # A scheduler that has gone is not waited for.
        stack.callback(client.close, timeout=2)
        yield client


def scheduler_lost(error: BaseException | None) -> UserError:
    """What a scheduler that has gone is reported with."""
    why = f" ({one_line(error)})" if error else ""
    return UserError(
        f"expected the Dask scheduler to answer, found that it has gone{why}; what was finished is recorded: start the "
        "scheduler and its workers, and the same command resumes the job"
    )


class DaskEngine:
    """Trains each seed on a worker of a Dask cluster, in as many places as its workers have.

    Args:
        client: Of the cluster.
        remote: How trials are trained there.
        failed: The row of a failed trial, from its seed and the reason.
        say: Gets what the user must know, in sentences.
    """

    def __init__(
        self, client: "Client", remote: Remote, failed: Callable[[int, str], Trial], say: Callable[[str], None]
    ) -> None:
        self.client, self.remote, self.failed, self.say = client, remote, failed, say
        self.events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    @property
    def places(self) -> int:
        """How many threads the workers have that there are now; 1 where there is none yet.

        A worker that is ready tells how many trials it trains at once.
        """
        return max(1, sum(self.client.nthreads().values()))

    def call(self, function: Callable[[], None]) -> None:
        """Has the thread of `run` call a function soon, and then look for seeds; what it raises ends the run."""
        self.events.put(function)

    def run(self, seeds: Iterable[int | None], policies: Sequence[Policy]) -> Generator[Outcome, None, None]:
        """Takes the next seed whenever a place is free, and yields what came of each in the order in which they end.

        A trial that raises is an outcome too, with the exception as its reason. When the iterator is closed, the trials
        that still run end at their next epoch, without an outcome.

        Args:
            seeds: The seeds; may have no end. The next one is asked for when it can start; None where there is none
                yet, which is asked again after the next event.
            policies: Learn of every event, and decide whether a trial stops at its milestone. Of a trial's epochs they
                learn of some, and of that of its milestone; whether it stops they are asked again when a trial has
                started, ended or come to its milestone.

        Raises:
            UserError: if the scheduler is lost; if no worker can train.
        """
        with _Session(self, iter(seeds), policies) as session:
            while True:
                while session.outcomes:
                    yield session.outcomes.popleft()
                    session.changed = True
                session.answer()
                session.hand_out()
                if session.at_end():
                    return
                session.take_event()


@dataclass(eq=False)
class _Attempt:
    """A task on a worker: a trial's, or where the seed is None what makes the worker ready."""

    seed: int | None
    worker: str
    key: str
    future: "Future"
    begun: float
    heard: float


@dataclass
class _Worker:
    host: str
    threads: int
    places: int = 0
    ready: bool = False
    refused: bool = False
    attempts: set[_Attempt] = field(default_factory=set)

    @property
    def fit(self) -> bool:
        return self.ready and not self.refused


@dataclass
class _Running:
    """A seed that has been started and has not ended."""

    attempts: set[_Attempt] = field(default_factory=set)
    # How many places it has been given while nothing was heard of it.
    copies: int = 0
    # The hosts of the workers that were lost with it, each as often as that was; how many more were lost that trained
    # so many on one device that it is hardly to blame; and the workers that it made unwell.
    lost: list[str] = field(default_factory=list)
    lost_devices: int = 0
    unwell: set[str] = field(default_factory=set)
    epoch: int = 0
    answer: str | None = None

    @property
    def alone(self) -> bool:
        """Whether it runs alone on a worker."""
        return len(self.lost) >= LOST_TOGETHER


class _Session:
    """One run of the engine: who has what. All but what is marked runs in the thread of `DaskEngine.run`."""

    def __init__(self, engine: DaskEngine, source: Iterator[int | None], policies: Sequence[Policy]) -> None:
        self.engine, self.client, self.remote = engine, engine.client, engine.remote
        self.source, self.policies, self.exhausted = source, policies, False
        self.loop: asyncio.AbstractEventLoop = self.client.sync(_running_loop)
        self.name = uuid.uuid4().hex
        self.make_train = cloudpickle.dumps(engine.remote.make_train)
        self.shared: bytes | None = None
        self.events = engine.events
        self.outcomes: deque[Outcome] = deque()
        self.workers: dict[str, _Worker] = {}
        # An entry a place that has become free; what is not true any more is found when it is taken.
        self.free: deque[str] = deque()
        self.running: dict[int, _Running] = {}
        self.again: set[int] = set()
        # A worker that is given no new seeds, for one that is to run alone.
        self.kept: str | None = None
        self.questions: dict[int, EpochReport] = {}
        self.attempts: dict[str, _Attempt] = {}
        self.watching: list[ThreadFuture[None]] = []
        self.said: set[str] = set()
        self.looked = self.fit = time.monotonic()
        self.longest, self.gaps, self.reports = 0.0, 0.0, 0
        self.interval = SECONDS_BETWEEN_REPORTS
        # Whether anything has happened on which a policy's answer may depend.
        self.changed = True

    def __enter__(self) -> "_Session":
        self.client.subscribe_topic(self.name, self._hear)
        self.watching.append(self._in_loop(self._look()))
        return self

    def __exit__(self, *_: object) -> None:
        for watch in self.watching:
            watch.cancel()
        if self.client.status == "running":
            with contextlib.suppress(Exception):
                self.client.unsubscribe_topic(self.name)
                # Their trials find that their tasks have gone when their next epoch ends.
                self.client.cancel([attempt.future for attempt in self.attempts.values()], asynchronous=False)
                if ready := [address for address, worker in self.workers.items() if worker.ready]:
                    self._in_loop(self._close(ready)).result(SECONDS_TO_CLOSE)
        # What still comes is of no use to another run.
        self.engine.events = queue.SimpleQueue()

    # What Dask's event loop runs, in a thread of its own; it hands on what is to be done with what it found.

    def _in_loop(self, coroutine: Any) -> "ThreadFuture[None]":
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    async def _look(self) -> None:
        """Asks again and again which workers there are, and of those that have gone whether they meant to."""
        before: set[str] = set()
        while True:
            try:
                threads = await asyncio.wait_for(self.client.nthreads(), SECONDS_TO_ANSWER)
                gone = before - threads.keys()
                orderly = {
                    address for address in gone if await asyncio.wait_for(self._left(address), SECONDS_TO_ANSWER)
                }
            except Exception as error:
                self.events.put(partial(self._lose_scheduler, error))
                return
            before = set(threads)
            self.events.put(partial(self._count_workers, threads, orderly))
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def _left(self, address: str) -> bool:
        """Whether a worker that has gone was closed or retired, and not lost."""
        events = [event for _, event in await self.client.get_events(address) if isinstance(event, dict)]
        return any(event.get("action") == "closing-worker" or event.get("expected") for event in events)

    async def _close(self, workers: list[str]) -> None:
        await self.client.run(close, self.name, workers=workers, on_error="ignore")

    async def _wait_for(self, attempt: _Attempt) -> None:
        try:
            result = await attempt.future
        # CancelledError is no Exception: that of the task, as by a restart of the cluster.
        except (Exception, asyncio.CancelledError) as error:
            result = "lost", reason(error)
        self.events.put(partial(self._end, attempt, result))

    def _hear(self, event: tuple[float, Any]) -> None:
        key, *fields = event[1]
        self.events.put(partial(self._note, key, EpochReport(*fields)))

    # What the engine does in turn.

    def answer(self) -> None:
        """Answers the questions that can be answered, whose trials then go on."""
        if not self.changed:
            return
        self.changed = False
        for seed, question in list(self.questions.items()):
            reasons = [policy.reason_to_stop(question) for policy in self.policies]
            if None not in reasons:
                self.running[seed].answer = next(filter(None, reasons), "")
                del self.questions[seed]
                self.again.add(seed)

    def hand_out(self) -> None:
        """Gives every free place a seed: first one that runs again, then a new one."""
        for seed in sorted(self.again):
            if (place := self._place(seed)) is not None:
                self.again.discard(seed)
                self._start(seed, place)
        self.kept = self._emptiest(seed for seed in sorted(self.again) if self.running[seed].alone)
        while not self.exhausted and (place := self._place(None)) is not None:
            new = next(self.source, _END)
            if not isinstance(new, int):
                self.exhausted = new is _END
                self.free.appendleft(place)
                return
            for policy in self.policies:
                policy.trial_started(new)
            self.changed = True
            self.running[new] = _Running()
            self._start(new, place)

    def at_end(self) -> bool:
        return self.exhausted and not self.running

    def take_event(self) -> None:
        """Waits for an event and does what there is to do about it."""
        with contextlib.suppress(queue.Empty):
            self.events.get(timeout=SECONDS_BETWEEN_LOOKS)()
        if self.client.status != "running":
            self._lose_scheduler(None)
        if time.monotonic() - self.looked >= SECONDS_BETWEEN_LOOKS:
            self.looked = time.monotonic()
            self.again |= self._overdue()

    # What is done about events.

    def _lose_scheduler(self, error: Exception | None) -> None:
        raise scheduler_lost(error)

    def _count_workers(self, threads: dict[str, int], orderly: set[str]) -> None:
        for address in self.workers.keys() - threads.keys():
            what = "left" if address in orderly else "gone"
            for attempt in list(self.workers[address].attempts):
                self._end(attempt, (what, "the worker has gone"))
            del self.workers[address]
        for address in threads.keys() - self.workers.keys():
            self.workers[address] = _Worker(_host(address), threads[address])
            self._make_ready(address)
        # Of workers that are not ready yet the threads alone are known.
        places = sum(max(worker.places, threads[address]) for address, worker in self.workers.items())
        self.interval = max(SECONDS_BETWEEN_REPORTS, places / REPORTS_A_SECOND)
        if not all(worker.refused for worker in self.workers.values()) or not self.workers:
            self.fit = time.monotonic()
        if not self.workers:
            self._say_once("The cluster has no worker yet; the trials begin when one joins.")
        if time.monotonic() - self.fit > SECONDS_UNFIT:
            raise UserError(
                f"expected a worker that can train these trials, found {len(self.workers)} that can't, as said above; "
                "install this version of mnist_minimal there, and the same command resumes the job"
            )

    def _say_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.engine.say(text)

    def _submit(self, seed: int | None, address: str, function: Callable[..., Any], *arguments: Any) -> None:
        key, now = f"{'trial' if seed is not None else 'set-up'}-{uuid.uuid4().hex}", time.monotonic()
        future = self.client.submit(
            function, *arguments, key=key, workers=[address], allow_other_workers=False, pure=False
        )
        attempt = _Attempt(seed, address, key, future, now, now)
        self.attempts[key] = attempt
        self.workers[address].attempts.add(attempt)
        if seed is not None:
            self.running[seed].attempts.add(attempt)
        self._in_loop(self._wait_for(attempt))

    def _make_ready(self, address: str) -> None:
        self._submit(None, address, make_ready, self.name, version(), self.make_train, None)

    def _start(self, seed: int, address: str) -> None:
        answer = self.running[seed].answer
        self.running[seed].copies += 1
        self._submit(seed, address, train, self.name, seed, self.remote.pack(seed), answer, self.interval)

    def _place(self, seed: int | None) -> str | None:
        """A free place for a seed that runs again, or for a new one."""
        skipped, found = [], None
        while self.free and found is None:
            address = self.free.popleft()
            worker = self.workers.get(address)
            if worker and worker.fit and len(worker.attempts) < worker.places:
                if self._suits(seed, address):
                    found = address
                else:
                    skipped.append(address)
        self.free.extendleft(reversed(skipped))
        return found

    def _suits(self, seed: int | None, address: str) -> bool:
        """Whether a fit worker with a free place is one for a seed that runs again, or for a new one."""
        worker = self.workers[address]
        seeds = [attempt.seed for attempt in worker.attempts if attempt.seed is not None]
        if any(self.running[other].alone for other in seeds if other in self.running):
            return False
        if seed is None:
            return address != self.kept
        running = self.running[seed]
        if any(attempt.worker == address for attempt in running.attempts) or (running.alone and worker.attempts):
            return False
        # A machine on which it was lost gets it again where there is no other.
        return worker.host not in running.lost or not self._has_elsewhere(running)

    def _has_elsewhere(self, running: _Running) -> bool:
        """Whether any worker can train that is of a machine on which the trial was not lost."""
        return any(worker.fit and worker.host not in running.lost for worker in self.workers.values())

    def _emptiest(self, seeds: Iterable[int]) -> str | None:
        """The worker with the fewest trials that the first of these seeds, which is to run alone, can be given."""
        if (seed := next(iter(seeds), None)) is None:
            return None
        running = self.running[seed]
        elsewhere = self._has_elsewhere(running)
        able = [
            address
            for address, worker in self.workers.items()
            if worker.fit and not (elsewhere and worker.host in running.lost)
        ]
        return min(able, key=lambda address: len(self.workers[address].attempts), default=None)

    def _end(self, attempt: _Attempt, result: tuple[str, Any]) -> None:
        """Does what follows from a task's end."""
        if self.attempts.pop(attempt.key, None) is None:
            return
        attempt.future.release()
        worker = self.workers[attempt.worker]
        worker.attempts.discard(attempt)
        self.free.append(attempt.worker)
        what, content = result
        if what == "lost" and self.client.status != "running":
            self._lose_scheduler(None)
        if what in ("refused", "unwell") or (attempt.seed is None and what == "lost"):
            worker.refused = True
            self._say_once(f"Worker {attempt.worker} takes no part: {content}")
        if attempt.seed is None:
            # Dask closes a worker that can't read its first task, as where an earlier version has no such module.
            if what in ("gone", "left"):
                self._say_once(f"Worker {attempt.worker} left as it was made ready; has it mnist_minimal {version()}?")
            elif what == "needs":
                self.shared = self.shared or self.remote.shared()
                self._submit(None, attempt.worker, make_ready, self.name, version(), self.make_train, self.shared)
            elif what == "ready":
                worker.ready, (worker.places, notice) = True, content
                self.free.extend([attempt.worker] * worker.places)
                if notice:
                    self._say_once(f"Worker {attempt.worker}: {notice}")
        elif attempt.seed in self.running:
            if what == "not ready" and worker.ready:
                worker.ready = False
                self._make_ready(attempt.worker)
            self._end_trial(attempt, attempt.seed, what, content)

    def _end_trial(self, attempt: _Attempt, seed: int, what: str, content: Any) -> None:
        running = self.running[seed]
        running.attempts.discard(attempt)
        if what == "ended":
            self.longest = max(self.longest, time.monotonic() - attempt.begun)
            self.remote.unpack(seed, content)
            self._yield(seed, content.trial)
        elif what == "failed":
            self._yield(seed, self.engine.failed(seed, content))
        elif what == "asked":
            # Another attempt may have come so far before.
            if running.answer is None and seed not in self.questions:
                report, sent = content
                self.remote.unpack(seed, sent)
                self.questions[seed] = report
                self.changed = True
                running.epoch, running.copies = max(running.epoch, report.epoch), 0
                for policy in self.policies:
                    policy.epoch_ended(report)
        elif what == "unwell":
            running.unwell.add(attempt.worker)
            if len(running.unwell) >= min(MAX_UNWELL, sum(worker.places > 0 for worker in self.workers.values())):
                self._acquit(running.unwell)
                self._yield(seed, self.engine.failed(seed, content))
        elif what in ("lost", "gone"):
            worker = self.workers[attempt.worker]
            if worker.places > worker.threads:
                running.lost_devices += 1
            else:
                running.lost.append(worker.host)
            lost = len(running.lost) + running.lost_devices
            if lost >= MAX_LOST and not running.attempts:
                self._yield(seed, self.engine.failed(seed, f"{lost} workers were lost with it: {content}"))
        # Whatever else has come of it, it does not end so.
        if self.running.get(seed) is running and not running.attempts and seed not in self.questions:
            running.copies = 0
            self.again.add(seed)

    def _acquit(self, workers: Iterable[str]) -> None:
        """Lets workers take part again that a trial has made unwell as it did all others."""
        for address in workers:
            if worker := self.workers.get(address):
                worker.refused = False
                self.free.extend([address] * worker.places)
                self.engine.say(f"Worker {address} takes part again: a trial has failed so elsewhere, too.")

    def _yield(self, seed: int, trial: Trial) -> None:
        # Other attempts go on: their workers are slow or hang, and are given nothing before they have ended.
        del self.running[seed]
        self.again.discard(seed)
        self.questions.pop(seed, None)
        self.outcomes.append(Outcome(trial))

    def _note(self, key: str, report: EpochReport) -> None:
        attempt = self.attempts.get(key)
        if attempt is None:
            return
        now = time.monotonic()
        self.gaps, self.reports = self.gaps + now - attempt.heard, self.reports + 1
        attempt.heard = now
        running = self.running.get(report.seed)
        # Another attempt, or the one before the question, may have come further.
        if running and report.epoch > running.epoch:
            running.epoch = report.epoch
            for policy in self.policies:
                policy.epoch_ended(report)

    def _overdue(self) -> set[int]:
        """The seeds that run elsewhere as well, if there is a place: their workers hang or are much slower."""
        now, usual = time.monotonic(), self.gaps / self.reports if self.reports else 0.0
        silent = max(SILENT_SECONDS, SILENT_TIMES * usual, 3 * self.interval)
        found = set()
        for seed, running in self.running.items():
            if running.attempts and seed not in self.again and seed not in self.questions:
                # The time limit doubles each time: perhaps nothing can be heard of such a trial for so long.
                times = 2 ** (running.copies - 1)
                hangs = all(now - attempt.heard > silent * times for attempt in running.attempts)
                slow = self.exhausted and self.longest and running.copies == 1
                if hangs or (slow and now - min(each.begun for each in running.attempts) > SLOW_TIMES * self.longest):
                    found.add(seed)
        return found


def _host(address: str) -> str:
    """The machine of a worker."""
    return address.rpartition(":")[0]


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
