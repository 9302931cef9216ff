"""Learning rates by step: against the formula worked by hand and Keras' own schedule, and the same in both trainers."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from experiments.oracles import gradients_in_double, in_double, patterns, without_dropout
from mnist_minimal.data.batches import epoch_batches
from mnist_minimal.data.sets import Splits
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.models.dropout import set_dropout
from mnist_minimal.recipes import RECIPES, SGD, Adam, AdamW, ByStep, KerasObject, PiecewiseLinear, Recipe, Steps
from mnist_minimal.recipes.parts import Part
from mnist_minimal.study.history import HistoryFile
from mnist_minimal.study.study import Study
from mnist_minimal.training import core, keras_fit, native_fit
from mnist_minimal.training.chain import Chain
from mnist_minimal.training.checkpoint import Checkpoint
from mnist_minimal.training.schedules import scheduled_rate, step_rates
from tests.rounding import assert_fit_of_the_core_is_that_of_keras
from tests.training.small_network import small_network

NEEDS_CORE = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")
TRAINERS = {"keras": keras_fit.fit} | ({"core": native_fit.fit} if core.available() else {})
KERAS_SLOWLY = [pytest.param("keras", marks=pytest.mark.slow), *(name for name in TRAINERS if name != "keras")]
SEED = 5


def recipe(schedule: ByStep, peak: float = 0.5, epochs: int = 5, optimizer: Part | None = None) -> Recipe:
    return Recipe(batch_size=20, max_epochs=epochs, optimizer=optimizer or Adam(peak), schedule=schedule)


def rates(of: Recipe, steps_per_epoch: int) -> np.ndarray:
    return np.concatenate([step_rates(of, epoch, steps_per_epoch) for epoch in range(of.max_epochs)])


def test_rates_worked_by_hand():
    """20 steps in 5 epochs; the warm-up of 6 is longer than an epoch; 14 steps follow, the eighth of them half-way."""
    rising = [0.5 * (0.1 + 0.9 * step / 6) for step in range(6)]
    for course, at_half in {"cosine": (0.3, 0.3), "linear": (0.3, 0.3), "constant": (0.5, 0.5)}.items():
        found = rates(recipe(ByStep(course, warm_up=0.3, floor=0.2)), 4)
        assert found.dtype == np.float32
        assert found[:6] == pytest.approx(rising, rel=1e-7)
        assert (found[6], found[13]) == (pytest.approx(0.5, rel=1e-7), pytest.approx(at_half[0], rel=1e-7))
    # Four of fourteen steps on a straight line to a fifth, and two thirds on a cosine to 0: (1 + cos(120 degrees)) / 2.
    assert rates(recipe(ByStep("linear", warm_up=0.3, floor=0.2)), 4)[10] == pytest.approx(
        0.5 * (1 - 0.8 * 4 / 14), rel=1e-7
    )
    assert rates(recipe(ByStep("cosine", warm_up=0.0), epochs=3), 4)[8] == pytest.approx(0.5 * 0.25, rel=1e-7)


def test_a_floor_before_the_end_worked_by_hand():
    """20 steps, of which 2 warm up; from step 12 on at the floor, and half-way there after 5 of 10 steps, at step 7."""
    for course, at_half in {"cosine": 0.6, "linear": 0.6, "constant": 1.0}.items():
        found = rates(recipe(ByStep(course, warm_up=0.1, floor=0.2, floor_from=0.6)), 4)
        assert found[:3] == pytest.approx([0.05, 0.5 * 0.55, 0.5], rel=1e-7)
        assert found[7] == pytest.approx(0.5 * at_half, rel=1e-7)
        assert (found[11] > found[12]) == (course != "constant")
        np.testing.assert_array_equal(found[12:], np.float32(0.5 if course == "constant" else 0.1))
    with pytest.raises(UserError, match=r"expected floor_from of at least the warm-up, 0\.1, .* found 0\.05; raise"):
        ByStep(warm_up=0.1, floor_from=0.05)


def test_the_cosine_is_that_of_keras():
    ours = RECIPES["sep997-cosine"]
    found = rates(ours, 469)
    steps = len(found)
    theirs = keras.optimizers.schedules.CosineDecay(
        0.003, steps - 938, warmup_target=0.03, warmup_steps=938, name="oracle"
    )
    places = [*range(0, steps, 500), 937, 938, 939, steps - 1]
    # Keras computes in single precision, rounding by up to 2**-24: the quotient and its product with pi, up to pi,
    # thrice, which moves the cosine by as much at most; the cosine, up to 1, by two units; then the sum with 1, up to
    # 2. All of that is halved. Two more products, and our own rounding, are relative.
    expected = [float(theirs(step)) for step in places]
    of_cosine = (3 * np.pi + 4 + 2) / 2 * 2**-24
    np.testing.assert_allclose(found[places], expected, rtol=4 * 2**-24, atol=0.03 * of_cosine)


def test_a_cap_on_the_epochs_cuts_the_course_and_more_epochs_stretch_it():
    short, long = recipe(ByStep(), epochs=4), recipe(ByStep(), epochs=4).replace(max_epochs=8)
    assert rates(long, 5)[::2] == pytest.approx(rates(short, 5), rel=1e-6)
    with pytest.raises(ValueError, match="schedule by step"):
        step_rates(RECIPES["sep997"], 0, 5)


def test_schedules_by_epoch_at_their_corners():
    steps = Recipe(batch_size=1, max_epochs=9, optimizer=Adam(1.0), schedule=Steps(0.1, (1, 2, 2)))
    assert [scheduled_rate(steps, epoch) for epoch in range(3)] == [1.0, 0.1, pytest.approx(0.001)]
    points = PiecewiseLinear(((1, 0.5), (2, 1.5), (2, 3.0), (4, 1.0)))
    lines = dataclasses.replace(steps, schedule=points)
    assert [scheduled_rate(lines, epoch) for epoch in range(6)] == [0.5, 0.5, 3.0, 2.0, 1.0, 1.0]


def test_a_schedule_by_step_is_set_in_words_and_written_as_json():
    varied = RECIPES["small7344"].replace(schedule="bystep", **{"schedule.course": "linear"})
    assert varied.schedule == ByStep("linear")
    written = varied.as_dict()["schedule"]
    assert written == {"kind": "ByStep", "course": "linear", "warm_up": 0.05, "start": 0.1, "floor": 0.0}
    assert RECIPES["small7344"].replace(schedule=written) == varied
    with pytest.raises(UserError, match="course: expected cosine, linear or constant, found 'sine'"):
        varied.replace(**{"schedule.course": "sine"})


def test_a_recipe_with_a_name_of_its_own_is_a_study_of_its_own():
    own = RECIPES["sep997-cosine"]
    assert Study.of(Path(), "sep997", "mnist", "source", own).name == "sep997-cosine"
    assert Study.of(Path(), "sep697", "mnist", "source", own).name == "sep697-sep997-cosine"
    varied = Study.of(Path(), "sep997", "mnist", "holdout", own.replace(**{"optimizer.learning_rate": 0.06})).name
    assert varied == f"{varied[:20]}-holdout"
    assert varied.startswith("sep997-cosine-")


def test_dropout_of_all_layers():
    model = MODELS["sep997"]()
    before = [weights.tobytes() for weights in model.get_weights()]
    set_dropout(model, None)
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.1] * 5
    set_dropout(model, 0.0)
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.0] * 5
    assert [weights.tobytes() for weights in model.get_weights()] == before
    images, _ = patterns(4)
    in_training, outside = (np.asarray(model(images.astype(np.float32), training=flag)) for flag in (True, False))
    np.testing.assert_array_equal(in_training, outside)
    with pytest.raises(UserError, match=r"dropout: expected .* found small7344 with none"):
        set_dropout(MODELS["small7344"](), 0.1)


def splits(train: int = 50) -> Splits:
    x, y = patterns(train + 30)
    y = y.astype(np.int64)
    return Splits("made", "source", x[:train], y[:train], x[train:], y[train:], x[train:], y[train:])


@NEEDS_CORE
@pytest.mark.parametrize(
    ("optimizer", "drop_remainder"),
    [
        pytest.param(Adam(0.002), False, id="Adam"),
        pytest.param(AdamW(0.002, 1e-3), True, id="AdamW"),
        pytest.param(SGD(0.05, 0.9), True, id="SGD"),
        pytest.param(KerasObject("SGD", {"learning_rate": 0.05, "momentum": 0.5}), False, id="of Keras"),
    ],
)
@pytest.mark.slow
def test_both_trainers_take_the_same_steps(optimizer, drop_remainder):
    """Two or three steps an epoch, and the warm-up is longer."""
    by = dataclasses.replace(recipe(ByStep(warm_up=0.5), optimizer=optimizer, epochs=5), drop_remainder=drop_remainder)
    native, reference, _ = assert_fit_of_the_core_is_that_of_keras(
        small_network(SEED), by, splits(), SEED, max_epochs=4
    )
    last = rates(by, 2 if drop_remainder else 3).reshape(5, -1)[:4, -1]
    assert native.history["learning_rate"] == reference.history["learning_rate"] == last.tolist()


@NEEDS_CORE
def test_each_step_of_the_core_has_its_own_rate():
    """Plain gradient descent in double precision with Keras' gradients, a rate for each step."""
    model = without_dropout(MODELS["sep997"]())
    start, reference = model.get_weights(), in_double(model)
    chosen = np.array([0.003, 0, 0.001, 0.01], np.float32)
    x, y = patterns(30)
    for batch, rate in zip(np.split(np.arange(30), [8, 16, 24]), chosen, strict=True):
        for variable, gradient in zip(
            reference.trainable_variables, gradients_in_double(reference, x[batch], y[batch]), strict=True
        ):
            variable.assign_sub(float(rate) * gradient)
    chain = Chain(model, keras.optimizers.SGD(0.1))
    chain.network.train(x, y, np.arange(30), batch_size=8, seed=0, epoch=0, learning_rates=chosen)
    chain.to_keras()
    for mine, theirs, before in zip(model.get_weights(), reference.get_weights(), start, strict=True):
        # A rounding of the weight to single precision at each of the four steps.
        rounded = 4 * 2**-24 * np.abs(before).max()
        np.testing.assert_allclose(
            mine - before, theirs - before, rtol=0, atol=1e-3 * np.abs(theirs - before).max() + rounded
        )
    network = chain.network
    for wrong in (chosen[:3], np.append(chosen, 1).astype(np.float32), chosen[np.newaxis], np.full(4, np.inf, "f4")):
        with pytest.raises(ValueError, match="learning rate"):
            network.train(x, y, np.arange(30), batch_size=8, seed=0, epoch=0, learning_rates=wrong)
    with pytest.raises(TypeError, match="learning rates of dtype float32"):
        network.train(x, y, np.arange(30), batch_size=8, seed=0, epoch=0, learning_rates=chosen.astype(np.float64))


