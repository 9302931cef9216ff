"""Checkpoints: a trial that was stopped goes on and ends with the same bits, with either trainer."""

import dataclasses
from functools import partial

import keras
import pytest

from mnist_minimal.recipes import RECIPES, Augmentation
from mnist_minimal.training import core, keras_fit, native_fit
from mnist_minimal.training.checkpoint import Checkpoint
from tests.test_keras_fit import SEED, new_model, small_splits, weight_bytes

TRAINERS = {"keras": keras_fit.fit}
if core.available():
    TRAINERS |= {"core": native_fit.fit, "core on two threads": partial(native_fit.fit, threads=2)}


class StopAfter(keras.callbacks.Callback):
    """Ends a training from outside, as a kill does: nothing is called after it."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epochs:
            raise KeyboardInterrupt


@pytest.mark.parametrize("fit", TRAINERS.values(), ids=TRAINERS)
@pytest.mark.parametrize(
    ("epochs", "augmentation"), [(1, None), (3, None), (1, Augmentation(rotation=10, crop=1, brightness=0.1))]
)
def test_a_training_that_was_stopped_ends_with_the_same_bits(tmp_path, fit, epochs, augmentation):
    # A plateau after every epoch without progress and a stop after two: all that a callback remembers matters.
    recipe = dataclasses.replace(
        RECIPES["sep997"],
        schedule=dataclasses.replace(RECIPES["sep997"].schedule, patience=1),
        early_stopping=dataclasses.replace(RECIPES["sep997"].early_stopping, patience=2),
        optimizer=dataclasses.replace(RECIPES["sep997"].optimizer, learning_rate=0.05),
        augmentation=augmentation,
    )
    splits, identity = small_splits(), {"seed": SEED}
    undisturbed = new_model()
    one_thread = native_fit.fit if fit is TRAINERS.get("core on two threads") else fit
    expected = one_thread(undisturbed, recipe, splits, SEED, max_epochs=8)

    path = tmp_path / "checkpoint.npz"
    with pytest.raises(KeyboardInterrupt):
        fit(
            new_model(),
            recipe,
            splits,
            SEED,
            max_epochs=8,
            callbacks=[StopAfter(epochs)],
            checkpoint=Checkpoint(path, identity),
        )
    model = new_model(seed=99)
    checkpoint = Checkpoint(path, identity)
    assert checkpoint.epochs == epochs
    fitted = fit(model, recipe, splits, SEED, max_epochs=8, checkpoint=checkpoint)
    assert fitted.history == expected.history
    assert weight_bytes(model) == weight_bytes(undisturbed)
    # A training that had come to its end is not trained any further, only ended.
    ended = new_model(seed=98)
    again = fit(ended, recipe, splits, SEED, max_epochs=8, checkpoint=Checkpoint(path, identity))
    assert again.history == expected.history
    assert weight_bytes(ended) == weight_bytes(undisturbed)


def test_a_checkpoint_of_another_trial_or_a_damaged_one_is_not_gone_on_from(tmp_path, capsys):
    path = tmp_path / "checkpoint.npz"
    training = (new_model(), RECIPES["sep997"], small_splits(), SEED)
    keras_fit.fit(*training, max_epochs=1, checkpoint=Checkpoint(path, {"seed": SEED}))
    assert Checkpoint(path, {"seed": SEED}).epochs == 1
    assert Checkpoint(path, {"seed": SEED + 1}).epochs == 0
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert Checkpoint(path, {"seed": SEED}).epochs == 0
    assert f"{path}: damaged" in capsys.readouterr().err
