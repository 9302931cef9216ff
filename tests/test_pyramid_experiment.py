"""The experiment of pyramid3762's suspects: its plan, its models, its table, and the other order of augmentation."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from scipy import stats

from experiments import pyramid_suspects, tone_first
from experiments.ten_networks import command
from mnist_minimal import trials
from mnist_minimal.data import sets
from mnist_minimal.data.augmentation import augment, draw_changes
from mnist_minimal.data.choice import Choice
from mnist_minimal.models import MODELS, lookup
from mnist_minimal.recipes import RECIPES
from mnist_minimal.training import core, initial_weights, native_fit
from tests.conftest import REPOSITORY
from tests.study.test_ledger import FAILED, TRIAL, append_row

PLAN = tuple(pyramid_suspects.SUSPECTS.values())
VARIANTS = [planned.variant for planned in PLAN if planned.variant]


def test_every_suspect_is_one_change_and_a_study_of_its_own():
    options = [trials.parse(command(planned, 1, Path("runs"))[3:]) for planned in PLAN]
    assert {(one.recipe, one.runs, one.seed, one.trainer, one.dataset, one.protocol) for one in options} == {
        ("pyramid3762", 5, 0, "native", "mnist", "source")
    }
    changed = [(one.model, one.set) for one in options]
    assert all((model == "pyramid3762") != (settings == []) for model, settings in changed)
    assert [settings for _, settings in changed if settings] == [
        [("optimizer.momentum", 0.9)],
        [("augmentation.interpolation", "nearest")],
        [("augmentation.fill", 0.0)],
    ]
    for planned, one in zip(PLAN, options, strict=True):
        assert RECIPES["pyramid3762"].replace(**planned.settings) == RECIPES["pyramid3762"].replace(**dict(one.set))
    names = {planned.study(Path("runs")).name for planned in (pyramid_suspects.RECIPE, *PLAN)}
    assert len(names) == len(PLAN) + 1


def built(name: str) -> keras.Model:
    """A model as a trial of seed 3 has it before its first epoch."""
    model = lookup.builder(name)()
    initial_weights.draw(model, 3)
    return model


def described(model: keras.Model) -> list[dict]:
    return [layer.get_config() for layer in model.layers]


@pytest.mark.parametrize(
    ("variant", "expected"), [("keras_epsilon", {"epsilon": 1e-3}), ("slow_statistics", {"momentum": 0.99})]
)
def test_variants_of_batch_normalization_differ_in_nothing_else(variant, expected, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    found, own = built(f"experiments.pyramid_suspects:{variant}"), built("pyramid3762")
    norms = [isinstance(layer, layers.BatchNormalization) for layer in own.layers]
    assert sum(norms) == 9
    assert described(found) == [
        config | (expected if norm else {}) for config, norm in zip(described(own), norms, strict=True)
    ]
    assert {key: layers.BatchNormalization().get_config()[key] for key in expected} == expected
    assert all(map(np.array_equal, found.get_weights(), own.get_weights()))


def test_pytorchs_weights(monkeypatch):
    """Uniform within 1 / sqrt(inputs), biases too: 72 inputs have a 3x3 convolution of 8 channels, and 9 one of 1."""
    monkeypatch.chdir(REPOSITORY)
    model = built("experiments.pyramid_suspects:torch_weights")
    for name, inputs in (("conv1_1", 9), ("conv3_2", 72), ("logits", 8)):
        kernel, bias = model.get_layer(name).get_weights()
        assert np.abs(kernel).max() <= inputs**-0.5
        assert np.abs(kernel).max() > 0.85 * inputs**-0.5
        assert 0 < np.abs(bias).max() <= inputs**-0.5
        assert stats.kstest(kernel.ravel() * inputs**0.5, stats.uniform(-1, 2).cdf).pvalue > 0.001
    assert model.count_params() == MODELS["pyramid3762"]().count_params()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_core_trains_each_variant(variant, monkeypatch):
    if not core.available():
        pytest.skip("needs the C++ core, which was not built")
    monkeypatch.chdir(REPOSITORY)
    assert native_fit.unsupported(lookup.builder(variant)()) is None


@pytest.fixture
def results(tmp_path):
    """The recipe's seeds 0 to 6, of momentum .9 seeds 0 to 2 and a failed one, of tone first seeds 0 and 1."""
    random = np.random.default_rng(5)
    own, other, tone = (random.integers(9_900, 9_950, n) / 10_000 for n in (7, 3, 2))
    for seed, accuracy in enumerate(own):
        trial = replace(TRIAL, model="pyramid3762", seed=seed, saved_accuracy=accuracy, best_accuracy=0.999)
        append_row(tmp_path / "pyramid3762.csv", trial)
    study = PLAN[0].study(tmp_path)
    for seed, accuracy in enumerate(other):
        append_row(study.csv, replace(TRIAL, model="pyramid3762", seed=seed, saved_accuracy=accuracy))
    append_row(study.csv, replace(FAILED, model="pyramid3762", seed=3))
    append_row(study.csv, replace(TRIAL, model="pyramid3762", seed=5, saved_accuracy=0.5))
    tone_first.accuracies_file(tmp_path).parent.mkdir()
    rows = [f"{seed},{accuracy},60.0\n" for seed, accuracy in enumerate(tone)]
    tone_first.accuracies_file(tmp_path).write_text("".join(["seed,accuracy,cpu_seconds\n", *rows]))
    return tmp_path, own, other, tone


