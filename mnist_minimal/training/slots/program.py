"""An epoch of K trials of one network as one compiled call, and the trials' state between the calls.

The training set lies on the device; the order of the images, augmentation, dropout, the steps and the evaluation of the
monitored images are all computed there. What may differ between trials is an argument, so that seeds and settings of
one network run side by side in one compiled program: `structure` says which recipes these are. The place of a trial is
the first axis of everything that goes in and out.

In double precision (JAX_ENABLE_X64) the same program agrees with core/reference.cpp to the last few digits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnist_minimal.data.random import AUGMENTATION, DROPOUT, ORDER, threefry
from mnist_minimal.data.sets import Splits
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import SGD, Recipe
from mnist_minimal.training.network import Network
from mnist_minimal.training.slots import augmentation, layers, optimizers
from mnist_minimal.training.slots.numbers import Numbers, numbers_of, structure

__all__ = ["Blocks", "Figures", "Numbers", "Program", "State", "numbers_of", "structure"]

# Monitored images that are evaluated at a time, or those of a batch if these are more.
CHUNK = 128

# Places of pixels are int32 there.
MAX_PIXELS = 2**31 - 1

# Of dropout's probabilities, which are multiples of 2**-16.
ONE = 65536


class State(NamedTuple):
    """The trials between two epochs, on the device; the moments are those of the optimizer.

    Attributes:
        parameters: (K, P).
        statistics: Moving statistics, (K, S).
        first: (K, P); gradient descent has its velocity there.
        second: (K, P), or (K, 0) with gradient descent.
        steps: Steps taken, int32 (K,).
        best_parameters, best_statistics: Those of the epoch that was kept last, (K, P) and (K, S); by a recipe that
            averages weights their mean, a running one, and before averaging begins those of the last step.
    """

    parameters: jax.Array
    statistics: jax.Array
    first: jax.Array
    second: jax.Array
    steps: jax.Array
    best_parameters: jax.Array
    best_statistics: jax.Array


class Figures(NamedTuple):
    """What an epoch gave, NumPy arrays (K,).

    Attributes:
        loss: Sum of the cross-entropy over the training images, while they were trained on.
        correct: Count of them that were right.
        val_loss, val_correct: The same of the monitored images, after the epoch.
    """

    loss: np.ndarray
    correct: np.ndarray
    val_loss: np.ndarray
    val_correct: np.ndarray


class Settings(NamedTuple):
    """`Numbers` as a program takes them, arrays (K,) of NumPy or, in it, of JAX.

    Attributes:
        first_averaged: The step, counted from 0, after which the weights are the first in the mean, int32.
        drops: Of 65,536 activations how many are dropped, uint32, by the number of the dropout layer.
        ranges: Of the augmentation.
        held_out: The number of the block that is held out, int32; None in a program without blocks.
    """

    weight_decay: Any
    momentum: Any
    teacher_weight: Any
    first_averaged: Any
    drops: dict[int, Any]
    ranges: augmentation.Ranges
    held_out: Any = None


@dataclass(frozen=True)
class Blocks:
    """Parts of the training images, of which each trial holds one out: it is trained on all others, in their order.

    Attributes:
        starts: The place of each block's first image.
        size: Images in each.
    """

    starts: tuple[int, ...]
    size: int


class Images(NamedTuple):
    """Images on the device.

    Attributes:
        pixels: uint8 (n, channels, height, width).
        labels: int32 (n,).
        targets: Probabilities (n, classes), or (blocks, n, classes), or None.
    """

    pixels: jax.Array
    labels: jax.Array
    targets: jax.Array | None = None


class Program:
    """What trains K trials of one network for an epoch; it is compiled once for each K.

    Attributes:
        images: Training images in an epoch.
        steps: Steps in an epoch.

    Args:
        network: The network, described with its dropout layers unless the recipe's dropout is 0.
        recipe: How the trials are trained; only its `structure` matters.
        splits: The images. The targets are the teacher's probabilities, of which each trial has its own share; see
            `structure`. With blocks these are (blocks, n, classes), those of a teacher for each.
        blocks: What trials hold out; None where they train on all images.

    Raises:
        UserError: if the training set is too large to be augmented there.
    """

    def __init__(self, network: Network, recipe: Recipe, splits: Splits, blocks: Blocks | None = None) -> None:
        if recipe.augmentation and splits.x_train.size > MAX_PIXELS:
            raise UserError(
                f"expected at most {MAX_PIXELS:,} pixels in the training set, found {splits.x_train.size:,}: "
                "augmentation on the device counts them in 32 bits; train with --trainer native"
            )
        self.network, self.recipe, self.blocks = network, recipe, blocks
        self._kept = len(splits.x_train) - (blocks.size if blocks else 0)
        self.batch_size = min(recipe.batch_size, self._kept)
        self.images = self._kept - self._kept % self.batch_size if recipe.drop_remainder else self._kept
        self.steps = math.ceil(self.images / self.batch_size)
        self._layers = layers.arranged(network.layers)
        self._dropouts = [layer for layer in self._layers if layer.rate > 0]
        self._shapes = layers.parameter_shapes(network)
        self._statistics_shapes = layers.statistics_shapes(network)
        self._train = self._on_device(splits.x_train, splits.y_train, splits.targets)
        self._val = self._on_device(splits.x_val, splits.y_val)
        self._test = self._on_device(splits.x_test, splits.y_test)
        self._compiled_epoch = jax.jit(self._epoch)
        self._compiled_evaluation = jax.jit(self._evaluated)

    def _on_device(self, pixels: np.ndarray, labels: np.ndarray, targets: np.ndarray | None = None) -> Images:
        by_channel = np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
        return Images(
            jnp.asarray(by_channel),
            jnp.asarray(labels.astype(np.int32)),
            None if targets is None else jnp.asarray(targets),
        )

    # The trials' state

    def begin(self, parameters: np.ndarray, statistics: np.ndarray) -> State:
        """The state of K new trials.

        Args:
            parameters: Initial weights, (K, P).
            statistics: Initial moving statistics, (K, S).
        """
        # Made on the host: each operation on the device would be compiled by itself.
        trials, count = parameters.shape
        second = np.zeros((trials, 0 if isinstance(self.recipe.optimizer, SGD) else count))
        steps = np.zeros(trials, np.int32)
        weights = [parameters.astype(np.float64), statistics.astype(np.float64)]
        return State(*(jnp.asarray(array) for array in (*weights, np.zeros((trials, count)), second, steps, *weights)))

    def keep_best(self, state: State, improved: np.ndarray) -> State:
        """Keeps the weights of the places, bool (K,), as their best."""
        return state._replace(
            best_parameters=_chosen(improved, state.parameters, state.best_parameters),
            best_statistics=_chosen(improved, state.statistics, state.best_statistics),
        )

    def take(self, state: State, places: Sequence[int]) -> State:
        """The state of some places, in their order."""
        chosen = np.asarray(places, np.int32)
        return State(*(array[chosen] for array in state))

    def bytes_a_trial(self) -> int:
        """About how much memory of the device a place takes: its state, and the activations of a batch.

        Kept for the way back is what each layer gives; the gradients of the two largest come on top, and the patches
        of the largest convolution of many channels.
        """
        sizes = [math.prod(layer.out_shape) for layer in self._layers]
        patches = [
            math.prod(layer.kernel_size) * max(layer.in_shape[2], layer.out_shape[2]) * math.prod(layer.in_shape[:2])
            for layer in self._layers
            if layer.kind == "convolution" and layer.kernel_size != (1, 1)
        ]
        pixels = math.prod(self.network.input_shape)
        activations = pixels + sum(sizes) + 2 * max(sizes) + max(patches, default=0)
        state = 6 * self.network.parameters + 3 * self.network.statistics
        # The order of the images, the words by which they are sorted, and what augmentation draws for them.
        order = (16 + (4 * len(augmentation.Changes._fields) if self.recipe.augmentation else 0)) * self.images
        return 4 * (activations * self.batch_size + state) + order

    # An epoch

    def epoch(
        self,
        state: State,
        seeds: np.ndarray,
        epochs: np.ndarray,
        rates: np.ndarray,
        numbers: Numbers,
        held_out: np.ndarray | None = None,
    ) -> tuple[State, Figures]:
        """Trains every place for an epoch and evaluates the monitored images.

        Args:
            state: The trials.
            seeds: Their seeds, 0 <= seed < 2**64, (K,).
            epochs: The epoch that each is in, counted from 0, (K,).
            rates: Learning rates of the steps, float32 (K, steps).
            numbers: The numbers of their recipes.
            held_out: The number of the block that each holds out, (K,); None in a program without blocks.

        Returns:
            The state after the epoch, and what it gave.
        """
        seed = np.asarray(seeds, np.uint64)
        words = (seed & np.uint64(0xFFFFFFFF)).astype(np.uint32), (seed >> np.uint64(32)).astype(np.uint32)
        state, figures = self._compiled_epoch(
            self._train,
            self._val,
            state,
            words,
            np.asarray(epochs, np.uint32),
            np.asarray(rates, np.float32),
            self._settings(numbers, held_out),
        )
        return state, Figures(*(np.asarray(values) for values in figures))

    def test_correct(self, state: State) -> np.ndarray:
        """How many of the test images each place gets right, the first of the largest logits, (K,)."""
        _, correct = self._compiled_evaluation(self._test, state.parameters, state.statistics)
        return np.asarray(correct)

    def _settings(self, numbers: Numbers, held_out: np.ndarray | None) -> Settings:
        drops = {}
        for layer in self._dropouts:
            rates = np.where(np.isnan(numbers.dropout), layer.rate, numbers.dropout).astype(np.float32)
            drops[layer.dropout_index] = np.minimum(np.floor(rates * ONE + 0.5), ONE - 1).astype(np.uint32)
        steps = numbers.max_epochs * self.steps
        first_averaged = np.minimum(np.rint(numbers.averaging_start * steps), steps - 1)
        # The core has its optimizers' numbers in single precision.
        return Settings(
            numbers.weight_decay.astype(np.float32),
            numbers.momentum.astype(np.float32),
            numbers.teacher_weight,
            first_averaged.astype(np.int32),
            drops,
            augmentation.ranges(numbers),
            None if held_out is None else np.asarray(held_out, np.int32),
        )

    def _epoch(
        self,
        train: Images,
        val: Images,
        state: State,
        seeds: layers.Key,
        epochs: jax.Array,
        rates: jax.Array,
        settings: Settings,
    ) -> tuple[State, tuple[jax.Array, ...]]:
        keys = {
            purpose: threefry(seeds, (jnp.full_like(epochs, purpose), epochs))
            for purpose in (ORDER, AUGMENTATION, DROPOUT)
        }
        order = epoch_order(keys[ORDER], self._kept)[:, : self.images]
        # For all steps at once, so that no step has a part in it but the resampling.
        changes = self._changes(order, keys[AUGMENTATION], settings)
        # What is drawn is that of an array of the images that are kept.
        order = self._among_all(order, settings)

        def step(state: State, batch: tuple[Any, ...]) -> tuple[State, tuple[jax.Array, jax.Array]]:
            return self._step(train, settings, state, *batch)

        full = self.images // self.batch_size
        trained = full * self.batch_size

        def in_batches(array: jax.Array) -> jax.Array:
            return array[:, :trained].reshape(-1, full, self.batch_size).transpose(1, 0, 2)

        batches = jax.tree.map(in_batches, (order, changes))
        dropped = [layer.dropout_index for layer in self._dropouts]
        counters = [words.swapaxes(0, 1) for words in layers.dropout_keys(keys[DROPOUT], self.steps, dropped)]
        by_step = (*counters, rates.T.astype(state.parameters.dtype))
        state, (losses, corrects) = lax.scan(step, state, (*batches, *(values[:full] for values in by_step)))
        loss, correct = jnp.sum(losses, axis=0), jnp.sum(corrects, axis=0)
        if full < self.steps:
            last = jax.tree.map(lambda array: array[:, trained:], (order, changes))
            state, (last_loss, last_correct) = step(state, (*last, *(values[full] for values in by_step)))
            loss, correct = loss + last_loss, correct + last_correct
        monitored = state.parameters, state.statistics
        if self.recipe.averaging:
            monitored = state.best_parameters, state.best_statistics
        return state, (loss, correct, *self._evaluated(val, *monitored))

    def _step(
        self,
        train: Images,
        settings: Settings,
        state: State,
        places: jax.Array,
        changes: augmentation.Changes | None,
        first_words: jax.Array,
        second_words: jax.Array,
        rate: jax.Array,
    ) -> tuple[State, tuple[jax.Array, jax.Array]]:
        """One step: on the images at `places`, int32 (K, images), with the keys of the dropout layers, (layers, K).

        Returns:
            The state, and sum of the losses and count of the right answers, (K,) each.
        """
        dtype = state.parameters.dtype
        labels, targets = self._targets(train, places, settings, dtype)
        pixels = self._pixels(train, places, changes, settings, dtype)
        statistics = layers.split(state.statistics, self._statistics_shapes)
        counters = zip(first_words, second_words, strict=True)
        keys = {layer.dropout_index: key for layer, key in zip(self._dropouts, counters, strict=True)}
        dropout = layers.Dropout(settings.drops, keys)

        def loss(weights: layers.Arrays) -> tuple[jax.Array, tuple[jax.Array, jax.Array, layers.Arrays]]:
            logits, moved = layers.forward(self._layers, weights, statistics, pixels, dropout)
            losses = jnp.sum(layers.cross_entropy(logits, targets), axis=1)
            correct = jnp.sum(jnp.argmax(logits, axis=1) == labels, axis=1)
            return jnp.sum(losses) / places.shape[1], (losses, correct, moved)

        weights = layers.split(state.parameters, self._shapes)
        by_array, (losses, correct, moved) = jax.grad(loss, has_aux=True)(weights)
        trials = places.shape[0]
        gradients = layers.joined(by_array, trials, dtype)
        steps, second = state.steps + 1, state.second
        if isinstance(self.recipe.optimizer, SGD):
            parameters, first = optimizers.momentum_step(
                state.parameters, gradients, state.first, rate, settings.momentum.astype(dtype)
            )
        else:
            decay = settings.weight_decay.astype(dtype)
            parameters, first, second = optimizers.adam_step(
                state.parameters, gradients, state.first, second, steps, rate, decay
            )
        state = state._replace(
            parameters=parameters,
            statistics=layers.joined(moved, trials, dtype),
            first=first,
            second=second,
            steps=steps,
        )
        return self._averaged(state, settings), (losses, correct)

    def _averaged(self, state: State, settings: Settings) -> State:
        """After a step: the mean in place of the best weights, where the recipe averages them."""
        if self.recipe.averaging is None:
            return state
        count = (state.steps - settings.first_averaged)[:, None]

        def moved(mean: jax.Array, value: jax.Array) -> jax.Array:
            return jnp.where(count > 1, mean + (value - mean) / jnp.maximum(count, 1), value)

        return state._replace(
            best_parameters=moved(state.best_parameters, state.parameters),
            best_statistics=moved(state.best_statistics, state.statistics),
        )

    def _among_all(self, order: jax.Array, settings: Settings) -> jax.Array:
        """Places among the images that each trial keeps, int32 (K, images), as places in the training set."""
        if self.blocks is None:
            return order
        starts = jnp.asarray(self.blocks.starts, jnp.int32)[settings.held_out]
        return jnp.where(order < starts[:, None], order, order + self.blocks.size)

    def _changes(self, order: jax.Array, key: layers.Key, settings: Settings) -> augmentation.Changes | None:
        """What augmentation draws for an epoch's images, in their order; None without augmentation."""
        if self.recipe.augmentation is None:
            return None
        images, shape = order.astype(jnp.uint32), self.network.input_shape
        return augmentation.draw(self.recipe.augmentation, settings.ranges, key, images, shape)

    def _pixels(
        self,
        train: Images,
        places: jax.Array,
        changes: augmentation.Changes | None,
        settings: Settings,
        dtype: jnp.dtype,
    ) -> jax.Array:
        """What the network is given of the images at `places`, (K, channels, height, width, images)."""
        if changes is None or self.recipe.augmentation is None:
            return self._read(jnp.moveaxis(train.pixels[places], 1, -1), dtype)
        augmented = augmentation.augment(train.pixels, places, changes, self.recipe.augmentation, settings.ranges)
        return self._read(augmented, dtype)

    def _read(self, pixels: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Pixels as the network takes them; the core has scale and offset in single precision."""
        scale, offset = (np.float32(value).astype(dtype) for value in (self.network.scale, self.network.offset))
        return pixels.astype(dtype) * scale + offset

    def _targets(
        self, train: Images, places: jax.Array, settings: Settings, dtype: jnp.dtype
    ) -> tuple[jax.Array, jax.Array]:
        """Labels (K, images) and targets (K, classes, images) of the images at `places`."""
        labels = train.labels[places]
        classes = self.network.layers[-1].out_shape[2]
        targets = jax.nn.one_hot(labels, classes, axis=1, dtype=dtype)
        if train.targets is not None:
            weight = settings.teacher_weight.astype(dtype)[:, None, None]
            found = train.targets[places] if self.blocks is None else train.targets[settings.held_out[:, None], places]
            probabilities = jnp.moveaxis(found.astype(dtype), -1, 1)
            targets = weight * probabilities + (1 - weight) * targets
        return labels, targets

    def _evaluated(self, images: Images, parameters: jax.Array, statistics: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Sum of the cross-entropy of images and count of those that are right, (K,) each."""
        trials, dtype = parameters.shape[0], parameters.dtype
        weights = layers.split(parameters, self._shapes)
        moving = layers.split(statistics, self._statistics_shapes)
        count = len(images.labels)
        chunk = min(count, max(CHUNK, self.batch_size))
        chunks = math.ceil(count / chunk)

        def evaluate(sums: tuple[jax.Array, jax.Array], start: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            # What is missing in the last chunk are images of the one before, which do not count.
            first = jnp.minimum(start, count - chunk)
            pixels = jnp.moveaxis(lax.dynamic_slice_in_dim(images.pixels, first, chunk), 0, -1)
            labels = lax.dynamic_slice_in_dim(images.labels, first, chunk)
            counts = first + lax.iota(jnp.int32, chunk) >= start
            x = jnp.broadcast_to(self._read(pixels, dtype), (trials, *pixels.shape))
            logits, _ = layers.forward(self._layers, weights, moving, x)
            targets = jax.nn.one_hot(labels, logits.shape[1], axis=0, dtype=dtype)
            losses = jnp.where(counts, layers.cross_entropy(logits, targets), 0)
            correct = counts & (jnp.argmax(logits, axis=1) == labels)
            return (sums[0] + jnp.sum(losses, axis=1), sums[1] + jnp.sum(correct, axis=1)), None

        nothing = jnp.zeros(trials, dtype), jnp.zeros(trials, int)
        return lax.scan(evaluate, nothing, jnp.arange(chunks, dtype=jnp.int32) * chunk)[0]


def epoch_order(key: layers.Key, images: int) -> jax.Array:
    """Each trial's order of the training images, int32 (K, images), as `data.batches.epoch_order` has it.

    Args:
        key: Each trial's `data.random` key of the order in its epoch, uint32 (K,) each.
        images: Number of training images.
    """
    indices = jnp.broadcast_to(lax.iota(jnp.uint32, images), (key[0].shape[0], images))
    words, _ = threefry((key[0][:, None], key[1][:, None]), (indices, jnp.zeros_like(indices)))
    # A stable sort by one word of two leaves images of the same word by index.
    _, order = lax.sort((words, indices.astype(jnp.int32)), dimension=1, is_stable=True, num_keys=1)
    return order


def _chosen(places: np.ndarray, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(jnp.asarray(places)[:, None], new, old)
