"""Variations of recipes: what `replace` takes and refuses, and the names of studies that follow.

The hashes were worked out in a shell: printf '{"batch_size":256}' | sha256sum | cut -c1-6
"""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_minimal.errors import UserError
from mnist_minimal.models.searched import Candidate, SearchedNetwork
from mnist_minimal.recipes import (
    RECIPES,
    SGD,
    Adam,
    AdamW,
    Augmentation,
    Averaging,
    ByStep,
    EarlyStopping,
    KerasObject,
    Plateau,
    Recipe,
    Steps,
    variation,
)
from mnist_minimal.recipes.fields import checked
from mnist_minimal.study.study import Study
from mnist_minimal.training.schedules import scheduled_rate


def varied(name: str, **values) -> Recipe:
    return RECIPES[name].replace(**values)


def test_named_fields_have_other_values_and_the_others_stay():
    recipe = varied("sep997", batch_size=256, **{"optimizer.learning_rate": 0.02, "schedule.patience": 4})
    assert (recipe.batch_size, recipe.optimizer, recipe.schedule.patience) == (256, AdamW(0.02, 1e-6), 4)
    expected = RECIPES["sep997"].as_dict()
    expected["batch_size"] = 256
    expected["optimizer"]["learning_rate"] = 0.02
    expected["schedule"]["patience"] = 4
    assert recipe.as_dict() == expected
    assert RECIPES["sep997"].batch_size == 128


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"early_stopping": None}, "early_stopping", None),
        ({"early_stopping.patience": 5}, "early_stopping", EarlyStopping(5)),
        (
            {"augmentation.rotation": 12},
            "augmentation",
            Augmentation(rotation=12.0, translation=0.1, interpolation="nearest", fill=0.1307 * 255),
        ),
        ({"augmentation": {"fill": "reflect"}}, "augmentation", Augmentation(fill="reflect")),
        ({"optimizer": SGD(0.1, 0.9)}, "optimizer", SGD(0.1, 0.9)),
        ({"optimizer": {"kind": "SGD", "learning_rate": 0.1, "momentum": 0}}, "optimizer", SGD(0.1, 0.0)),
        ({"optimizer": "adam", "optimizer.learning_rate": 1}, "optimizer", Adam(1.0)),
        ({"schedule": "Steps", "schedule.factor": 0.1, "schedule.after": [6, 13]}, "schedule", Steps(0.1, (6, 13))),
        ({"batch_size": np.int64(7)}, "batch_size", 7),
        (
            {"optimizer": "Lion", "optimizer.learning_rate": 0.001},
            "optimizer",
            KerasObject("Lion", {"learning_rate": 0.001}),
        ),
        ({"optimizer": "keras.optimizers.AdamW"}, "optimizer", KerasObject("AdamW", {})),
        ({"callbacks": ["TerminateOnNaN"]}, "callbacks", (KerasObject("TerminateOnNaN"),)),
    ],
)
def test_what_fields_take(values, field, expected):
    recipe = varied("conv18242", **values)
    found = getattr(recipe, field)
    assert found == expected
    assert type(found) is type(expected)
    # What is written of it beside the results makes the same recipe again.
    written = json.loads(json.dumps(recipe.as_dict()))
    assert varied("conv18242", **{field: written[field]}) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_keras_own_objects_become_data():
    cosine = keras.optimizers.schedules.CosineDecay(0.1, 100)
    recipe = varied("conv18242", optimizer=keras.optimizers.SGD(cosine, momentum=0.5))
    assert recipe.optimizer.class_name == "SGD"
    assert recipe.optimizer.config["momentum"] == 0.5
    assert recipe.optimizer.config["learning_rate"]["class_name"] == "CosineDecay"
    schedule = varied("conv18242", schedule=cosine).schedule
    assert schedule.class_name == "CosineDecay"
    assert schedule.config | {"name": "CosineDecay"} == cosine.get_config()
    # Keras gives every optimizer another name, which makes no other recipe.
    serialized = keras.saving.serialize_keras_object(keras.optimizers.SGD(cosine, momentum=0.5))
    assert varied("conv18242", optimizer=serialized) == recipe


