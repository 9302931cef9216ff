"""`mm.run_trials`, `mm.fit` and the study that people hold: the trials of the command line, from Python."""

import doctest
import functools
import json
import multiprocessing
import os

import keras
import numpy as np
import pytest
import scipy.stats
from keras import layers

import mnist_minimal as mm
from mnist_minimal import trials
from mnist_minimal.api import study as api_study
from mnist_minimal.api import train as api_train
from mnist_minimal.training.initial_weights import draw


def tiny() -> keras.Model:
    """As a cell of a notebook defines it."""
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(3, 3)(layers.Rescaling(1 / 255)(image))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(image, layers.Dense(10, "softmax")(x))


# Another process can't import what a notebook's cell defines.
tiny.__module__ = "__main__"


def renamed(build, name):
    """The same function under another name, of a notebook too."""

    def function() -> keras.Model:
        return build()

    function.__name__, function.__module__ = name, "__main__"
    return function


QUIET = {"data": "digits", "progress": False}


class Record(keras.callbacks.Callback):
    """Counts its epochs, beside what others may see of it."""

    def __init__(self, seed: int, seen: list[tuple[int, int]]) -> None:
        super().__init__()
        self.seed, self.seen, self.epochs = seed, seen, 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.seen.append((self.seed, self.epochs))


