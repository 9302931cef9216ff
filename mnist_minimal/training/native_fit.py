"""Training with the C++ core, and Keras' own callbacks around it."""

import dataclasses
import math
import time
from collections.abc import Sequence

import keras
import numpy as np

from mnist_minimal.data.batches import batches_per_epoch, epoch_batches
from mnist_minimal.data.sets import Splits
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import Augmentation, ByStep, Recipe
from mnist_minimal.training import DivergedError, Fit, averaging, epochs_to_train
from mnist_minimal.training.chain import Chain, check_optimizer, unsupported
from mnist_minimal.training.checkpoint import Checkpoint, Resumption
from mnist_minimal.training.core import _core, available
from mnist_minimal.training.evaluation import Evaluation, from_probabilities
from mnist_minimal.training.keras_fit import compile_model, keras_callbacks, recipe_callbacks
from mnist_minimal.training.optimizers import make_optimizer
from mnist_minimal.training.schedules import step_rates

__all__ = ["available", "evaluate", "fit", "unsupported", "unsupported_recipe"]

# What Keras calls for single batches, of which the core has no part.
BATCH_METHODS = [
    *("on_batch_begin", "on_batch_end"),
    *(f"on_{what}_batch_{when}" for what in ("train", "test") for when in ("begin", "end")),
]


def fit(
    model: keras.Model,
    recipe: Recipe,
    splits: Splits,
    seed: int,
    *,
    max_epochs: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: Checkpoint | None = None,
    threads: int = 1,
) -> Fit:
    """Trains a model from the weights it has, and leaves in it those of the best epoch where the recipe stops early.

    A recipe without early stopping leaves those of its last epoch, as its source does, or the mean of its `averaging`.

    The callbacks see the Keras model, with the weights of the epoch that has ended, which are those of its last step
    also where the figures of the monitored images are the mean's; what they change of its weights,
    its optimizer's learning rate and `stop_training` holds for the next epoch. Where the recipe sets a learning rate
    for each step they have to leave it alone. They are not called for single batches.
    The result is a function of the model, recipe, splits and seed: the same bits for any number of threads, beside any
    number of other trials, stopped and resumed or not. Seeds of the model's Dropout layers are not used.

    Args:
        model: A built model from pixels (batch, height, width, channels) to class probabilities (batch, classes).
        recipe: How to train it.
        splits: The images; those of `x_val` are monitored.
        seed: The trial's seed, 0 <= seed < 2**64.
        max_epochs: A cap on the recipe's number of epochs, at least 1.
        callbacks: More Keras callbacks, called after the recipe's own; a trial that is resumed has new ones.
        checkpoint: Where the state is kept after every epoch; training is resumed after the epochs it holds.
        threads: Threads that may share the work of each batch, at least 1. There is work for one for every 16 images of
            the batch, and no more are started.

    Returns:
        The history and what follows from it; `cpu_seconds` counts this training's threads alone.

    Raises:
        UserError: if `max_epochs` is less than 1, if the core was not built, or if it cannot run the model; if a
            callback sets the learning rate where the recipe sets one for each step.
        DivergedError: if the training loss is no longer a finite number.
    """
    epochs = epochs_to_train(recipe, max_epochs)
    compile_model(model, recipe)
    chain = Chain(model, model.optimizer)
    network = chain.network
    augmentation = core_augmentation(recipe.augmentation) if recipe.augmentation else None
    recipes_own = recipe_callbacks(recipe)
    steps = batches_per_epoch(len(splits.x_train), recipe.batch_size, recipe.drop_remainder)
    first_averaged = averaging.first_step(recipe, steps)
    state = checkpoint or Checkpoint()
    y_train, y_val = splits.y_train.astype(np.uint8), splits.y_val.astype(np.uint8)
    cpu_before, helper_seconds = time.thread_time(), 0.0

    def optimizer_state() -> list[np.ndarray]:
        sums = [] if first_averaged is None else [network.sums]
        matrices = [network.covariances, network.bases] if network.bases.size else []
        return [np.array(learning_rate_of(model)), np.array(network.steps), network.moments, *sums, *matrices]

    def restore_optimizer(arrays: list[np.ndarray]) -> None:
        learning_rate, steps, network.moments, *more = arrays
        model.optimizer.learning_rate = float(learning_rate)
        network.steps = int(steps)
        if first_averaged is not None:
            network.sums, *more = more
        if more:
            network.covariances, network.bases = more

    resumption = Resumption(
        state,
        recipes_own,
        optimizer_state,
        restore_optimizer,
        cpu_seconds=lambda: time.thread_time() - cpu_before + helper_seconds,
    )
    called = keras.callbacks.CallbackList(
        [*recipes_own, *keras_callbacks(recipe), *callbacks, resumption], model=model, epochs=epochs, verbose=0
    )
    model.stop_training = False
    called.on_train_begin()
    logs: dict[str, float] = {}
    for epoch in range(state.epochs, state.epochs if state.stopped else epochs):
        called.on_epoch_begin(epoch)
        chain.from_keras()
        batches = epoch_batches(seed, epoch, len(y_train), recipe.batch_size, recipe.drop_remainder)
        order = np.concatenate(batches)
        rates = epoch_rates(model, recipe, epoch, len(batches))
        loss, correct, trained = network.train(
            splits.x_train,
            y_train,
            order,
            batch_size=recipe.batch_size,
            seed=seed,
            epoch=epoch,
            learning_rates=rates,
            threads=threads,
            targets=splits.targets,
            augmentation=augmentation,
            sum_from=first_averaged,
        )
        helper_seconds += trained
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss became {loss} in epoch {epoch + 1}")
        chain.to_keras()
        called.on_test_begin()
        put_mean(network, first_averaged)
        val_loss, val_correct, evaluated = network.evaluate(splits.x_val, y_val, threads=threads)
        called.on_test_end()
        helper_seconds += evaluated
        logs = {
            "loss": loss / len(order),
            "accuracy": correct / len(order),
            "val_loss": val_loss / len(y_val),
            "val_accuracy": val_correct / len(y_val),
            "learning_rate": float(rates[-1]),
        }
        called.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    if put_mean(network, first_averaged):
        chain.to_keras()
    called.on_train_end(logs)
    return Fit.from_history(state.history.figures, len(y_val), state.train_seconds, state.cpu_seconds)


