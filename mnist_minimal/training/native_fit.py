"""Training with the C++ core, and Keras' own callbacks around it."""

import math
import time
from collections.abc import Sequence

import keras
import numpy as np

from mnist_minimal.batches import epoch_batches
from mnist_minimal.data import Splits
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import Recipe
from mnist_minimal.training import DivergedError, Fit
from mnist_minimal.training.core import available
from mnist_minimal.training.core.chain import Chain, unsupported
from mnist_minimal.training.keras_fit import compile_model, recipe_callbacks

__all__ = ["available", "fit", "unsupported"]


def fit(
    model: keras.Model,
    recipe: Recipe,
    splits: Splits,
    seed: int,
    *,
    max_epochs: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    threads: int = 1,
) -> Fit:
    """Trains a model from the weights it has, and leaves in it those of the best epoch.

    The callbacks see the Keras model, with the weights of the epoch that has ended; what they change of its weights, its
    optimizer's learning rate and `stop_training` holds for the next epoch. They are not called for single batches. The
    result is a function of the model, recipe, splits and seed: the same bits for any number of threads, and beside any
    number of other trials. Seeds of the model's Dropout layers are not used.

    Args:
        model: A built model from pixels (batch, 28, 28, 1) to class probabilities (batch, 10).
        recipe: How to train it.
        splits: The images; those of `x_val` are monitored.
        seed: The trial's seed, 0 <= seed < 2**64.
        max_epochs: A cap on the recipe's number of epochs, at least 1.
        callbacks: More Keras callbacks, called after the recipe's own.
        threads: Threads that share the work of each batch.

    Returns:
        The history and what follows from it; `cpu_seconds` counts this training's threads alone.

    Raises:
        UserError: if `max_epochs` is less than 1, if the core was not built, or if it cannot run the model.
        DivergedError: if the training loss is no longer a finite number.
    """
    epochs = recipe.max_epochs if max_epochs is None else min(max_epochs, recipe.max_epochs)
    if epochs < 1:
        raise UserError(f"expected at least 1 epoch, found {epochs}; give --epochs a positive number")
    compile_model(model, recipe)
    chain = Chain(model, model.optimizer)
    network = chain.network
    y_train, y_val = splits.y_train.astype(np.uint8), splits.y_val.astype(np.uint8)
    images = len(y_val)

    wall, cpu, helpers = time.perf_counter(), time.thread_time(), 0.0
    called = keras.callbacks.CallbackList(
        [*recipe_callbacks(recipe), *callbacks], add_history=True, model=model, epochs=epochs, verbose=0
    )
    model.stop_training = False
    called.on_train_begin()
    logs: dict[str, float] = {}
    correct: list[int] = []
    for epoch in range(epochs):
        called.on_epoch_begin(epoch)
        chain.pull()
        learning_rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        batches = epoch_batches(seed, epoch, len(y_train), recipe.batch_size, recipe.drop_remainder)
        order = np.concatenate(batches)
        loss, right, trained = network.train(
            splits.x_train,
            y_train,
            order,
            batch_size=recipe.batch_size,
            seed=seed,
            epoch=epoch,
            learning_rate=learning_rate,
            threads=threads,
        )
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss became {loss} in epoch {epoch + 1}")
        chain.push()
        called.on_test_begin()
        val_loss, val_right, evaluated = network.evaluate(splits.x_val, y_val, threads=threads)
        called.on_test_end()
        helpers += trained + evaluated
        correct.append(val_right)
        logs = {
            "loss": loss / len(order),
            "accuracy": right / len(order),
            "val_loss": val_loss / images,
            "val_accuracy": val_right / images,
            "learning_rate": learning_rate,
        }
        called.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    called.on_train_end(logs)
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    return Fit(
        history={name: [float(value) for value in values] for name, values in model.history.history.items()},
        best_epoch=1 + int(np.argmax(correct)),
        saved_accuracy=correct[-1] / images,
        best_accuracy=max(correct) / images,
        train_seconds=wall,
        cpu_seconds=cpu + helpers,
    )
