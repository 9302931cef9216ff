"""The importance of each choice."""

import optuna
import pytest
from optuna.distributions import FloatDistribution

from mnist_minimal.searching.importance import LEAST_TRIALS, importances


def study_of(trials: int) -> optuna.Study:
    """Trials whose accuracy at the lowest rung is a, and ten less where b is below a half; c changes nothing."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(trials):
        trial = study.ask(dict.fromkeys("abc", FloatDistribution(0, 1)))
        trial.report(trial.params["a"] - 10 * (trial.params["b"] < 0.5), 0)
    return study


def test_importances_are_those_for_the_best_tenth():
    """They have the upper half of b and of these the upper fifth of a.

    Their density, as compared with that of all, is 5 in a fifth of a and 0 elsewhere, which gives a mean square of its
    difference from 1 of 4; and 2 in a half of b and 0 elsewhere, which gives 1. Nearly all of the variance is b's.
    """
    found = importances(study_of(300))
    assert list(found) == ["a", "b", "c"]
    assert sum(found.values()) == pytest.approx(1)
    assert found["a"] / found["b"] == pytest.approx(4, rel=0.2)
    assert found["c"] < 0.05
    assert importances(study_of(300)) == found


def test_too_few_candidates_have_no_importances():
    assert importances(study_of(LEAST_TRIALS - 1)) == {}