def test_all_of_a_recipe_but_three_fields_may_be_left_out():
    recipe = Recipe(batch_size=32, max_epochs=2, optimizer=Adam(0.01))
    assert (recipe.source, recipe.assumed, recipe.drop_remainder, recipe.schedule) == ("", (), False, None)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"batchsize": 1}, "expected a field of the recipe, found 'batchsize'; the nearest is batch_size; there are "),
        ({"learning_rate": 1}, "found 'learning_rate'; the nearest is optimizer.learning_rate; there are source, ass"),
        ({"model": "x"}, "expected a field of the recipe, found 'model'; there are "),
        ({"origin": None}, "expected a field of the recipe, found 'origin'; "),
        ({"optimizer.momentun": 1}, "optimizer.momentun: AdamW has no such field; there are learning_rate, weight_d"),
        ({"optimizer": "SGD"}, "optimizer: SGD takes learning_rate, momentum, found no learning_rate, momentum; give"),
        ({"batch_size": "256"}, "batch_size: expected a whole number of at least 1, found '256'"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, found 0"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number of at least 1, found 2.5"),
        ({"batch_size": True}, "batch_size: expected a whole number of at least 1, found True"),
        ({"batch_size": None}, "batch_size: expected a whole number of at least 1, found None"),
        ({"batch_size.x": 1}, "batch_size.x: expected batch_size to have fields, found 128; set batch_size itself"),
        ({"drop_remainder": 1}, "drop_remainder: expected true or false, found 1"),
        ({"optimizer": None}, "optimizer: expected AdamW, Adam, SGD, SOAP or the name of one of Keras', found None"),
        (
            {"optimizer": {"learning_rate": 1}},
            "optimizer: expected AdamW, Adam, SGD, SOAP or the name of one of Keras'",
        ),
        ({"optimizer.learning_rate": "fast"}, "optimizer.learning_rate: expected a number of at least 0, found 'fast'"),
        ({"optimizer.learning_rate": float("nan")}, "optimizer.learning_rate: expected a number of at least 0, found"),
        ({"schedule.factor": 1}, "schedule.factor: expected a number from 0 to less than 1, found 1"),
        ({"schedule": EarlyStopping(3)}, "schedule: expected Plateau, Steps, PiecewiseLinear, ByStep, the name of one"),
        ({"early_stopping": "soon"}, "early_stopping: expected EarlyStopping or null (None), found 'soon'"),
        ({"augmentation.interpolation": "cubic"}, "augmentation.interpolation: expected nearest or bilinear, found "),
        ({"augmentation.scale": [1, 2, 3]}, "augmentation.scale: expected a list of 2, found 3"),
        ({"callbacks": [keras.callbacks.TerminateOnNaN()]}, "callbacks[0]: expected the name of one of Keras', found"),
        ({"schedule": "CosineDecay", "schedule.x": {1, 2}}, "expected numbers, texts, lists and dictionaries, found a"),
        (
            {"optimizer": {"class_name": "SGD", "config": {"learning_rate": {"class_name": "CosineDecay"}}}},
            "expected one schedule of the learning rate, found one in the optimizer's configuration and schedule Plat",
        ),
    ],
)
def test_what_is_no_field_or_value_is_refused_in_one_line(values, complaint):
    with pytest.raises(UserError) as refused:
        varied("sep997", **values)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_recipe_of_ones_own_is_checked_too():
    with pytest.raises(UserError, match=r"^Recipe.batch_size: expected a whole number of at least 1, found '32'"):
        Recipe(batch_size="32", max_epochs=2, optimizer=Adam(0.01))


def name(model: str, recipe: Recipe | None, dataset: str = "mnist", protocol: str = "source") -> str:
    return Study.of(Path(), model, dataset, protocol, recipe).name


def test_another_recipe_is_another_study_whose_name_says_so():
    assert name("sep997", None) == name("sep997", RECIPES["sep997"]) == "sep997"
    assert name("sep997", varied("sep997", batch_size=256)) == "sep997-5a4612"
    assert name("sep997", RECIPES["sep697"]) == "sep997-sep697"
    assert name("sep997", varied("sep697", batch_size=128)) == "sep997-sep697-8982b5"
    both = varied("sep997", **{"optimizer.learning_rate": 0.02, "batch_size": 256})
    assert name("sep997", both) == "sep997-d882a4"
    assert name("sep997", varied("sep997", batch_size=256).replace(**{"optimizer.learning_rate": 0.02})) == name(
        "sep997", both
    )
    # A recipe that was made without `replace` is known by what it says.
    assert name("sep997", replace(RECIPES["sep997"], batch_size=256)) == "sep997-5a4612"
    assert name("sep997", varied("sep997", batch_size=256), "digits", "holdout") == "sep997-5a4612-digits-holdout"


def test_parts_are_part_of_the_name():
    assert name("conv18242", varied("conv18242", augmentation=None)) == "conv18242-3fd5b4"
    steps = varied("conv18242", schedule="Steps", **{"schedule.factor": 0.1, "schedule.after": [6, 13]})
    assert name("conv18242", steps) == "conv18242-cc1e05"
    lion = varied("conv18242", optimizer="Lion", **{"optimizer.learning_rate": 0.001})
    assert name("conv18242", lion) == "conv18242-7ac486"