def evaluate(model: keras.Model, images: np.ndarray, labels: np.ndarray, *, threads: int = 1) -> Evaluation:
    """What a model makes of labelled images, by the core: the same bits on every processor.

    Args:
        model: A built model that the core can run.
        images: uint8 or float32 (n, height, width, channels) in [0, 255], n > 0.
        labels: Integers (n,) in 0 .. classes - 1.
        threads: Threads that share the images.

    Raises:
        UserError: if the core was not built, or cannot run the model.
    """
    # The optimizer takes no step.
    network = Chain(model, keras.optimizers.SGD()).network
    return from_probabilities(network.predict(images, threads=threads), labels)


def unsupported_recipe(recipe: Recipe) -> str | None:
    """Why the core cannot train by a recipe, as one line that names what, or None where it can.

    Raises:
        UserError: if Keras has not what the recipe names.
    """
    optimizer = make_optimizer(recipe)
    for callback in keras_callbacks(recipe):
        kind = type(callback)
        if any(getattr(kind, name) is not getattr(keras.callbacks.Callback, name) for name in BATCH_METHODS):
            return (
                "expected callbacks that are called for epochs, found "
                f"{kind.__name__}, which is called for batches; train with --trainer keras"
            )
    try:
        check_optimizer(optimizer)
    except UserError as error:
        return str(error)
    return None


def put_mean(network: "_core.Network", first_averaged: int | None) -> bool:
    """Gives a network the mean of the weights after all steps from one on; whether there were any."""
    if first_averaged is None or network.steps <= first_averaged:
        return False
    mean = (network.sums / (network.steps - first_averaged)).astype(np.float32)
    network.parameters, network.statistics = np.split(mean, [len(network.parameters)])
    return True


def core_augmentation(augmentation: Augmentation) -> "_core.Augmentation":
    """The same for the core, which augments as `data.augmentation` does, bit for bit."""
    return _core.Augmentation(**dataclasses.asdict(augmentation))


def epoch_rates(model: keras.Model, recipe: Recipe, epoch: int, steps: int) -> np.ndarray:
    """The learning rates of an epoch's steps, float32 (steps,): the recipe's, or the one that the callbacks have left.

    Callbacks find that of the epoch's last step in the optimizer.

    Raises:
        UserError: if a callback has set a rate where the recipe sets one for each step, which Keras refuses too.
    """
    if not isinstance(recipe.schedule, ByStep):
        return np.full(steps, learning_rate_of(model), np.float32)
    left = learning_rate_of(model)
    if epoch and left != step_rates(recipe, epoch - 1, steps)[-1]:
        raise UserError(
            "expected callbacks that leave the learning rate to the recipe's schedule by step, found it set to "
            f"{left:g}; leave such a callback out, or set the recipe's schedule to None"
        )
    rates = step_rates(recipe, epoch, steps)
    model.optimizer.learning_rate = float(rates[-1])
    return rates


def learning_rate_of(model: keras.Model) -> float:
    """The learning rate of the model's optimizer, float32 as Keras keeps it."""
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
