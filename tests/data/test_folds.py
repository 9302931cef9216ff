"""Folds: every image is tested once, under a name that says in which fold, and found again by that name."""

import csv
import json

import numpy as np
import pytest

import mnist_minimal as mm
from mnist_minimal import evaluate, trials, verify
from mnist_minimal.data.choice import Choice, Fold, recorded_fold
from mnist_minimal.data.sets import Dataset, checksums, folded, load, split
from mnist_minimal.engines.dask_worker import SharedMissingError
from mnist_minimal.errors import UserError
from mnist_minimal.study.images import find_images


def numbered(train: int, test: int) -> Dataset:
    """A data set whose images are their own numbers, and whose labels are these modulo 10."""
    numbers = np.arange(train + test)
    return Dataset("mnist", "made", "", numbers[:train], numbers[:train] % 10, numbers[train:], numbers[train:] % 10)


@pytest.mark.parametrize(("train", "test", "folds"), [(60_000, 10_000, 10), (40, 7, 3), (3, 1, 4)])
def test_every_image_is_tested_in_one_fold_and_trained_on_in_the_others(train, test, folds):
    of_all = [folded(numbered(train, test), Fold(number, folds)) for number in range(1, folds + 1)]
    sizes = [len(fold.x_test) for fold in of_all]
    assert max(sizes) - min(sizes) <= 1
    np.testing.assert_array_equal(np.sort(np.concatenate([fold.x_test for fold in of_all])), np.arange(train + test))
    for fold in of_all:
        np.testing.assert_array_equal(np.sort(np.append(fold.x_train, fold.x_test)), np.arange(train + test))
        np.testing.assert_array_equal(fold.y_train, fold.x_train % 10)
        np.testing.assert_array_equal(fold.y_test, fold.x_test % 10)


def threefry_in_plain_integers(key, counter):
    """The generator in Python's integers, after Salmon, Moraes, Dror and Shaw (2011), section 3.3."""
    keys = [*key, 0x1BD11BDA ^ key[0] ^ key[1]]
    left, right = ((word + k) % 2**32 for word, k in zip(counter, key, strict=True))
    for step in range(20):
        rotation = (13, 15, 26, 6, 17, 29, 16, 24)[step % 8]
        left = (left + right) % 2**32
        right = ((right << rotation | right >> (32 - rotation)) % 2**32) ^ left
        if step % 4 == 3:
            block = step // 4 + 1
            left = (left + keys[block % 3]) % 2**32
            right = (right + keys[(block + 1) % 3] + block) % 2**32
    return left, right


def test_which_images_are_in_a_fold_never_changes():
    """The first of ten folds of 70,000 images are the 7,000 of the lowest words under the purpose 5 and the seed 0."""
    key = threefry_in_plain_integers((0, 0), (5, 0))
    words = [threefry_in_plain_integers(key, (image, 0))[0] for image in range(70_000)]
    order = sorted(range(70_000), key=lambda image: (words[image], image))
    first, fourth = (folded(numbered(60_000, 10_000), Fold(number, 10)) for number in (1, 4))
    assert first.x_test.tolist() == order[:7_000]
    assert fourth.x_test.tolist() == order[21_000:28_000]
    assert fourth.x_train.tolist() == order[28_000:] + order[:21_000]


def test_classes_and_the_test_set_of_other_writers_are_spread_over_the_folds():
    """As far as chance has it: 7,000 images of which a share p is such, sd sqrt(7,000 p (1 - p)); 110 counts."""
    for number in range(1, 11):
        fold = folded(numbered(60_000, 10_000), Fold(number, 10))
        assert abs(np.sum(fold.x_test >= 60_000) - 1_000) < 4 * (7_000 / 7 * 6 / 7) ** 0.5
        assert abs(np.bincount(fold.y_test) - 700).max() < 4 * (7_000 * 0.1 * 0.9) ** 0.5