def test_fields_that_came_later_leave_older_names_and_files_as_they_were():
    by_step = varied("sep997", schedule="ByStep", early_stopping=None)
    assert name("sep997", by_step) == "sep997-3393c5"
    assert not {"averaging", "floor_from"} & {*by_step.as_dict(), *by_step.as_dict()["schedule"]}
    averaged = by_step.replace(averaging="Averaging", **{"averaging.start": 0.5, "schedule.floor_from": 0.5})
    assert averaged.as_dict()["averaging"] == {"kind": "Averaging", "start": 0.5}
    assert checked({"kind": "Recipe", **averaged.as_dict()}, Recipe, "recipe") == averaged
    assert name("sep997", averaged) != name("sep997", by_step)
    # What is set of a recipe that has them already, and what is taken away.
    of_cosine = RECIPES["sep997-cosine"]
    later = of_cosine.replace(averaging=Averaging(0.6), **{"schedule.floor_from": 0.6})
    assert variation.changes("sep997", later, "mnist") == {
        "schedule.floor_from": 0.6,
        "averaging": {"kind": "Averaging", "start": 0.6},
    }
    own = replace(later, name="own", origin=None)
    assert variation.changes("nets:tiny", own.replace(averaging=None), "mnist") == {"averaging": None}
    assert later.replace(averaging=None, **{"schedule.floor_from": 1}) is of_cosine


def test_a_candidate_of_a_search_has_the_name_that_it_had():
    network = SearchedNetwork(9, 3, "same", "average", (9, 9, 9, 12), 3, "valid", 0, "depthwise", 0.2)
    schedule = ByStep("cosine", 0.05, floor=0.1)
    recipe = Recipe(batch_size=64, max_epochs=40, optimizer=Adam(0.03), schedule=schedule, dropout=0.0)
    assert Candidate(network, recipe).name == "c691_0d7850f6"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"early_stopping": {"patience": 3}}, "expected averaging or early_stopping, .* found both; set one"),
        ({"schedule": Plateau(0.5, 3, 0.0, 0.0)}, "expected a schedule that does not follow the monitored .* Plateau"),
    ],
)
def test_averaging_goes_with_nothing_that_follows_the_monitored_figures(values, complaint):
    with pytest.raises(UserError, match=complaint):
        RECIPES["sep997-cosine"].replace(averaging=Averaging(0.6), **values)


def test_a_schedule_by_epoch_is_stretched_with_the_epochs():
    longer = varied("pyramid3762", max_epochs=30)
    assert longer.schedule.points == ((0, 0.05), (4, 0.1), (16, 0.01), (24, 0.005), (30, 0))
    # A third of the way from .005 to 0.
    assert scheduled_rate(longer, 26) == pytest.approx(0.005 * 2 / 3)
    steps = varied("small7384", max_epochs=30)
    assert steps.schedule.after == (12, 26)
    assert name("small7384", steps) == "small7384-06795a"
    assert steps.replace(max_epochs=15) is RECIPES["small7384"]
    assert varied("small7384", max_epochs=30, **{"schedule.after": (6, 13)}).schedule.after == (6, 13)
    assert varied("sep997", max_epochs=30).schedule == RECIPES["sep997"].schedule


def test_setting_a_value_to_what_it_is_gives_the_published_recipe():
    assert varied("sep997", batch_size=128, schedule=RECIPES["sep997"].schedule) is RECIPES["sep997"]
    assert varied("sep997", batch_size=256).replace(batch_size=128) is RECIPES["sep997"]
    # A whole number is the same number of degrees.
    assert name("conv18242", varied("conv18242", **{"augmentation.rotation": 10})) == "conv18242"
    assert name("sep997", varied("sep997", source="put in other words")) == "sep997"


def test_a_recipe_of_ones_own_is_varied_by_what_it_was():
    own = Recipe(model="nets:tiny", batch_size=32, max_epochs=2, optimizer=Adam(0.01))
    assert name("nets:tiny", own) == "nets.tiny"
    assert name("nets:tiny", own.replace(batch_size=256)) == "nets.tiny-5a4612"
    assert name("nets:tiny", RECIPES["sep697"]) == "nets.tiny-sep697"
    assert name("build", Recipe(batch_size=32, max_epochs=2, optimizer=Adam(0.01))) == "build"


def test_what_was_set_in_words():
    assert variation.described("sep997", RECIPES["sep997"], "mnist") == ""
    recipe = varied("sep697", batch_size=128, early_stopping=None)
    assert (
        variation.described("sep997", recipe, "mnist")
        == "the recipe of sep697 with batch_size 128, early_stopping null"
    )
