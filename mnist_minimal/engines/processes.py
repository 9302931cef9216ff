"""A place in a process of its own, for a trainer that can't run twice in one process."""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

import cloudpickle

from mnist_minimal.engines.threads import TrialError, reason
from mnist_minimal.errors import UserError
from mnist_minimal.trial import EpochReport, Owner, Train, Trial


class ProcessTrain:
    """Trains seeds in processes, for a `ThreadEngine` with as many places.

    The processes are not those of a `ProcessPoolExecutor`, all of whose trials fail when one of its processes dies.

    Args:
        make_train: Makes the function that trains one seed, in the process; cloudpickle takes it there, with what it
            refers to of a script or a notebook.
        places: How many processes.
    """

    def __init__(self, make_train: Callable[[], Train], places: int) -> None:
        self.idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self.all = [_Process(make_train) for _ in range(places)]
        for process in self.all:
            self.idle.put(process)

    def __call__(self, seed: int, owner: Owner) -> Trial:
        """Trains one seed and hands on what it reports and asks.

        Raises:
            TrialError: if the trial failed, or its process died.
            UserError: if that was raised in the process.
        """
        process = self.idle.get()
        try:
            return process.train(seed, owner)
        finally:
            self.idle.put(process)

    def stop(self) -> None:
        """Ends the processes, whatever they are doing."""
        for process in self.all:
            process.stop()


class _Process:
    def __init__(self, make_train: Callable[[], Train]) -> None:
        self.make_train = make_train
        self.start()

    def start(self) -> None:
        # Spawned, since TensorFlow's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(cloudpickle.dumps(self.make_train), theirs), daemon=True)
        self.process.start()
        theirs.close()

    def train(self, seed: int, owner: Owner) -> Trial:
        if not self.process.is_alive():
            self.start()
        try:
            self.connection.send(seed)
            while True:
                said, content = self.connection.recv()
                if said == "ended":
                    return content
                if said == "failed":
                    raise content
                try:
                    if said == "report":
                        owner.report(content)
                    else:
                        self.connection.send(owner.ask(content))
                except BaseException:
                    # The process goes on with a trial that nobody wants, or waits for an answer that does not come.
                    self.stop()
                    raise
        except (EOFError, ConnectionError) as error:
            self.process.join()
            raise TrialError(
                f"the trial's process died (exit code {self.process.exitcode}); too little memory?"
            ) from error

    def stop(self) -> None:
        # What this process ignores, the others have inherited: they would not hear a SIGTERM.
        self.process.kill()
        self.process.join()


class _Parent:
    """The owner of the study, from inside a process."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def report(self, epoch: EpochReport) -> None:
        self.connection.send(("report", epoch))

    def ask(self, epoch: EpochReport) -> str:
        self.connection.send(("ask", epoch))
        return self.connection.recv()


def _serve(make_train: bytes, connection: Connection) -> None:
    # Ctrl-C reaches the whole group of processes; the parent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    train: Train | None = None
    while True:
        try:
            seed = connection.recv()
        except EOFError:
            return
        try:
            train = train or cloudpickle.loads(make_train)()
            connection.send(("ended", train(seed, _Parent(connection))))
        except UserError as error:
            connection.send(("failed", error))
        except Exception as error:
            connection.send(("failed", TrialError(reason(error))))


def _end_with_parent() -> None:
    """Ends this process as soon as its parent is gone: who resumes the trial must be alone with its files."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
