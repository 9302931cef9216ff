"""Trials as dots and curves: few enough to be shown, and none lost."""

from dataclasses import replace

import numpy as np
import pandas
import pytest

from mnist_minimal.analysis.dots import MAX_SEEDS, Dot, dots, sampled, thinned
from mnist_minimal.analysis.statistics import expected_best, mean_of_best, sizes_of_best
from tests.study.test_ledger import TRIAL


def test_trials_of_one_accuracy_are_one_dot():
    found = dots([0.98, 0.99, 0.98], [5, 2, 1])
    assert found == [Dot(0.98, 2, (1, 5)), Dot(0.99, 1, (2,))]
    assert dots([0.98, 0.98]) == [Dot(0.98, 2)]
    assert dots([0.98] * 20, range(20))[0].seeds == tuple(range(MAX_SEEDS))


def test_too_many_accuracies_share_bins_of_one_width():
    accuracies = np.linspace(0.9, 0.99, 1_000).tolist()
    found = dots(accuracies, range(1_000), most=9)
    assert [dot.accuracy for dot in found] == pytest.approx([0.905 + 0.01 * place for place in range(9)])
    assert sum(dot.count for dot in found) == 1_000
    assert {dot.count for dot in found} <= {111, 112}


def test_sampled_trials_are_spread_from_the_worst_to_the_best():
    trials = [replace(TRIAL, seed=seed, best_accuracy=0.9 + seed / 10_000) for seed in range(101)]
    assert sampled(trials[:5], most=5) == trials[:5]
    assert [trial.seed for trial in sampled(trials[::-1], most=5)] == [0, 25, 50, 75, 100]
    assert [trial.seed for trial in sampled(trials, always=[trials[50], trials[3]], most=3)] == [0, 50, 100, 3]


def test_a_thinned_history_keeps_its_best_and_its_last_epoch():
    history = pandas.DataFrame({"epoch": range(1, 1001), "val_accuracy": [0.9] * 1000})
    history.loc[776, "val_accuracy"] = 0.99
    found = thinned(history, most=100)
    assert len(found) == 102
    assert {777, 1000} <= set(found["epoch"])
    assert thinned(history[:50], most=100)["epoch"].tolist() == list(range(1, 51))


def test_sizes_of_best_are_all_small_ones_and_a_few_large_ones():
    assert sizes_of_best(1) == [1]
    assert sizes_of_best(50) == list(range(1, 51))
    found = sizes_of_best(10_000)
    assert found[:50] == list(range(1, 51))
    assert found[-1] == 10_000
    assert len(found) < 120


def test_the_mean_best_of_some_sizes_is_that_of_all():
    sample = np.random.default_rng(0).normal(0.98, 0.001, 300)
    whole, some = expected_best(sample), expected_best(sample, [1, 7, 300])
    np.testing.assert_allclose(some.mean, whole.mean[[0, 6, 299]], rtol=1e-14)
    np.testing.assert_allclose(some.high, whole.high[[0, 6, 299]], rtol=1e-14)
    np.testing.assert_allclose(mean_of_best(sample, [1, 300]), [sample.mean(), sample.max()])
