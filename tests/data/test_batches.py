"""Batches: permutations that depend on seed and epoch alone."""

import numpy as np
import pytest

from mnist_minimal.data.batches import epoch_batches, epoch_order


def test_an_epoch_visits_every_image_once():
    assert sorted(epoch_order(seed=3, epoch=5, images=1000)) == list(range(1000))


def test_order_follows_from_seed_and_epoch_alone():
    first = epoch_order(7, 2, 500)
    epoch_order(8, 0, 100)
    np.testing.assert_array_equal(first, epoch_order(7, 2, 500))
    assert not np.array_equal(first, epoch_order(7, 3, 500))
    assert not np.array_equal(first, epoch_order(8, 2, 500))


def test_order_is_that_of_the_sorted_philox_stream():
    # An order that changed with a release would make published seeds worthless. NumPy 2.2 and 2.4 gave this one.
    assert epoch_order(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]


@pytest.mark.parametrize(
    ("images", "drop_remainder", "sizes"),
    [
        (300, True, [128, 128]),
        (300, False, [128, 128, 44]),
        (256, True, [128, 128]),
        (100, True, [100]),
    ],
)
def test_batches_cut_the_order(images, drop_remainder, sizes):
    batches = epoch_batches(1, 0, images, 128, drop_remainder)
    assert [len(batch) for batch in batches] == sizes
    np.testing.assert_array_equal(np.concatenate(batches), epoch_order(1, 0, images)[: sum(sizes)])


def test_mnist_has_468_steps_of_128():
    assert len(epoch_batches(0, 0, 60_000, 128, drop_remainder=True)) == 468
