"""A user's own Keras callbacks in a trial that is trained beside others: they see one Keras model, theirs."""

from collections.abc import Sequence

import keras
import numpy as np

from mnist_minimal.recipes import ByStep, Recipe
from mnist_minimal.training.keras_fit import compile_model
from mnist_minimal.training.native_fit import epoch_rates, learning_rate_of

Weights = list[np.ndarray]


class OwnCallbacks:
    """Calls Keras callbacks for the epochs of one trial, as `native_fit.fit` does, after the recipe's own.

    What they change of the model's weights, its optimizer's learning rate and `stop_training` holds for the trial.

    Args:
        model: The trial's own model, which is compiled here.
        recipe: How it is trained.
        callbacks: New ones, for this trial alone.
        epochs: The cap on the epochs.
    """

    def __init__(
        self, model: keras.Model, recipe: Recipe, callbacks: Sequence[keras.callbacks.Callback], epochs: int
    ) -> None:
        compile_model(model, recipe)
        self.model, self.recipe = model, recipe
        self.called = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=epochs, verbose=0)
        self.logs: dict[str, float] = {}
        model.stop_training = False
        self.called.on_train_begin()

    def begin_epoch(self, epoch: int, rate: float, steps: int) -> tuple[np.ndarray, Weights]:
        """Begins an epoch, counted from 0; the rates of its steps, float32 (steps,), and the weights it begins with."""
        if not isinstance(self.recipe.schedule, ByStep):
            self.model.optimizer.learning_rate = rate
        self.called.on_epoch_begin(epoch)
        return epoch_rates(self.model, self.recipe, epoch, steps), self.model.get_weights()

    def end_epoch(
        self, epoch: int, logs: dict[str, float], rate: float, weights: Weights, *, ended: bool
    ) -> tuple[float, Weights, bool]:
        """Ends an epoch; the learning rate, the weights and whether the training is at its end, as they are then."""
        self.model.set_weights(weights)
        if not isinstance(self.recipe.schedule, ByStep):
            self.model.optimizer.learning_rate = rate
        self.model.stop_training, self.logs = ended, dict(logs)
        self.called.on_test_begin()
        self.called.on_test_end()
        self.called.on_epoch_end(epoch, self.logs)
        return learning_rate_of(self.model), self.model.get_weights(), bool(self.model.stop_training)

    def end(self, weights: Weights) -> Weights:
        """Ends the training with the weights that are kept; those that the callbacks leave."""
        self.model.set_weights(weights)
        self.called.on_train_end(self.logs)
        return self.model.get_weights()
