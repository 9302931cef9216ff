"""What proposes points of the space: Optuna's samplers, each trial's seeded by its number.

What a trial is proposed then follows from its number and the trials before it, whichever process asks. A trial beside
another has that one's network, and what else a compiled program depends on, and is proposed numbers alone.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import optuna

from mnist_minimal.searching import space
from mnist_minimal.searching.storage import BESIDE

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

# Trials that are drawn at random before there is something to learn from.
RANDOM_TRIALS = 20

SAMPLERS: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(multivariate=True, n_startup_trials=RANDOM_TRIALS, seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


class SeededByNumber(optuna.samplers.BaseSampler):
    """A sampler of SAMPLERS, made again for each trial from the search's seed and the trial's number.

    Args:
        name: The sampler's name.
        seed: The search's seed.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        self._made: dict[int, optuna.samplers.BaseSampler] = {}

    def _of(self, trial: "FrozenTrial") -> optuna.samplers.BaseSampler:
        if trial.number not in self._made:
            self._made[trial.number] = SAMPLERS[self.name]((self.seed + 1_000_003 * trial.number) % 2**32)
        return self._made[trial.number]

    def infer_relative_search_space(self, study: optuna.Study, trial: "FrozenTrial") -> "dict[str, BaseDistribution]":
        found = self._of(trial).infer_relative_search_space(study, trial)
        fixed = space.FIXED if BESIDE in trial.user_attrs else ()
        return {name: distribution for name, distribution in found.items() if name not in fixed}

    def sample_relative(
        self, study: optuna.Study, trial: "FrozenTrial", search_space: "dict[str, BaseDistribution]"
    ) -> dict[str, Any]:
        drawn = self._of(trial).sample_relative(study, trial, search_space)
        return {name: _beside(study, trial, name, coordinate) for name, coordinate in drawn.items()}

    def sample_independent(
        self, study: optuna.Study, trial: "FrozenTrial", param_name: str, param_distribution: "BaseDistribution"
    ) -> Any:
        drawn = self._of(trial).sample_independent(study, trial, param_name, param_distribution)
        return _beside(study, trial, param_name, drawn)

    def after_trial(self, study: optuna.Study, trial: "FrozenTrial", state: Any, values: Any) -> None:
        self._made.pop(trial.number, None)


def _beside(study: optuna.Study, trial: "FrozenTrial", name: str, coordinate: float) -> float:
    """What a trial has of a coordinate that was drawn for it."""
    first = trial.user_attrs.get(BESIDE)
    if first is None:
        return coordinate
    return space.beside(study.get_trials(deepcopy=False)[first].params, name, coordinate)