def test_ten_folds_hold_out_other_images_each():
    held_out = [split(folded(numbered(60_000, 10_000), Fold(k, 10)), "holdout").x_val for k in range(1, 11)]
    assert {len(images) for images in held_out} == {63_000 // 12}
    assert len(set(np.concatenate(held_out))) == 10 * (63_000 // 12)


@pytest.mark.parametrize(
    "text", ["0/10", "11/10", "1/1", "3", "3/", "/3", "3of10", "-1/3", "1/-3", "1.5/3", "3/10/2", ""]
)
def test_what_is_no_fold_is_refused_in_one_line(text, capsys):
    with pytest.raises(UserError, match=r"^expected a fold K/N.*, such as 3/10, found .*$"):
        Fold.parse(text)
    with pytest.raises(UserError, match="expected a fold K/N"):
        mm.load_data("digits", fold=text)
    with pytest.raises(SystemExit, match=r"^2$"):
        trials.main(["--model", "sep697", "--dataset", "digits", f"--fold={text}"])
    assert "argument --fold: expected a fold K/N" in capsys.readouterr().err


def test_there_are_no_more_folds_than_images():
    assert len(mm.load_data("digits", fold="1797/1797").x_test) == 1
    with pytest.raises(UserError, match=r"expected a fold of at most 1,797, the images of digits, found 3/1798"):
        mm.load_data("digits", fold="3/1798")


def test_a_recorded_name_is_undone():
    for name in ("mnist", "digits", "my_images"):
        assert recorded_fold(name) == (name, None)
        assert recorded_fold(Fold(3, 10).name_of(name)) == (name, Fold(3, 10))


@pytest.mark.parametrize(
    ("chosen", "recorded", "expected"),
    [
        (Choice(), "mnist-fold3of10", Choice("mnist", fold=Fold(3, 10))),
        (Choice(fold=Fold(2, 5)), "mnist-fold3of10", Choice("mnist", fold=Fold(2, 5))),
        (Choice(fold=Fold(2, 5)), "digits", Choice("digits", fold=Fold(2, 5))),
        (Choice("mnist"), "mnist-fold3of10", Choice("mnist", fold=Fold(3, 10))),
        (Choice(path="x.npz"), "mnist-fold3of10", Choice(path="x.npz", fold=Fold(3, 10))),
        (Choice(path="x.npz", name="a"), "a-fold3of10", Choice(path="x.npz", name="a", fold=Fold(3, 10))),
        (Choice(path="x.npz", name="a"), "mnist-fold3of10", Choice(path="x.npz", name="a")),
        (Choice("digits"), "mnist-fold3of10", Choice("digits")),
    ],
)
def test_the_fold_that_a_model_was_trained_on_is_taken_unless_others_are_chosen(chosen, recorded, expected):
    assert chosen.or_recorded(recorded) == expected


def test_a_fold_of_the_users_own_file(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {f"x_{part}": generator.integers(0, 256, (n, 9, 9), np.uint8) for part, n in (("train", 30), ("test", 10))}
    np.savez(tmp_path / "noise.npz", **arrays, y_train=np.arange(30) % 4, y_test=np.arange(10) % 4)
    dataset = load(Choice(path=str(tmp_path / "noise.npz"), name="noise", fold=Fold(2, 4)))
    assert (dataset.name, dataset.x_train.shape, dataset.classes) == ("noise-fold2of4", (30, 9, 9, 1), 4)
    whole = np.concatenate([arrays["x_train"], arrays["x_test"]])[..., None]
    for image, label in zip(dataset.x_test, dataset.y_test, strict=True):
        (place,) = [i for i, other in enumerate(whole) if (other == image).all()]
        assert label == (place if place < 30 else place - 30) % 4


def test_trials_on_a_fold_are_a_study_of_their_own_that_verifies(run_main, tmp_path):
    """The rows say which fold, and `verify` and `evaluate` find its images by the name alone."""
    options = ("--model", "sep697", "--dataset", "digits", "--runs", "1", "--epochs", "2", "--trainer", "native")
    done = run_main(trials.main, *options, "--fold", "3/10", "--protocol", "holdout")
    assert done.returncode == 0, done.stderr
    study = tmp_path / "runs/sep697-digits-fold3of10-holdout"
    (row,) = csv.DictReader(study.with_suffix(".csv").open())
    assert (row["dataset"], row["test_size"]) == ("digits-fold3of10", "180")
    facts = json.loads(study.with_suffix(".json").read_text())
    # As on the digits, and nothing of it was set.
    assert (facts["recipe"]["batch_size"], facts["set"]) == (16, {})

    again = run_main(verify.main, study.with_suffix(".csv"))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "same row, 2 epochs, weights" in again.stdout
    other = run_main(verify.main, study.with_suffix(".csv"), "--fold", "4/10")
    assert other.returncode == 2
    assert "it was begun with data." in other.stderr

    model = tmp_path / f"runs/{study.name}/0.h5"
    for chosen in ((), ("--dataset", "digits")):
        evaluated = run_main(evaluate.main, model, *chosen)
        assert f"accuracy {int(row['test_correct']) / 180} ({row['test_correct']} of 180)" in evaluated.stdout
        assert "on the test set of digits-fold3of10" in evaluated.stdout


def test_trials_on_a_fold_in_python(tmp_path):
    data = mm.load_data("digits", fold="3/10")
    study = mm.run_trials("sep697", runs=1, data=data, epochs=1, out=tmp_path, progress=False)
    assert study.name == "sep697-digits-fold3of10"
    assert study.dataframe()["test_size"].tolist() == [180]


def test_another_machine_finds_the_fold_by_the_recorded_name():
    dataset = mm.load_data("digits", fold="3/10")
    found = find_images(Choice().or_recorded(dataset.name), checksums(dataset), None)
    np.testing.assert_array_equal(found.x_test, dataset.x_test)
    with pytest.raises(SharedMissingError):
        find_images(Choice().or_recorded("digits-fold4of10"), checksums(dataset), None)
