"""Statistics against SciPy's other ways to the same figures, and figures worked by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from mnist_minimal.analysis.statistics import (
    Moments,
    best_of_weights,
    binomial_sd,
    chance_by_first_success,
    chance_of_best_at_most,
    difference_from_moments,
    difference_of_means,
    expected_best,
    hedges_g,
    holm,
    kolmogorov_smirnov,
    paired_difference,
    ratio_of_sds,
    share_reaching,
    spread,
    summarize,
    superiority,
)


def test_five_accuracies_by_hand():
    summary = summarize([0.98, 0.99, 0.97, 0.99, 0.97])
    assert (summary.n, summary.best) == (5, 0.99)
    assert summary.mean == pytest.approx(0.98)
    # Squares of the deviations: 0, 1, 1, 1, 1 times 1e-4; divided by n - 1 = 4.
    assert summary.sd == pytest.approx(0.01)
    # Student's t for 4 degrees of freedom at 97.5 % is 2.776445.
    assert summary.high - summary.mean == pytest.approx(2.776445 * 0.01 / math.sqrt(5), rel=1e-6)


def test_a_share_by_hand():
    share = share_reaching([0.98, 0.99, 0.97, 0.99, 0.97])
    assert (share.reached, share.stopped, share.trials) == (2, 0, 5)
    # Wilson's interval for 2 of 5: (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n), z = 1.959964.
    assert (share.low, share.high) == pytest.approx((0.117621, 0.769276), abs=1e-6)


def wilson(reached, trials):
    """Wilson's interval: the shares p by which the score test does not reject what was found."""

    def score(p):
        return abs(reached - trials * p) / (trials * p * (1 - p)) ** 0.5 - stats.norm.ppf(0.975)

    found = reached / trials
    low = optimize.brentq(score, 1e-9, found - 1e-9) if reached else 0.0
    high = optimize.brentq(score, found + 1e-9, 1 - 1e-9) if reached < trials else 1.0
    return low, high


@pytest.mark.parametrize(("reached", "missed", "stopped"), [(1, 4, 3), (0, 2, 8), (3, 0, 1), (0, 0, 2), (30, 20, 50)])
def test_stopped_trials_widen_a_share_to_what_they_might_have_come_to(reached, missed, stopped):
    share = share_reaching(reached * [0.9901] + missed * [0.98], stopped=stopped)
    trials = reached + missed + stopped
    assert (share.reached, share.stopped, share.trials) == (reached, stopped, trials)
    assert share.low == pytest.approx(wilson(reached, trials)[0], abs=1e-6)
    assert share.high == pytest.approx(wilson(reached + stopped, trials)[1], abs=1e-6)


def test_a_share_of_no_trial_is_an_error():
    with pytest.raises(ValueError, match="at least one trial"):
        share_reaching([])


@pytest.mark.parametrize("trials", [1, 2, 18, 400])
def test_the_chance_by_the_first_success_is_that_of_a_geometric_number_of_trials(trials):
    chance = chance_by_first_success(trials)
    assert chance.value == 1 / trials
    assert stats.geom.cdf(trials, chance.low) == pytest.approx(0.025)
    if trials > 1:
        assert stats.geom.sf(trials - 1, chance.high) == pytest.approx(0.025)
    else:
        assert chance.high == 1


def test_a_search_holds_the_truth_where_wilsons_interval_would_not():
    # Where the first success ends the search, Wilson's interval of 1 of n leaves out a small chance too often.
    tries = stats.geom.rvs(0.02, size=400, random_state=np.random.default_rng(0))
    found = [chance_by_first_success(int(number)) for number in tries]
    assert np.mean([estimate.low <= 0.02 <= estimate.high for estimate in found]) >= 0.93


def test_interval_is_scipys():
    sample = np.random.default_rng(0).normal(0.9876, 0.001, 40)
    summary = summarize(sample)
    low, high = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert (summary.low, summary.high) == pytest.approx((low, high), rel=1e-12)


def test_one_accuracy_has_no_spread():
    summary = summarize([0.99])
    assert (summary.n, summary.mean) == (1, 0.99)
    assert math.isnan(summary.sd)
    assert math.isnan(summary.low)


def test_9900_of_10000_reaches_99_percent_and_9899_does_not():
    assert share_reaching([9900 / 10_000, 9899 / 10_000]).reached == 1


def test_no_accuracy_is_an_error():
    with pytest.raises(ValueError, match="at least one accuracy"):
        summarize([])


def accuracies(seed: int, n: int, mean: float = 0.9876, sd: float = 0.001) -> np.ndarray:
    """Multiples of 1/10,000 with many ties, as trials have them."""
    return np.random.default_rng(seed).normal(mean, sd, n).round(4)


