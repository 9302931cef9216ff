"""What may be said of two studies: tests of each pair, with their effect sizes, in sentences."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mnist_minimal.analysis.samples import Sample

if TYPE_CHECKING:
    from mnist_minimal.analysis.statistics import Estimate, MeanDifference, Superiority


def interval(estimate: "Estimate", form: str) -> str:
    """An estimate and its interval in words, each number in the given format."""
    return f"{estimate.value:{form}}, 95 % interval {estimate.low:{form}} to {estimate.high:{form}}"


def compare_pairs(samples: Sequence[Sample]) -> list[str]:
    """What may be said of each pair of samples, one paragraph a pair.

    Welch's t test speaks of the means, Mann and Whitney's test of the order. With more than two samples the p-values of
    each of the two are corrected for the number of pairs by Holm's method.
    """
    from mnist_minimal.analysis.statistics import difference_of_means, holm, superiority

    pairs = list(itertools.combinations(samples, 2))
    means = [difference_of_means(first.accuracies, second.accuracies) for first, second in pairs]
    orders = [superiority(first.accuracies, second.accuracies) for first, second in pairs]
    of_means, of_orders = holm([mean.p_value for mean in means]), holm([order.p_value for order in orders])
    return [
        f"{pair[0].name} minus {pair[1].name}: "
        + _say_means(pair, mean, of_mean, len(pairs))
        + " "
        + _say_order(pair, order, of_order, len(pairs))
        for pair, mean, of_mean, order, of_order in zip(pairs, means, of_means, orders, of_orders, strict=True)
    ]


def _say_means(pair: tuple[Sample, Sample], found: "MeanDifference", corrected: float, pairs: int) -> str:
    sizes = f"with n = {len(pair[0].accuracies)} and {len(pair[1].accuracies)}"
    if math.isnan(found.p_value):
        difference = f"the means differ by {found.difference.value:+.5f}"
        return f"{difference}; {sizes} and no spread to judge by, nothing can be said."
    difference = f"the means differ by {interval(found.difference, '+.5f')}"
    verdict = "The means are different" if corrected < 0.05 else "The means are not shown to differ"
    return (
        f"{difference} (Welch's t test, {_p(found.p_value, corrected, pairs)}). {verdict}; {sizes}, a difference "
        f"smaller than {found.detectable:.5f} would have been missed more often than one time in five."
    )


def _say_order(pair: tuple[Sample, Sample], found: "Superiority", corrected: float, pairs: int) -> str:
    if math.isnan(found.p_value):
        return "All their accuracies are equal."
    return (
        f"A trial of {pair[0].name} is above one of {pair[1].name} with probability "
        f"{interval(found.probability, '.2f')}, ties counted half (Mann-Whitney, "
        f"{_p(found.p_value, corrected, pairs)})."
    )


def probability(p_value: float) -> str:
    """A p-value in words: "= 0.042", or "< 0.001"."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def _p(p_value: float, corrected: float, pairs: int) -> str:
    text = f"p {probability(p_value)}"
    return text if pairs == 1 else f"{text}; corrected for {pairs} pairs p {probability(corrected)}"


def notes(samples: Sequence[Sample], mixed: Sequence[str]) -> list[str]:
    """What a reader must know besides the figures, a sentence each."""
    found = [f"Compared as asked although not alike: {'; '.join(mixed)}."] if mixed else []
    found += [
        f"{sample.name}: {sample.stopped} trials were stopped early and have no accuracy here; the share has bounds "
        "that hold for them too, and all else is of the trials that went on."
        for sample in samples
        if sample.stopped
    ]
    unknown = [sample.name for sample in samples if not sample.conditions]
    if unknown:
        found.append(f"Of {' and '.join(unknown)} nothing but the accuracies is known; the rest is taken to be alike.")
    return found
