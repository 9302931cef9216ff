"""Augmentation in the core against NumPy's, to the bit, and training on its images."""

import dataclasses
import math
import os
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from experiments.oracles import chain, images, labels, randomise
from mnist_minimal.data import elementary
from mnist_minimal.data.augmentation import augment, draw_changes
from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES, Augmentation
from mnist_minimal.training import core
from tests.data import test_augment

# Where the core is required, its absence is a failure and no reason to skip.
if not core.available() and os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") != "1":
    pytest.skip("the C++ core was not built", allow_module_level=True)

from mnist_minimal.training.core import _core
from mnist_minimal.training.native_fit import core_augmentation

every_instruction_set = pytest.mark.parametrize("instruction_set", core.instruction_sets())

AUGMENTING = [name for name, recipe in RECIPES.items() if recipe.augmentation]

EVERYTHING = dataclasses.replace(test_augment.EVERYTHING, fill=33.3)


def noise(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Images without a background, so that whatever happens at a border shows."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def numpys(x: np.ndarray, augmentation: Augmentation, seed: int, epoch: int) -> np.ndarray:
    # A scale of 0 divides by 0, and what is infinite then leaves the image.
    with np.errstate(all="ignore"):
        return augment(x, draw_changes(augmentation, seed, epoch, x), augmentation)


def assert_same_bits(x: np.ndarray, augmentation: Augmentation, seed: int, epoch: int, instruction_set: str) -> None:
    order = np.random.default_rng(0).permutation(len(x))
    found = _core.augment(
        x, order, core_augmentation(augmentation), seed=seed, epoch=epoch, instruction_set=instruction_set
    )
    expected = numpys(x, augmentation, seed, epoch)[order]
    assert found.shape == expected.shape
    different = found.view(np.int32) != expected.view(np.int32)
    assert not different.any(), (augmentation, x.shape, seed, epoch, np.argwhere(different)[0])


@every_instruction_set
@pytest.mark.parametrize("name", AUGMENTING)
def test_images_of_the_recipes_are_numpys_to_the_bit(name: str, instruction_set: str) -> None:
    augmentation = RECIPES[name].augmentation
    assert augmentation is not None
    for epoch in range(3):
        assert_same_bits(noise(300, (28, 28, 1), epoch), augmentation, 2**63 + 5, epoch, instruction_set)


@every_instruction_set
def test_images_of_any_ranges_are_numpys_to_the_bit(instruction_set: str) -> None:
    """Ranges, shapes, seeds and epochs at random, those at the ends of what is allowed among them."""
    rng = np.random.default_rng(1)

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    for _ in range(150):
        augmentation = Augmentation(
            rotation=one_of(0, 6, 360, rng.uniform(0, 360)),
            translation=one_of(0, 0.1, rng.uniform(0, 2), math.inf),
            scale=(one_of(0, 0.9, 1, 1e-30), one_of(0, 1, 1.1, 1e30, rng.uniform(0, 3))),
            affine_share=one_of(0.5, 1),
            interpolation=one_of("nearest", "bilinear"),
            crop=one_of(0, 1, 2, 40),
            fill=one_of(0, 33.3, -7.7, "reflect"),
            brightness=one_of(0, 0.3),
            contrast=one_of(0, 0.3, 2),
            tone_share=one_of(0, 0.5, 1),
        )
        shape = one_of(1, 2, 12, 16, 28, 33), one_of(1, 2, 7, 19, 28, 33), one_of(1, 3)
        seed, epoch = int(rng.integers(2**63)), int(rng.integers(2**32))
        assert_same_bits(noise(20, shape), augmentation, seed, epoch, instruction_set)


def test_sine_and_cosine_are_those_of_numpy_to_the_bit() -> None:
    rng = np.random.default_rng(2)
    quarters = np.arange(-9, 10) * (math.pi / 4)
    x = np.concatenate([rng.uniform(-7, 7, 5000), rng.uniform(-1e6, 1e6, 5000), quarters, [0.0, -0.0, 1e-9, 1e-300]])
    for ours, numpys_own in ((_core.sin, elementary.sin), (_core.cos, elementary.cos)):
        np.testing.assert_array_equal(
            np.array([ours(float(value)) for value in x]).view(np.int64), numpys_own(x).view(np.int64)
        )


def test_half_a_share_leaves_half_of_the_images_as_they_are() -> None:
    x = noise(2000, (28, 28, 1))
    augmentation = core_augmentation(Augmentation(rotation=6, translation=0.04, scale=(0.92, 1.08), affine_share=0.5))
    same = (_core.augment(x, np.arange(2000), augmentation, seed=1, epoch=0) == x).all(axis=(1, 2, 3))
    # Five standard deviations of a binomial distribution.
    assert abs(same.sum() - 1000) < 5 * math.sqrt(500)


def normalised_model() -> keras.Model:
    """With a batch normalisation, so that a batch goes through in segments; images are neither square nor grey."""
    keras.utils.set_random_seed(5)
    return randomise(
        keras.Sequential(
            [
                keras.Input((12, 9, 3)),
                layers.Rescaling(1 / 255, offset=-0.1),
                layers.Conv2D(6, 3, padding="same"),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dropout(0.2),
                layers.GlobalAveragePooling2D(),
                layers.Dense(10, activation="softmax"),
            ]
        )
    )


@every_instruction_set
@pytest.mark.parametrize("model", [MODELS["sep997"], normalised_model])
def test_training_on_augmented_images_is_that_on_numpys(model, instruction_set: str) -> None:
    """Whatever the number of threads; batches of 72 end with half a group, the last batch with a quarter of one."""
    built = model()
    x, y = images(220, built.input_shape[1:]), labels(220)
    order = np.random.default_rng(3).permutation(220)
    when = {"batch_size": 72, "seed": 9, "epoch": 4, "learning_rates": 0.01}
    found = []
    for threads in (0, 1, 2, 3):
        network = chain(built, instruction_set=instruction_set).network
        if threads:
            augmentation = core_augmentation(EVERYTHING)
            totals = network.train(x, y, order, threads=threads, augmentation=augmentation, **when)
        else:
            totals = network.train(numpys(x, EVERYTHING, 9, 4), y, order, **when)
        found.append((totals[:2], network.parameters.tobytes(), network.statistics.tobytes()))
    assert all(other == found[0] for other in found)
    plain = chain(built, instruction_set=instruction_set).network
    plain.train(x, y, order, **when)
    assert plain.parameters.tobytes() != found[0][1]


RANGES = dataclasses.asdict(EVERYTHING)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotation": -1},
        {"rotation": 361},
        {"rotation": math.nan},
        {"rotation": "6"},
        {"translation": -0.1},
        {"scale": (-1, 1)},
        {"scale": (1, math.nan)},
        {"scale": 1},
        {"affine_share": 1.1},
        {"interpolation": "cubic"},
        {"crop": -1},
        {"crop": 2**31},
        {"crop": 0.5},
        {"fill": "mirror"},
        {"fill": None},
        {"brightness": -1},
        {"contrast": -1},
        {"tone_share": -0.1},
        {"unknown": 1},
    ],
)
def test_wrong_ranges_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        _core.Augmentation(**{**RANGES, **wrong})


