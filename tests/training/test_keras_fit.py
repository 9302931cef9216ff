"""Training with Keras: the recipe's callbacks, the order of batches, and the same bits again."""

import dataclasses

import keras
import numpy as np
import pytest

from experiments.oracles import in_double
from mnist_minimal.data.augmentation import augment, draw_changes
from mnist_minimal.data.batches import epoch_batches
from mnist_minimal.data.choice import Choice
from mnist_minimal.data.sets import Splits, load, split
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES, Augmentation
from mnist_minimal.study.history import HistoryFile
from mnist_minimal.training import DivergedError
from mnist_minimal.training.checkpoint import Checkpoint
from mnist_minimal.training.keras_fit import EpochBatches, EpochRandomness, compile_model, fit, recipe_callbacks
from tests.training.small_network import small_network

SEED = 11


def small_splits(train: int = 256, test: int = 100) -> Splits:
    whole = split(load(Choice("digits")), "source")
    return dataclasses.replace(
        whole,
        x_train=whole.x_train[:train],
        y_train=whole.y_train[:train],
        x_val=whole.x_val[:test],
        y_val=whole.y_val[:test],
    )


def new_model(seed: int = SEED) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return MODELS["sep997"]()


def weight_bytes(model: keras.Model) -> bytes:
    return b"".join(weight.tobytes() for weight in model.get_weights())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_again_whatever_came_between():
    splits = small_splits()
    first, second = new_model(), new_model()
    one = fit(first, RECIPES["sep997"], splits, SEED, max_epochs=2)
    keras.random.normal((3,))
    two = fit(second, RECIPES["sep997"], splits, SEED, max_epochs=2)
    assert one.history == two.history
    assert weight_bytes(first) == weight_bytes(second)


class Salt(keras.layers.Layer):
    """A user's layer with two generators of its own, in a list."""

    def __init__(self, **options):
        super().__init__(**options)
        self.generators = [keras.random.SeedGenerator(1), keras.random.SeedGenerator(2)]

    def call(self, x, training=False):
        if not training:
            return x
        where, value = (keras.random.uniform(keras.ops.shape(x), seed=seed) for seed in self.generators)
        return keras.ops.where(where < 0.1, value, x)


def noisy_model(seed: int) -> keras.Model:
    """A model that draws random numbers in layers of many kinds, one of them inside another model."""
    keras.utils.set_random_seed(seed)
    inner = keras.Sequential(
        [keras.Input((13, 13, 4)), keras.layers.Dropout(0.1), keras.layers.Conv2D(4, 3), keras.layers.Dropout(0.1)]
    )
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.RandomTranslation(0.1, 0.1),
            Salt(),
            keras.layers.Conv2D(4, 3),
            keras.layers.GaussianNoise(0.1),
            keras.layers.MaxPooling2D(2),
            inner,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.AlphaDropout(0.1),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


