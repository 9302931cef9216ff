"""Trials of JAX on the digits: beside the core's, verified, swept, without TensorFlow."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import mnist_minimal as mm
from mnist_minimal import verify
from mnist_minimal.recipes import SGD, Adam, Averaging, ByStep, EarlyStopping, Plateau
from mnist_minimal.study import ledger
from mnist_minimal.training import core
from mnist_minimal.training.slots import device
from tests.training.slots.test_device import WITHOUT

pytest.importorskip("jax")

NEEDS_CORE = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")

QUIET = {"data": "digits", "progress": False}


def net() -> keras.Model:
    """A small network, which is compiled in a second or two."""
    image = keras.Input((28, 28, 1), name="image")
    x = layers.AveragePooling2D(4, name="pool")(layers.Rescaling(1 / 255, name="scale")(image))
    x = layers.Dropout(0.1, name="drop")(layers.Conv2D(6, 3, activation="relu", name="conv")(x))
    return keras.Model(image, layers.Dense(10, "softmax", name="dense")(layers.Flatten(name="flat")(x)), name="net")


RECIPE = mm.Recipe(
    batch_size=50,
    max_epochs=6,
    optimizer=SGD(0.1, 0.9),
    schedule=Plateau(0.1, 1, 0.0, 1e-8),
    early_stopping=EarlyStopping(2),
)


class Seen(keras.callbacks.Callback):
    def __init__(self, seen: list[float]) -> None:
        super().__init__()
        self.seen = seen

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(float(np.abs(self.model.get_weights()[0]).sum()))


@NEEDS_CORE
@pytest.mark.slow
def test_trials_of_jax_are_those_of_the_core_but_for_rounding(tmp_path, run_main):
    """Five seeds in two places, one of which is freed by an early end, once; the study is verified by the core."""
    study = mm.run_trials(net, RECIPE, 5, jobs=2, trainer="jax", out=tmp_path, **QUIET)
    other = mm.run_trials(net, RECIPE, 5, trainer="native", out=tmp_path / "core", **QUIET)
    ours, theirs = study.dataframe().sort_values("seed"), other.dataframe()
    assert set(ours["trainer"]) == {"jax"}
    assert set(ours["backend"]) == {device.description(2)}
    for seed in range(5):
        first, core_first = study.history(seed).iloc[0], other.history(seed).iloc[0]
        # 30 steps; the accuracy of 297 images, of which one may be at the border.
        assert first["val_loss"] == pytest.approx(core_first["val_loss"], rel=1e-3)
        assert first["val_accuracy"] == pytest.approx(core_first["val_accuracy"], abs=1.01 / 297)
        assert first["learning_rate"] == core_first["learning_rate"]
        correct = mm.score(study.load(seed), *_test_set()).correct
        assert abs(correct - ours["test_correct"].iloc[seed]) <= 1
    assert abs(ours["test_correct"] - theirs["test_correct"]).max() < 0.1 * 297
    facts = json.loads(study.paths.json.read_text())
    assert facts["trainer"] == "jax"
    assert "not promised to the bit" in facts["numerics"]
    assert {"jax", "device", "places"} <= facts["versions"].keys()
    assert not list(study.paths.folder.glob("*.checkpoint.npz"))
    # Rows of the core do not go in, whoever chooses it; auto stays with JAX.
    with pytest.raises(mm.UserError, match="begun with trainer jax"):
        mm.run_trials(net, RECIPE, 6, trainer="native", out=tmp_path, **QUIET)
    (tmp_path / "own.py").write_text("from tests.study.test_slots_trials import net\n")
    checked = run_main(verify.main, study.paths.csv, "--model", "own:net", "--seeds", "0,3")
    assert checked.returncode == 0, checked.stderr + checked.stdout
    assert "first epoch close to the core's" in checked.stdout
    assert "2 trials trained again, all close to the core" in checked.stdout
    kept = run_main(verify.main, study.paths.csv, "--model", "own:net", "--keep", tmp_path / "kept")
    assert kept.returncode == 2
    # A trial that is another's is found out.
    text = study.paths.csv.read_text().splitlines()
    row = ledger.read(study.paths.csv)[0]
    study.paths.csv.write_text("\n".join([text[0], text[1].replace(f",{row.test_correct},297,", ",20,297,"), ""]))
    checked = run_main(verify.main, study.paths.csv, "--model", "own:net")
    assert checked.returncode == 1
    assert "not within" in checked.stdout


@NEEDS_CORE
@pytest.mark.slow
def test_averaged_trials_of_jax_are_those_of_the_core_but_for_rounding(tmp_path):
    """The kept model is the one that was monitored."""
    recipe = mm.Recipe(
        batch_size=50,
        max_epochs=4,
        optimizer=Adam(0.01),
        schedule=ByStep(floor=0.2, floor_from=0.5),
        averaging=Averaging(0.4),
    )
    study = mm.run_trials(net, recipe, 2, jobs=2, trainer="jax", out=tmp_path, **QUIET)
    other = mm.run_trials(net, recipe, 2, trainer="native", out=tmp_path / "core", **QUIET)
    for found in (study.dataframe(), other.dataframe()):
        assert (found["saved_accuracy"] == found["test_correct"] / found["test_size"]).all()
    for seed in range(2):
        for name in ("loss", "val_loss"):
            np.testing.assert_allclose(study.history(seed)[name], other.history(seed)[name], rtol=0.02)
        for one, another in zip(study.load(seed).get_weights(), other.load(seed).get_weights(), strict=True):
            np.testing.assert_allclose(one, another, atol=0.02)


def _test_set():
    dataset = mm.load_data("digits")
    return dataset.x_test, dataset.y_test


@pytest.mark.slow
def test_the_users_own_callbacks_see_the_weights_of_their_trial(tmp_path, capsys):
    seen: dict[int, list[float]] = {0: [], 1: [], 2: []}
    options = {"epochs": 3, "trainer": "jax", "data": "digits", "jobs": 2, "out": tmp_path}
    recipe = RECIPE.replace(early_stopping=None)
    study = mm.run_trials(net, recipe, 3, callbacks=lambda seed: [Seen(seen[seed])], **options)
    assert "called with a Keras model for each trial" in capsys.readouterr().out
    for seed in range(3):
        assert len(seen[seed]) == 3
        assert seen[seed][-1] == pytest.approx(float(np.abs(study.load(seed).get_weights()[0]).sum()), rel=1e-6)


@pytest.mark.slow
@NEEDS_CORE
def test_a_sweep_of_learning_rates_side_by_side_is_the_studies_one_by_one(tmp_path):
    recipes = [RECIPE.replace(**{"optimizer.learning_rate": rate, "dropout": drop}) for rate, drop in SETTINGS]
    studies = mm.sweep(net, recipes, 3, jobs=4, trainer="jax", out=tmp_path / "sweep", **QUIET)
    assert [len(study) for study in studies] == [3, 3, 3]
    for study, recipe in zip(studies, recipes, strict=True):
        other = mm.run_trials(net, recipe, 3, jobs=4, trainer="jax", out=tmp_path / "alone", **QUIET)
        core_study = mm.run_trials(net, recipe, 3, trainer="native", out=tmp_path / "core", **QUIET)
        assert study.name == other.name == core_study.name
        for seed in range(3):
            first = study.history(seed).iloc[0]
            assert first["val_loss"] == pytest.approx(other.history(seed).iloc[0]["val_loss"], rel=1e-4)
            assert first["val_loss"] == pytest.approx(core_study.history(seed).iloc[0]["val_loss"], rel=1e-3)


SETTINGS = ((0.1, None), (0.02, None), (0.1, 0.3))

# A trial of JAX where there is no TensorFlow.
ALONE = """
from mnist_minimal import trials
from mnist_minimal.cli.run import run
status = run(trials.main)
assert "tensorflow" not in sys.modules
sys.exit(status)
"""


@pytest.mark.slow
def test_without_tensorflow_everything_works(run_python, tmp_path):
    text = "from tests.study.test_slots_trials import net, RECIPE\nRECIPES = {'net': RECIPE}\n"
    (tmp_path / "own.py").write_text(text)
    command = "--model own:net --dataset digits --runs 2 --epochs 2 --trainer jax --jobs 2"
    done = run_python("-c", WITHOUT.format(name="tensorflow") + ALONE, *command.split(), KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    found = ledger.read(tmp_path / "runs/own.net-digits.csv")
    assert [(trial.status, trial.trainer) for trial in found] == 2 * [("finished", "jax")]