def test_welch_is_scipys():
    first, second = accuracies(0, 24, sd=0.0014), accuracies(1, 223)
    found = difference_of_means(first, second)
    expected = stats.ttest_ind(first, second, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.difference.value == pytest.approx(first.mean() - second.mean())


def test_welch_needs_no_more_than_moments():
    sample, published = accuracies(0, 50), Moments(223, 0.98761, 0.00105)
    found = difference_from_moments(Moments(50, float(sample.mean()), float(sample.std(ddof=1))), published)
    expected = stats.ttest_ind_from_stats(sample.mean(), sample.std(ddof=1), 50, 0.98761, 0.00105, 223, equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    # Two equal accuracies have no spread although their mean in binary is not quite the same number.
    equal = difference_of_means([0.1, 0.1, 0.1], [0.3, 0.3, 0.3])
    assert math.isnan(equal.p_value)


def test_a_detectable_difference_is_found_four_times_in_five():
    first, second = accuracies(0, 20), accuracies(1, 20)
    found = difference_of_means(first, second)
    # The power of the t test by the noncentral t distribution.
    error = ((first.var(ddof=1) + second.var(ddof=1)) / 20) ** 0.5
    power = stats.nct.sf(stats.t.ppf(0.975, 38), 38, found.detectable / error)
    assert power == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("pair", [([0.99], [0.98, 0.97]), ([0.99, 0.99], [0.98, 0.98])])
def test_without_spread_there_is_a_difference_but_no_test(pair):
    found = difference_of_means(*pair)
    assert found.difference.value > 0
    assert all(math.isnan(value) for value in (found.difference.low, found.p_value, found.detectable))


def test_paired_difference_is_scipys():
    best, last = accuracies(0, 30), accuracies(1, 30)
    interval = stats.ttest_rel(best, last).confidence_interval(0.95)
    found = paired_difference(best, last)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(best - last), interval.low, interval.high))


def test_hedges_g_by_hand():
    # Means 3 and 6, both variances 1, so d = -3; J = 1 - 3 / (4 * 6 - 9) = 0.8; variance 6 / 9 + 2.4^2 / 12 = 1.14667.
    found = hedges_g([2, 3, 4], [5, 6, 7])
    assert found.value == pytest.approx(-2.4)
    assert found.high - found.value == pytest.approx(1.959964 * math.sqrt(1.1466667), rel=1e-6)


def test_hedges_g_has_the_interval_of_the_noncentral_t():
    first, second = accuracies(0, 50), accuracies(1, 223)
    found = hedges_g(first, second)
    scale = (1 / 50 + 1 / 223) ** 0.5
    t = stats.ttest_ind(first, second).statistic
    exact = [
        optimize.brentq(lambda shift, q=q: stats.nct.cdf(t, 271, shift) - q, -8, 8) * scale for q in (0.975, 0.025)
    ]
    assert (found.low, found.high) == pytest.approx(exact, abs=0.005)


def test_ratio_of_sds_has_about_the_interval_of_normal_samples():
    first, second = np.random.default_rng(0).normal(0, 2, 200), np.random.default_rng(1).normal(0, 1, 200)
    found = ratio_of_sds(first, second)
    assert found.value == pytest.approx(first.std(ddof=1) / second.std(ddof=1))
    expected = [found.value / stats.f.ppf(q, 199, 199) ** 0.5 for q in (0.975, 0.025)]
    assert (found.low, found.high) == pytest.approx(expected, rel=0.08)


def test_superiority_counts_the_pairs():
    first, second = accuracies(0, 24), accuracies(1, 40, mean=0.9873)
    pairs = [(a > b) + 0.5 * (a == b) for a in first for b in second]
    found = superiority(first, second)
    assert found.probability.value == pytest.approx(np.mean(pairs))
    assert found.p_value == pytest.approx(stats.mannwhitneyu(first, second).pvalue)
    turned = superiority(second, first).probability
    assert (turned.low, turned.high) == pytest.approx((1 - found.probability.high, 1 - found.probability.low))


def test_superiority_holds_the_truth_in_95_percent_of_samples():
    rng, truth = np.random.default_rng(0), stats.norm.cdf(-1 / math.sqrt(2))
    found = [superiority(rng.normal(0, 1, 20), rng.normal(1, 1, 30)).probability for _ in range(400)]
    assert np.mean([estimate.low <= truth <= estimate.high for estimate in found]) == pytest.approx(0.95, abs=0.03)


def test_superiority_of_samples_apart_keeps_a_width():
    found = superiority([0.99, 0.991, 0.992], [0.98, 0.981]).probability
    assert found.value == found.high == 1
    assert 0.3 < found.low < 0.9
    equal = superiority([0.99, 0.99], [0.99])
    assert equal.probability.value == 0.5
    assert math.isnan(equal.p_value)


