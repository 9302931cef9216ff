import math
import os
import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_minimal.analysis.tables import confusion_table
from mnist_minimal.errors import UserError
from mnist_minimal.evaluate import main
from mnist_minimal.models import MODELS
from mnist_minimal.saving.saved_model import save
from mnist_minimal.study.recorded import recorded_dataset
from mnist_minimal.training.evaluation import BATCH_SIZE, evaluate, probabilities
from tests.conftest import OFFLINE
from tests.rounding import exact_loss, exact_outputs, rounding_of
from tests.study.test_ledger import TRIAL, append_row


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
    expected = model.predict(images.astype(np.float32), verbose=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding_of(model, images))


def test_count_and_loss_are_those_of_keras_evaluate(model, images, labels):
    found = evaluate(model, images, labels)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    loss, accuracy = model.evaluate(images.astype(np.float32), labels, verbose=0)
    exact, rounding = exact_outputs(model, images)
    second, first = np.sort(exact, axis=1).T[-2:]
    near_ties = np.count_nonzero(first - second < 2 * rounding)
    assert near_ties < 10
    assert found.size == len(labels)
    assert abs(found.correct - round(accuracy * len(labels))) <= near_ties
    assert found.accuracy == found.correct / len(labels)
    expected, allowed = exact_loss(model, images, labels)
    assert found.loss == pytest.approx(expected, abs=allowed)
    assert loss == pytest.approx(expected, abs=allowed)


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
        "error: bad.h5: found a text that begins with 'nothing', expected a model saved by Keras (.h5 or .keras); "
        "name the file that model.save(...) wrote",
        "error: none.h5: found no file of this name, expected one of a model; check the name",
    ]
    files, mean = re.split("(?=^sep697 on)", printed.out, flags=re.MULTILINE)
    first, second = re.split("(?=second)", files)
    assert first.startswith("first.h5: sep697, 697 parameters, on the test set of digits\n")
    assert first.split("\n", 1)[1] == second.split("\n", 1)[1]
    accuracy, correct, size = re.search(r"^accuracy (\S+) \((\d+) of (\d+)\)$", first, re.MULTILINE).groups()
    assert int(size) == 297
    assert float(accuracy) == int(correct) / int(size)
    assert mean == f"sep697 on the test set of digits: mean accuracy {float(accuracy):.5f}, sd 0.00000, n = 2\n"
    counts = np.array([line.split()[1:] for line in first.strip().splitlines()[-10:]], int)
    assert counts.sum() == 297
    assert np.trace(counts) == int(correct)


@pytest.fixture
def study(model, tmp_path):
    """Writes a study's table with one row, and its saved model."""

    def write(name, **fields):
        append_row(tmp_path / f"{name}.csv", replace(TRIAL, seed=3, **fields))
        (tmp_path / name).mkdir()
        save(model, tmp_path / name / "3.h5")
        return tmp_path / name / "3.h5"

    return write


@pytest.mark.slow
def test_without_mnist_no_model_is_judged_on_the_digits_unasked(study, run_python, run_main):
    path = study("sep697")
    refused = run_python("-m", "mnist_minimal.evaluate", path, **OFFLINE)
    assert refused.returncode == 2
    assert "accuracy" not in refused.stdout
    line = refused.stderr.splitlines()[-1]  # TensorFlow greets before it.
    assert line.startswith("error: MNIST was found nowhere: Keras has no usable copy")
    assert re.search("To get MNIST, download https://.* with --data mnist.npz, or set MNIST_MINIMAL_DATA to it", line)
    asked = run_main(main, path, "--dataset", "digits")
    assert asked.returncode == 0, asked.stderr
    assert "on the test set of digits\n" in asked.stdout


def test_a_model_of_a_study_on_the_digits_is_judged_on_them(study, capsys, monkeypatch, tmp_path):
    path = study("sep697-digits", dataset="digits", test_correct=290, test_size=297)
    for folder, file in ((tmp_path, path), (path.parent, "3.h5"), (path.parent.parent, "sep697-digits/3.h5")):
        monkeypatch.chdir(folder)
        assert main([str(file)]) == 0
        assert (
            f"{file}: sep697, 697 parameters, the kept model of a trial, on the test set of digits\n"
            in capsys.readouterr().out
        )


def test_each_file_is_judged_on_what_it_was_trained_on(study, capsys, monkeypatch, mnist_path):
    monkeypatch.setenv("MNIST_MINIMAL_DATA", mnist_path)
    files = [str(study("sep697-digits", dataset="digits", test_correct=290, test_size=297)), str(study("sep697"))]
    assert main(files) == 0
    assert re.findall(r"a trial, on the test set of (\w+)", capsys.readouterr().out) == ["digits", "mnist"]
    assert main([*files, "--dataset", "mnist"]) == 0
    assert re.findall(r"a trial, on the test set of (\w+)", capsys.readouterr().out) == ["mnist", "mnist"]


def test_it_warns_where_the_model_was_trained_on_images_of_the_fold(study, capsys, tmp_path):
    whole = study("sep697-digits", dataset="digits", test_correct=290, test_size=297)
    second = study("sep697-digits-fold2of10", dataset="digits-fold2of10", test_correct=170, test_size=180)
    mnist = study("sep697")
    foreign = tmp_path / "foreign.h5"
    foreign.write_bytes(whole.read_bytes())
    assert main([*map(str, (whole, second, mnist, foreign)), "--dataset", "digits", "--fold", "2/10"]) == 0
    printed = capsys.readouterr()
    assert re.findall(r"on the test set of (\S+)\n", printed.out) == ["digits-fold2of10"] * 4
    assert printed.err.splitlines() == [
        f"{whole}: expected a model that has seen none of the test images of digits-fold2of10, found one that was "
        "trained on digits, which has most of them; judge it without --fold, or train one with --fold 2/10",
        f"{foreign}: expected a model that has seen none of the test images of digits-fold2of10, found none that is "
        "recorded in a study; make sure of it",
    ]
    assert main([str(second), "--fold", "3/10"]) == 0
    warning = capsys.readouterr().err
    assert "trained on digits-fold2of10, which has most of them" in warning
    assert warning.count("\n") == 1
    assert main([str(whole), str(second)]) == 0
    assert capsys.readouterr().err == ""


def test_images_of_the_users_own_have_to_be_given(study):
    path = study("sep697-fashion", dataset="fashion")
    with pytest.raises(UserError, match=r"expected the images of fashion, .* --data PATH --dataset-name fashion"):
        main([str(path)])


def test_a_table_that_knows_nothing_of_a_file_says_nothing(study):
    path = study("sep697-digits", dataset="digits", test_correct=290, test_size=297)
    assert recorded_dataset(path) == "digits"
    for other in (
        path.with_name("4.h5"),
        path.with_name("03.h5"),
        path.parent / "3.keras",
        path.parent.parent / "3.h5",
    ):
        assert recorded_dataset(other) is None


def test_the_published_weights_score_what_was_published(mnist_path, run_main):
    folder = os.environ.get("MNIST_MINIMAL_REFERENCE")
    if folder is None:
        pytest.skip("needs the source's weights: set MNIST_MINIMAL_REFERENCE to the folder they are in")
    path = Path(folder, "sep697_source_author_0.9903.h5")
    done = run_main(main, path, "--data", mnist_path)
    assert done.returncode == 0
    assert "\naccuracy 0.9903 (9903 of 10000)\n" in done.stdout