@pytest.mark.parametrize("missing", RANGES)
def test_every_range_is_asked_for(missing: str) -> None:
    """A new field of the recipe must reach the core."""
    with pytest.raises(TypeError):
        _core.Augmentation(**{name: value for name, value in RANGES.items() if name != missing})


def test_wrong_images_are_refused() -> None:
    augmentation, order = _core.Augmentation(**RANGES), np.arange(3)
    x, when = noise(3, (6, 5, 2)), {"seed": 1, "epoch": 0}
    assert _core.augment(x, order, augmentation, **when).shape == x.shape
    for images_, order_ in (
        (x.astype(np.float32), order),
        (x[..., 0], order),
        (x[:, ::-1], order),
        (x[:0], order),
        (x[:, :0], order),
        (x, order + 1),
        (x, order[:0]),
        (x, order.astype(np.int32)),
        (np.zeros((1, 1025, 1025, 1), np.uint8), order[:1]),
    ):
        with pytest.raises((TypeError, ValueError)):
            _core.augment(images_, order_, augmentation, **when)
    for wrong in ({"seed": -1}, {"epoch": -1}, {"epoch": 2**32}, {"instruction_set": "mmx"}):
        with pytest.raises((TypeError, ValueError)):
            _core.augment(x, order, augmentation, **{**when, **wrong})


def test_images_that_are_no_bytes_are_not_augmented() -> None:
    network = chain(MODELS["sep997"]()).network
    before = network.parameters
    x, y, order = images(20).astype(np.float32), labels(20), np.arange(20)
    with pytest.raises(TypeError, match="uint8"):
        network.train(
            x,
            y,
            order,
            batch_size=10,
            seed=0,
            epoch=0,
            learning_rates=0.1,
            augmentation=_core.Augmentation(**RANGES),
        )
    np.testing.assert_array_equal(network.parameters, before)
