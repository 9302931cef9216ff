"""What a running search shows: the best so far by size, candidates done, what is in training, and the time left."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_minimal.models.searched import Candidate
from mnist_minimal.searching import storage as stored
from mnist_minimal.searching.evaluation import Score
from mnist_minimal.searching.interfaces import Left, Training
from mnist_minimal.searching.ledger import Figure, frontier, judged
from mnist_minimal.searching.rungs import Rung

if TYPE_CHECKING:
    from rich.console import Console

# Rows of the table, the most accurate ones, and trainings below it.
MOST_ROWS, MOST_TRAININGS = 12, 8

UPDATES_PER_SECOND = 2


class Lines:
    """A line for every candidate that comes to its end; as a context, the display begins and ends with the block.

    Args:
        rungs: What candidates are judged by.
    """

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self.rungs = rungs
        self.best: list[Figure] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def begun(self, study: optuna.Study, left: Left) -> None:
        """As of `interfaces.Display`."""
        self.best = frontier(judged(study, self.rungs))

    def training(self, job: int, training: Training | None) -> None:
        """As of `interfaces.Display`."""

    def judged(self, trial: FrozenTrial, study: optuna.Study, left: Left) -> None:
        """As of `interfaces.Display`."""
        before, self.best = self.best, frontier(judged(study, self.rungs))
        self._print(f"{trial_line(trial, self.rungs)}; {done(study)} done, {left()}")
        for figure in self.best:
            if figure not in before:
                self._print(f"best so far with {figure.params} parameters: {figure_line(figure)}")

    def final(self, name: str, score: Score, left: int) -> None:
        """As of `interfaces.Display`."""
        self._print(f"finalist {name}: {score.correct:,} of {score.size:,} test images, {count(left, 'training')} left")

    def _print(self, line: str) -> None:
        print(line, flush=True)


class Table(Lines):
    """Under the lines of what ended, what runs: the best so far by size, what is in training, the time left; with rich.

    Args:
        rungs: What candidates are judged by.
        console: The terminal.
    """

    def __init__(self, rungs: Sequence[Rung], console: "Console | None" = None) -> None:
        from rich import console as consoles
        from rich.live import Live

        super().__init__(rungs)
        self.done = ""
        self.left: Left = str
        self.trainings: dict[int, Training] = {}
        self.live = Live(
            console=console or consoles.Console(highlight=False),
            # Asked by itself now and then, so that the time left ticks.
            get_renderable=self.content,
            refresh_per_second=UPDATES_PER_SECOND,
        )

    def __enter__(self) -> None:
        self.live.start()

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def begun(self, study: optuna.Study, left: Left) -> None:
        super().begun(study, left)
        self.done, self.left = f"{done(study)} done", left

    def training(self, job: int, training: Training | None) -> None:
        if training is None:
            self.trainings.pop(job, None)
        else:
            self.trainings[job] = training

    def judged(self, trial: FrozenTrial, study: optuna.Study, left: Left) -> None:
        self.begun(study, left)
        self._print(trial_line(trial, self.rungs))

    def content(self) -> Any:
        """What is shown now."""
        from rich.console import Group
        from rich.text import Text

        trainings = list(self.trainings.values())
        lines = [f"in training: {training_line(each)}" for each in trainings[:MOST_TRAININGS]]
        if len(trainings) > MOST_TRAININGS:
            lines.append(f"and {len(trainings) - MOST_TRAININGS} more")
        lines.append(", ".join(text for text in (self.done, self.left()) if text))
        # The terminal writes ^C where the cursor is, which so rests in an empty line.
        return Group(*([best_table(self.best)] if self.best else []), *map(Text, lines), "")

    def _print(self, line: str) -> None:
        self.live.console.print(line, markup=False)


def training_line(training: Training) -> str:
    """What is in training, in words."""
    epochs = (
        count(training.epochs, "epoch") if training.epoch is None else f"epoch {training.epoch} of {training.epochs}"
    )
    last = training.place + training.slots - 1
    which = f"seed {training.place}" if training.slots == 1 else f"trainings {training.place} to {last}"
    return f"{training.what}, {which} of {training.seeds}, {epochs}"


def best_table(best: Sequence[Figure]) -> Any:
    """The best so far by size as a table for a terminal."""
    from rich.table import Table as RichTable

    table = RichTable("parameters", "median", "best seed", "candidate", title="best so far")
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
