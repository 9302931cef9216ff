"""Statistics of accuracies: numbers only.

Intervals are of 95 %. What is drawn at random (permutations, bootstrap samples) is drawn from a fixed seed, so that the
same samples give the same figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

TARGET = 0.99
RESAMPLES = 9_999


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """What a sample of accuracies says.

    Attributes:
        n: Number of accuracies.
        mean: Their mean.
        sd: Their standard deviation (n - 1 in the denominator); NaN for n = 1.
        low, high: 95 % interval of the mean by Student's t; NaN for n = 1.
        best: The highest.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    best: float


def summarize(accuracies: Sequence[float] | np.ndarray) -> Summary:
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
    return Summary(n=sample.size, mean=mean, sd=sd, low=low, high=high, best=float(sample.max()))


@dataclass(frozen=True)
class Share:
    """The share of trials that reach a target, some of which may have been stopped early.

    What a stopped trial would have come to is not known: none of them might have reached the target, or all. So the
    share among the trials is one between reached / trials and (reached + stopped) / trials.

    Attributes:
        reached: How many of the finished trials are at or above the target.
        stopped: How many trials were stopped early.
        trials: How many were finished or stopped.
        low, high: 95 % interval of the share, in [0, 1]: the lower end of Wilson's score interval where none of the
            stopped trials counts as one that reaches the target, and the upper end where all do.
    """

    reached: int
    stopped: int
    trials: int
    low: float
    high: float


def share_reaching(accuracies: Sequence[float] | np.ndarray, target: float = TARGET, stopped: int = 0) -> Share:
    """How many trials reach a target.

    Args:
        accuracies: Those of the finished trials, each in [0, 1].
        target: The accuracy to reach.
        stopped: Number of trials that were stopped early, whose accuracies are not known.

    Raises:
        ValueError: if there is no trial.
    """
    sample = np.asarray(accuracies, dtype=float)
    reached, trials = int((sample >= target).sum()), sample.size + stopped
    if not trials:
        raise ValueError("expected at least one trial, found none")
    low, high = (
        stats.binomtest(number, trials).proportion_ci(method="wilson") for number in (reached, reached + stopped)
    )
    return Share(reached, stopped, trials, low=float(low.low), high=float(high.high))


def chance_by_first_success(trials: int) -> Estimate:
    """The chance of a trial to succeed, where trials went on until one did: their number is geometrically distributed.

    The value is the maximum-likelihood estimate, 1 / trials. The interval holds the chances by which neither so few nor
    so many trials are among the rarest 2.5 % of outcomes; it is exact, as Clopper and Pearson's is for a number of
    trials fixed beforehand.

    Args:
        trials: Number of trials, the successful one, the last, among them.
    """
    # So many trials or more: (1 - p)^(trials - 1) = .025. So many or fewer: 1 - (1 - p)^trials = .025.
    high = 1 - 0.025 ** (1 / (trials - 1)) if trials > 1 else 1.0
    return Estimate(1 / trials, low=1 - 0.975 ** (1 / trials), high=high)


@dataclass(frozen=True)
class MeanDifference:
    """What Welch's t test says of two samples' means.

    Attributes:
        difference: The first mean minus the second.
        p_value: Two-sided p-value of equal means.
        detectable: The true difference that samples of these sizes and sds would show at p < .05 four times in five.
    """

    difference: Estimate
    p_value: float
    detectable: float


@dataclass(frozen=True)
class Moments:
    """What Welch's t test needs of a sample: its size, its mean, and its sd (n - 1 in the denominator)."""

    n: int
    mean: float
    sd: float


def difference_of_means(first: Sequence[float], second: Sequence[float]) -> MeanDifference:
    """Welch's t test, which lets the two samples have different sds.

    All figures but the difference itself are NaN where a sample has one accuracy only, or neither sample varies:
    accuracies are counts of images, and a few equal ones don't show that training always ends there.
    """
    return difference_from_moments(_moments(first), _moments(second))


