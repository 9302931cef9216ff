"""Recipes: the published figures, as data."""

import dataclasses
import json

import pytest

from mnist_minimal.recipes import RECIPES


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
    assert dataclasses.astuple(recipe.worse_half) == (30, 100, 3)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_is_written_as_json_and_cites_its_source(recipe):
    written = json.loads(json.dumps(recipe.as_dict()))
    assert written == recipe.as_dict()
    assert written["source"].startswith("https://")


def test_recipes_are_read_without_numpy_or_keras(run_python):
    finished = run_python("-c", "import sys, mnist_minimal.recipes; print({'numpy', 'keras'} & set(sys.modules))")
    assert finished.stdout.strip() == "set()", finished.stderr
