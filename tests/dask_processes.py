"""A Dask cluster of processes on this machine, to be killed, paused and spoilt by name; forked as `tests.jobs` are."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.jobs import SERVER

# What is waited for comes within seconds, on a machine that does nothing else.
SECONDS_TO_START = 900


@dataclass(frozen=True)
class Another:
    """Makes a process one of another version of the package."""

    version: str = "0.0.1"

    def __call__(self) -> None:
        from mnist_minimal.engines import dask_worker

        dask_worker.version = lambda: self.version


def other_bits() -> None:
    """Makes the core of a process one that gives other bits, as its known answer tells."""
    from mnist_minimal.training.core import known_answer

    known_answer.EXPECTED = "0" * 64


def without_the_engine() -> None:
    """Takes from a process the module that earlier versions of the package had not."""
    sys.modules["mnist_minimal.engines.dask_worker"] = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Impatient:
    """Makes a coordinator take a trial to hang of which it has heard nothing for so many seconds, and hear often."""

    seconds: float

    def __call__(self) -> None:
        from mnist_minimal.engines import dask

        dask.SILENT_SECONDS, dask.SILENT_TIMES, dask.SECONDS_BETWEEN_REPORTS = self.seconds, 0, 0.1


def patient() -> None:
    """Makes a coordinator wait for a worker that can train as long as it takes."""
    from mnist_minimal.engines import dask

    dask.SECONDS_UNFIT = float("inf")


@dataclass
class Cluster:
    """A scheduler and workers of one thread each.

    Attributes:
        folder: Where its file and its output are, and which modules of own models its workers find.
        workers: The workers' processes, by name.
    """

    folder: Path
    workers: dict[str, Any] = field(default_factory=dict)
    scheduler: Any = None

    @property
    def file(self) -> Path:
        """What names the scheduler to workers and coordinators."""
        return self.folder / "scheduler.json"

    def __enter__(self) -> "Cluster":
        self.start_scheduler()
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self.workers.values(), self.scheduler]:
            process.kill()
            process.join()

    def start_scheduler(self) -> None:
        self.file.unlink(missing_ok=True)
        self.scheduler = self._start(_schedule, str(self.file))
        wait_until(self.file.exists)

    def start_worker(self, name: str, *disturb: Callable[[], None]) -> None:
        self.workers[name] = self._start(_work, str(self.file), name, disturb)

    def kill_workers(self) -> None:
        for process in self.workers.values():
            process.kill()
            process.join()
        self.workers.clear()

    def _start(self, target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
        process = SERVER.Process(target=_quietly, args=(self.folder, target, *arguments))
        process.start()
        return process

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self.workers[name].pid, number)

    @contextlib.contextmanager
    def watched(self) -> Any:
        """Gives a function that tells how many trials a worker has in training."""
        from distributed import Client

        with Client(scheduler_file=str(self.file), timeout=SECONDS_TO_START) as client:

            def training(name: str) -> int:
                found = client.run_on_scheduler(_trials_of, name)
                assert isinstance(found, int)
                return found

            yield training


def wait_until(condition: Callable[[], object]) -> None:
    """Waits for something that is to happen, and fails where it does not."""
    end = time.monotonic() + SECONDS_TO_START
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)


def _trials_of(name: str, dask_scheduler: Any) -> int:
    workers = [worker for worker in dask_scheduler.workers.values() if worker.name == name]
    return sum(str(task.key).startswith("trial-") for worker in workers for task in worker.processing)


def _quietly(folder: Path, target: Callable[..., None], *arguments: Any) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    descriptor = os.open(folder / f"{target.__name__}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    target(*arguments)


def _schedule(file: str) -> None:
    from distributed import Scheduler

    async def serve() -> None:
        async with Scheduler(host="127.0.0.1", dashboard=False, scheduler_file=file) as scheduler:
            await scheduler.finished()

    asyncio.run(serve())


def _work(file: str, name: str, disturb: tuple[Callable[[], None], ...]) -> None:
    for one in disturb:
        one()
    from distributed import Worker

    async def serve() -> None:
        async with Worker(scheduler_file=file, nthreads=1, name=name, dashboard=False) as worker:
            await worker.finished()

    asyncio.run(serve())
