import math
import os
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_minimal.analysis.tables import confusion_table
from mnist_minimal.evaluate import main
from mnist_minimal.models import MODELS
from mnist_minimal.saving.saved_model import save
from mnist_minimal.training.evaluation import BATCH_SIZE, evaluate, probabilities


@pytest.fixture(scope="module")
def model() -> keras.Model:
    random = np.random.default_rng(1)
    model = MODELS["sep697"]()
    model.set_weights([random.normal(scale=0.5, size=weights.shape) for weights in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """More than one batch of uint8 noise of many degrees of brightness; the last batch is not full."""
    random = np.random.default_rng(2)
    brightest = random.integers(1, 256, (BATCH_SIZE + 17, 1, 1, 1))
    return (random.uniform(size=(BATCH_SIZE + 17, 28, 28, 1)) * brightest).astype(np.uint8)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 10, BATCH_SIZE + 17)


def test_probabilities_are_those_of_keras_predict(model, images):
    found = probabilities(model, images)
    assert found.shape == (len(images), 10)
    assert found.dtype == np.float32
    model.compile(jit_compile=False)
    np.testing.assert_allclose(found, model.predict(images.astype(np.float32), verbose=0), rtol=1e-5, atol=1e-7)


def test_count_and_loss_are_those_of_keras_evaluate(model, images, labels):
    found = evaluate(model, images, labels)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    loss, accuracy = model.evaluate(images.astype(np.float32), labels, verbose=0)
    assert found.size == len(labels)
    assert found.correct == round(accuracy * len(labels))
    assert found.accuracy == found.correct / len(labels)
    assert found.loss == pytest.approx(loss, rel=1e-5)


def test_an_improbable_label_costs_what_it_does_in_keras(images):
    model = MODELS["sep697"]()
    model.get_layer("classes").bias.assign([50.0] + 9 * [0.0])
    labels = np.ones(len(images), int)
    model.compile(loss="sparse_categorical_crossentropy", jit_compile=False)
    expected = model.evaluate(images.astype(np.float32), labels, verbose=0)
    assert expected > 49
    assert evaluate(model, images, labels).loss == pytest.approx(expected, rel=1e-6)


def test_an_impossible_label_costs_no_infinity(images):
    model = MODELS["sep697"]()
    model.get_layer("classes").bias.assign([1000.0] + 9 * [0.0])
    assert evaluate(model, images[:5], np.ones(5, int)).loss == pytest.approx(-math.log(2.0**-126))


def test_the_confusion_matrix_counts_by_label_and_prediction(model, images, labels):
    found = evaluate(model, images, labels)
    predicted = probabilities(model, images).argmax(axis=1)
    assert found.confusion.shape == (10, 10)
    for label, prediction in np.ndindex(10, 10):
        assert found.confusion[label, prediction] == sum((labels == label) & (predicted == prediction))
    assert np.trace(found.confusion) == found.correct


def test_the_confusion_matrix_has_a_place_for_classes_that_do_not_occur(model, images):
    assert evaluate(model, images[:5], np.full(5, 3)).confusion.shape == (10, 10)


def test_the_table_names_rows_and_columns():
    confusion = np.arange(100).reshape(10, 10)
    lines = confusion_table(confusion).splitlines()
    assert [int(text) for text in lines[0].split()[-10:]] == list(range(10))
    assert [[int(text) for text in line.split()] for line in lines[1:]] == [[i, *confusion[i]] for i in range(10)]
    assert len({len(line) for line in lines}) == 1


def test_each_file_in_turn_and_a_bad_one_in_one_line(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("first.h5", "second.keras"):
        save(model, name)
    Path("bad.h5").write_text("nothing")
    assert main(["first.h5", "bad.h5", "none.h5", "second.keras", "--dataset", "digits"]) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "error: bad.h5: found a text; expected a model saved by Keras (.h5 or .keras)",
        "error: none.h5: expected a model's file, found none of this name",
    ]
    first, second = re.split("(?=second)", printed.out)
    assert first.startswith("first.h5: sep697, 697 parameters, on the test set of digits\n")
    assert first.split("\n", 1)[1] == second.split("\n", 1)[1]
    accuracy, correct, size = re.search(r"^accuracy (\S+) \((\d+) of (\d+)\)$", first, re.MULTILINE).groups()
    assert int(size) == 297
    assert float(accuracy) == int(correct) / int(size)
    counts = np.array([line.split()[1:] for line in first.strip().splitlines()[-10:]], int)
    assert counts.sum() == 297
    assert np.trace(counts) == int(correct)


def test_the_published_weights_score_what_was_published(mnist_path, run_python):
    folder = os.environ.get("MNIST_MINIMAL_REFERENCE")
    if folder is None:
        pytest.skip("needs the source's weights: set MNIST_MINIMAL_REFERENCE to the folder they are in")
    path = Path(folder, "sep697_source_author_0.9903.h5")
    done = run_python("-m", "mnist_minimal.evaluate", path, "--data", mnist_path)
    assert done.returncode == 0
    assert "\naccuracy 0.9903 (9903 of 10000)\n" in done.stdout
