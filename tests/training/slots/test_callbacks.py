"""The callbacks of many trials at once, held to Keras' own objects."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from mnist_minimal.recipes import (
    RECIPES,
    SGD,
    ByStep,
    EarlyStopping,
    PiecewiseLinear,
    Plateau,
    Recipe,
    Steps,
)
from mnist_minimal.training.keras_fit import recipe_callbacks
from mnist_minimal.training.schedules import step_rates
from mnist_minimal.training.slots.callbacks import MEMORY, Callbacks, new_memory

IMAGES = 50


class Follower:
    """One trial in Keras' hands: a model of one weight, which is the number of its epoch."""

    def __init__(self, recipe: Recipe) -> None:
        self.model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        self.model.compile(keras.optimizers.SGD(recipe.optimizer.learning_rate), "mse")
        self.called = keras.callbacks.CallbackList(recipe_callbacks(recipe), model=self.model, epochs=99)
        self.model.stop_training = False
        self.called.on_train_begin()

    def begin_epoch(self, epoch: int) -> float:
        self.called.on_epoch_begin(epoch)
        return self.rate()

    def end_epoch(self, epoch: int, loss: float, accuracy: float) -> bool:
        self.model.set_weights([np.full((1, 1), epoch, np.float32)])
        self.called.on_epoch_end(epoch, {"val_loss": loss, "val_accuracy": accuracy})
        return self.model.stop_training

    def rate(self) -> float:
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def kept(self) -> int:
        """The epoch whose weights are kept in the end."""
        self.called.on_train_end()
        return int(self.model.get_weights()[0][0, 0])


# Losses that differ by less than single precision tells, or not at all, and some that are no numbers.
LOSSES = some.one_of(
    some.floats(0.01, 3),
    some.sampled_from([0.04, np.nextafter(0.04, 1), 0.04 * (1 - 2**-25), 0.04 * (1 - 2**-22), np.nan, np.inf]),
)
HISTORIES = some.lists(some.tuples(LOSSES, some.integers(0, IMAGES)), min_size=12, max_size=12)
PLATEAUS = some.builds(
    Plateau,
    factor=some.sampled_from([0.0, 0.1, 0.25, 0.3]),
    patience=some.integers(0, 3),
    min_delta=some.sampled_from([0.0, 1e-16, 0.01]),
    min_learning_rate=some.sampled_from([0.0, 1e-8, 2.5e-5, 0.003]),
)
BY_EPOCH = some.one_of(
    PLATEAUS, some.sampled_from([None, Steps(0.1, (1, 3)), PiecewiseLinear(((0, 0.05), (2, 0.1), (4, 0.0)))])
)
RATES = some.sampled_from([0.01, 0.1, 0.003, 1e-8])


@settings(max_examples=15, deadline=None)
@given(some.data())
def test_plateau_stopping_and_best_weights_are_those_of_keras(data):
    """Three trials of recipes of their own, which began one after the other, each beside a model with callbacks."""
    stops = [data.draw(some.booleans()) for _ in range(3)]
    recipes = [
        Recipe(
            batch_size=1,
            max_epochs=99,
            optimizer=SGD(data.draw(RATES), 0.0),
            schedule=data.draw(BY_EPOCH),
            early_stopping=EarlyStopping(data.draw(some.integers(0, 4))) if stop else None,
        )
        for stop in stops
    ]
    followers = [Follower(recipe) for recipe in recipes]
    histories = [data.draw(HISTORIES) for _ in recipes]
    memory = np.stack([new_memory(recipe) for recipe in recipes])
    best, running = [0, 0, 0], [True, True, True]
    for now in range(14):
        # A place without a trial takes part with whatever lies there.
        epochs = [now - place for place in range(3)]
        for place, epoch in enumerate(epochs):
            if epoch == 0:
                memory[place] = new_memory(recipes[place])
        callbacks = Callbacks(recipes, memory, steps=2)
        rates = callbacks.begin_epoch()
        assert (rates.dtype, rates.shape) == (np.float32, (3, 2))
        there = [place for place in range(3) if running[place] and 0 <= epochs[place] < 12]
        for place in there:
            expected = followers[place].begin_epoch(epochs[place])
            assert rates[place].tolist() == [expected, expected]
        figures = [histories[place][min(max(epochs[place], 0), 11)] for place in range(3)]
        losses, accuracies = np.array([loss for loss, _ in figures]), np.array([n for _, n in figures]) / IMAGES
        improved, ended = callbacks.end_epoch(losses, accuracies)
        for place in there:
            loss, correct = figures[place]
            stopped = followers[place].end_epoch(epochs[place], float(loss), correct / IMAGES)
            assert ended[place] == stopped
            assert memory["rate"][place] == np.float32(followers[place].rate())
            if improved[place] or not stops[place]:
                best[place] = epochs[place]
            running[place] = not stopped
    assert [follower.kept() for follower in followers] == best


SCHEDULES = {
    "steps": Steps(0.1, (1, 3)),
    "lines": PiecewiseLinear(((0, 0.05), (2, 0.1), (4, 0.0))),
    "none": None,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_by_epoch_are_those_of_keras(name):
    recipe = Recipe(batch_size=1, max_epochs=9, optimizer=SGD(0.3, 0.0), schedule=SCHEDULES[name])
    memory = np.stack([new_memory(recipe)] * 2)
    memory["epochs"][1] = 3
    follower, later = Follower(recipe), Follower(recipe)
    for epoch in range(6):
        callbacks = Callbacks([recipe, recipe], memory, steps=1)
        expected = [follower.begin_epoch(epoch), later.begin_epoch(epoch + 3)]
        assert callbacks.begin_epoch()[:, 0].tolist() == expected
        assert memory["rate"].tolist() == expected
        callbacks.end_epoch(np.ones(2), np.ones(2))


def test_a_schedule_by_step_is_each_trials_own():
    recipes = [RECIPES["sep997-cosine"], RECIPES["sep997-cosine"].replace(**{"optimizer.learning_rate": 0.01})]
    memory = np.stack([new_memory(recipe) for recipe in recipes])
    memory["epochs"] = 7, 2
    rates = Callbacks(recipes, memory, steps=5).begin_epoch()
    assert isinstance(recipes[0].schedule, ByStep)
    np.testing.assert_array_equal(rates, [step_rates(recipes[0], 7, 5), step_rates(recipes[1], 2, 5)])
    assert memory["rate"].tolist() == rates[:, -1].tolist()
    assert memory.dtype == MEMORY
