"""A teacher of tiny trials on the digits: its file, who may learn from it, and what learns."""

import json
from pathlib import Path

import numpy as np
import pytest

import mnist_minimal as mm
from mnist_minimal import teacher, trials
from mnist_minimal.data import sets
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import Teacher
from mnist_minimal.study import teaching
from mnist_minimal.study.study import Study
from mnist_minimal.training import core
from tests.rounding import rounding_of

COSINE = mm.RECIPES["sep997-cosine"].replace(batch_size=16)
TRAINERS = [pytest.param("keras", marks=pytest.mark.slow), *(["native"] if core.available() else [])]


@pytest.fixture(scope="module")
def digits() -> sets.Dataset:
    return sets.load(Choice("digits"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits) -> Path:
    """Two trials under the protocol holdout, and one that the test set stops."""
    out = tmp_path_factory.mktemp("runs")
    common = {"data": digits, "out": out, "epochs": 2, "progress": False}
    mm.run_trials("sep997", COSINE, runs=2, protocol="holdout", **common)
    mm.run_trials("sep997", runs=1, **common)
    return out


@pytest.fixture(scope="module")
def honest(runs, digits) -> Path:
    """The file of a teacher of the two trials under the protocol holdout."""
    path = runs / "honest.npz"
    teaching.write(path, *teaching.make([study(runs, "holdout")], None, digits))
    return path


@pytest.fixture(scope="module")
def tested(runs) -> Path:
    """The file of a teacher that the test set has stopped, made by the command."""
    path = runs / "tested.npz"
    assert teacher.main(["sep997-digits", "--results", str(runs), "--out", str(path)]) == 0
    return path


def study(runs: Path, ending: str) -> Study:
    return Study.at(next(runs.glob(f"*{ending}.csv")))


@pytest.mark.slow
def test_the_file_has_the_mean_of_the_probabilities_and_where_they_come_from(runs, honest, digits):
    found = teaching.read(honest)
    models = [mm.load(runs / study(runs, "holdout").name / f"{seed}.h5") for seed in (0, 1)]
    each = [model.predict(digits.x_train.astype(np.float32), verbose=0) for model in models]
    allowed = max(rounding_of(model, digits.x_train) for model in models)
    np.testing.assert_allclose(found.probabilities, np.mean(each, axis=0), rtol=0, atol=allowed)
    assert (found.probabilities.dtype, found.probabilities.shape) == (np.float32, (1500, 10))
    facts = found.facts
    assert facts["trials"] == {study(runs, "holdout").name: [0, 1]}
    assert (facts["protocol"], facts["images"], facts["trained"]) == ("holdout", 1500, 1375)
    assert (facts["dataset"], facts["chosen_by_test_set"]) == ("digits", False)
    assert facts["data"] == {name: sets.checksums(digits)[name] for name in ("x_train", "y_train")}
    right = found.probabilities.argmax(axis=1) == digits.y_train
    assert facts["accuracy"] == pytest.approx(right[:1375].mean())
    assert facts["held_out_accuracy"] == pytest.approx(right[1375:].mean())
    # One of two trials is another teacher.
    one = teaching.make([study(runs, "holdout")], [1], digits)
    np.testing.assert_allclose(one[1], each[1], rtol=0, atol=allowed)


def test_the_command_says_what_the_test_set_has_chosen(runs, tested, capsys):
    assert teacher.main(["sep997-digits", "--results", str(runs), "--out", str(tested)]) == 0
    said = capsys.readouterr().out
    assert "the mean of 1 model, sep997-digits (seed 0)" in said
    assert "Trained by protocol source on the first 1,500 of 1,500 images." in said
    assert "The test set had a part in how they were trained." in said
    assert f"SHA-256 {teaching.read(tested).sha256}" in said


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_student_learns_from_it(runs, honest, digits, tmp_path, trainer):
    options = {"runs": 1, "data": digits, "out": tmp_path, "epochs": 2, "protocol": "holdout", "progress": False}
    taught = mm.run_trials("sep997", COSINE, teacher=honest, trainer=trainer, **options)
    alone = mm.run_trials("sep997", COSINE, trainer=trainer, **options)
    assert taught.name != alone.name
    begun = json.loads((tmp_path / f"{taught.name}.json").read_text())
    assert begun["recipe"]["teacher"] == {"kind": "Teacher", "sha256": teaching.read(honest).sha256, "weight": 0.5}
    assert begun["teacher"]["trials"] == {study(runs, "holdout").name: [0, 1]}
    # From the same initial weights and images, to other targets.
    assert taught.history(0)["loss"][0] != alone.history(0)["loss"][0]
    fitted = mm.fit("sep997", COSINE, digits, teacher=honest, trainer=trainer, epochs=2, protocol="holdout")
    assert fitted.history["loss"].tolist() == pytest.approx(taught.history(0)["loss"].tolist(), rel=1e-6)
    # The same once more: nothing is missing.
    again = mm.run_trials("sep997", COSINE, teacher=honest, trainer=trainer, **options)
    assert len(again.trials) == 1


def test_who_may_not_learn_from_it(runs, honest, tested, digits, tmp_path):
    def check(file: Path, protocol: str, recipe=COSINE, images=digits) -> str:
        read = teaching.read(file)
        return teaching.check(teaching.with_teacher(recipe, read), read, images, protocol)

    assert check(honest, "holdout") == check(honest, "source") == ""
    assert check(tested, "source").startswith("The test set had a part in how the teacher was trained (sep997-digits (")
    for protocol, recipe in (("holdout", COSINE), ("source", COSINE.replace(validation_share=0.1))):
        with pytest.raises(UserError) as refused:
            check(tested, protocol, recipe)
        held = 125 if protocol == "holdout" else 150
        assert f"on none of the last {held} training images, by which this student (protocol {protocol})" in str(
            refused.value
        )
        assert "trials of protocol source, trained on the first 1,500 of 1,500: sep997-digits (seed 0)" in str(
            refused.value
        )
    with pytest.raises(UserError, match="trained on the first 1,375 of 1,500"):
        check(honest, "source", COSINE.replace(validation_share=0.1))
    fewer = sets.of_arrays((digits.x_train[:-1], digits.y_train[:-1], digits.x_test, digits.y_test), "fewer")
    with pytest.raises(UserError, match=r"expected a teacher of the training images of fewer .* those of digits"):
        check(honest, "source", images=fewer)
    with pytest.raises(UserError, match="expected a model of 10 classes, as its teacher has, found one of 12"):
        teaching.check_classes(teaching.read(honest), "mine", 12)
    with pytest.raises(UserError, match="on none of the last 125 training images"):
        mm.run_trials("sep997", COSINE, 1, digits, teacher=tested, protocol="holdout", out=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_the_recipe_names_its_teacher(honest, tested):
    named = teaching.with_teacher(COSINE.replace(**{"teacher.weight": 0.9}), teaching.read(honest))
    assert named.teacher == Teacher(teaching.read(honest).sha256, 0.9)
    assert teaching.with_teacher(named, teaching.read(honest)) == named
    with pytest.raises(
        UserError, match=r"expected the teacher that the recipe names, SHA-256 .* made of sep997-digits"
    ):
        teaching.with_teacher(named, teaching.read(tested))
    with pytest.raises(UserError, match=f"SHA-256 {named.teacher.sha256}, found none; give it with --teacher FILE"):
        teaching.with_teacher(named, None)
    assert teaching.with_teacher(COSINE, None) is COSINE
    with pytest.raises(UserError, match="found none; give it with --teacher FILE"):
        trials.main(["--model", "sep997", "--dataset", "digits", "--runs", "1", "--set", "teacher.weight=1"])


def test_trials_that_saw_different_images_make_no_teacher_together(runs, digits):
    both = [study(runs, "sep997-digits"), study(runs, "holdout")]
    with pytest.raises(
        UserError, match=r"found sep997-digits \(protocol source, 1,500 training images\) and sep997-co"
    ):
        teaching.make(both, None, digits)
    with pytest.raises(UserError, match="expected a finished trial of seed 7, found none"):
        teaching.make(both[:1], [0, 7], digits)
    fewer = sets.of_arrays((digits.x_train[:-1], digits.y_train[:-1], digits.x_test, digits.y_test), "fewer")
    with pytest.raises(UserError, match=r"expected trials on fewer .* found that they were trained on other images"):
        teaching.make(both[:1], None, fewer)


def test_what_is_no_teachers_file_is_refused(runs, honest, tmp_path):
    contents = {"none": None, "text": b"no teacher", "cut": honest.read_bytes()[:1000], "zip": b"PK\3\4" + bytes(99)}
    facts, probabilities = teaching.read(honest).facts, teaching.read(honest).probabilities
    for name, content in contents.items():
        path = tmp_path / f"{name}.npz"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"expected a teacher's.*; make one with mnist_minimal.teacher"):
            teaching.read(path)
    path = tmp_path / "wrong.npz"
    for wrong in (probabilities[:-1], probabilities / 2, -probabilities, probabilities.astype(np.float64)):
        with pytest.raises(UserError, match="expected a teacher's file, found another or a damaged one"):
            teaching.write(path, facts, wrong)