@pytest.mark.parametrize("module", [api_train, api_study])
def test_the_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.slow
def test_a_published_model_as_on_the_command_line(tmp_path, run_main):
    study = mm.run_trials("sep697", runs=2, epochs=2, out=tmp_path / "here", **QUIET)
    job = f"--model sep697 --runs 2 --epochs 2 --dataset digits --out {tmp_path / 'there'}"
    done = run_main(trials.main, *job.split())
    assert done.returncode == 0, done.stderr
    other = mm.read_trials(tmp_path / "there" / study.name)
    same = ["model", "params", "dataset", "protocol", "seed", "saved_accuracy", "best_accuracy", "test_correct"]
    assert study.dataframe()[same].equals(other.dataframe()[same])
    for seed in range(2):
        for ours, theirs in zip(study.load(seed).get_weights(), other.load(seed).get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("trainer", ["native", pytest.param("keras", marks=pytest.mark.slow)])
def test_a_fit_is_the_trial_of_its_seed(trainer, tmp_path):
    begun = []

    class Begin(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begun.append(self.model.get_weights())

    options = {"recipe": "sep997", "epochs": 2, "trainer": trainer}
    study = mm.run_trials(tiny, runs=1, seed=7, callbacks=lambda seed: [Begin()], out=tmp_path, **options, **QUIET)
    fitted = mm.fit(tiny, data="digits", seed=7, callbacks=[Begin()], **options)
    for ours, theirs in zip(fitted.model.get_weights(), study.load(7).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert fitted.test.correct == study.trials[0].test_correct
    assert list(fitted.history["val_loss"]) == pytest.approx(list(study.history(7)["val_loss"]), rel=1e-6)
    # Both began with the initial weights of the seed.
    model = tiny()
    draw(model, 7)
    assert len(begun) == 2
    for found in begun:
        for ours, theirs in zip(found, model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_built_model_is_trained_from_the_weights_it_has():
    model = tiny()
    model.layers[-1].bias.assign(np.full(10, 3.0))
    before = [weights.copy() for weights in model.get_weights()]
    # Without a step of the optimizer that could be seen, nothing moves.
    still = mm.RECIPES["small7344"]
    fitted = mm.fit(model, still, "digits", epochs=1)
    assert fitted.model is model
    assert not np.array_equal(before[-1], model.get_weights()[-1])
    # One epoch at a rate of .01 moves a bias by much less than it was set to.
    np.testing.assert_allclose(model.get_weights()[-1], 3, atol=1)


@pytest.mark.slow
def test_a_function_of_a_cell_is_trained_in_other_processes(tmp_path):
    bar = 3.0

    def softened() -> keras.Model:
        model = tiny()
        model.layers[-1].bias.assign(np.full(10, bar))
        return model

    softened.__module__ = "__main__"
    study = mm.run_trials(
        softened,
        recipe="small7344",
        runs=2,
        jobs=2,
        epochs=1,
        trainer="keras",
        out=tmp_path,
        callbacks=lambda seed: [
            keras.callbacks.LambdaCallback(on_train_end=lambda logs: (tmp_path / f"{seed}-{os.getpid()}").touch())
        ],
        **QUIET,
    )
    assert (study.name, [trial.model for trial in study.trials]) == ("softened-small7344-digits", ["softened"] * 2)
    processes = {path.name.partition("-")[2] for path in tmp_path.iterdir() if path.name[:2] in ("0-", "1-")}
    assert len(processes) == 2
    assert str(multiprocessing.current_process().pid) not in processes
    np.testing.assert_allclose(study.load(0).get_weights()[-1], bar, atol=1)


def test_callbacks_are_made_for_each_trial(tmp_path):
    seen: list[tuple[int, int]] = []
    mm.run_trials("sep697", runs=2, epochs=2, out=tmp_path, callbacks=lambda seed: [Record(seed, seen)], **QUIET)
    assert seen == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_trials_with_callbacks_and_without_are_not_one_study(tmp_path):
    mm.run_trials("sep697", runs=1, epochs=1, out=tmp_path, callbacks=lambda seed: [Record(seed, [])], **QUIET)
    with pytest.raises(mm.UserError, match=r"callbacks \['Record'\], and now it would be \[\]"):
        mm.run_trials("sep697", runs=2, epochs=1, out=tmp_path, **QUIET)


class Stop(keras.callbacks.Callback):
    """What Jupyter's stop button does, at a certain epoch."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.at:
            raise KeyboardInterrupt


def test_an_interrupted_study_is_resumed(tmp_path):
    seen: list[tuple[int, int]] = []

    def stopped(seed):
        return [Record(seed, seen), Stop(2 if seed == 1 else 0)]

    def not_stopped(seed):
        return [Record(seed, seen), Stop(0)]

    options = {"runs": 3, "epochs": 3, **QUIET}
    with pytest.raises(KeyboardInterrupt):
        mm.run_trials("sep697", out=tmp_path / "a", callbacks=stopped, **options)
    assert seen == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]
    study = mm.run_trials("sep697", out=tmp_path / "a", callbacks=not_stopped, **options)
    # What a callback remembers is not on disk: the trial started again, with all its epochs.
    assert seen[5:] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    whole = mm.run_trials("sep697", out=tmp_path / "b", callbacks=not_stopped, **options)
    for seed in range(3):
        assert study.history(seed).equals(whole.history(seed))


def test_arrays_of_ones_own(tmp_path):
    digits = mm.load_data("digits")
    arrays = (digits.x_train[..., 0] / 255, digits.y_train, digits.x_test, np.eye(10)[digits.y_test])
    own = mm.run_trials("sep697", runs=1, epochs=1, data=arrays, out=tmp_path, progress=False)
    named = mm.run_trials("sep697", runs=1, epochs=1, data=arrays, dataset_name="scans", out=tmp_path, progress=False)
    published = mm.run_trials("sep697", "sep697", runs=1, epochs=1, out=tmp_path, **QUIET)
    assert [study.name for study in (own, named)] == ["sep697-arrays", "sep697-scans"]
    for study in (own, named):
        assert study.trials[0].test_correct == published.trials[0].test_correct
        np.testing.assert_array_equal(study.load(0).get_weights()[0], published.load(0).get_weights()[0])


def test_comparison_is_scipys(tmp_path):
    first = mm.run_trials("sep697", runs=2, epochs=1, out=tmp_path, **QUIET)
    other = mm.run_trials("sep997", runs=3, epochs=1, out=tmp_path, **QUIET)
    found = first.compare(other, "best")
    accuracies = [study.dataframe()["best_accuracy"] for study in (first, other)]
    expected = scipy.stats.ttest_ind(*accuracies, equal_var=False)
    assert found.means.p_value == pytest.approx(expected.pvalue)
    assert found.means.difference.value == pytest.approx(accuracies[0].mean() - accuracies[1].mean())
    assert "sep697-digits minus sep997-digits" in str(found)
    assert str(found).startswith("| accuracy, best epoch")
    holdout = mm.run_trials("sep997", runs=1, epochs=1, protocol="holdout", out=tmp_path, **QUIET)
    with pytest.raises(mm.UserError, match="protocol"):
        first.compare(holdout)
    assert "Compared as asked although not alike: protocol" in str(first.compare(holdout, mix=True))


def test_a_plot_shows_every_trial(tmp_path):
    study = mm.run_trials("sep697", runs=3, epochs=1, out=tmp_path, **QUIET)
    axes = study.plot("best")
    assert axes.get_xlabel().startswith("accuracy")
    assert study.plot(ax=axes) is axes


WRONG = {
    "a model's instance": ({"model": tiny()}, "expected a name, or a function"),
    "no such model": ({"model": "sep996"}, "expected one of the models"),
    "a lambda": ({"model": lambda: tiny(), "recipe": "sep997"}, "a name of its own"),
    "an own model without recipe": ({"model": tiny}, "found no recipe"),
    "an own model that fails": ({"model": lambda: 1 / 0, "recipe": "sep997"}, "a name of its own"),
    "no such recipe": ({"recipe": "sep996"}, "recipe='sep996', expected one of"),
    "half a run": ({"runs": 1.5}, "runs=1.5, expected a whole number from 1"),
    "no run": ({"runs": 0}, "runs=0"),
    "true": ({"jobs": True}, "jobs=True"),
    "a seed too large": ({"seed": 2**32}, "expected a whole number from 0 to 4294967295"),
    "no protocol": ({"protocol": "hold-out"}, "expected one of source, holdout"),
    "no trainer": ({"trainer": "torch"}, "expected one of auto, native, keras"),
    "an accuracy in per cent": ({"until": 99}, "until=99, expected an accuracy"),
    "no file": ({"data": "no-such.npz"}, "no-such.npz"),
    "three arrays": ({"data": (np.zeros((2, 28, 28)), [0, 1], np.zeros((2, 28, 28)))}, "found 3 arrays, expected four"),
    "more images than labels": ({"data": (np.zeros((2, 28, 28)), [0], np.zeros((2, 28, 28)), [0, 1])}, "2 images"),
    "a dictionary of arrays": ({"data": {"x_train": np.zeros((2, 28, 28))}}, "found a dict as the data, expected four"),
    "no data": ({"data": None}, "found a NoneType as the data, expected four"),
    "a function with arguments bound": (
        {"model": functools.partial(tiny), "recipe": "sep997"},
        "found a partial without a name for the model, expected a function with a name",
    ),
    "a published model's name": (
        {"model": renamed(tiny, "sep997"), "recipe": "sep997"},
        "found the name sep997 for the model, which is a published model's, expected",
    ),
    "one callback": (
        {"callbacks": lambda seed: Record(seed, [])},
        "gives a Record, expected a list of Keras callbacks",
    ),
    "a callback's class": ({"callbacks": lambda seed: [keras.callbacks.TerminateOnNaN]}, "gives a .*, expected a list"),
    "callbacks made once": ({"callbacks": [Record(0, [])]}, "found a list for callbacks, expected a function"),
    "another trainer than a study's": ({"trainer": "keras"}, "begun with trainer native"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_in_words(wrong, tmp_path):
    changed, words = WRONG[wrong]
    right = {"model": "sep697", "runs": 1, "epochs": 1, "out": tmp_path, **QUIET}
    if wrong.startswith("another"):
        mm.run_trials(**right)
        right["runs"] = 2
    with pytest.raises(ValueError, match=words) as raised:
        mm.run_trials(**(right | changed))
    assert isinstance(raised.value, mm.UserError)
    assert len(str(raised.value)) < 350


def test_arrays_in_pairs_as_keras_gives_them(tmp_path):
    digits = mm.load_data("digits")
    pairs = ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test))
    options = {"runs": 1, "epochs": 1, "progress": False}
    paired = mm.run_trials("sep697", data=pairs, out=tmp_path / "a", **options)
    listed = mm.run_trials("sep697", data=[*pairs[0], *pairs[1]], out=tmp_path / "b", **options)
    assert paired.trials[0].test_correct == listed.trials[0].test_correct


def test_no_study(tmp_path):
    (tmp_path / "sep997.csv").write_text("")
    with pytest.raises(mm.UserError, match=r"found no file of this name.*there: .*sep997.csv"):
        mm.read_trials(tmp_path / "sep996")
    with pytest.raises(mm.UserError, match=r"found no file of this name.*there: .*sep997.csv"):
        mm.read_trials(tmp_path)
    study = mm.run_trials("sep697", runs=2, epochs=1, out=tmp_path, **QUIET)
    with pytest.raises(mm.UserError, match="found no finished trial of seed 3"):
        study.load(3)
    with pytest.raises(mm.UserError, match="found no finished trial of seed '0', expected one of 0, 1"):
        study.load("0")
    with pytest.raises(mm.UserError, match="found no trial of seed 3, expected one of 0, 1"):
        study.history(3)
    with pytest.raises(mm.UserError, match="found a str to compare with, expected a study"):
        study.compare("sep997")


def test_the_json_says_what_a_notebook_trained(tmp_path):
    mm.run_trials(tiny, recipe="sep997", runs=1, epochs=1, out=tmp_path, **QUIET)
    facts = json.loads((tmp_path / "tiny-sep997-digits.json").read_text())
    assert facts["recipe"]["model"] == "sep997"
    assert facts["layers"]
    assert facts["callbacks"] == []
    assert facts["initial_weights"] == "drawn by mnist_minimal"


def test_the_json_names_the_initial_weights_that_keras_draws_and_the_study_is_resumed(tmp_path):
    def orthogonal() -> keras.Model:
        image = keras.Input((28, 28, 1))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(9, 3, kernel_initializer="orthogonal")(image))
        return keras.Model(image, layers.Dense(10, "softmax")(x))

    orthogonal.__module__ = "__main__"
    for runs in (1, 2):
        study = mm.run_trials(orthogonal, recipe="sep997", runs=runs, epochs=1, out=tmp_path, **QUIET)
    facts = json.loads((tmp_path / f"{study.name}.json").read_text())
    assert facts["initial_weights"] == ["Conv2D kernel (array 0)"]
    assert not np.array_equal(*(study.load(seed).get_weights()[0] for seed in range(2)))


class Fail(keras.callbacks.Callback):
    """A callback with a fault, in one of the trials."""

    def on_epoch_end(self, epoch, logs=None):
        raise RuntimeError("no way")


def test_a_failed_trial_is_not_passed_over_in_silence(tmp_path):
    def failing(seed):
        return [Fail()] if seed == 1 else [Record(seed, [])]

    with pytest.warns(UserWarning, match="1 of the trials failed, seed 1: RuntimeError: no way"):
        study = mm.run_trials("sep697", runs=2, epochs=1, out=tmp_path, callbacks=failing, **QUIET)
    assert study.failed() == {1: "RuntimeError: no way"}
    assert "1 finished trial, 1 failed" in repr(study)


def test_a_varied_recipe_is_compared_when_asked_and_the_refusal_is_short(tmp_path):
    first = mm.run_trials("sep697", runs=2, epochs=1, out=tmp_path, **QUIET)
    other = mm.run_trials("sep697", mm.RECIPES["small8624"], runs=2, epochs=1, out=tmp_path, **QUIET)
    with pytest.raises(
        mm.UserError, match=r"recipe.batch_size \(.*; and \d+ more; compare others, or say mix=True"
    ) as said:
        first.compare(other)
    assert len(str(said.value)) < 350
    assert "recipe.batch_size" in str(first.compare(other, mix=True))
