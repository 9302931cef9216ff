"""The runner: what is missing of a study is trained, and every trial is recorded as it ends."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Protocol

from mnist_minimal.engines.policy import Policy
from mnist_minimal.study.ledger import Ledger
from mnist_minimal.trial import Outcome


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
