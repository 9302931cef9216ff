"""The experiment of the images' origins: which images of a fold are of which file, and what the table says of them."""

import numpy as np
import pytest
from scipy import stats

from experiments import origins
from mnist_minimal.data.choice import Fold
from mnist_minimal.data.sets import Dataset, folded


def test_the_origins_are_those_of_the_images_of_each_fold():
    """Every image says in its first pixel where it is from."""
    codes = np.array([0] * 30 + [1] * 5 + [2] * 6)
    images = np.zeros((41, 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = codes
    labels = np.arange(41) % 10
    dataset = Dataset("made", "", "", images[:30], labels[:30], images[30:], labels[30:])
    found = []
    for number in (1, 2, 3):
        fold = folded(dataset, Fold(number, 3))
        of_fold = folded(origins.with_origins(dataset), Fold(number, 3)).y_test
        assert np.array_equal(of_fold, fold.x_test[:, 0, 0, 0])
        found += of_fold.tolist()
    assert np.bincount(found).tolist() == [30, 5, 6]


def test_the_table_has_means_over_images_and_their_standard_errors():
    random = np.random.default_rng(0)
    shares, codes = random.integers(0, 4, 500) / 3, random.integers(0, 3, 500)
    of_training, of_test = shares[codes == 0], shares[codes > 0]
    rows = origins.rows("sep997", shares, codes)
    assert [row[1] for row in rows] == ["training file", "test file", "its first half", "its last half"]
    assert rows[0][2:] == [
        str(len(of_training)),
        f"{of_training.mean():.5f}",
        f"{of_training.std(ddof=1) / len(of_training) ** 0.5:.5f}",
        "-",
    ]
    difference, interval = rows[1][5].split(maxsplit=1)
    assert float(difference) == pytest.approx(of_test.mean() - of_training.mean(), abs=1e-5)
    low, high = (float(word.strip("()")) for word in interval.split(" to "))
    expected = stats.ttest_ind(of_test, of_training, equal_var=False).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-5)
    assert int(rows[2][2]) + int(rows[3][2]) == int(rows[1][2].replace(",", ""))
