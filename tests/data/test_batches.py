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


def test_order_is_the_same_with_every_version_of_everything():
    # An order that changed with a release would make published seeds worthless.
    assert epoch_order(0, 0, 10).tolist() == [1, 7, 9, 3, 6, 5, 0, 4, 2, 8]
    assert epoch_order(2**40 + 3, 7, 10).tolist() == [8, 1, 3, 5, 4, 0, 7, 6, 9, 2]


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
