"""What a running search shows: the best so far by size, candidates done, what is left of time or passes."""

import sys
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_minimal.models.searched import Candidate
from mnist_minimal.searching import storage as stored
from mnist_minimal.searching.evaluation import Score
from mnist_minimal.searching.ledger import Figure, frontier, judged
from mnist_minimal.searching.rungs import Rung

# Rows of the table, the most accurate ones.
MOST_ROWS = 12


class Lines:
    """A line for every candidate that comes to its end.

    Args:
        rungs: What candidates are judged by.
    """

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self.rungs = rungs
        self.best: list[Figure] = []

    def judged(self, trial: FrozenTrial, study: optuna.Study, left: str) -> None:
        """As of `running.Display`."""
        before, self.best = self.best, frontier(judged(study, self.rungs))
        self._print(f"{trial_line(trial, self.rungs)}; {done(study)} done, {left}")
        for figure in self.best:
            if figure not in before:
                self._print(f"best so far with {figure.params} parameters: {figure_line(figure)}")

    def final(self, name: str, score: Score, left: int) -> None:
        """As of `running.Display`."""
        self._print(f"finalist {name}: {score.correct:,} of {score.size:,} test images, {left} trainings left")

    def close(self) -> None:
        """Ends the display."""

    def _print(self, line: str) -> None:
        print(line, flush=True)


class Table(Lines):
    """A table of the best so far by size, under the lines of what ended; with rich."""

    def __init__(self, rungs: Sequence[Rung]) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(rungs)
        self.live = Live("the first candidate is being trained", console=Console(highlight=False))
        self.live.start()

    def judged(self, trial: FrozenTrial, study: optuna.Study, left: str) -> None:
        self.best = frontier(judged(study, self.rungs))
        self._print(trial_line(trial, self.rungs))
        self.live.update(best_table(self.best, f"{done(study)} done, {left}"))

    def close(self) -> None:
        self.live.stop()

    def _print(self, line: str) -> None:
        self.live.console.print(line, markup=False)


def best_table(best: Sequence[Figure], caption: str) -> Any:
    """The best so far by size as a table for a terminal."""
    from rich.table import Table as RichTable

    table = RichTable("parameters", "median", "best seed", "candidate", title="best so far", caption=caption)
    for figure in best[-MOST_ROWS:]:
        table.add_row(str(figure.params), f"{figure.median:.4f}", f"{figure.best:.4f}", figure.name)
    return table


def trial_line(trial: FrozenTrial, rungs: Sequence[Rung]) -> str:
    """One line about a candidate that came to its end."""
    candidate = Candidate.from_dict(trial.user_attrs[stored.CANDIDATE])
    rung = max(trial.intermediate_values, default=0)
    what = "judged" if trial.state == TrialState.COMPLETE else "stopped"
    return (
        f"candidate {trial.number}: {candidate.network.parameters} parameters, {candidate.network.text}: {what} at "
        f"{trial.intermediate_values.get(rung, 0):.4f} ({count(rungs[rung].epochs, 'epoch')}, "
        f"{count(rungs[rung].seeds, 'seed')})"
    )


def count(number: int, what: str) -> str:
    """So many of something, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def figure_line(figure: Figure) -> str:
    """What a candidate came to, in words."""
    return f"{figure.name}, median {figure.median:.4f} and best {figure.best:.4f} of {figure.seeds} seeds"


def done(study: optuna.Study) -> str:
    """How many candidates have come to their end, in words."""
    ended = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))
    return count(ended, "candidate")


def display(rungs: Sequence[Rung]) -> Lines:
    """The display that suits where the output goes."""
    return Table(rungs) if sys.stdout.isatty() else Lines(rungs)
