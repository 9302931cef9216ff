"""Checkpoints: a trial that was stopped is resumed and ends with the same bits, with either trainer."""

import dataclasses
import hashlib
import itertools
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
from mnist_minimal.study.history import HistoryFile
from mnist_minimal.training import core, keras_fit, native_fit
from mnist_minimal.training.checkpoint import Checkpoint, Resumption
from mnist_minimal.training.history import History
from tests.training.test_keras_fit import SEED, new_model, small_splits, weight_bytes
from tests.whole import whole_only

TRAINERS = {"keras": keras_fit.fit}
if core.available():
    TRAINERS |= {"core": native_fit.fit, "core on two threads": partial(native_fit.fit, threads=2)}
FITS = [pytest.param(fit, id=name, marks=pytest.mark.slow if name == "keras" else ()) for name, fit in TRAINERS.items()]


def resumed(path: Path, identity: dict[str, int]) -> Checkpoint:
    """A checkpoint with its history beside it, as a trial has them."""
    return Checkpoint(path, identity, history=HistoryFile(path.with_name("history.csv")))


class StopAfter(keras.callbacks.Callback):
    """Ends a training from outside, as a kill does: nothing is called after it."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epochs:
            raise KeyboardInterrupt


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("epochs", "augmentation"),
    [
        pytest.param(1, None, marks=[pytest.mark.slow, whole_only]),
        pytest.param(3, None, marks=pytest.mark.slow),
        (1, Augmentation(rotation=10, crop=1, brightness=0.1)),
    ],
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
            checkpoint=resumed(path, identity),
        )
    model = new_model(seed=99)
    checkpoint = resumed(path, identity)
    assert checkpoint.epochs == epochs
    fitted = fit(model, recipe, splits, SEED, max_epochs=8, checkpoint=checkpoint)
    assert fitted.history == expected.history
    assert weight_bytes(model) == weight_bytes(undisturbed)
    # A training that had come to its end is not trained any further, only ended.
    ended = new_model(seed=98)
    again = fit(ended, recipe, splits, SEED, max_epochs=8, checkpoint=resumed(path, identity))
    assert again.history == expected.history
    assert weight_bytes(ended) == weight_bytes(undisturbed)


def test_a_checkpoint_of_another_trial_or_a_damaged_one_is_not_resumed(tmp_path, capsys):
    path = tmp_path / "checkpoint.npz"
    training = (new_model(), RECIPES["sep997"], small_splits(), SEED)
    keras_fit.fit(*training, max_epochs=1, checkpoint=resumed(path, {"seed": SEED}))
    assert resumed(path, {"seed": SEED}).epochs == 1
    assert resumed(path, {"seed": SEED + 1}).epochs == 0
    assert f"{path}: of another trial, which differs in its seed; the trial starts again" in capsys.readouterr().err
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert resumed(path, {"seed": SEED}).epochs == 0
    assert f"{path}: found a checkpoint that can't be read (" in capsys.readouterr().err


def test_a_checkpoint_is_as_large_after_many_epochs_as_after_few(tmp_path):
    """Two thousand epochs of sep697 are as many writes of the same size, and a history that only grows."""
    sizes, written = [], []
    path = tmp_path / "checkpoint.npz"
    checkpoint = resumed(path, {"seed": SEED})

    class Sizes(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch:
                sizes.append(path.stat().st_size)
                written.append(checkpoint.history.path.read_bytes())

    recipe = dataclasses.replace(RECIPES["sep997"], early_stopping=None)
    few = small_splits(train=64)
    fit = native_fit.fit if core.available() else keras_fit.fit
    fit(new_model(), recipe, few, SEED, max_epochs=30, callbacks=[Sizes()], checkpoint=checkpoint)
    # The numbers of the state have more or fewer digits.
    assert max(sizes) - min(sizes) < 100
    assert all(after.startswith(before) for before, after in itertools.pairwise(written))


def test_two_callbacks_of_one_class_keep_a_state_each(tmp_path):
    """Plateaus of two patiences, which were told apart by their class alone."""

    def training(epochs: int, checkpoint: Checkpoint | None) -> tuple[keras.Model, list[float]]:
        model = new_model()
        recipe = RECIPES["sep997"]
        keras_fit.compile_model(model, recipe)
        plateaus = [
            keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=patience, min_delta=1e9, min_lr=0)
            for patience in (2, 3)
        ]
        resumption = Resumption(checkpoint or Checkpoint(), plateaus, list, lambda arrays: None, float)
        called = keras.callbacks.CallbackList([*plateaus, resumption], model=model)
        model.stop_training = False
        called.on_train_begin()
        rates = []
        for epoch in range(checkpoint.epochs if checkpoint else 0, epochs):
            called.on_epoch_begin(epoch)
            called.on_epoch_end(epoch, {"loss": 1.0, "learning_rate": float(model.optimizer.learning_rate.numpy())})
            rates.append([float(model.optimizer.learning_rate.numpy()), *(plateau.wait for plateau in plateaus)])
        return model, rates

    _, undisturbed = training(7, None)
    path = tmp_path / "checkpoint.npz"
    columns = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5, "learning_rate": 0.01}
    first = Checkpoint(path, {"seed": SEED}, history=Figures(columns))
    training(2, first)
    _, rest = training(7, Checkpoint(path, {"seed": SEED}, history=Figures(columns)))
    waits = [list(waits) for _, *waits in undisturbed[2:]]
    assert [waits for _, *waits in rest] == waits
    assert waits[0] != [waits[0][0]] * 2


IDENTITY = {"seed": SEED}
STATE = {
    "identity": IDENTITY,
    "epochs": 1,
    "history": {"bytes": 0, "sha256": hashlib.sha256().hexdigest()},
    "stopped": False,
    "reason": "",
    "train_seconds": 1.0,
    "cpu_seconds": 1.0,
    "callbacks": [["EarlyStopping", {"best": 0.5, "wait": 0, "best_epoch": 0, "stopped_epoch": 0}]],
    "arrays": {"weights": 1},
}


class Figures(History):
    """A history that is taken up whatever the checkpoint says of it."""

    def __init__(self, columns: dict[str, float] | None = None) -> None:
        super().__init__()
        self.columns = columns or {}

    def resume(self, position, epochs):
        self.figures = {name: epochs * [value] for name, value in self.columns.items()}


def write_checkpoint(path: Path, weights: np.ndarray | None = None, **changed: object) -> Path:
    state = np.frombuffer(json.dumps(STATE | changed).encode(), np.uint8)
    np.savez(path, state=state, **{"weights-0": np.zeros((2, 3)) if weights is None else weights})
    return path


def started_again(path: Path, capsys: pytest.CaptureFixture[str], shapes: list[tuple[int, ...]] | None = None) -> str:
    """What is said of a checkpoint that is not resumed."""
    checkpoint = Checkpoint(path, IDENTITY, shapes, Figures())
    assert (checkpoint.epochs, len(checkpoint.history), checkpoint.arrays) == (0, 0, {})
    message = capsys.readouterr().err
    assert message.startswith(f"{path}: ")
    assert message.endswith("; the trial starts again\n")
    assert message.removesuffix("\n").isprintable()
    return message


def test_the_checkpoint_of_these_tests_is_resumed(tmp_path):
    checkpoint = Checkpoint(write_checkpoint(tmp_path / "1.checkpoint.npz"), IDENTITY, [(2, 3)], Figures())
    assert checkpoint.epochs == 1
    np.testing.assert_array_equal(checkpoint.arrays["weights"], np.zeros((1, 2, 3)))


def test_a_checkpoint_whose_history_is_gone_or_changed_starts_again(tmp_path, capsys):
    history, path = tmp_path / "1.csv", tmp_path / "1.checkpoint.npz"
    written = HistoryFile(history)
    for epoch in range(3):
        written.append({"loss": 1.0, "accuracy": 0.5, "val_loss": epoch, "val_accuracy": 0.5, "learning_rate": 0.01})
    position, whole = written.position(), history.read_bytes()
    write_checkpoint(path, epochs=3, history=position)
    # What came after the checkpoint, or a part of it, is cut off.
    for after in (b"", b"3,0.5,0.01,1.0,0.5,0.1\r\n", b"3,0.5,0."):
        history.write_bytes(whole + after)
        checkpoint = Checkpoint(path, IDENTITY, history=HistoryFile(history))
        assert checkpoint.history.figures["val_loss"] == [0.0, 1.0, 2.0]
        assert history.read_bytes() == whole
    for content in (None, whole[:-3], whole.replace(b"0.5", b"0.6"), b""):
        history.unlink()
        if content is not None:
            history.write_bytes(content)
        assert Checkpoint(path, IDENTITY, history=HistoryFile(history)).epochs == 0
        history.touch()
        assert "expected the history 1.csv as it was written, found it changed" in capsys.readouterr().err


def test_a_history_goes_on_where_its_checkpoint_was(tmp_path):
    history = tmp_path / "1.csv"
    epochs = [
        {"loss": 1 / (epoch + 3), "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.25, "learning_rate": 0.01}
        for epoch in range(4)
    ]
    written = HistoryFile(history)
    for logs in epochs:
        written.append(logs)
    undisturbed = history.read_bytes()
    history.unlink()
    first = HistoryFile(history)
    for logs in epochs[:2]:
        first.append(logs)
    position = first.position()
    first.append(epochs[3])
    second = HistoryFile(history)
    second.resume(position, 2)
    for logs in epochs[2:]:
        second.append(logs)
    assert history.read_bytes() == undisturbed
    assert second.figures == written.figures
    assert second.position() == written.position()


def test_the_checkpoint_of_a_model_that_was_changed_since_starts_again(tmp_path, capsys):
    path = write_checkpoint(tmp_path / "1.checkpoint.npz")
    message = started_again(path, capsys, [(2, 3), (3,)])
    assert "expected weights of the shapes that the model has now, [(2, 3), (3,)], found [(2, 3)]" in message


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 0},
        {"epochs": "1"},
        {"epochs": None},
        {"history": 7},
        {"stopped": 3},
        {"reason": ["x"]},
        {"train_seconds": "long"},
        {"callbacks": [["EarlyStopping", {"on_epoch_end": 7}]]},
        {"callbacks": [["Exec", {}]]},
        {"callbacks": [1]},
        {"callbacks": {}},
        {"arrays": {"weights": 10**18}},
        {"arrays": {"weights": 2}},
        {"arrays": {"weights": "1"}},
        {"arrays": None},
    ],
)
def test_a_state_of_other_types_starts_again(tmp_path, capsys, changed):
    started_again(write_checkpoint(tmp_path / "1.checkpoint.npz", **changed), capsys)


def test_a_hostile_checkpoint_starts_again(tmp_path, capsys):
    path = tmp_path / "1.checkpoint.npz"
    np.savez(path, state=np.frombuffer(b'{"identity": ' + b"[" * 100_000, np.uint8))
    assert "found a checkpoint that can't be read (maximum recursion depth exceeded" in started_again(path, capsys)
    np.savez(path, state=np.array([{}], dtype=object))
    assert "expected 8 bytes in state for its shape (1,), found" in started_again(path, capsys)
    np.savez_compressed(path, state=np.zeros(50_000_000, np.uint8))
    assert "expected at most 4,000,000 bytes of state" in started_again(path, capsys)
    assert "expected numbers in weights-0, found |S4" in started_again(
        write_checkpoint(path, np.array([b"text"])), capsys
    )
    path.write_bytes(b"\x00" * 1000)
    assert "begins with the bytes 00000000, expected a checkpoint; the trial" in started_again(path, capsys)
    path.unlink()
    path.mkdir()
    assert "expected a checkpoint, found a folder, a device or a pipe" in started_again(path, capsys)


@pytest.mark.slow
def test_a_checkpoint_that_claims_to_be_huge_starts_again_and_takes_no_memory(tmp_path, capsys):
    path = tmp_path / "1.checkpoint.npz"
    np.savez(path, state=np.frombuffer(json.dumps(STATE).encode(), np.uint8))
    header = {"descr": "|u1", "fortran_order": False, "shape": (600_000_000,)}
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("weights-0.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(600):
            member.write(bytes(1_000_000))
    tracemalloc.start()
    try:
        assert "expected a checkpoint of at most 500,000,000 bytes, found 600,00" in started_again(path, capsys)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with named pipes")
def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "1.checkpoint.npz")
    assert "found a folder, a device or a pipe" in started_again(tmp_path / "1.checkpoint.npz", capsys)


@pytest.mark.parametrize("fit", FITS)
def test_a_checkpoint_whose_optimizer_is_not_this_one_is_named(tmp_path, fit):
    path = tmp_path / "1.checkpoint.npz"
    model = new_model()
    fit(model, RECIPES["sep997"], small_splits(), SEED, max_epochs=1, checkpoint=resumed(path, IDENTITY))
    with np.load(path) as file:
        arrays = dict(file)
    arrays["optimizer-1"] = np.zeros((5, 5))
    np.savez(path, **arrays)
    with pytest.raises(
        UserError, match=r"1\.checkpoint\.npz: expected the state of this model, optimizer and schedule"
    ):
        fit(new_model(), RECIPES["sep997"], small_splits(), SEED, max_epochs=2, checkpoint=resumed(path, IDENTITY))