def difference_from_moments(first: Moments, second: Moments) -> MeanDifference:
    """`difference_of_means` of samples of which no more is known, as of those in publications."""
    difference, unknown = first.mean - second.mean, float("nan")
    if min(first.n, second.n) < 2 or first.sd == second.sd == 0:
        return MeanDifference(Estimate(difference, unknown, unknown), unknown, unknown)
    of_first, of_second = first.sd**2 / first.n, second.sd**2 / second.n
    error = (of_first + of_second) ** 0.5
    # Welch and Satterthwaite's degrees of freedom.
    freedom = error**4 / (of_first**2 / (first.n - 1) + of_second**2 / (second.n - 1))
    quantile = float(stats.t.ppf(0.975, freedom))
    return MeanDifference(
        Estimate(difference, difference - quantile * error, difference + quantile * error),
        p_value=float(2 * stats.t.sf(abs(difference) / error, freedom)),
        detectable=(quantile + float(stats.t.ppf(0.8, freedom))) * error,
    )


def _moments(accuracies: Sequence[float]) -> Moments:
    sample = np.asarray(accuracies, dtype=float)
    # Equal accuracies have no spread; their mean is rounded, and they would be found to lie beside it.
    sd = float(sample.std(ddof=1)) if sample.size > 1 and np.ptp(sample) > 0 else 0.0
    return Moments(sample.size, float(sample.mean()), sd)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The mean of first minus second, pair by pair, with Student's interval; of two pairs or more."""
    differences = summarize(np.asarray(first, dtype=float) - np.asarray(second, dtype=float))
    return Estimate(differences.mean, differences.low, differences.high)


