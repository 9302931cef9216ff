"""Statistics against SciPy's other ways to the same figures, and figures worked by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from mnist_minimal.statistics import summarize


def test_five_accuracies_by_hand():
    summary = summarize([0.98, 0.99, 0.97, 0.99, 0.97])
    assert (summary.n, summary.best, summary.reached) == (5, 0.99, 2)
    assert summary.mean == pytest.approx(0.98)
    # Squares of the deviations: 0, 1, 1, 1, 1 times 1e-4; divided by n - 1 = 4.
    assert summary.sd == pytest.approx(0.01)
    # Student's t for 4 degrees of freedom at 97.5 % is 2.776445.
    assert summary.high - summary.mean == pytest.approx(2.776445 * 0.01 / math.sqrt(5), rel=1e-6)
    # Wilson's interval for 2 of 5: (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n), z = 1.959964.
    assert (summary.reached_low, summary.reached_high) == pytest.approx((0.117621, 0.769276), abs=1e-6)


def test_interval_is_scipys():
    sample = np.random.default_rng(0).normal(0.9876, 0.001, 40)
    summary = summarize(sample)
    low, high = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert (summary.low, summary.high) == pytest.approx((low, high), rel=1e-12)


def test_one_accuracy_has_no_spread():
    summary = summarize([0.99])
    assert (summary.n, summary.mean, summary.reached) == (1, 0.99, 1)
    assert math.isnan(summary.sd)
    assert math.isnan(summary.low)


def test_9900_of_10000_reaches_99_percent_and_9899_does_not():
    assert summarize([9900 / 10_000, 9899 / 10_000]).reached == 1


def test_no_accuracy_is_an_error():
    with pytest.raises(ValueError, match="at least one accuracy"):
        summarize([])