class StopAfterOne(keras.callbacks.Callback):
    """Ends a training from outside when its second epoch begins."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_all_that_a_users_model_draws_is_the_same_after_a_resume(tmp_path):
    training = (RECIPES["sep997"], small_splits(), SEED)
    undisturbed = noisy_model(seed=SEED)
    expected = fit(undisturbed, *training, max_epochs=3)
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(KeyboardInterrupt):
        fit(
            noisy_model(seed=SEED),
            *training,
            max_epochs=3,
            callbacks=[StopAfterOne()],
            checkpoint=Checkpoint(path, {"seed": SEED}, history=HistoryFile(tmp_path / "history.csv")),
        )
    # Another process, where the generators begin otherwise.
    resumed = noisy_model(seed=99)
    fitted = fit(
        resumed,
        *training,
        max_epochs=3,
        checkpoint=Checkpoint(path, {"seed": SEED}, history=HistoryFile(tmp_path / "history.csv")),
    )
    assert fitted.history == expected.history
    assert weight_bytes(resumed) == weight_bytes(undisturbed)


def generator_states(model: keras.Model, epoch: int) -> list[tuple[int, ...]]:
    """The states of all generators at the beginning of an epoch, in the order of the layers."""
    randomness = EpochRandomness(EpochBatches(small_splits(), RECIPES["sep997"], SEED), SEED)
    randomness.set_model(model)
    randomness.on_epoch_begin(epoch)
    return [tuple(np.asarray(v).tolist()) for v in model.variables if v.path.endswith("seed_generator_state")]


def test_generators_begin_each_epoch_in_states_of_their_own():
    model = noisy_model(SEED)
    states = generator_states(model, 0) + generator_states(model, 1)
    assert len(states) == 2 * 7
    assert len(set(states)) == len(states)


def test_the_dropout_of_published_models_stays_as_it_was():
    """Noted when only layers of the model itself were looked at, as when the published results were trained."""
    assert generator_states(new_model(), 3) == [
        (3482652393, 2149824591),
        (4122175506, 1450886137),
        (147194785, 3427427831),
        (1932334634, 678659269),
        (1692314556, 3459588057),
    ]


@pytest.mark.slow
def test_another_seed_gives_other_batches_and_dropout_to_the_same_weights():
    splits = small_splits()
    first, second = new_model(), new_model()
    fit(first, RECIPES["sep997"], splits, SEED, max_epochs=1)
    fit(second, RECIPES["sep997"], splits, SEED + 1, max_epochs=1)
    assert weight_bytes(first) != weight_bytes(second)


def test_batches_come_in_the_order_of_batches_py():
    """Keras' own train_on_batch, given the batches by hand, must arrive at the same weights.

    `fit` compiles for batches of any size, `train_on_batch` for those of one, and oneDNN adds in another order in each.
    Adam's first steps hardly depend on a gradient's size, so that the rounding of a gradient near 0, a difference of
    large numbers, becomes a share of the learning rate. In double precision it starts at 1e-16, and the tolerance lets
    it grow a million times; batches in another order change every array of weights by more than a hundredth.
    """
    recipe, splits = RECIPES["sep997"], small_splits(train=300)
    fitted = in_double(small_network(SEED))
    by_hand = in_double(fitted)
    last_weights = []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: last_weights.append(fitted.get_weights()))
    fit(fitted, recipe, splits, SEED, max_epochs=2, callbacks=[keep])

    compile_model(by_hand, recipe)
    for epoch in range(2):
        for chosen in epoch_batches(SEED, epoch, 300, recipe.batch_size, recipe.drop_remainder):
            by_hand.train_on_batch(splits.x_train[chosen].astype(np.float32), splits.y_train[chosen])
    for weights, expected in zip(last_weights[-1], by_hand.get_weights(), strict=True):
        assert weights.dtype == np.float64
        np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-9)


def test_batches_are_augmented_anew_in_each_epoch():
    augmentation = Augmentation(rotation=10, crop=1, brightness=0.1)
    recipe = dataclasses.replace(RECIPES["sep997"], batch_size=64, augmentation=augmentation)
    splits = small_splits()
    batches = EpochBatches(splits, recipe, SEED)
    for epoch in (0, 3):
        batches.start_epoch(epoch)
        expected = augment(splits.x_train, draw_changes(augmentation, SEED, epoch, splits.x_train), augmentation)
        for step, chosen in enumerate(epoch_batches(SEED, epoch, 256, 64, drop_remainder=True)):
            images, labels = batches[step]
            np.testing.assert_array_equal(images, expected[chosen])
            np.testing.assert_array_equal(labels, splits.y_train[chosen])


@pytest.mark.slow
def test_history_best_epoch_and_restored_weights_belong_together():
    splits, model = small_splits(), new_model()
    fitted = fit(model, RECIPES["sep997"], splits, SEED, max_epochs=4)
    assert set(fitted.history) == {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"}
    assert fitted.epochs == 4
    accuracies = fitted.history["val_accuracy"]
    assert fitted.best_epoch == 1 + accuracies.index(max(accuracies))
    assert fitted.best_accuracy == pytest.approx(max(accuracies), abs=1e-6)
    assert fitted.saved_accuracy == pytest.approx(accuracies[-1], abs=1e-6)
    right = (model.predict(splits.x_val, verbose=0).argmax(axis=1) == splits.y_val).sum()
    assert right / len(splits.y_val) == fitted.best_accuracy


@pytest.mark.slow
def test_accuracies_are_exact_ratios_of_counts():
    fitted = fit(new_model(), RECIPES["sep997"], small_splits(test=7), SEED, max_epochs=1)
    assert fitted.saved_accuracy in {count / 7 for count in range(8)}


class Scripted(keras.callbacks.Callback):
    """Puts given validation figures in place of the real ones, before the recipe's callbacks see them."""

    def __init__(self, losses, accuracies):
        super().__init__()
        self.losses, self.accuracies = losses, accuracies

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"], logs["val_accuracy"] = self.losses[epoch], self.accuracies[epoch]


