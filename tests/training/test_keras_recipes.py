"""Optimizers, schedules and callbacks that a recipe takes from Keras: by Keras, and by the core where it has them."""

import csv
import math

import keras
import numpy as np
import pytest
from keras import layers

from experiments.oracles import in_double, patterns
from mnist_minimal.data.batches import epoch_batches
from mnist_minimal.data.sets import Splits
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import Adam, KerasObject, Recipe, Steps
from mnist_minimal.training import core, keras_fit, native_fit
from mnist_minimal.training.keras_fit import check_recipe
from mnist_minimal.training.optimizers import make_optimizer
from mnist_minimal.training.schedules import scheduled_rate
from mnist_minimal.training.trainers import choose

NEEDS_CORE = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")

SEED = 5
RECIPE = Recipe(batch_size=20, max_epochs=2, optimizer=Adam(0.01))
COSINE = {"initial_learning_rate": 0.1, "decay_steps": 10}


def splits() -> Splits:
    x, y = patterns(80)
    y = y.astype(np.int64)
    return Splits("made", "source", x[:60], y[:60], x[60:], y[60:], x[60:], y[60:])


def new_model() -> keras.Model:
    keras.utils.set_random_seed(SEED)
    flat = [layers.Rescaling(1 / 255), layers.MaxPooling2D(7), layers.Flatten(), layers.Dense(10, "softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), *flat])


def trained_by_hand(optimizer: keras.optimizers.Optimizer) -> list[np.ndarray]:
    """The weights after Keras' own train_on_batch over two epochs in double precision."""
    model, data = in_double(new_model()), splits()
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy")
    for epoch in range(2):
        for chosen in epoch_batches(SEED, epoch, 60, RECIPE.batch_size, RECIPE.drop_remainder):
            model.train_on_batch(data.x_train[chosen].astype(np.float32), data.y_train[chosen])
    return model.get_weights()


@pytest.mark.parametrize(
    ("values", "optimizer"),
    [
        pytest.param(
            {"optimizer": "Lion", "optimizer.learning_rate": 0.001},
            lambda: keras.optimizers.Lion(0.001),
            marks=pytest.mark.slow,
        ),
        (
            {"optimizer": "SGD", "optimizer.learning_rate": 1, "optimizer.momentum": 0.9}
            | {"schedule": KerasObject("CosineDecay", COSINE)},
            lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(**COSINE), momentum=0.9),
        ),
    ],
)
def test_keras_trains_by_its_own_optimizers_and_schedules(values, optimizer):
    model, seen = in_double(new_model()), []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()))
    fitted = keras_fit.fit(model, RECIPE.replace(**values), splits(), SEED, callbacks=[keep])
    for weights, expected in zip(seen[-1], trained_by_hand(optimizer()), strict=True):
        np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-9)
    if "schedule" in values:
        # After 3 and 6 of 10 steps, by the formula that Keras documents.
        expected = [0.05 * (1 + math.cos(math.pi * steps / 10)) for steps in (3, 6)]
        assert fitted.history["learning_rate"] == pytest.approx(expected, rel=1e-5)


def test_a_schedule_that_is_in_the_optimizers_own_configuration():
    cosine = keras.optimizers.schedules.CosineDecay(**COSINE)
    recipe = RECIPE.replace(optimizer=keras.optimizers.SGD(cosine, momentum=0.5))
    optimizer = make_optimizer(recipe)
    assert optimizer.momentum == 0.5
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    optimizer.iterations.assign(10)
    assert float(optimizer.learning_rate) == pytest.approx(0.0)


def test_steps_begin_at_the_rate_of_keras_optimizer():
    recipe = RECIPE.replace(optimizer="Lion", schedule=Steps(0.5, (1,)))
    assert [scheduled_rate(recipe, epoch) for epoch in range(2)] == pytest.approx([0.001, 0.0005])


@keras.saving.register_keras_serializable(package="tests")
class Reversed(keras.optimizers.SGD):
    """Goes uphill."""

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(-gradient, variable, learning_rate)


def test_an_optimizer_of_the_users_own_that_is_registered():
    recipe = RECIPE.replace(optimizer=Reversed(0.25))
    assert recipe.optimizer.class_name == "tests>Reversed"
    made = make_optimizer(recipe)
    assert type(made) is Reversed
    assert float(made.learning_rate) == 0.25


@NEEDS_CORE
def test_what_the_core_has_not_is_trained_by_keras_and_that_is_said():
    recipe = RECIPE.replace(optimizer="Lion")
    trainer, notice = choose("auto", new_model(), None, recipe)
    assert (trainer, notice) == (
        "keras",
        "Training with Keras, not with the C++ core: expected an optimizer that the core has, found Lion; train with "
        "--trainer keras.",
    )
    with pytest.raises(UserError, match="found Lion; train with --trainer keras"):
        choose("native", new_model(), None, recipe)
    with pytest.raises(UserError, match="found Adam with a learning rate schedule by step"):
        choose("native", new_model(), None, RECIPE.replace(schedule=KerasObject("CosineDecay", COSINE)))
    with pytest.raises(UserError, match="expected callbacks that are called for epochs, found TerminateOnNaN, which"):
        choose("native", new_model(), None, RECIPE.replace(callbacks=["TerminateOnNaN"]))


@NEEDS_CORE
def test_what_the_core_has_it_trains_under_keras_name_too():
    by_name = RECIPE.replace(optimizer="keras.optimizers.Adam", **{"optimizer.learning_rate": 0.01})
    assert choose("auto", new_model(), None, by_name) == ("native", "")
    one, two, other = new_model(), new_model(), new_model()
    native_fit.fit(one, RECIPE, splits(), SEED)
    native_fit.fit(two, by_name, splits(), SEED)
    native_fit.fit(other, by_name.replace(**{"optimizer.beta_1": 0.5}), splits(), SEED)
    for first, second, third in zip(one.get_weights(), two.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
        assert (first != third).any()


@pytest.mark.parametrize("fit", [keras_fit.fit, pytest.param(native_fit.fit, marks=NEEDS_CORE)])
def test_keras_callbacks_are_called_for_epochs_by_both_trainers(tmp_path, fit):
    log = tmp_path / "log.csv"
    recipe = RECIPE.replace(callbacks=[KerasObject("CSVLogger", {"filename": str(log)})], max_epochs=3)
    fitted = fit(new_model(), recipe, splits(), SEED)
    rows = list(csv.DictReader(log.open()))
    assert [float(row["val_loss"]) for row in rows] == pytest.approx(fitted.history["val_loss"])
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"optimizer": "lion"},
            "expected a class of keras.optimizers, or one registered with .*'lion'; the nearest is L",
        ),
        ({"optimizer": "Optimzer2000"}, "found 'Optimzer2000'; "),
        ({"optimizer": "Lion", "optimizer.momentum": 1}, "Lion: expected arguments that Keras takes, found others: "),
        (
            {"schedule": "CosineDecay"},
            "CosineDecay: expected arguments that Keras takes, found others: .*initial_learn",
        ),
        ({"callbacks": ["Adam"]}, "expected a class of keras.callbacks, .*found 'Adam'; there are .*CSVLogger, "),
    ],
)
def test_what_keras_has_not_is_refused_in_one_line(values, complaint):
    with pytest.raises(UserError, match=complaint) as refused:
        check_recipe(RECIPE.replace(**values))
    assert "\n" not in str(refused.value)
