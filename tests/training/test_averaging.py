"""Averaged weights: against NumPy's mean over the weights after each step, as a training without averaging has them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from mnist_minimal.data.batches import epoch_batches
from mnist_minimal.data.sets import Splits
from mnist_minimal.recipes import Adam, Averaging, ByStep, Recipe
from mnist_minimal.training import Fit, core, keras_fit, native_fit
from mnist_minimal.training.averaging import first_step
from mnist_minimal.training.chain import Chain
from mnist_minimal.training.schedules import step_rates
from tests.rounding import assert_fit_of_the_core_is_that_of_keras
from tests.training.test_checkpoint import StopAfter, resumed
from tests.training.test_keras_fit import small_splits, weight_bytes

NEEDS_CORE = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")
TRAINERS: dict[str, Callable[..., Fit]] = {"keras": keras_fit.fit}
if core.available():
    TRAINERS["core"] = native_fit.fit
# Keras takes ten times as long.
MARKS = {"keras": [pytest.mark.slow], "core": []}
FITS = [pytest.param(fit, id=name, marks=MARKS[name]) for name, fit in TRAINERS.items()]
SEED, STEPS, EPOCHS = 3, 7, 4

# Of 28 steps those from number 11 on are averaged, from within the second epoch; the rate is at its floor from 17 on.
LAST = Recipe(
    batch_size=40, max_epochs=EPOCHS, optimizer=Adam(0.02), schedule=ByStep("cosine", 0.1, floor=0.3, floor_from=0.6)
)
AVERAGED = dataclasses.replace(LAST, averaging=Averaging(0.4))
FIRST = 11


def data() -> Splits:
    """An epoch has seven steps, the last on 16 images."""
    return small_splits()


def new_model(seed: int = SEED) -> keras.Model:
    """A small network with moving statistics and without dropout."""
    keras.utils.set_random_seed(seed)
    chain = [
        layers.Rescaling(1 / 255),
        layers.Conv2D(4, 5, activation="relu"),
        layers.AveragePooling2D(4),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ]
    return keras.Sequential([keras.Input((28, 28, 1)), *chain])


def means(weights: list[list[np.ndarray]]) -> list[np.ndarray]:
    """NumPy's mean of each array over some steps, in double precision, as float32."""
    by_array = [np.stack(arrays) for arrays in zip(*weights, strict=True)]
    return [np.mean(arrays, axis=0, dtype=np.float64).astype(np.float32) for arrays in by_array]


class EveryStep(keras.callbacks.Callback):
    """Keeps the weights after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.get_weights())


class AtEpochs(keras.callbacks.Callback):
    """Keeps the weights that callbacks find at the end of each epoch, and of the training."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[bytes] = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(weight_bytes(self.model))

    def on_train_end(self, logs=None):
        self.weights.append(weight_bytes(self.model))


def steps_of_keras() -> list[list[np.ndarray]]:
    every = EveryStep()
    keras_fit.fit(new_model(), LAST, data(), SEED, callbacks=[every])
    return every.weights


def steps_of_core() -> list[list[np.ndarray]]:
    """One call of the core for each step, and none of its sums."""
    model, splits = new_model(), data()
    chain = Chain(model, keras.optimizers.Adam())
    found = []
    for epoch in range(EPOCHS):
        rates = step_rates(LAST, epoch, STEPS)
        batches = epoch_batches(SEED, epoch, len(splits.y_train), LAST.batch_size, LAST.drop_remainder)
        for batch, rate in zip(batches, rates, strict=True):
            chain.network.train(
                splits.x_train,
                splits.y_train.astype(np.uint8),
                batch,
                batch_size=len(batch),
                seed=SEED,
                epoch=epoch,
                learning_rates=float(rate),
            )
            chain.to_keras()
            found.append(model.get_weights())
    return found


ORACLES = {"keras": steps_of_keras, "core": steps_of_core}


@pytest.mark.parametrize("trainer", [pytest.param(name, marks=MARKS[name]) for name in TRAINERS])
def test_the_kept_model_is_the_mean_of_its_steps(trainer):
    steps = ORACLES[trainer]()
    model = new_model()
    fit = TRAINERS[trainer](model, AVERAGED, data(), SEED)
    assert first_step(AVERAGED, STEPS) == FIRST
    assert len(steps) == STEPS * EPOCHS == fit.epochs * STEPS
    for found, expected, last in zip(model.get_weights(), means(steps[FIRST:]), steps[-1], strict=True):
        np.testing.assert_array_equal(found, expected)
        assert (found != last).any()