@pytest.mark.slow
def test_plateau_and_stopping_do_what_the_recipe_says():
    """sep997's recipe, worked by hand: best loss and accuracy in epoch 2, nothing better after it.

    The plateau acts after 8 epochs without a better loss: after epoch 10, then after 18 and 26 (from .01 to .001 to
    .0001 to .00001). Early stopping acts after 25 epochs without a better accuracy: after epoch 27.
    """
    splits, model = small_splits(train=128, test=10), new_model()
    compile_model(model, RECIPES["sep997"])
    epochs = 40
    history = model.fit(
        splits.x_train.astype(np.float32),
        splits.y_train,
        batch_size=128,
        epochs=epochs,
        validation_data=(splits.x_val.astype(np.float32), splits.y_val),
        verbose=0,
        callbacks=[Scripted([2.0] + [1.0] * epochs, [0.5] + [0.6] * epochs), *recipe_callbacks(RECIPES["sep997"])],
    ).history
    assert len(history["loss"]) == 27
    # The rate that ReduceLROnPlateau logs is the one an epoch trained with.
    expected = [0.01] * 10 + [0.001] * 8 + [0.0001] * 8 + [0.00001]
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-5)


def test_callbacks_are_new_for_every_trial():
    first, second = recipe_callbacks(RECIPES["sep997"]), recipe_callbacks(RECIPES["sep997"])
    assert not {id(callback) for callback in first} & {id(callback) for callback in second}


def test_a_loss_that_is_no_number_ends_the_trial():
    recipe = dataclasses.replace(
        RECIPES["sep997"], optimizer=dataclasses.replace(RECIPES["sep997"].optimizer, learning_rate=float("inf"))
    )
    with pytest.raises(DivergedError, match="the training loss became nan in epoch 1"):
        fit(small_network(SEED), recipe, small_splits(), SEED, max_epochs=3)


def test_less_than_one_epoch_is_refused():
    with pytest.raises(UserError, match="expected at least 1 epoch, found 0"):
        fit(new_model(), RECIPES["sep997"], small_splits(), SEED, max_epochs=0)


@pytest.mark.slow
def test_sep997_learns_mnist(mnist_path):
    """Three epochs of a sixth of MNIST; the accuracy is far from chance and from what full training gives."""
    whole = split(load(Choice(path=mnist_path)), "source")
    splits = dataclasses.replace(whole, x_train=whole.x_train[:10_000], y_train=whole.y_train[:10_000])
    fitted = fit(new_model(), RECIPES["sep997"], splits, SEED, max_epochs=3)
    losses = fitted.history["loss"]
    assert losses[0] > losses[1] > losses[2]
    assert 0.75 < fitted.best_accuracy < 0.99
