"""Successive halving: all candidates are trained briefly from one seed, the best of them longer and from more seeds.

Source: L. Li et al., "A System for Massively Parallel Hyperparameter Tuning", https://arxiv.org/abs/1810.05934. A
candidate goes on as soon as it is among the best third of those that were judged at its rung until then.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna

from mnist_minimal.errors import UserError
from mnist_minimal.searching.evaluation import FOLDS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# Of the candidates at a rung one of so many goes on.
REDUCTION = 3

# Seeds at each rung, from the lowest on.
SEEDS = (1, 2, 4)

# Seeds that no candidate is judged by before the end.
FIRST_FRESH_SEED = 4_000_000_000


@dataclass(frozen=True)
class Rung:
    """What a candidate is judged by.

    Attributes:
        epochs: Epochs of each of its trainings.
        seeds: How many trainings there are.
    """

    epochs: int
    seeds: int


def rungs(epochs: int) -> list[Rung]:
    """The rungs, of which the last has so many epochs.

    Raises:
        UserError: if they are fewer than the lowest rung needs.
    """
    least = REDUCTION ** (len(SEEDS) - 1)
    if epochs < least:
        raise UserError(
            f"expected at least {least} epochs, an epoch at the lowest rung, found {epochs}; raise --epochs"
        )
    return [Rung(epochs // REDUCTION ** (len(SEEDS) - 1 - place), seeds) for place, seeds in enumerate(SEEDS)]


def seed_of(number: int, rung: int, place: int) -> int:
    """The seed of a candidate's training: of the candidate's number, the rung's and the place among its trainings."""
    return 100 * number + 10 * rung + place


def fold_of(place: int) -> int:
    """The part of the training images that a training holds out: the same for all candidates, another for each seed."""
    return FOLDS - 1 - place % FOLDS


class Halving(optuna.pruners.BasePruner):
    """Stops a candidate whose accuracy at a rung is not among the best third of those that are known there.

    It depends on the reported accuracies alone. Optuna's SuccessiveHalvingPruner notes in the storage that it has
    judged, so that a search that was killed between the note and the end of the trial would judge otherwise.
    """

    def prune(self, study: optuna.Study, trial: "FrozenTrial") -> bool:
        rung = trial.last_step
        if rung is None:
            return False
        known = sorted(
            (
                other.intermediate_values[rung]
                for other in study.get_trials(deepcopy=False)
                if rung in other.intermediate_values
            ),
            reverse=True,
        )
        return trial.intermediate_values[rung] < known[max(1, len(known) // REDUCTION) - 1]
