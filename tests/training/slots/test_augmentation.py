"""Augmentation and order of many trials at once in JAX against those of `mnist_minimal.data`, image by image."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from mnist_minimal.data.augmentation import augment, draw_changes
from mnist_minimal.data.batches import epoch_order
from mnist_minimal.data.random import AUGMENTATION, ORDER, stream
from mnist_minimal.recipes import SGD, Recipe
from tests.data.test_augment import EVERYTHING, noise

if importlib.util.find_spec("jax") is None:
    pytest.skip("JAX, of the extra `test`, is not installed", allow_module_level=True)

import jax

from mnist_minimal.training.slots import augmentation as slots
from mnist_minimal.training.slots import program
from mnist_minimal.training.slots.numbers import numbers_of

SEEDS, EPOCHS = (0, 2**33 + 1), (0, 7)


def keys(purpose: int) -> tuple[jax.Array, ...]:
    """Those of both trials, uint32 (2,) each."""
    found = [stream(seed, purpose, epoch) for seed, epoch in zip(SEEDS, EPOCHS, strict=True)]
    return tuple(jax.numpy.asarray(np.concatenate(words)) for words in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("interpolation", "fill", "crop", "shape"),
    [("bilinear", 33.3, 2, (12, 9, 3)), ("bilinear", "reflect", 4, (14, 14, 1)), ("nearest", -20.0, 1, (14, 14, 1))],
)
def test_images_are_those_of_numpy(interpolation, fill, crop, shape) -> None:
    """Two trials with different ranges, the second without tones, whose pixels have no limits."""
    images, chosen = noise(300, shape=shape), np.random.default_rng(0).permutation(300)[:200]
    first = dataclasses.replace(EVERYTHING, interpolation=interpolation, fill=fill, crop=crop)
    second = dataclasses.replace(
        first, rotation=180, translation=0.5, scale=(0.2, 3.0), affine_share=1.0, contrast=0.0, brightness=0.0
    )
    recipes = [
        Recipe(batch_size=1, max_epochs=1, optimizer=SGD(learning_rate=0, momentum=0), augmentation=each)
        for each in (first, second)
    ]
    ranges = jax.tree.map(jax.numpy.asarray, slots.ranges(numbers_of(recipes)))
    places = np.stack([chosen, chosen[::-1]])

    @jax.jit
    def both(pixels, places, ranges, key):
        changes = slots.draw(first, ranges, key, places.astype(np.uint32), shape)
        return slots.augment(pixels, places, changes, first, ranges)

    pixels = jax.numpy.asarray(np.moveaxis(images, -1, 1))
    found = np.asarray(both(pixels, jax.numpy.asarray(places), ranges, keys(AUGMENTATION)))
    assert found.dtype == np.float32
    for trial, each in enumerate((first, second)):
        changes = draw_changes(each, SEEDS[trial], EPOCHS[trial], images)
        expected = augment(images, changes, each)[places[trial]]
        difference = np.abs(np.transpose(found[trial], (3, 1, 2, 0)) - expected)
        if interpolation == "nearest":
            # Halfway between two pixels the nearest one is a matter of rounding.
            assert (difference > 0.01).mean() < 1e-4
        else:
            assert difference.max() < 0.05


def test_shares_are_of_the_words_below_them() -> None:
    """A share of 0 is of none, one of 1 of all 2**32 words; 2**32 - 1 is in the last window of a crop."""
    recipe = Recipe(batch_size=1, max_epochs=1, optimizer=SGD(learning_rate=0, momentum=0), augmentation=EVERYTHING)
    shares = [0.0, 2.0**-32, 0.5, 0.3, 1.0]
    ranges = slots.ranges(numbers_of([recipe.replace(**{"augmentation.affine_share": share}) for share in shares]))
    assert ranges.moves.tolist() == [False, True, True, True, True]
    assert ranges.last_moved[1:].tolist() == [0, 2**31 - 1, int(0.3 * 2**32), 2**32 - 1]
    ends = np.array([0, 2**16, 2**31, 2**32 - 2**16, 2**32 - 1], np.uint32)
    for count in (1, 3, 5, 2**16 - 1):
        expected = [int(word) * count >> 32 for word in ends]
        np.testing.assert_array_equal(slots._below(jax.numpy.asarray(ends), count), expected)


def test_the_order_is_that_of_numpy() -> None:
    """Of 60,000 images, two of which have the same word in epoch 0 of seed 0."""
    found = jax.jit(program.epoch_order, static_argnums=1)(keys(ORDER), 60_000)
    assert found.dtype == np.int32
    expected = [epoch_order(seed, epoch, 60_000) for seed, epoch in zip(SEEDS, EPOCHS, strict=True)]
    np.testing.assert_array_equal(found, expected)
