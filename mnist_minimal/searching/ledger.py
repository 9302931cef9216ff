"""What a search has found as tables: the ledger with a row for each training, and the frontier.

Both are made of the journal, so that they can be written again at any time.
"""

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_minimal import files
from mnist_minimal.analysis.finalists import FINAL
from mnist_minimal.analysis.frontier import frontier as frontier_of
from mnist_minimal.searching import storage as stored
from mnist_minimal.searching.evaluation import Score
from mnist_minimal.searching.rungs import FIRST_FRESH_SEED, Rung, fold_of, seed_of

STATES = {TrialState.COMPLETE: "judged", TrialState.PRUNED: "stopped", TrialState.RUNNING: "unfinished"}


@dataclass(frozen=True)
class Row:
    """One training of a candidate.

    Attributes:
        number: The candidate's number in the search, from 0.
        name: Its name, by which `trials --model search:FOLDER/NAME` finds it where it was a finalist.
        params: Trainable parameters of its network.
        limit: The most that its network could have.
        state: What came of the candidate: "judged" at the highest rung, "stopped" before, "unfinished".
        rung: The rung, from 0; "final" where the test set judged.
        epochs: Epochs of the training.
        seed: Its seed.
        fold: Which twelfth of the training images was held out and judged, from 0; "" where the test set judged.
        correct, size: How many of these images it got right, and how many there are.
        accuracy: Their ratio.
        loss: Mean cross-entropy on them, nats.
        passes: Images that the training took.
        seconds: Its wall-clock time: with the same seeds all that differs from one search by image passes to another.
    """

    number: int
    name: str
    params: int
    limit: int
    state: str
    rung: int | str
    epochs: int
    seed: int
    fold: int | str
    correct: int
    size: int
    accuracy: float
    loss: float
    passes: int
    seconds: float


@dataclass(frozen=True)
class Figure:
    """What a candidate or a model came to.

    Attributes:
        name: Its name.
        params: Trainable parameters.
        median: The median accuracy of its seeds, in [0, 1]; None where it is not known.
        best: The best one's.
        seeds: How many there are; None where that is not known.
        images: Which images judged: "held out", or "test set".
    """

    name: str
    params: int
    median: float | None
    best: float
    seeds: int | None
    images: str


def rows(study: optuna.Study, rungs: Sequence[Rung]) -> list[Row]:
    """All finished trainings, by number, rung and place; then the finalists'."""
    found: list[Row] = []
    of_name: dict[str, dict[str, Any]] = {}
    for trial in study.get_trials(deepcopy=False):
        if stored.CANDIDATE not in trial.user_attrs:
            continue
        of_candidate = {
            "number": trial.number,
            **{name: trial.user_attrs[name] for name in (stored.NAME, stored.PARAMS, stored.LIMIT)},
            "state": STATES.get(trial.state, "unfinished"),
        }
        of_name.setdefault(trial.user_attrs[stored.NAME], of_candidate)
        found += [
            _row(of_candidate, score, rung, rungs[rung].epochs, seed_of(trial.number, rung, place), fold_of(place))
            for (rung, place), score in stored.scores(trial).items()
        ]
    for name, scores in stored.finals(study).items():
        found += [
            _row(of_name[name], score, FINAL, rungs[-1].epochs, FIRST_FRESH_SEED + place, "")
            for place, score in enumerate(scores)
        ]
    return found


def _row(of_candidate: dict[str, Any], score: Score, rung: int | str, epochs: int, seed: int, fold: int | str) -> Row:
    return Row(**of_candidate, rung=rung, epochs=epochs, seed=seed, fold=fold, accuracy=score.accuracy, **asdict(score))


def judged(study: optuna.Study, rungs: Sequence[Rung]) -> list[Figure]:
    """What the candidates came to that were judged at the highest rung, on the images that each seed held out."""
    return [_figure(trial, rungs) for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]


def finalists(study: optuna.Study) -> list[Figure]:
    """What the finalists came to on the test set, in the order in which they were chosen."""
    params = {
        trial.user_attrs[stored.NAME]: trial.user_attrs[stored.PARAMS]
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    }
    return [
        _of_scores(name, params[name], scores, "test set") for name, scores in stored.finals(study).items() if scores
    ]


def frontier(figures: Iterable[Figure]) -> list[Figure]:
    """Those that no other has at most as many parameters as and a median as high, by rising parameters."""
    return frontier_of(figures, lambda each: each.median or 0)


def write(path: Path, table: Sequence[Row] | Sequence[Figure], kind: type[Row] | type[Figure]) -> Path:
    """Writes a table as CSV, whole; an unknown value is an empty cell.

    Raises:
        UserError: if it can't be written.
    """
    with files.output(path, ".csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(kind)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in table)
    return path


def _figure(trial: FrozenTrial, rungs: Sequence[Rung]) -> Figure:
    highest = [score for (rung, _), score in stored.scores(trial).items() if rung == len(rungs) - 1]
    return _of_scores(trial.user_attrs[stored.NAME], trial.user_attrs[stored.PARAMS], highest, "held out")


def _of_scores(name: str, params: int, scores: Sequence[Score], images: str) -> Figure:
    accuracies = [score.accuracy for score in scores]
    return Figure(name, params, statistics.median(accuracies), max(accuracies), len(accuracies), images)
