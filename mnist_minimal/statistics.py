"""Statistics of accuracies: numbers only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

TARGET = 0.99


@dataclass(frozen=True)
class Summary:
    """What a sample of accuracies says.

    Attributes:
        n: Number of accuracies.
        mean: Their mean.
        sd: Their standard deviation (n - 1 in the denominator); NaN for n = 1.
        low, high: 95 % interval of the mean by Student's t; NaN for n = 1.
        best: The highest.
        reached: How many are at or above the target.
        reached_low, reached_high: 95 % Wilson score interval of the share that reaches the target, in [0, 1].
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    best: float
    reached: int
    reached_low: float
    reached_high: float


def summarize(accuracies: Sequence[float], target: float = TARGET) -> Summary:
    """Summarizes at least one accuracy, each in [0, 1].

    Raises:
        ValueError: if there is none.
    """
    sample = np.asarray(accuracies, dtype=float)
    if not sample.size:
        raise ValueError("expected at least one accuracy, found none")
    mean, sd, low, high = float(sample.mean()), float("nan"), float("nan"), float("nan")
    if sample.size > 1:
        sd = float(sample.std(ddof=1))
        margin = float(stats.t.ppf(0.975, sample.size - 1)) * sd / sample.size**0.5
        low, high = mean - margin, mean + margin
    reached = int((sample >= target).sum())
    share = stats.binomtest(reached, sample.size).proportion_ci(method="wilson")
    return Summary(
        n=sample.size,
        mean=mean,
        sd=sd,
        low=low,
        high=high,
        best=float(sample.max()),
        reached=reached,
        reached_low=float(share.low),
        reached_high=float(share.high),
    )