@pytest.mark.parametrize("fit", FITS)
def test_what_is_monitored_is_the_mean_from_its_epoch_on_and_the_training_stays_as_it_was(fit):
    seen, unseen, splits = AtEpochs(), AtEpochs(), data()
    model, last = new_model(), new_model()
    averaged = fit(model, AVERAGED, splits, SEED, callbacks=[seen])
    plain = fit(last, LAST, splits, SEED, callbacks=[unseen])
    for name in ("loss", "accuracy", "learning_rate"):
        assert averaged.history[name] == plain.history[name]
    assert averaged.history["val_loss"][0] == plain.history["val_loss"][0]
    losses = np.array([averaged.history["val_loss"], plain.history["val_loss"]])
    assert (losses[0, 1:] != losses[1, 1:]).all()
    # Callbacks find the weights from which the training goes on, and at its end those that are kept.
    assert seen.weights[:-1] == unseen.weights[:-1]
    assert seen.weights[-1] == weight_bytes(model) != weight_bytes(last)
    # Keras evaluates what was kept, batch normalisation with the mean of the moving statistics.
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(splits.x_val.astype(np.float32), splits.y_val, verbose=0)
    assert averaged.history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)
    assert averaged.saved_accuracy == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("trainer", "epochs"),
    [
        pytest.param("core", 1, marks=NEEDS_CORE),
        pytest.param("core", 3, marks=NEEDS_CORE),
        pytest.param("keras", 1, marks=pytest.mark.slow),
        pytest.param("keras", 3, marks=pytest.mark.slow),
    ],
)
def test_a_training_that_was_stopped_ends_with_the_same_mean(tmp_path, trainer, epochs):
    fit = TRAINERS[trainer]
    undisturbed = new_model()
    expected = fit(undisturbed, AVERAGED, data(), SEED)
    path, identity = Path(tmp_path, "checkpoint.npz"), {"seed": SEED}
    with pytest.raises(KeyboardInterrupt):
        fit(
            new_model(),
            AVERAGED,
            data(),
            SEED,
            callbacks=[StopAfter(epochs)],
            checkpoint=resumed(path, identity),
        )
    model = new_model(seed=99)
    again = fit(model, AVERAGED, data(), SEED, checkpoint=resumed(path, identity))
    assert again.history == expected.history
    assert weight_bytes(model) == weight_bytes(undisturbed)
    # A training that had come to its end is only ended.
    ended = new_model(seed=98)
    fit(ended, AVERAGED, data(), SEED, checkpoint=resumed(path, identity))
    assert weight_bytes(ended) == weight_bytes(undisturbed)


@pytest.mark.parametrize("fit", FITS)
def test_a_training_that_is_cut_before_its_average_keeps_the_last_weights(fit):
    cut, plain = new_model(), new_model()
    fit(cut, AVERAGED, data(), SEED, max_epochs=1)
    fit(plain, LAST, data(), SEED, max_epochs=1)
    assert weight_bytes(cut) == weight_bytes(plain)


@NEEDS_CORE
def test_an_average_of_the_last_step_alone_is_that_step():
    alone, plain = new_model(), new_model()
    native_fit.fit(alone, dataclasses.replace(LAST, averaging=Averaging(0.999)), data(), SEED)
    native_fit.fit(plain, LAST, data(), SEED)
    assert weight_bytes(alone) == weight_bytes(plain)


@NEEDS_CORE
@pytest.mark.parametrize("instruction_set", core.instruction_sets())
def test_sums_have_the_same_bits_by_every_instruction_set_and_for_any_threads(instruction_set):
    splits = data()

    def sums(threads: int, chosen: str | None = None) -> bytes:
        network = Chain(new_model(), keras.optimizers.Adam(), chosen).network
        for epoch in range(2):
            network.train(
                splits.x_train,
                splits.y_train.astype(np.uint8),
                np.arange(len(splits.x_train)),
                batch_size=40,
                seed=SEED,
                epoch=epoch,
                learning_rates=0.01,
                threads=threads,
                sum_from=4,
            )
        return network.sums.tobytes()

    assert sums(1, instruction_set) == sums(3, instruction_set) == sums(1)


@NEEDS_CORE
@pytest.mark.slow
def test_the_mean_of_the_core_is_that_of_keras_in_double_precision():
    assert_fit_of_the_core_is_that_of_keras(new_model(), AVERAGED, data(), SEED)