def hedges_g(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The difference of the means in units of the pooled sd, with the correction for small samples.

    Hedges and Olkin, Statistical Methods for Meta-Analysis (1985), chapter 5: g = J d with J = 1 - 3 / (4 (m + n) - 9),
    and the normal interval of variance (m + n) / (m n) + g^2 / (2 (m + n)). Each sample needs two accuracies or more,
    and one of them must vary.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    size = a.size + b.size
    pooled = (((a.size - 1) * a.var(ddof=1) + (b.size - 1) * b.var(ddof=1)) / (size - 2)) ** 0.5
    g = float((a.mean() - b.mean()) / pooled) * (1 - 3 / (4 * size - 9))
    margin = float(stats.norm.ppf(0.975)) * (size / (a.size * b.size) + g**2 / (2 * size)) ** 0.5
    return Estimate(g, g - margin, g + margin)


def ratio_of_sds(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The first sample's sd over the second's, with a bootstrap interval (BCa).

    The interval of the F distribution would need normal samples; accuracies have a longer tail below. Each sample needs
    enough different accuracies, ten or so, for a bootstrap to mean anything.
    """

    def ratio(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return a.std(ddof=1, axis=axis) / b.std(ddof=1, axis=axis)

    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    found = stats.bootstrap((a, b), ratio, n_resamples=RESAMPLES, batch=500, random_state=np.random.default_rng(0))
    return Estimate(float(ratio(a, b, 0)), float(found.confidence_interval.low), float(found.confidence_interval.high))


@dataclass(frozen=True)
class Superiority:
    """What Mann and Whitney's test says of two samples' order.

    Attributes:
        probability: That a trial of the first is above one of the second, ties counted half (Vargha and Delaney's A,
            the common-language effect size); 0.5 where neither is ahead.
        p_value: Two-sided p-value of equal distributions, from the normal approximation with correction for ties.
    """

    probability: Estimate
    p_value: float


def superiority(first: Sequence[float], second: Sequence[float]) -> Superiority:
    """Mann and Whitney's test and the effect size that belongs to it, for at least one accuracy each.

    The interval is method 5 of Newcombe, Statistics in Medicine 25 (2006) 559-573: the values of A from which the one
    found is not more than 1.96 of its standard errors away. It stays in [0, 1] and has a width even where A is 0 or 1.
    The p-value is NaN where all accuracies are equal.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if np.ptp(np.concatenate([a, b])) == 0:
        found, p_value = 0.5, float("nan")
    else:
        test = stats.mannwhitneyu(a, b, method="asymptotic")
        found, p_value = float(test.statistic) / (a.size * b.size), float(test.pvalue)
    quantile, others = float(stats.norm.ppf(0.975)), (a.size + b.size) / 2 - 1

    def beyond(value: float) -> float:
        """Above 0 where `value` is outside the interval."""
        spread = 1 + others * ((1 - value) / (2 - value) + value / (1 + value))
        return (value - found) ** 2 - quantile**2 * value * (1 - value) * spread / (a.size * b.size)

    # Where A is 0 or 1 it is a root itself, and the end that is sought is the other one.
    low = float(optimize.brentq(beyond, 0, min(found, 1 - 1e-9))) if found > 0 else 0.0
    high = float(optimize.brentq(beyond, max(found, 1e-9), 1)) if found < 1 else 1.0
    return Superiority(Estimate(found, low, high), p_value)


@dataclass(frozen=True)
class KolmogorovSmirnov:
    """The largest distance of two samples' distribution functions, in [0, 1], and its p-value."""

    distance: float
    p_value: float


def kolmogorov_smirnov(first: Sequence[float], second: Sequence[float]) -> KolmogorovSmirnov:
    """Kolmogorov and Smirnov's distance of two samples, with a p-value by permutation.

    Accuracies are multiples of 1/10,000, and many are equal. The distance is taken after all equal ones, so that ties
    don't count towards it; `scipy.stats.ks_2samp` finds the same distance, but its p-value is that of samples without
    ties and too large here (.58 instead of .46 for two samples like ours, n = 50 and 223). So the p-value is the share
    of random divisions of all accuracies into two samples of these sizes that are at least as far apart; it is exact
    but for the number of divisions tried, 9,999, or all of them where there are fewer.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    values = np.unique(np.concatenate([a, b]))

    def distance(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        shares = [(sample[..., None, :] <= values[:, None]).mean(axis=-1) for sample in (a, b)]
        return np.abs(shares[0] - shares[1]).max(axis=-1)

    test = stats.permutation_test(
        (a, b),
        distance,
        alternative="greater",
        n_resamples=RESAMPLES,
        batch=500,
        vectorized=True,
        random_state=np.random.default_rng(0),
    )
    return KolmogorovSmirnov(float(test.statistic), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected so that the chance of one false finding among all stays at .05 or below.

    Holm, Scandinavian Journal of Statistics 6 (1979) 65-70: the smallest of m is multiplied by m, the next by m - 1,
    and so on, none less than one before it. NaN stays NaN and counts as no test.
    """
    p = np.asarray(p_values, dtype=float)
    corrected, tests, highest = p.copy(), int(np.isfinite(p).sum()), 0.0
    for rank, position in enumerate(np.argsort(p)[:tests]):
        highest = max(highest, min(1.0, (tests - rank) * p[position]))
        corrected[position] = highest
    return [float(value) for value in corrected]


def best_of_weights(n: int, sizes: Sequence[int] | None = None) -> np.ndarray:
    """Which of n trials is the best of k of them.

    Args:
        n: Number of trials.
        sizes: The ks, each in 1 .. n; all of these where it is None.

    Returns:
        float64 (sizes, n): for each k at [i - 1] the probability C(i - 1, k - 1) / C(n, k) that the i-th lowest of n
        trials is the best of k different ones drawn at random. Each row sums to 1.
    """
    counts = np.arange(1, n + 1) if sizes is None else np.asarray(sizes)
    # From the highest trial down: the probability is k/n for i = n, and each is the one above times (i - k) / (i - 1).
    steps = np.ones((counts.size, n))
    steps[:, 0] = counts / n
    above = np.arange(n, 1, -1)
    steps[:, 1:] = np.maximum(above - counts[:, None], 0) / (above - 1)
    return np.cumprod(steps, axis=1)[:, ::-1]


def sizes_of_best(n: int) -> list[int]:
    """Numbers of trials for which the expected best of n is worth a look: each up to 50, then 24 a decade, and n."""
    further = np.geomspace(50, max(n, 50), 1 + round(24 * np.log10(max(n, 50) / 50))).round().astype(int)
    return sorted({k for k in [*range(1, 51), *further.tolist(), n] if k <= n})


def mean_of_best(accuracies: Sequence[float], sizes: Sequence[int]) -> np.ndarray:
    """The mean best accuracy over all sets of k of these trials, exactly, for each k of `sizes`, in 1 .. n."""
    return best_of_weights(len(accuracies), sizes) @ np.sort(np.asarray(accuracies, dtype=float))


@dataclass(frozen=True)
class ExpectedBest:
    """The expected best accuracy of k trials.

    Attributes:
        sizes: int (sizes,), the ks.
        mean: float64 (sizes,), the estimate.
        low, high: float64 (sizes,), its 95 % bootstrap interval.
    """

    sizes: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def expected_best(accuracies: Sequence[float], sizes: Sequence[int] | None = None) -> ExpectedBest:
    """The expected best of k trials, estimated without bias from n trials: the mean over all sets of k of them.

    For k = 1 it is the sample's mean, for k = n its best. The interval (percentiles of the estimates from bootstrap
    samples) says how far the estimate may be from the truth. It can't rise above the best accuracy seen, so it is too
    narrow where k nears n: of 600 normal samples of n = 50 it held the truth in 94 % for k = 2, 90 % for k = 5, 85 %
    for k = 10 and 68 % for k = 25.

    Args:
        accuracies: Those of the n trials.
        sizes: The ks, each in 1 .. n; all of these where it is None.
    """
    sample = np.sort(np.asarray(accuracies, dtype=float))
    counts = np.arange(1, sample.size + 1) if sizes is None else np.asarray(sizes)
    weights = best_of_weights(sample.size, counts.tolist())
    # Of large samples fewer: their intervals are narrow, and all of them at once would not fit in memory.
    resamples = min(RESAMPLES, max(999, 20_000_000 // sample.size))
    drawn = np.random.default_rng(0).choice(sample, (resamples, sample.size))
    drawn.sort()
    low, high = np.percentile(drawn @ weights.T, [2.5, 97.5], axis=0)
    return ExpectedBest(counts, weights @ sample, low, high)


def chance_of_best_at_most(accuracies: Sequence[float], k: int, accuracy: float) -> float:
    """The share of all sets of k of these trials whose best is not above an accuracy."""
    sample = np.asarray(accuracies, dtype=float)
    above = int((sample > accuracy).sum())
    return float(stats.hypergeom.pmf(0, sample.size, above, k))


def binomial_sd(accuracy: float, size: int) -> float:
    """The sd of one network's measured accuracy over fresh test sets of `size` images: sqrt(p (1 - p) / size).

    It says how well one test set measures one network. It is no part of the spread between trials that are all tested
    on the same images: those images, easy or hard, are the same for all of them; see `spread`.
    """
    return (accuracy * (1 - accuracy) / size) ** 0.5


@dataclass(frozen=True)
class Spread:
    """The spread of trials on one test set, and where it comes from.

    Attributes:
        between: The sd of the accuracies that the trials have on this test set.
        of_images: The part of it that comes from the test set being finite: the sd that trials would have if all were
            equally good in truth, each right and wrong on other images.
        of_networks: What remains: the sd of the accuracies that the same trials would have on endlessly many images.
            Since between^2 is of_images^2 + of_networks^2 (but for 1/size of the last), it is 0 where chance makes
            of_images the larger.
    """

    between: float
    of_images: float
    of_networks: float


def spread(correct: np.ndarray) -> Spread:
    """Splits the variance of accuracies between trials tested on the same images.

    The accuracy of a trial is a mean over images, so its variance is the mean of the covariances of all pairs of
    images. Pairs of an image with itself matter only because the test set is finite; pairs of different images
    estimate, without bias, the variance of the trials' true accuracies. After Jordan, "On the Variance of Neural
    Network Training with respect to Test Sets and Distributions" (ICLR 2024).

    Args:
        correct: bool (trials, images), whether a trial classifies an image rightly; two or more of each.
    """
    size = correct.shape[1]
    between = float(correct.mean(axis=1).var(ddof=1))
    of_images = float(correct.var(axis=0, ddof=1).mean()) / size
    of_networks = max(0.0, (between - of_images) * size / (size - 1))
    return Spread(between**0.5, of_images**0.5, of_networks**0.5)