class Stop(keras.callbacks.Callback):
    """Ends a training from outside after three epochs."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("trainer", KERAS_SLOWLY)
def test_a_training_that_was_stopped_goes_on_at_its_rate(tmp_path, trainer):
    fit, by = TRAINERS[trainer], recipe(ByStep(warm_up=0.4), peak=0.01)

    def checkpoint() -> Checkpoint:
        return Checkpoint(tmp_path / "checkpoint.npz", {"seed": SEED}, history=HistoryFile(tmp_path / "history.csv"))

    undisturbed, resumed = small_network(SEED), small_network(seed=9)
    expected = fit(undisturbed, by, splits(), SEED)
    with pytest.raises(KeyboardInterrupt):
        fit(small_network(SEED), by, splits(), SEED, callbacks=[Stop()], checkpoint=checkpoint())
    assert checkpoint().epochs == 3
    found = fit(resumed, by, splits(), SEED, checkpoint=checkpoint())
    assert found.history == expected.history
    assert expected.history["learning_rate"] == rates(by, 3)[2::3].tolist()
    assert [w.tobytes() for w in resumed.get_weights()] == [w.tobytes() for w in undisturbed.get_weights()]
    assert len(epoch_batches(SEED, 0, 50, 20, False)) == 3


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_callback_that_sets_the_rate_of_a_course_by_step_is_refused(trainer):
    lower = keras.callbacks.LearningRateScheduler(lambda epoch: 0.001)
    with pytest.raises((UserError, TypeError), match=r"schedule by step, found it set to 0\.001|LearningRateSchedule"):
        TRAINERS[trainer](small_network(SEED), recipe(ByStep()), splits(), SEED, callbacks=[lower])
