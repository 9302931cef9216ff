"""Targets that are probabilities: mixed by hand, and the same training in the core and in Keras."""

import dataclasses

import numpy as np
import pytest

from experiments.oracles import patterns
from mnist_minimal.data.sets import Splits
from mnist_minimal.models import MODELS
from mnist_minimal.recipes import Adam, Augmentation, Recipe
from mnist_minimal.training import core, native_fit
from mnist_minimal.training.chain import Chain
from mnist_minimal.training.optimizers import AdamW
from mnist_minimal.training.targets import mixed
from tests.rounding import assert_fit_of_the_core_is_that_of_keras
from tests.training.small_network import small_network

NEEDS_CORE = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")
SEED = 5
RECIPE = Recipe(batch_size=32, max_epochs=3, optimizer=Adam(0.001))


def splits(targets: np.ndarray | None = None) -> Splits:
    x, y = patterns(160)
    y = y.astype(np.int64)
    return Splits("made", "source", x[:100], y[:100], x[100:], y[100:], x[100:], y[100:], targets)


def random_targets(classes: int = 10) -> np.ndarray:
    return np.random.default_rng(6).dirichlet(np.full(classes, 0.5), 100).astype(np.float32)


def test_targets_are_mixed_of_teacher_and_label():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.0, 0.125, 0.875]], np.float32)
    found = mixed(probabilities, np.array([0, 1]), 0.25)
    assert found.dtype == np.float32
    # .25 * (.5, .25, .25) + .75 * (1, 0, 0), and .25 * (0, .125, .875) + .75 * (0, 1, 0).
    assert found.tolist() == [[0.875, 0.0625, 0.0625], [0.0, 0.78125, 0.21875]]
    assert mixed(probabilities, np.array([0, 1]), 0.0).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert mixed(probabilities, np.array([0, 1]), 1.0).tolist() == probabilities.tolist()


@NEEDS_CORE
@pytest.mark.parametrize("augmentation", [None, Augmentation(rotation=10, affine_share=0.5)])
@pytest.mark.slow
def test_both_trainers_learn_the_same(augmentation):
    """The loss is by the targets, the accuracies and the monitored loss are by the labels."""
    recipe = dataclasses.replace(RECIPE, augmentation=augmentation)
    images = splits(random_targets())
    native, reference, theirs = assert_fit_of_the_core_is_that_of_keras(small_network(SEED), recipe, images, SEED)
    probabilities = theirs.predict(images.x_val.astype(np.float64), verbose=0)
    of_labels = -np.log(probabilities[np.arange(60), images.y_val]).mean()
    # Keras' metric of it is in single precision: the mean of two batches' sums.
    assert reference.history["val_loss"][-1] == pytest.approx(of_labels, rel=64 * 2**-24)
    assert native.saved_accuracy == np.mean(probabilities.argmax(axis=1) == images.y_val)


@NEEDS_CORE
def test_a_teacher_without_weight_gives_the_bits_of_none():
    models = [MODELS["sep997"]() for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    without, of_labels = splits(), splits(mixed(random_targets(), splits().y_train, 0.0))
    # With dropout, in the second epoch too.
    fits = [
        native_fit.fit(model, RECIPE, images, SEED) for model, images in zip(models, (without, of_labels), strict=True)
    ]
    assert fits[0].history == fits[1].history
    assert [w.tobytes() for w in models[0].get_weights()] == [w.tobytes() for w in models[1].get_weights()]


@NEEDS_CORE
@pytest.mark.parametrize("instruction_set", core.instruction_sets())
def test_any_number_of_threads_gives_the_same_bits(instruction_set):
    images, found = splits(random_targets()), []
    model = MODELS["sep997"]()
    for threads in (1, 3):
        network = Chain(model, AdamW(0.01, 1e-6), instruction_set).network
        labels = images.y_train.astype(np.uint8)
        order = np.random.default_rng(1).permutation(100)
        options = {"batch_size": 40, "seed": 1, "epoch": 0, "learning_rates": 0.01, "threads": threads}
        network.train(images.x_train, labels, order, **options, targets=images.targets)
        found.append(network.parameters.tobytes())
    assert found[0] == found[1]


@NEEDS_CORE
def test_what_are_no_targets_is_refused():
    images, network = splits(), Chain(small_network(SEED), AdamW(0.01, 1e-6)).network
    arguments = (images.x_train, images.y_train.astype(np.uint8), np.arange(100))
    right = random_targets()
    for wrong in (right[:99], right[:, :9], right[0], -right, np.where(right > 0.5, np.float32(np.nan), right)):
        with pytest.raises(ValueError, match="expected targets"):
            network.compute_gradients(*arguments, targets=np.ascontiguousarray(wrong))
    with pytest.raises(TypeError, match="expected targets of dtype float32"):
        network.compute_gradients(*arguments, targets=right.astype(np.float64))
    assert network.steps == 0