def test_the_ks_distance_is_scipys_and_its_p_value_that_of_all_divisions():
    first, second = [0.1, 0.2, 0.2, 0.3], [0.2, 0.3, 0.3, 0.4, 0.5]
    found = kolmogorov_smirnov(first, second)
    distance = stats.ks_2samp(first, second).statistic
    assert found.distance == pytest.approx(distance)
    pooled, divisions = np.array([*first, *second]), list(itertools.combinations(range(9), 4))
    distances = [stats.ks_2samp(pooled[list(chosen)], np.delete(pooled, chosen)).statistic for chosen in divisions]
    assert found.p_value == pytest.approx(np.mean(np.array(distances) >= distance - 1e-12))


def test_ties_make_the_p_value_of_ks_2samp_too_large():
    first, second = accuracies(0, 50), accuracies(1, 223)
    found, without_ties = kolmogorov_smirnov(first, second), stats.ks_2samp(first, second)
    assert found.distance == pytest.approx(without_ties.statistic)
    # The figures that the docstring gives.
    assert (round(found.p_value, 2), round(without_ties.pvalue, 2)) == (0.46, 0.58)
    # Without ties both agree, but for chance.
    rng = np.random.default_rng(2)
    first, second = rng.normal(0, 1, 50), rng.normal(0.3, 1, 100)
    assert kolmogorov_smirnov(first, second).p_value == pytest.approx(stats.ks_2samp(first, second).pvalue, abs=0.02)


def test_holm_by_hand():
    # .01 * 4; .02 * 3; then .03 * 2 = .06 and .5 * 1.
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.03, math.nan]) == pytest.approx([0.03, math.nan], nan_ok=True)


def test_expected_best_is_the_mean_over_all_subsets():
    sample = [0.9861, 0.9889, 0.9873, 0.9873, 0.9880, 0.9902, 0.9850]
    expected = [np.mean([max(chosen) for chosen in itertools.combinations(sample, k)]) for k in range(1, 8)]
    found = expected_best(sample)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-12)
    assert np.all(found.low <= found.mean)
    assert np.all(found.mean <= found.high + 1e-15)


def test_best_of_weights_are_the_binomial_ratios_even_where_those_are_huge():
    weights = best_of_weights(700)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    for k, i in [(1, 1), (3, 700), (10, 400), (350, 640), (700, 700), (5, 4)]:
        assert weights[k - 1, i - 1] == pytest.approx(math.comb(i - 1, k - 1) / math.comb(700, k), rel=1e-10)


def test_the_interval_of_the_expected_best_of_one_is_that_of_the_mean():
    sample = accuracies(0, 200)
    found, summary = expected_best(sample), summarize(sample)
    assert (found.low[0], found.high[0]) == pytest.approx((summary.low, summary.high), abs=0.00002)


def test_the_chance_of_a_best_is_the_share_of_subsets():
    sample = [0.981, 0.982, 0.982, 0.983, 0.984, 0.985]
    bests = np.array([max(chosen) for chosen in itertools.combinations(sample, 3)])
    for accuracy in (0.98, 0.982, 0.984, 0.99):
        assert chance_of_best_at_most(sample, 3, accuracy) == pytest.approx(np.mean(bests <= accuracy))


def test_the_binomial_sd_is_scipys():
    assert binomial_sd(0.9876, 10_000) == pytest.approx(stats.binom.std(10_000, 0.9876) / 10_000)


def test_spread_by_hand():
    # Accuracies 1, 1/2, 1/2 of two images: variance 1/12. The images' variances are 1/3 and 1/3, so the share of the
    # images is (1/3) / 2 = 1/6, more than all there is.
    found = spread(np.array([[1, 1], [1, 0], [0, 1]], dtype=bool))
    assert found.between**2 == pytest.approx(1 / 12)
    assert found.of_images**2 == pytest.approx(1 / 6)
    assert found.of_networks == 0


def test_spread_finds_the_sd_of_the_networks_true_accuracies():
    rng = np.random.default_rng(0)
    # Hard and easy images, and networks whose chances on all of them are shifted: true accuracies in between.
    shifts, hardness = rng.normal(0, 0.2, 400), rng.normal(2, 1, 4000)
    chances = stats.norm.cdf(shifts[:, None] + hardness)
    found = spread(rng.random(chances.shape) < chances)
    everywhere = stats.norm.cdf((shifts + 2) / math.sqrt(2))
    assert found.of_networks == pytest.approx(everywhere.std(), rel=0.1)
    assert found.of_images == pytest.approx(np.sqrt((chances * (1 - chances)).mean() / 4000), rel=0.05)
