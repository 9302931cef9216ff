"""The experiment of ten folds: its plan, its table, and how it divides the variance between the folds."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments import folds
from experiments.ten_networks import command
from mnist_minimal import trials
from tests.study.test_ledger import FAILED, TRIAL, append_row


def test_the_plan_tests_all_images_with_one_seed_before_the_next():
    assert len(folds.PLAN) == 150
    options = [trials.parse(command(planned, 2, Path("runs"))[3:]) for planned in folds.PLAN]
    assert [str(one.fold) for one in options] == [f"{number}/10" for number in range(1, 11)] * 15
    recipes = [
        ("sep997", "sep997", "holdout"),
        ("sep697", "sep697", "holdout"),
        ("search:c691_676483b3", None, "source"),
        ("sep997", "sep997-fast", "source"),
        ("sep697", "sep697-fast", "source"),
    ]
    assert [(one.model, one.recipe, one.protocol, one.runs) for one in options][::10] == [
        (*recipe, n) for n in (1, 2, 3) for recipe in recipes
    ]
    assert {(one.trainer, one.dataset, one.seed) for one in options} == {("native", "mnist", 0)}


def test_the_variance_of_the_folds_beside_an_analysis_of_variance():
    """SciPy's F is the variance of the groups' means over that within groups, divided by the size of a group."""
    accuracies = np.random.default_rng(0).normal(0.987, 0.001, (10, 3)) + np.linspace(0, 0.004, 10)[:, None]
    found = folds.variance_of_folds(accuracies.tolist(), 7_000)
    assert found.of_means / found.of_seeds == pytest.approx(stats.f_oneway(*accuracies).statistic)
    p = accuracies.mean()
    assert found.of_images == pytest.approx(p * (1 - p) / 7_000)
    assert found.beyond == pytest.approx(found.of_means - found.of_seeds - found.of_images)
    expected = found.of_seeds + found.of_images
    statistic = sum((mean - p) ** 2 for mean in accuracies.mean(axis=1)) / expected
    assert found.p_value == pytest.approx(1 - stats.chi2.cdf(statistic, 9), rel=1e-6)


def test_the_variance_of_two_unequal_folds_worked_by_hand():
    """Means .85 and .7; within: .005 of one degree; times (1/2 + 1) / 2; p = .775 of 100 images."""
    found = folds.variance_of_folds([[0.9, 0.8], [0.7]], 100)
    assert found.of_means == pytest.approx(0.01125)
    assert found.of_seeds == pytest.approx(0.00375)
    assert found.of_images == pytest.approx(0.00174375)
    assert found.beyond == pytest.approx(0.00575625)
    # A chi-squared number of one degree is the square of a normal one.
    assert found.p_value == pytest.approx(math.erfc((0.01125 / 0.00549375 / 2) ** 0.5))


def test_without_two_folds_or_two_trials_there_is_no_variance():
    assert folds.variance_of_folds([[0.9, 0.8]], 100) is None
    assert folds.variance_of_folds([[0.9], [0.8]], 100) is None


@pytest.mark.parametrize(("harder", "low", "high"), [(0.0, 0.0, 0.06), (0.03, 0.95, 1.0)])
def test_folds_that_are_alike_are_seldom_found_to_differ(harder, low, high):
    """Images that are right with a chance of their own in each of three trials; of every second fold it is lower."""
    random, found = np.random.default_rng(0), []
    for _ in range(200):
        chances = random.beta(5, 0.3, (10, 1, 1_000)) - harder * (np.arange(10) % 2)[:, None, None]
        accuracies = (random.uniform(size=(10, 3, 1_000)) < chances).mean(axis=2)
        found.append(folds.variance_of_folds(accuracies.tolist(), 1_000).p_value < 0.05)
    assert low <= np.mean(found) <= high


@pytest.fixture
def results(tmp_path):
    """Of sep997 two seeds in every fold and a third in two; one failed and one beyond the plan; of sep697 one trial."""
    random = np.random.default_rng(3)
    correct = random.integers(6_880, 6_940, (10, 3))
    for number in range(1, 11):
        study = f"sep997-mnist-fold{number}of10-holdout"
        trial = replace(TRIAL, dataset=f"mnist-fold{number}of10", protocol="holdout", test_size=7_000)
        for seed in range(3 if number in (2, 7) else 2):
            count = int(correct[number - 1, seed])
            append_row(tmp_path / f"{study}.csv", replace(trial, seed=seed, test_correct=count))
    append_row(tmp_path / f"{study}.csv", replace(trial, seed=3, test_correct=1))
    failed = replace(FAILED, dataset="mnist-fold10of10", protocol="holdout", seed=2, test_size=7_000)
    append_row(tmp_path / f"{study}.csv", failed)
    other = replace(trial, model="sep697", params=697, dataset="mnist-fold4of10", test_correct=6_900)
    append_row(tmp_path / "sep697-mnist-fold4of10-holdout.csv", other)
    return tmp_path, correct


def cells(lines):
    return {row[0]: row[1:] for row in ([cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines)}


def test_the_tables(run_main, results):
    folder, correct = results
    done = run_main(folds.main, "--results", folder)
    assert done.returncode == 0, done.stderr
    of_models, by_fold = (cells(part.strip().splitlines()[2:]) for part in done.stdout.split("\n\n"))
    whole = correct[:, :2].sum(axis=0) / 70_000
    means = [(row if number in (2, 7) else row[:2]).mean() / 7_000 for number, row in enumerate(correct, start=1)]
    found = of_models["sep997"]
    assert found[:5] == ["30", "22, 1", "2", f"{whole.mean():.5f}", f"{whole.std(ddof=1):.5f}"]
    assert found[5:7] == [f"{min(means):.5f} to {max(means):.5f}", f"{np.std(means, ddof=1):.5f}"]
    assert len(found) == 11
    assert of_models["sep697"] == ["30", "1, 0", "0", "-", "-", "0.98571 to 0.98571", "-", "-", "-", "-", "-"]
    two, seven = (by_fold[number][0] for number in "27")
    assert two == f"{means[1]:.5f} ({correct[1].std(ddof=1) / 7_000:.5f}, 3)"
    assert seven.endswith(", 3)")
    assert by_fold["10"] == [f"{means[9]:.5f} ({correct[9, :2].std(ddof=1) / 7_000:.5f}, 2)", *["-"] * 4]
    assert by_fold["4"][1] == "0.98571 (-, 1)"


def test_nothing_trained_yet(run_main):
    done = run_main(folds.main, "--results", "none")
    assert done.returncode == 0, done.stderr
    assert cells(done.stdout.splitlines()[2:4])["sep997"] == ["30", "0, 0", "0", *["-"] * 8]
