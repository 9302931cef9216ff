"""Checkpoints: a trial that was stopped goes on and ends with the same bits, with either trainer."""

import dataclasses
import json
import os
import tracemalloc
import zipfile
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_minimal.errors import UserError
from mnist_minimal.recipes import RECIPES, Augmentation
from mnist_minimal.training import core, keras_fit, native_fit
from mnist_minimal.training.checkpoint import Checkpoint
from tests.training.test_keras_fit import SEED, new_model, small_splits, weight_bytes

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


IDENTITY = {"seed": SEED}
STATE = {
    "identity": IDENTITY,
    "epochs": 1,
    "history": {name: [0.5] for name in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")},
    "stopped": False,
    "reason": "",
    "train_seconds": 1.0,
    "cpu_seconds": 1.0,
    "callbacks": {"EarlyStopping": {"best": 0.5, "wait": 0, "best_epoch": 0, "stopped_epoch": 0}},
    "arrays": {"weights": 1},
}


def write_checkpoint(path: Path, weights: np.ndarray | None = None, **changed: object) -> Path:
    state = np.frombuffer(json.dumps(STATE | changed).encode(), np.uint8)
    np.savez(path, state=state, **{"weights-0": np.zeros((2, 3)) if weights is None else weights})
    return path


def started_anew(path: Path, capsys: pytest.CaptureFixture[str], shapes: list[tuple[int, ...]] | None = None) -> str:
    """What is said of a checkpoint that is not gone on from."""
    checkpoint = Checkpoint(path, IDENTITY, shapes)
    assert (checkpoint.epochs, checkpoint.history, checkpoint.arrays) == (0, {}, {})
    message = capsys.readouterr().err
    assert message.startswith(f"{path}: ")
    assert message.endswith("; the trial starts anew\n")
    assert message.removesuffix("\n").isprintable()
    return message


def test_the_checkpoint_of_these_tests_is_gone_on_from(tmp_path):
    checkpoint = Checkpoint(write_checkpoint(tmp_path / "1.checkpoint.npz"), IDENTITY, [(2, 3)])
    assert (checkpoint.epochs, checkpoint.history) == (1, STATE["history"])
    np.testing.assert_array_equal(checkpoint.arrays["weights"], np.zeros((1, 2, 3)))


def test_the_checkpoint_of_a_model_that_was_changed_since_starts_anew(tmp_path, capsys):
    path = write_checkpoint(tmp_path / "1.checkpoint.npz")
    message = started_anew(path, capsys, [(2, 3), (3,)])
    assert "expected weights of the shapes that the model has now, [(2, 3), (3,)], found [(2, 3)]" in message


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 0},
        {"epochs": 10**9},
        {"epochs": "1"},
        {"epochs": None},
        {"history": {}},
        {"history": {**STATE["history"], "val_accuracy": [0.5, 0.5]}},
        {"history": {**STATE["history"], "val_accuracy": ["0.5"]}},
        {"history": 7},
        {"stopped": 3},
        {"reason": ["x"]},
        {"train_seconds": "long"},
        {"callbacks": {"EarlyStopping": {"on_epoch_end": 7}}},
        {"callbacks": {"Exec": {}}},
        {"callbacks": [1]},
        {"arrays": {"weights": 10**18}},
        {"arrays": {"weights": 2}},
        {"arrays": {"weights": "1"}},
        {"arrays": None},
    ],
)
def test_a_state_of_other_types_starts_anew(tmp_path, capsys, changed):
    started_anew(write_checkpoint(tmp_path / "1.checkpoint.npz", **changed), capsys)


def test_a_hostile_checkpoint_starts_anew(tmp_path, capsys):
    path = tmp_path / "1.checkpoint.npz"
    np.savez(path, state=np.frombuffer(b'{"identity": ' + b"[" * 100_000, np.uint8))
    assert "damaged (maximum recursion depth exceeded" in started_anew(path, capsys)
    np.savez(path, state=np.array([{}], dtype=object))
    assert "expected 8 bytes in state for its shape (1,), found" in started_anew(path, capsys)
    np.savez_compressed(path, state=np.zeros(50_000_000, np.uint8))
    assert "expected at most 4,000,000 bytes of state" in started_anew(path, capsys)
    assert "expected numbers in weights-0, found |S4" in started_anew(
        write_checkpoint(path, np.array([b"text"])), capsys
    )
    path.write_bytes(b"\x00" * 1000)
    assert "damaged (File is not a zip file)" in started_anew(path, capsys)
    path.unlink()
    path.mkdir()
    assert "expected a checkpoint, found a folder, a device or a pipe" in started_anew(path, capsys)


def test_a_checkpoint_that_claims_to_be_huge_starts_anew_and_takes_no_memory(tmp_path, capsys):
    path = tmp_path / "1.checkpoint.npz"
    np.savez(path, state=np.frombuffer(json.dumps(STATE).encode(), np.uint8))
    header = {"descr": "|u1", "fortran_order": False, "shape": (600_000_000,)}
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("weights-0.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(600):
            member.write(bytes(1_000_000))
    tracemalloc.start()
    try:
        assert "expected a checkpoint of at most 500,000,000 bytes, found 600,00" in started_anew(path, capsys)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with named pipes")
def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "1.checkpoint.npz")
    assert "found a folder, a device or a pipe" in started_anew(tmp_path / "1.checkpoint.npz", capsys)


@pytest.mark.parametrize("fit", TRAINERS.values(), ids=TRAINERS)
def test_a_checkpoint_whose_optimizer_is_not_this_one_is_named(tmp_path, fit):
    path = tmp_path / "1.checkpoint.npz"
    model = new_model()
    fit(model, RECIPES["sep997"], small_splits(), SEED, max_epochs=1, checkpoint=Checkpoint(path, IDENTITY))
    with np.load(path) as file:
        arrays = dict(file)
    arrays["optimizer-1"] = np.zeros((5, 5))
    np.savez(path, **arrays)
    with pytest.raises(
        UserError, match=r"1\.checkpoint\.npz: expected the state of this model, optimizer and schedule"
    ):
        fit(new_model(), RECIPES["sep997"], small_splits(), SEED, max_epochs=2, checkpoint=Checkpoint(path, IDENTITY))