def cells(printed):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()[2:]]
    return {name: others for name, *others in rows}


def test_the_table(run_main, results):
    folder, own, other, tone = results
    done = run_main(pyramid_suspects.main, "--results", folder)
    assert done.returncode == 0, done.stderr
    table = cells(done.stdout)
    assert len(table) == len(PLAN) + 2
    expected = ["7", f"{own.mean():.5f}", f"{own.std(ddof=1):.5f}", f"{own.max():.4f}", "-"]
    assert table["its recipe"][:5] == expected
    chance = 1 - stats.norm(own.mean(), own.std(ddof=1)).cdf(0.9952)
    assert float(table["its recipe"][5]) == pytest.approx(chance, rel=0.5)
    # SciPy's paired t test, which gives an interval too.
    paired = stats.ttest_rel(other, own[:3])
    low, high = paired.confidence_interval()
    found = table["momentum 0.9 for 0.95"]
    assert found[0] == "3"
    assert found[4] == f"{(other - own[:3]).mean():+.5f} ({low:+.5f} to {high:+.5f}, n = 3)"
    assert table["tone before geometry for after"][1] == f"{tone.mean():.5f}"
    assert table["nearest pixel for bilinear"] == ["0", *["-"] * 5]


def test_a_chance_of_many_standard_deviations_is_said_to_be_small():
    near = {0: 0.9914, 1: 0.9916, 2: 0.9915}
    assert stats.norm(0.9915, np.std([0.9914, 0.9916, 0.9915], ddof=1)).sf(0.9952) < 1e-4
    assert pyramid_suspects.row("near", near, {})[-1] == "below 0.0001"


def test_nothing_trained_yet(run_main):
    done = run_main(pyramid_suspects.main, "--results", "none")
    assert done.returncode == 0, done.stderr
    assert {tuple(row) for row in cells(done.stdout).values()} == {("0", *["-"] * 5)}


@pytest.mark.parametrize(("darkest", "brightest", "alike"), [(80, 161, True), (0, 256, False)])
def test_the_orders_differ_by_clipping_alone(darkest, brightest, alike):
    """No pixel from 80 to 160 leaves 0 .. 255: 80 * .8 - 51 = 13, and 160 * 1.2 + 51 = 243."""
    augmentation = RECIPES["pyramid3762"].augmentation
    images = np.random.default_rng(0).integers(darkest, brightest, (200, 28, 28, 1)).astype(np.uint8)
    changes = draw_changes(augmentation, 0, 0, images)
    usual = augment(images, changes, augmentation)
    other = tone_first.tone_first(images, changes, augmentation)
    different = np.abs(usual - other).max(axis=(1, 2, 3))
    assert (different < 0.001).all() == alike
    still = (changes["angle"] == 0) & (changes["scale"] == 1)
    plain = (changes["contrast"] == 1) & (changes["brightness"] == 0)
    assert np.array_equal(usual[still | plain], other[still | plain])
    assert not np.array_equal(usual, images)


@pytest.mark.slow
def test_with_the_usual_order_it_trains_as_the_core_does(tmp_path, run_main):
    if not core.available():
        pytest.skip("needs the C++ core, which was not built")
    digits = sets.load(Choice("digits"))
    model, found = tone_first.train(digits, 1, augment, max_epochs=2)
    own = MODELS["pyramid3762"]()
    initial_weights.draw(own, 1)
    fitted = native_fit.fit(own, RECIPES["pyramid3762"], sets.split(digits, "source"), 1, max_epochs=2)
    assert found.history == fitted.history
    assert all(map(np.array_equal, model.get_weights(), own.get_weights()))

    # A seed that is there is not trained again.
    options = ("--epochs", "1", "--dataset", "digits", "--out", tmp_path)
    assert run_main(tone_first.main, *options, "--runs", "1").stdout.startswith("seed 0: ")
    first = tone_first.read(tmp_path)
    done = run_main(tone_first.main, *options, "--runs", "2")
    assert done.stdout.startswith("seed 1: ")
    assert tone_first.read(tmp_path)[:1] == first
    assert [row["seed"] for row in tone_first.read(tmp_path)] == [0, 1]
