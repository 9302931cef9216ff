"""The experiment of the fast recipes: its plan, its choices and its tables, and the judge that it shares."""

import dataclasses
from collections import Counter

import keras
import numpy as np
import pytest

from experiments import fast_recipes, held_out
from mnist_minimal.data.sets import Dataset
from mnist_minimal.models import MODELS, lookup
from mnist_minimal.recipes import RECIPES
from mnist_minimal.searching.teachers import Teachers
from mnist_minimal.training import core, native_fit
from tests.conftest import REPOSITORY

needs_core = pytest.mark.skipif(not core.available(), reason="the core was not built")

SEEDS = range(2000, 2012)


def row_of(planned, correct, loss=0.04):
    return fast_recipes.Row(
        **dataclasses.asdict(planned),
        **{"correct": correct, "size": 5000, "loss": loss, "train_accuracy": 0.99, "train_loss": 0.03},
        **{"cpu_seconds": 20.0, "version": "1"},
    )


def rows_of(question, figures, seeds=SEEDS):
    """Rows of settings, each with (correct, loss) in all its trials."""
    return [
        row_of(fast_recipes.Planned(question, setting, seed), *found)
        for setting, found in figures.items()
        for seed in seeds
    ]


def made_images():
    """240 of them, dark ones and bright ones, which two epochs tell apart."""
    random = np.random.default_rng(3)
    labels = np.arange(240) % 2
    images = (random.integers(0, 60, (240, 28, 28, 1)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    return Dataset("made", "made", "", images, labels, images[:0], labels[:0])


def test_four_seeds_first_then_eight_more_of_the_third_with_the_lowest_loss():
    settings = list(fast_recipes.QUESTIONS["sep997"])
    first = fast_recipes.plan([], "sep997")
    assert [(each.seed, each.setting) for each in first] == [(s, name) for s in range(2000, 2004) for name in settings]
    # The most accurate one has the highest loss, the last four the lowest.
    figures = {name: (4950 - place, 0.05 - 0.001 * place) for place, name in enumerate(settings)}
    rows = rows_of("sep997", figures, SEEDS[:4])
    assert fast_recipes.plan(rows[:-1], "sep997") == first
    assert fast_recipes.chosen(rows, "sep997") is None
    second = fast_recipes.plan(rows, "sep997")[len(first) :]
    assert {each.setting for each in second} == set(settings[-4:])
    assert sorted({each.seed for each in second}) == list(range(2004, 2012))
    assert len(second) == 4 * 8


def test_the_second_stage_of_691a_needs_no_further_teachers():
    settings = fast_recipes.QUESTIONS["691a"]
    rows = rows_of("691a", dict.fromkeys(settings, (4950, 0.04)), SEEDS[:4])
    parts = Counter(held_out.fold_of(each.seed) for each in fast_recipes.plan(rows, "691a"))
    assert parts == dict.fromkeys((8, 9, 10, 11), 9 + 3 * 2)


def test_691a_and_its_recipe_are_a_candidate_that_the_trials_take(tmp_path):
    settings = fast_recipes.QUESTIONS[fast_recipes.FOUND]
    without_teacher = next(name for name, recipe in settings.items() if recipe.teacher is None)
    figures = dict.fromkeys(settings, (4950, 0.04)) | {without_teacher: (4960, 0.03)}
    rows = rows_of(fast_recipes.FOUND, figures, fast_recipes.SEEDS[fast_recipes.FOUND])
    assert fast_recipes.candidate(rows[1:], fast_recipes.FOUND) is None
    for row in rows:
        held_out.append(tmp_path / "fast.csv", row)
    fast_recipes.hand_over(tmp_path / "fast.csv", fast_recipes.FOUND, Teachers(tmp_path / "teachers", made_images()))
    (path,) = (tmp_path / "691a" / "candidates").iterdir()
    name = f"search:{tmp_path}/691a/{path.stem}"
    found = dataclasses.replace(lookup.recipe(name), source="", model=fast_recipes.FOUND)
    assert found == settings[without_teacher]
    assert lookup.builder(name)().count_params() == 691
    assert not (tmp_path / "teachers").exists()


@pytest.mark.parametrize("most", [620, 696])
def test_a_relative_of_691a_is_handed_over_with_the_parameters_that_its_setting_says(tmp_path, most):
    settings = fast_recipes.QUESTIONS[f"{most}"]
    assert all(int(name.partition(":")[0]) <= most for name in settings)
    figures = {name: (4900 + place, 0.05 - 0.001 * place) for place, name in enumerate(settings)}
    for row in rows_of(f"{most}", figures):
        held_out.append(tmp_path / "fast.csv", row)
    fast_recipes.hand_over(tmp_path / "fast.csv", f"{most}", Teachers(tmp_path / "teachers", made_images()))
    (path,) = (tmp_path / f"{most}" / "candidates").iterdir()
    name = f"search:{tmp_path}/{most}/{path.stem}"
    # The last one, whose later blocks are one: 5 or 7 kernels of 5x5, a block from as many channels to 11, one of 11.
    expected = {620: 130 + (45 + 66) + (99 + 132) + 120, 696: 182 + (63 + 88) + (99 + 132) + 120}[most]
    assert lookup.builder(name)().count_params() == expected == int(list(settings)[-1].partition(":")[0])
    assert dataclasses.replace(lookup.recipe(name), source="", model=list(settings)[-1]) == list(settings.values())[-1]


def test_the_most_accurate_of_those_that_went_on_is_chosen_and_of_equal_ones_the_one_of_lower_loss():
    settings = list(fast_recipes.QUESTIONS["sep697"])
    figures = dict.fromkeys(settings, (4900, 0.06))
    figures[settings[0]] = (4990, 0.07)
    figures |= {settings[3]: (4940, 0.05), settings[5]: (4950, 0.045), settings[7]: (4950, 0.04)}
    rows = rows_of("sep697", figures)
    assert fast_recipes.chosen(rows, "sep697") == settings[7]
    assert fast_recipes.chosen(rows[:-1], "sep697") in (None, settings[7])
    incomplete = [row for row in rows if (row.setting, row.seed) != (settings[5], 2011)]
    assert fast_recipes.chosen(incomplete, "sep697") is None


def test_the_cheap_recipe_is_the_best_one_of_the_fewest_epochs_that_lose_no_more_than_the_slack():
    settings = fast_recipes.QUESTIONS[fast_recipes.CHEAP]
    assert {each.seed for each in fast_recipes.plan([], fast_recipes.CHEAP)} == set(SEEDS)
    # Two images of 5,000 are .0004.
    best = {20: 4930, 12: 4929, 10: 4928, 8: 4927, 6: 4920}
    figures = {name: (best[recipe.max_epochs] - (recipe.batch_size != 64), 0.05) for name, recipe in settings.items()}
    assert (
        fast_recipes.chosen(rows_of(fast_recipes.CHEAP, figures), fast_recipes.CHEAP)
        == "10 epochs, batch 64, rate 0.03"
    )


def test_the_table_has_all_settings_and_their_means(run_main, tmp_path):
    settings = list(fast_recipes.QUESTIONS["sep997"])
    planned = [fast_recipes.Planned("sep997", settings[1], seed) for seed in (2000, 2001)]
    for one, correct in zip(planned, (4940, 4950), strict=True):
        held_out.append(tmp_path / "fast.csv", row_of(one, correct))
    done = run_main(fast_recipes.main, "--out", tmp_path / "fast.csv")
    assert done.returncode == 0, done.stderr
    lines = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("|")}
    assert set(lines) >= {name for question in fast_recipes.QUESTIONS.values() for name in question}
    sd = np.std([0.988, 0.99], ddof=1)
    cells = [cell.strip() for cell in lines[settings[1]].split("|")[2:6]]
    assert cells == ["4.40", "2", "0.98900", f"{sd:.5f}"]


@needs_core
def test_the_judge_counts_as_keras_does_on_the_twelfth_that_was_held_out():
    dataset = made_images()
    images, labels = dataset.x_train, dataset.y_train
    kept = []

    def fit(model, recipe, splits, seed):
        native_fit.fit(model, recipe, splits, seed)
        kept.append((model, splits))

    recipe = fast_recipes.trained("sep997", 2, batch_size=16, mean=True)
    judged = held_out.judge(MODELS["sep997"], fit, recipe, 2003, dataset)
    ((model, splits),) = kept
    # Seed 2003 is 11 modulo 12: the last twenty images.
    np.testing.assert_array_equal(splits.x_test, images[220:])
    assert len(splits.x_train) == 220
    probabilities = model.predict(images.astype(np.float32), verbose=0)
    right = probabilities.argmax(axis=1) == labels
    assert (judged.correct, judged.size) == (int(right[220:].sum()), 20)
    assert judged.train_accuracy == pytest.approx(right[:220].mean())
    loss = keras.losses.sparse_categorical_crossentropy(labels[220:], probabilities[220:])
    assert judged.loss == pytest.approx(float(np.mean(loss)), rel=1e-5)


def test_the_recipes_of_the_package_are_those_that_the_ledger_gives():
    rows = held_out.read(REPOSITORY / "experiments/fast_recipes.csv", fast_recipes.Row)
    for name, question in {
        "sep997-fast": "sep997",
        "sep697-fast": "sep697",
        "sep997-cheap": fast_recipes.CHEAP,
    }.items():
        setting = fast_recipes.chosen(rows, question)
        assert dataclasses.replace(RECIPES[name], name="", source="") == fast_recipes.QUESTIONS[question][setting]


def test_every_setting_is_one_that_the_core_trains():
    for question in fast_recipes.QUESTIONS.values():
        for recipe in question.values():
            assert native_fit.unsupported_recipe(recipe) is None
