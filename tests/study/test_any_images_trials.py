"""A job on images of the user's own, small, coloured and of four classes, from the file to the saved model."""

import json

import numpy as np
import pytest

import mnist_minimal as mm
from experiments.oracles import images
from mnist_minimal import augment, evaluate, trials
from mnist_minimal.study import ledger
from mnist_minimal.training import core

SHAPE, CLASSES = (12, 10, 3), 4

MODULE = """
import keras
from keras import layers
from mnist_minimal.recipes import Adam, Augmentation, Recipe

def build(shape=(12, 10, 3), classes=4):
    chain = [
        layers.Rescaling(1 / 255),
        layers.Conv2D(4, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(classes, "softmax"),
    ]
    return keras.Sequential([keras.Input(shape), *chain], name="coloured")

def of_three():
    return build(classes=3)

def of_another_size():
    return build((10, 12, 3))

RECIPES = {
    name: Recipe(batch_size=32, max_epochs=4, optimizer=Adam(0.005), augmentation=Augmentation(translation=0.1))
    for name in ("build", "of_three", "of_another_size")
}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module and an .npz of images that show their label."""
    random = np.random.default_rng(1)
    shown = images(CLASSES, SHAPE, seed=9).astype(np.float64)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, CLASSES, count)
        return np.clip(shown[labels] + random.normal(0, 40, (count, *SHAPE)), 0, 255).astype(np.uint8), labels

    (x_train, y_train), (x_test, y_test) = part(400), part(100)
    np.savez(tmp_path / "my.npz", x_train=x_train, y_train=y_train[:, np.newaxis], x_test=x_test, y_test=y_test)
    (tmp_path / "coloured_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


MINE = ("--data", "my.npz", "--dataset-name", "mine")


@pytest.mark.parametrize("trainer", ["native", pytest.param("keras", marks=pytest.mark.slow)])
def test_a_job_on_images_of_ones_own(folder, run_main, trainer):
    if trainer == "native" and not core.available():
        pytest.skip("needs the C++ core, which was not built")
    job = ("--model", "coloured_nets:build", *MINE, "--runs", "2", "--out", "out")
    finished = run_main(trials.main, *job, "--trainer", "auto" if trainer == "native" else trainer)
    assert finished.returncode == 0, finished.stderr
    assert "coloured_nets:build on mine, protocol source: 2 finished trials, 0 failed" in finished.stdout
    rows = ledger.read(folder / "out/coloured_nets.build-mine.csv")
    # 3 * 9 * 4 + 4, and 5 * 4 * 4 inputs of a dense layer of 4 classes.
    assert [(row.dataset, row.trainer, row.params, row.test_size) for row in rows] == [("mine", trainer, 436, 100)] * 2
    assert min(row.best_accuracy for row in rows) > 0.9
    layers = json.loads((folder / "out/coloured_nets.build-mine.json").read_text())["layers"]
    assert layers["0 InputLayer"] == {"batch_shape": [None, 12, 10, 3]}

    saved = folder / "out" / rows[0].weights
    evaluated = run_main(evaluate.main, *MINE, saved)
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"({rows[0].test_correct} of 100)" in evaluated.stdout
    data = mm.load_data(folder / "my.npz", "mine")
    assert (data.shape, data.classes, data.x_train.shape) == (SHAPE, CLASSES, (400, *SHAPE))
    scored = mm.score(mm.load(saved), data.x_test, data.y_test)
    assert scored.correct == rows[0].test_correct
    assert scored.confusion.shape == (CLASSES, CLASSES)
    assert scored.confusion.sum() == 100


def test_the_augmentation_of_coloured_images_is_drawn(folder, run_main):
    finished = run_main(augment.main, "coloured_nets:build", *MINE, "--out", "shown.png")
    assert finished.returncode == 0, finished.stderr
    assert (folder / "shown.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (
            "sep997",
            "sep997: expected a model from pixels (batch, 12, 10, 3) to at least 4 classes, as mine has them, found "
            "one from (None, 28, 28, 1) to 10; train one of your own on them, as module:function",
        ),
        ("coloured_nets:of_three", "found one from (None, 12, 10, 3) to 3; change its input or its last layer"),
        ("coloured_nets:of_another_size", "found one from (None, 10, 12, 3) to 4; change its input or its last layer"),
    ],
)
def test_a_model_for_other_images_is_refused_before_any_training(folder, run_main, model, complaint):
    refused = run_main(trials.main, "--model", model, *MINE, "--runs", "1")
    assert refused.returncode == 2
    assert complaint in refused.stderr
    assert not list(folder.glob("*/*.csv"))
