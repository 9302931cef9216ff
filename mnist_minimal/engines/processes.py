"""Trials in processes of their own, for a trainer that can't run twice in one process."""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

from mnist_minimal.errors import UserError
from mnist_minimal.trial import EpochReport, Report, Train, Trial


class WorkerError(Exception):
    """A trial failed in its process, or the process died."""


class WorkerProcesses:
    """Calls a train function in one of several processes; to be called from as many threads.

    Args:
        make_train: Makes the train function, in the process; picklable.
        processes: How many.
    """

    def __init__(self, make_train: Callable[[], Train], processes: int) -> None:
        self.idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self.all = [_Worker(make_train) for _ in range(processes)]
        for worker in self.all:
            self.idle.put(worker)

    def __call__(self, seed: int, report: Report) -> Trial:
        """Trains one seed and hands on its epoch reports, and their answers back.

        Raises:
            WorkerError: if the trial failed there, with its reason.
            UserError: if that was raised there.
        """
        worker = self.idle.get()
        try:
            return worker.train(seed, report)
        finally:
            self.idle.put(worker)

    def stop(self) -> None:
        """Ends the processes, whatever they are doing."""
        for worker in self.all:
            worker.stop()


class _Worker:
    def __init__(self, make_train: Callable[[], Train]) -> None:
        self.make_train = make_train
        self.start()

    def start(self) -> None:
        # Spawned, since TensorFlow's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.make_train, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def train(self, seed: int, report: Report) -> Trial:
        if not self.process.is_alive():
            self.start()
        try:
            self.connection.send(seed)
            while True:
                answer = self.connection.recv()
                if isinstance(answer, Trial):
                    return answer
                if isinstance(answer, str):
                    raise WorkerError(answer)
                if isinstance(answer, UserError):
                    raise answer
                try:
                    reply = report(answer)
                except BaseException:
                    # The process waits for a reply that does not come.
                    self.stop()
                    raise
                self.connection.send(reply)
        except (EOFError, ConnectionError) as error:
            self.process.join()
            raise WorkerError(
                f"the trial's process died (exit code {self.process.exitcode}); too little memory?"
            ) from error

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()


def _serve(make_train: Callable[[], Train], connection: Connection) -> None:
    # Ctrl-C reaches the whole group of processes; the parent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    train: Train | None = None

    def report(epoch: EpochReport) -> str:
        connection.send(epoch)
        return connection.recv()

    while True:
        try:
            seed = connection.recv()
        except EOFError:
            return
        try:
            train = train or make_train()
            connection.send(train(seed, report))
        except UserError as error:
            connection.send(error)
        except Exception as error:
            connection.send(reason(error))


def _end_with_parent() -> None:
    """Ends this process as soon as its parent is gone: who goes on with the trial must be alone with its files."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def reason(error: BaseException) -> str:
    """Why a trial failed, in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    if isinstance(error, WorkerError):
        return text[:300]
    return f"{type(error).__name__}: {text}"[:300]
