"""Training with the core: Keras' callbacks around it, and the same fit as Keras' where nothing is random."""

import dataclasses
import os
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest

from experiments.oracles import in_double, patterns, randomise, without_dropout
from mnist_minimal.data.augmentation import augment, draw_changes
from mnist_minimal.data.batches import epoch_batches
from mnist_minimal.data.sets import Splits
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES, Augmentation
from mnist_minimal.training import DivergedError, core, native_fit
from mnist_minimal.training.chain import Chain, flat
from mnist_minimal.training.keras_fit import compile_model
from tests.rounding import assert_fit_of_the_core_is_that_of_keras, exact_loss, exact_outputs

# Where the core is required, its absence is a failure and no reason to skip.
pytestmark = pytest.mark.skipif(
    not core.available() and os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") != "1", reason="the C++ core was not built"
)

RECIPE = dataclasses.replace(RECIPES["sep997"], batch_size=32, optimizer=RECIPES["sep997"].optimizer)

AUGMENTATION = Augmentation(rotation=10, translation=0.1, scale=(0.9, 1.1), crop=1, brightness=0.1, contrast=0.1)


def splits(train: int = 200, val: int = 60) -> Splits:
    x, y = patterns(train + val)
    y = y.astype(np.int64)
    return Splits("made", "source", x[:train], y[:train], x[train:], y[train:], x[train:], y[train:])


def new_model(dropout: bool = True) -> keras.Model:
    keras.utils.set_random_seed(11)
    model = randomise(MODELS["sep997"]())
    return model if dropout else without_dropout(model)


