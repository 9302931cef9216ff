"""Recipes: the published figures, as data."""

import dataclasses
import json

import pytest

from mnist_minimal.recipes import PUBLISHED_RECIPES, RECIPES
from mnist_minimal.training.optimizers import make_optimizer
from mnist_minimal.training.schedules import scheduled_rate


def test_sep997_as_published():
    recipe = RECIPES["sep997"]
    assert (recipe.batch_size, recipe.max_epochs, recipe.drop_remainder) == (128, 200, True)
    assert dataclasses.astuple(recipe.optimizer) == (0.01, 1e-6)
    assert dataclasses.astuple(recipe.schedule) == (0.1, 8, 1e-16, 1e-8)
    assert recipe.early_stopping.patience == 25


def test_sep697_as_published():
    recipe = RECIPES["sep697"]
    assert (recipe.batch_size, recipe.max_epochs) == (256, 2000)
    assert dataclasses.astuple(recipe.optimizer) == (0.01, 1e-6)
    assert dataclasses.astuple(recipe.schedule) == (0.25, 50, 1e-16, 2.5e-5)
    assert recipe.early_stopping.patience == 150
    assert dataclasses.astuple(recipe.median_stopping) == (30, 100, 3)


def test_epochs_and_batches_as_published():
    found = {name: (recipe.max_epochs, recipe.batch_size) for name, recipe in PUBLISHED_RECIPES.items()}
    assert found == {
        "conv18242": (20, 128),
        "gap13914": (20, 128),
        "antman9954": (19, 128),
        "small8624": (15, 128),
        "small7384": (15, 128),
        "small7344": (15, 128),
        "pyramid3762": (15, 32),
        "shared1936": (75, 32),
        "sep997": (200, 128),
        "sep697": (2000, 256),
    }


def test_schedules_by_epoch_as_the_sources_print_them():
    pyramid = [scheduled_rate(RECIPES["pyramid3762"], epoch) for epoch in range(15)]
    # The learning rates in the log of the published run, epochs 1 to 15.
    printed = [
        0.05,
        0.075,
        0.1,
        0.085,
        0.07,
        0.055,
        0.04,
        0.025,
        0.01,
        0.00875,
        0.0075,
        0.00625,
        0.005,
        0.003333,
        0.001667,
    ]
    assert pyramid == pytest.approx(printed, abs=1e-6)
    steps = [scheduled_rate(RECIPES["small7384"], epoch) for epoch in range(15)]
    assert steps == pytest.approx([0.1] * 6 + [0.01] * 7 + [0.001] * 2)
    with pytest.raises(ValueError, match="schedule by epoch"):
        scheduled_rate(RECIPES["sep997"], 0)


def test_optimizers_as_published():
    def found(name):
        optimizer = make_optimizer(RECIPES[name])
        return type(optimizer).__name__, float(optimizer.learning_rate), getattr(optimizer, "momentum", None)

    assert found("conv18242") == ("Adam", pytest.approx(0.001), None)
    assert found("gap13914") == ("SGD", pytest.approx(0.018), 0.9)
    assert found("small8624") == found("antman9954") == found("small7344") == ("SGD", pytest.approx(0.01), 0.9)
    assert found("pyramid3762") == found("pyramid3762-as-coded") == ("SGD", pytest.approx(0.05), 0.95)
    assert found("sep697") == ("AdamW", pytest.approx(0.01), None)


@pytest.mark.parametrize("recipe", PUBLISHED_RECIPES.values(), ids=PUBLISHED_RECIPES)
def test_a_recipe_is_written_as_json_and_cites_its_source(recipe):
    written = json.loads(json.dumps(recipe.as_dict()))
    assert written == recipe.as_dict()
    assert written["source"].startswith("https://") or "not known any more" in written["source"]
    assert all("kind" in part for part in written.values() if isinstance(part, dict))


def test_recipes_are_read_without_numpy_or_keras(run_python):
    finished = run_python("-c", "import sys, mnist_minimal.recipes; print({'numpy', 'keras'} & set(sys.modules))")
    assert finished.stdout.strip() == "set()", finished.stderr
