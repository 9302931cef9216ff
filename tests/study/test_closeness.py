"""How close a trial of JAX has to be to the core's: the figures worked by hand."""

import math
from dataclasses import replace

import pytest

from mnist_minimal.study import closeness
from tests.study.test_ledger import STOPPED, TRIAL


def trials(*correct: int):
    return [replace(TRIAL, seed=seed, test_correct=count, trainer="jax") for seed, count in enumerate(correct)]


def test_the_tolerance_is_five_deviations_of_the_difference_of_two_seeds():
    # Seeds that differ more than binomially: the deviation of 9800 and 9900 is 100 / sqrt(2).
    found = closeness.of_study(trials(9800, 9900), 10_000)
    assert found.spread == pytest.approx(0.01 / math.sqrt(2))
    assert found.difference == pytest.approx(0.05)
    # Seeds that do not: that of 0.99 of 10,000 images.
    found = closeness.of_study(trials(9900, 9900), 10_000)
    assert found.spread == pytest.approx(math.sqrt(0.99 * 0.01 / 10_000))
    assert "within 0.0070," in found.words()
    # A single trial without an error has no deviation of its own, and the binomial one of an error.
    assert closeness.of_study(trials(10_000), 10_000).spread == pytest.approx(1e-4, rel=1e-3)


def test_what_is_close_and_what_is_not():
    tolerance = closeness.of_study(trials(9900, 9900), 10_000)
    ours, core = TRIAL, replace(TRIAL, trainer="native")
    figures = {"val_loss": [0.5, 0.1], "val_accuracy": [0.9, 0.98]}
    close, words = tolerance.compare((ours, core), [figures, figures])
    assert close
    assert words == (
        "first epoch close to the core's (loss 0.5 and 0.5, accuracy 0.9000 and 0.9000); "
        "test accuracy 0.9881 and 0.9881, within 0.0070"
    )
    assert tolerance.compare((replace(ours, test_correct=9812), core), None)[0]
    assert not tolerance.compare((replace(ours, test_correct=9810), core), None)[0]
    for other in (
        {**figures, "val_loss": [0.56, 0.1]},
        {**figures, "val_loss": [math.nan, 0.1]},
        # Three binomial deviations of 0.9 of 10,000 images are 0.009.
        {**figures, "val_accuracy": [0.8905, 0.98]},
    ):
        close, words = tolerance.compare((ours, core), [other, figures])
        assert not close
        assert "not close" in words
    # Of 5,000 monitored images the deviation is 1.41 times as much.
    fewer = closeness.of_study(trials(9900, 9900), 5_000)
    assert fewer.compare((ours, core), [{**figures, "val_accuracy": [0.8905, 0.98]}, figures])[0]
    # What comes after the first epoch is another trial's.
    assert tolerance.compare((ours, core), [{**figures, "val_loss": [0.51, 9]}, figures])[0]
    close, words = tolerance.compare((STOPPED, core), None)
    assert not close
    assert words.endswith("stopped and finished")