class Recorder(keras.callbacks.Callback):
    """Notes what a callback sees."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.logs: list[dict[str, float]] = []
        self.weights: list[list[np.ndarray]] = []

    def on_train_begin(self, logs=None):
        self.calls.append("train begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch} begin")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch} end")
        self.logs.append(dict(logs))
        self.weights.append(self.model.get_weights())

    def on_train_end(self, logs=None):
        self.calls.append("train end")


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", [None, AUGMENTATION])
def test_same_fit_as_keras_without_dropout(augmentation: Augmentation | None) -> None:
    """Both trainers from the same weights: the same history and weights."""
    recipe = dataclasses.replace(
        RECIPE,
        optimizer=dataclasses.replace(RECIPE.optimizer, learning_rate=0.001),
        augmentation=augmentation,
    )
    model = new_model(dropout=False)
    ours, theirs, _ = assert_fit_of_the_core_is_that_of_keras(model, recipe, splits(), 5, max_epochs=3)
    assert (ours.best_epoch, ours.saved_accuracy, ours.best_accuracy) == (
        theirs.best_epoch,
        theirs.saved_accuracy,
        theirs.best_accuracy,
    )


@pytest.mark.parametrize("drop_remainder", [True, False])
def test_augmented_images_of_a_fit_are_those_of_numpy(drop_remainder: bool) -> None:
    """Three epochs, each of a fit of its own on images that NumPy has augmented as in that epoch; with dropout.

    The core takes the latter as float32, and reads floats as it reads what it has augmented, to the bit.
    """
    recipe = dataclasses.replace(RECIPE, augmentation=AUGMENTATION, drop_remainder=drop_remainder, early_stopping=None)
    model, data = new_model(), splits()
    fit = native_fit.fit(model, recipe, data, 5, max_epochs=3, threads=2)
    other = new_model()
    compile_model(other, recipe)
    chain = Chain(other, other.optimizer)
    chain.from_keras()
    network = chain.network
    for epoch in range(3):
        images = augment(data.x_train, draw_changes(AUGMENTATION, 5, epoch, data.x_train), AUGMENTATION)
        order = np.concatenate(epoch_batches(5, epoch, len(images), recipe.batch_size, drop_remainder))
        loss, correct, _ = network.train(
            images,
            data.y_train.astype(np.uint8),
            order,
            batch_size=recipe.batch_size,
            seed=5,
            epoch=epoch,
            learning_rates=fit.history["learning_rate"][epoch],
        )
        assert fit.history["loss"][epoch] == loss / len(order)
        assert fit.history["accuracy"][epoch] == correct / len(order)
    np.testing.assert_array_equal(flat(model.trainable_variables), network.parameters)


def test_an_augmentation_that_changes_nothing_gives_the_bits_of_none() -> None:
    weights = []
    for augmentation in (None, Augmentation()):
        model = new_model()
        native_fit.fit(model, dataclasses.replace(RECIPE, augmentation=augmentation), splits(), 5, max_epochs=2)
        weights.append(model.get_weights())
    for plain, augmented in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, augmented)


def test_callbacks_see_the_model_in_step() -> None:
    recorder = Recorder()
    model, data = new_model(), splits()
    fit = native_fit.fit(model, RECIPE, data, 1, max_epochs=3, callbacks=[recorder])
    assert recorder.calls == [
        "train begin",
        *(f"epoch {epoch} {what}" for epoch in range(3) for what in ("begin", "end")),
        "train end",
    ]
    assert not np.array_equal(recorder.weights[0][0], recorder.weights[1][0])
    # Keras' evaluation, in double precision, of the weights that the callback saw gives the logs that it saw.
    for logs, weights in zip(recorder.logs, recorder.weights, strict=True):
        model.set_weights(weights)
        probabilities, _ = exact_outputs(model, data.x_val)
        loss, allowed = exact_loss(model, data.x_val, data.y_val)
        assert logs["val_loss"] == pytest.approx(loss, abs=allowed)
        assert logs["val_accuracy"] == np.mean(probabilities.argmax(axis=1) == data.y_val)
    assert fit.history["val_loss"] == [logs["val_loss"] for logs in recorder.logs]
    assert fit.epochs == 3
    assert fit.cpu_seconds > 0


def test_best_weights_are_restored_and_training_stops() -> None:
    recipe = dataclasses.replace(RECIPE, early_stopping=dataclasses.replace(RECIPE.early_stopping, patience=1))
    recorder = Recorder()
    model = new_model()
    fit = native_fit.fit(model, recipe, splits(), 2, max_epochs=40, callbacks=[recorder])
    assert fit.epochs < 40
    assert fit.best_accuracy == max(fit.history["val_accuracy"])
    assert fit.saved_accuracy == fit.history["val_accuracy"][-1]
    for weight, best in zip(model.get_weights(), recorder.weights[fit.best_epoch - 1], strict=True):
        np.testing.assert_array_equal(weight, best)


def test_callbacks_change_learning_rate_and_weights() -> None:
    """A rate of 0 set as an epoch begins leaves the weights; weights set as one ends are those of the next."""

    class Meddler(Recorder):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 0.0 if epoch == 1 else 0.01

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if epoch == 0:
                self.model.set_weights([np.full_like(weight, 0.5) for weight in self.model.get_weights()])

    recipe = dataclasses.replace(RECIPE, optimizer=dataclasses.replace(RECIPE.optimizer, weight_decay=0.0))
    meddler = Meddler()
    fit = native_fit.fit(new_model(), recipe, splits(), 1, max_epochs=3, callbacks=[meddler])
    assert fit.history["learning_rate"] == pytest.approx([0.01, 0.0, 0.01])
    assert all((weight == 0.5).all() for weight in meddler.weights[1])
    assert not all((weight == 0.5).all() for weight in meddler.weights[2])


def test_plateau_lowers_the_learning_rate() -> None:
    recipe = dataclasses.replace(
        RECIPE, schedule=dataclasses.replace(RECIPE.schedule, patience=1, min_delta=100.0, factor=0.5)
    )
    fit = native_fit.fit(new_model(), recipe, splits(), 1, max_epochs=4)
    # The first epoch is an improvement on infinity; each later one is none.
    assert fit.history["learning_rate"] == pytest.approx([0.01, 0.01, 0.005, 0.0025])


def test_same_bits_beside_other_trials_and_for_any_threads() -> None:
    data = splits()
    alone = [native_fit.fit(new_model(), RECIPE, data, seed, max_epochs=2).history for seed in (1, 2, 3)]
    models = [new_model() for _ in range(3)]
    together: list[dict | None] = [None] * 3

    def trial(index: int) -> None:
        fit = native_fit.fit(models[index], RECIPE, data, index + 1, max_epochs=2, threads=index + 1)
        together[index] = fit.history

    threads = [threading.Thread(target=trial, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert alone[0] != alone[1]


def test_cpu_seconds_are_those_of_the_trial_alone() -> None:
    """Another thread that computes all the time is not counted."""
    stop = threading.Event()

    def burn() -> None:
        matrix = np.ones((200, 200))
        while not stop.is_set():
            matrix = matrix @ matrix / 200

    other = threading.Thread(target=burn)
    other.start()
    try:
        process = time.process_time()
        fit = native_fit.fit(new_model(), RECIPE, splits(2000), 1, max_epochs=3, threads=2)
        process = time.process_time() - process
    finally:
        stop.set()
        other.join()
    assert 0 < fit.cpu_seconds < process


def test_diverged_training_is_an_error() -> None:
    recipe = dataclasses.replace(RECIPE, optimizer=dataclasses.replace(RECIPE.optimizer, learning_rate=1e30))
    with pytest.raises(DivergedError, match="epoch 1"):
        native_fit.fit(new_model(), recipe, splits(), 1, max_epochs=3)


def test_no_epochs_is_an_error() -> None:
    with pytest.raises(UserError, match="at least 1 epoch"):
        native_fit.fit(new_model(), RECIPE, splits(), 1, max_epochs=0)


def test_unsupported_model_is_refused_before_training() -> None:
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "tanh", name="odd one")]
    )
    with pytest.raises(UserError, match="odd one"):
        native_fit.fit(model, RECIPE, splits(), 1, max_epochs=1)
    assert "odd one" in native_fit.unsupported(model)
    assert native_fit.unsupported(new_model()) is None


@pytest.mark.slow
def test_without_the_extension_the_package_imports_and_says_so() -> None:
    script = (
        "import sys\n"
        "sys.modules['mnist_minimal.training.core._core'] = None\n"
        "from mnist_minimal.errors import UserError\n"
        "from mnist_minimal.training import native_fit\n"
        "from tests.training.test_native_fit import RECIPE, new_model, splits\n"
        "assert not native_fit.available()\n"
        "assert native_fit.unsupported(new_model()) is None\n"
        "try:\n"
        "    native_fit.fit(new_model(), RECIPE, splits(), 1)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "C++17 compiler" in done.stdout


@pytest.mark.slow
def test_learns_mnist(mnist_path: str) -> None:
    """Two epochs of sep997 on all of MNIST; Keras evaluates the weights to the same accuracy."""
    with np.load(mnist_path) as arrays:
        x, y, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    y, y_test = y.astype(np.int64), y_test.astype(np.int64)
    data = Splits("mnist", "source", x[..., None], y, x_test[..., None], y_test, x_test[..., None], y_test)
    keras.utils.set_random_seed(1)
    model = MODELS["sep997"]()
    fit = native_fit.fit(model, RECIPES["sep997"], data, 1, max_epochs=2)
    assert fit.best_accuracy > 0.9
    exact = in_double(model).predict(data.x_val.astype(np.float64), batch_size=1000, verbose=0)
    second, first = np.sort(exact, axis=1).T[-2:]
    near_ties = np.count_nonzero(first - second < 1e-5)
    assert near_ties < 10
    correct = np.count_nonzero(exact.argmax(axis=1) == data.y_val)
    assert abs(round(10_000 * fit.best_accuracy) - correct) <= near_ties


@pytest.mark.parametrize("name", ["small8624", pytest.param("shared1936", marks=pytest.mark.slow)])
def test_an_evaluation_is_that_of_keras_but_for_near_ties(name):
    """With moving statistics (small8624) that are not those of new layers; any number of threads gives the same."""
    keras.utils.set_random_seed(11)
    model = randomise(MODELS[name]())
    images, labels = patterns(200)
    # Those that the model itself takes them for, but for a third of them: so many are right, whatever its weights.
    probabilities, rounding = exact_outputs(model, images)
    predicted = probabilities.argmax(axis=1)
    labels = np.where(np.arange(200) % 3 == 0, labels, predicted).astype(np.int64)
    second, first = np.sort(probabilities, axis=1).T[-2:]
    near_ties = np.count_nonzero(first - second < 2 * rounding)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, predicted), 1)
    found = native_fit.evaluate(model, images, labels)
    assert 130 <= np.trace(confusion) < 200
    assert near_ties < 10
    assert abs(found.correct - np.trace(confusion)) <= near_ties
    assert abs(found.confusion - confusion).sum() <= 2 * near_ties
    loss, allowed = exact_loss(model, images, labels)
    assert found.loss == pytest.approx(loss, abs=allowed)
    assert found.size == 200
    threaded = native_fit.evaluate(model, images, labels, threads=3)
    assert (threaded.correct, threaded.loss) == (found.correct, found.loss)
