"""Trials of the JAX program in double precision beside those of the scalar loops, core/reference.cpp."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from scipy import ndimage

from mnist_minimal.data.augmentation import draw_changes
from mnist_minimal.data.batches import epoch_order
from mnist_minimal.data.sets import Splits
from mnist_minimal.recipes import Augmentation, Recipe
from mnist_minimal.training.chain import core_optimizer
from mnist_minimal.training.core import _core, core_arguments
from mnist_minimal.training.network import Network
from mnist_minimal.training.optimizers import make_optimizer
from mnist_minimal.training.slots.program import Blocks, Program, numbers_of, structure
from mnist_minimal.training.targets import mixed
from tests.data.test_augment import SCIPY_MODES, backwards

SCIPY_ORDERS = {"nearest": 0, "bilinear": 1}


@contextmanager
def double_precision() -> Iterator[None]:
    """JAX_ENABLE_X64 for a time."""
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def splits(x: np.ndarray, y: np.ndarray, monitored: int, targets: np.ndarray | None = None) -> Splits:
    """Images to train on, the first of which are monitored and tested too."""
    first = x[:monitored], y[:monitored].astype(np.int64)
    return Splits("made", "source", x, y.astype(np.int64), *first, *first, targets)


def augmented(images: np.ndarray, augmentation: Augmentation, seed: int, epoch: int) -> np.ndarray:
    """Images as an epoch changes them: by SciPy in double precision, float32 in the end; one channel each."""
    changes = draw_changes(augmentation, seed, epoch, images)
    crop = augmentation.crop
    # The package has what is outside in single precision.
    fill = augmentation.fill if augmentation.fill == "reflect" else float(np.float32(augmentation.fill))
    mode, cval = (SCIPY_MODES["reflect"], 0) if fill == "reflect" else (SCIPY_MODES[0.0], fill)
    found = np.empty(images.shape, np.float32)
    for image, change, result in zip(images[..., 0].astype(np.float64), changes, found, strict=True):
        if change["angle"] or change["scale"] != 1 or change["shift"].any():
            order = SCIPY_ORDERS[augmentation.interpolation]
            image = ndimage.affine_transform(image, *backwards(change, image.shape), order=order, mode=mode, cval=cval)
        options: dict[str, Any] = {"mode": "reflect"} if fill == "reflect" else {"constant_values": fill}
        top, left = change["corner"]
        image = np.pad(image, crop, **options)[top : top + image.shape[0], left : left + image.shape[1]]
        if augmentation.contrast or augmentation.brightness:
            image = np.clip(image * change["contrast"] + change["brightness"], 0, 255)
        result[..., 0] = image
    return found


def with_dropout(network: Network, rate: float | None) -> Network:
    """The network with one rate for all its dropout layers, or as it is."""
    layers = network.layers
    if rate is not None:
        layers = tuple(dataclasses.replace(layer, rate=rate) if layer.rate else layer for layer in layers)
    return dataclasses.replace(network, layers=layers)


def assert_program_is_the_reference(
    network: Network,
    weights: tuple[np.ndarray, np.ndarray],
    recipes: Sequence[Recipe],
    data: Splits,
    rates: Sequence[float],
    tolerance: float,
    blocks: Blocks | None = None,
) -> float:
    """Trains a trial by each recipe for an epoch, all of them at once, and each by itself as scalar loops.

    With blocks each trial holds out another one, which the loops are given no image of.

    Weights and moving statistics, the loss and the answers of the training and of the monitored images are compared.

    Returns:
        The largest difference of a weight.
    """
    farthest = 0.0
    seeds, epochs = [3 + 2**40 * place for place in range(len(recipes))], [2 * place for place in range(len(recipes))]
    assert len({structure(recipe) for recipe in recipes}) == 1
    with double_precision():
        program = Program(network, structure(recipes[0]), data, blocks)
        state = program.begin(*(np.stack([values] * len(recipes)) for values in weights))
        by_step = np.repeat(np.array(rates, np.float32)[:, np.newaxis], program.steps, axis=1)
        held_out = None if blocks is None else np.arange(len(recipes))
        state, figures = program.epoch(state, np.array(seeds), np.array(epochs), by_step, numbers_of(recipes), held_out)
        found = list(zip(np.asarray(state.parameters), np.asarray(state.statistics), strict=True))
    assert state.parameters.dtype == np.float64
    np.testing.assert_array_equal(state.steps, program.steps)
    for place, (recipe, seed, epoch) in enumerate(zip(recipes, seeds, epochs, strict=True)):
        reference = _core.Reference64(
            **core_arguments(with_dropout(network, recipe.dropout)), optimizer=core_optimizer(make_optimizer(recipe))
        )
        reference.parameters, reference.statistics = (values.astype(np.float64) for values in weights)
        x, y, targets = data.x_train, data.y_train, data.targets
        if blocks is not None:
            out = np.arange(blocks.starts[place], blocks.starts[place] + blocks.size)
            x, y = np.delete(x, out, axis=0), np.delete(y, out)
            targets = None if targets is None else np.delete(targets[place], out, axis=0)
        if recipe.augmentation:
            x = augmented(x, recipe.augmentation, seed, epoch)
        if targets is not None:
            targets = mixed(targets, y, recipe.teacher.weight)
        loss, correct, _ = reference.train(
            x,
            y.astype(np.uint8),
            epoch_order(seed, epoch, len(x))[: program.images],
            batch_size=recipe.batch_size,
            seed=seed,
            epoch=epoch,
            learning_rates=by_step[place],
            targets=targets,
        )
        farthest = max(farthest, float(np.abs(found[place][0] - reference.parameters).max()))
        changed = np.abs(reference.parameters - weights[0]).max()
        assert changed > 1e3 * tolerance
        np.testing.assert_allclose(found[place][0], reference.parameters, rtol=0, atol=tolerance)
        np.testing.assert_allclose(found[place][1], reference.statistics, rtol=0, atol=tolerance)
        assert figures.loss[place] == np.float64(loss) or abs(figures.loss[place] - loss) < tolerance * len(x)
        assert figures.correct[place] == correct
        probabilities = reference.predict(data.x_val)
        of_label = probabilities[np.arange(len(data.y_val)), data.y_val]
        np.testing.assert_allclose(figures.val_loss[place], -np.log(of_label).sum(), rtol=tolerance)
        assert figures.val_correct[place] == np.sum(probabilities.argmax(axis=1) == data.y_val)
    return farthest
