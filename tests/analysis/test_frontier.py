"""The frontier: every trial is drawn, every study is a row, and accuracies of the two ways of counting never mix."""

import itertools
import json
from dataclasses import replace

import matplotlib.figure
import numpy as np
import pytest

from mnist_minimal.analysis.figures import frontiers, parameters_against_accuracy
from mnist_minimal.analysis.frontier import (
    BEST,
    MEAN,
    Counting,
    Entry,
    as_sources_count,
    chosen_without_test_set,
    frontier,
    frontier_table,
    published_runs,
    ways_of_counting,
)
from mnist_minimal.analysis.summaries import find_studies
from mnist_minimal.models.parameters import PARAMETERS
from mnist_minimal.recipes import RECIPES, EarlyStopping, MedianStopping
from tests.study.test_ledger import FAILED, TRIAL, append_row


def entry(name: str, params: int, *accuracies: float, kind: str = "recipe") -> Entry:
    return Entry(name, name.partition(" ")[0], params, accuracies, kind)


SMALL = entry("small", 600, 0.985, 0.9851, 0.9851, kind="network")
LUCKY = entry("lucky", 700, 0.98, 0.991)
GOOD = entry("good", 705, 0.99, 0.9902, 0.9902, kind="retrained")
LOSER = entry("loser", 900, 0.984, 0.985)
LUCKY_AGAIN = replace(entry("lucky again", 700, 0.98, 0.981, 0.9905), stopped=1)
DIVERGED = entry("good again", 705, *(0.99,) * 22, 0.1, 0.2)
ALL = [GOOD, LOSER, SMALL, DIVERGED, LUCKY]


@pytest.fixture
def axes():
    return matplotlib.figure.Figure().subplots()


@pytest.fixture
def summaries(tmp_path):
    """Studies of two protocols, one whose recipe monitors training images, one on other images."""
    for study, model, protocol, dataset in (
        ("sep997", "sep997", "source", "mnist"),
        ("sep997-holdout", "sep997", "holdout", "mnist"),
        ("shared1936", "shared1936", "source", "mnist"),
        ("sep697-digits", "sep697", "source", "digits"),
    ):
        for seed, correct in enumerate((9860, 9870)):
            figures = {"saved_accuracy": 0.97, "best_accuracy": 0.98 + seed / 1000, "test_correct": correct}
            trial = replace(TRIAL, model=model, protocol=protocol, dataset=dataset, seed=seed, **figures)
            append_row(tmp_path / f"{study}.csv", trial)
    append_row(tmp_path / "sep997.csv", replace(FAILED, seed=7))
    return find_studies(tmp_path)


def test_the_two_ways_of_counting(summaries):
    best, kept = (0.98, 0.981), (0.986, 0.987)
    assert [(each.name, each.measure, each.accuracies, each.failed) for each in as_sources_count(summaries)] == [
        ("sep997", "best", best, 1),
        ("shared1936", "test", kept, 0),
    ]
    # Those of shared1936 monitor the last images of the training set.
    assert [(each.name, each.accuracies) for each in chosen_without_test_set(summaries)] == [
        ("sep997-holdout", kept),
        ("shared1936", kept),
    ]


@pytest.mark.parametrize(
    ("changed", "blind"),
    [
        ({}, True),
        ({"early_stopping": EarlyStopping(patience=5)}, False),
        ({"schedule": RECIPES["sep997"].schedule}, False),
        ({"median_stopping": MedianStopping(trials=30, epoch=20, window=3)}, False),
        ({"schedule": None}, True),
    ],
)
def test_a_course_that_looks_at_nothing_chooses_nothing(tmp_path, changed, blind):
    recipe = replace(RECIPES["sep997-cosine"], **changed)
    (tmp_path / "a.json").write_text(json.dumps({"recipe": recipe.as_dict()}))
    append_row(tmp_path / "a.csv", replace(TRIAL, test_correct=9860))
    assert [each.accuracies for each in chosen_without_test_set(find_studies(tmp_path))] == (
        [(0.986,)] if blind else []
    )


def test_the_last_epoch_of_a_published_course_counts_where_no_json_tells_more(tmp_path):
    for model in ("pyramid3762", "sep997"):
        append_row(tmp_path / f"{model}.csv", replace(TRIAL, model=model))
    assert [each.name for each in chosen_without_test_set(find_studies(tmp_path))] == ["pyramid3762"]


def test_a_published_network_is_told_from_others(tmp_path):
    append_row(tmp_path / "a.csv", TRIAL)
    append_row(tmp_path / "b.csv", replace(TRIAL, model="search:runs/small/c691_4fe37244"))
    (tmp_path / "c.json").write_text('{"recipe": {"model": "sep997", "name": "sep997-cosine"}, "set": {}}')
    append_row(tmp_path / "c.csv", TRIAL)
    summaries = find_studies(tmp_path)
    # Of a network that nothing is known of nobody can say what was monitored.
    assert chosen_without_test_set(summaries) == []
    found = {each.name: (each.network, each.kind) for each in as_sources_count(summaries)}
    assert found == {"a": ("sep997", "recipe"), "b": ("c691", "network"), "c": ("sep997", "retrained")}


def test_published_runs_are_of_every_network():
    runs = {each.network: each for each in published_runs()}
    assert runs.keys() == PARAMETERS.keys()
    assert len(runs["sep997"].accuracies) == 223
    assert runs["sep697"].accuracies == (0.9903,)
    assert runs["gap13914"].accuracies == (0.9943,)


def test_the_frontier_is_what_no_smaller_network_reaches():
    assert frontier(ALL, MEAN) == [SMALL, LUCKY, GOOD]
    assert frontier(ALL, BEST) == [SMALL, LUCKY]
    assert frontier([], MEAN) == []


def test_the_fewest_parameters_with_a_target():
    counting = Counting("", [*ALL, LUCKY_AGAIN], [])
    assert (counting.on_average, counting.in_best_run) == (GOOD, LUCKY)
    # Two of LUCKY, and four of the other of that network, of which one was stopped.
    assert counting.runs(LUCKY) == 6
    none = Counting("", [SMALL, LOSER], [])
    assert (none.on_average, none.in_best_run) == (None, None)


def test_one_trial_and_what_others_were_stopped_beside_have_no_mean():
    alone, censored = entry("alone", 500, 0.995), replace(entry("censored", 500, 0.991, 0.992), stopped=1)
    counting = Counting("", [GOOD, alone, censored], [])
    assert (counting.on_average, counting.in_best_run) == (GOOD, alone)


def test_a_mean_at_the_target_is_not_lost_to_rounding():
    exact = entry("exact", 500, 0.989, 0.99, 0.991)
    assert Counting("", [exact], []).on_average == exact


def test_finalists_count_where_the_test_set_chose_nothing(summaries):
    sources, blind = ways_of_counting(summaries, [SMALL])
    assert [each.name for each in sources.entries] == ["sep997", "shared1936"]
    assert [each.name for each in blind.entries] == ["sep997-holdout", "shared1936", "small"]
    assert ([each.network for each in sources.published], blind.published) == (list(PARAMETERS), [])
    assert ways_of_counting([]) == []


def test_every_study_is_a_row_of_the_table():
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in frontier_table(ALL).splitlines()
    )
    assert [row[0] for row in rows] == ["`small`", "`lucky`", "`good`", "`good again`", "`loser`"]
    assert [row[head.index("on the frontier")] for row in rows] == ["mean, best run", "mean, best run", "mean", "", ""]
    lucky = dict(zip(head, rows[1], strict=True))
    assert (lucky["n"], lucky["mean"], lucky["best run"]) == ("2", "0.98550", "0.9910")
    assert lucky["at least 99% (95 %)"].startswith("1 of 2 (")


def drawn(axes, marker: str) -> np.ndarray:
    """Heights of all markers of a kind."""
    return np.concatenate([line.get_ydata() for line in axes.lines if line.get_marker() == marker] or [[]])


def test_every_trial_is_drawn(axes):
    parameters_against_accuracy(ALL, ax=axes)
    # What is far below all others is a triangle at the edge, and said.
    assert sorted(drawn(axes, "o")) == sorted([0.991, *LOSER.accuracies, *DIVERGED.accuracies[:-2]])
    assert sorted(drawn(axes, "D")) == sorted(GOOD.accuracies)
    assert sorted(drawn(axes, "s")) == sorted(SMALL.accuracies)
    assert list(drawn(axes, "v")) == 2 * [axes.get_ylim()[0]]
    assert {"98.00 %", "2 from 10.00 %"} <= {text.get_text() for text in axes.texts}


def test_no_two_trials_are_drawn_in_one_place(axes):
    parameters_against_accuracy(ALL, ax=axes)
    points = [point for line in axes.lines if line.get_marker() in "oDs" for point in line.get_xydata()]
    assert len({tuple(point) for point in points}) == len(points)


def test_columns_do_not_meet_and_keep_their_order(axes):
    close = [entry(f"study {params}", params, *(0.985,) * 30) for params in (690, 691, 697, 730)]
    far = entry("far", 5000, 0.99)
    parameters_against_accuracy([*close, far], ax=axes)
    columns = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert all(one.max() < other.min() for one, other in itertools.pairwise(columns))
    assert columns[-1] == pytest.approx([5000])
    # As near to where they belong as they can be.
    assert np.log10(columns[:4]).mean() == pytest.approx(np.log10([690, 691, 697, 730]).mean(), abs=1e-6)


def test_a_line_goes_from_each_name_to_its_column(axes):
    close = [entry(f"study {params}", params, *(0.985,) * 30) for params in (690, 691, 697, 730)]
    parameters_against_accuracy(close, ax=axes)
    middles = [np.log10(line.get_xdata()).mean() for line in axes.lines if line.get_marker() == "o"]
    lines = [line.get_xdata() for line in axes.lines if min(line.get_ydata()) == 1]
    assert np.log10([below for below, _ in lines]) == pytest.approx(middles)
    names = [text for text in axes.texts if text.get_rotation()]
    assert [text.get_text() for text in names] == [each.network for each in close]
    assert [text.get_position()[0] for text in names] == [above for _, above in lines]


def test_columns_of_few_trials_stand_where_they_belong_beside_others(axes):
    narrow = [entry(f"study {params}", params, 0.985, 0.986) for params in (691, 740, 782)]
    parameters_against_accuracy(narrow, ax=axes)
    columns = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert np.array(columns) == pytest.approx(np.repeat([[691], [740], [782]], 2, axis=1))


def test_published_runs_are_crosses_beside_the_trials_of_their_network(axes):
    one = entry("loser, published", 900, 0.99, kind="published")
    many = entry("good, published", 705, *np.linspace(0.98, 0.99, 20), kind="published")
    parameters_against_accuracy(ALL, [one, many], ax=axes)
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert sorted(drawn(axes, "x")) == sorted([*one.accuracies, *many.accuracies])
    (single,) = (line for line in crosses if len(line.get_xdata()) == 1)
    (of_network,) = (line.get_xdata() for line in axes.lines if set(line.get_ydata()) == set(LOSER.accuracies))
    assert single.get_xdata() == pytest.approx(of_network[:1])


def test_one_legend_says_what_the_parts_of_a_figure_have():
    countings = [Counting("one", [GOOD], published_runs()), Counting("other", [SMALL, LOSER], [])]
    figure = frontiers(countings)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "published run",
        "trial, published network and recipe",
        "trial, published network, another recipe",
        "trial, another network",
        "mean of a study",
        "frontier of the means",
        "frontier of the best runs",
    ]
    upper, lower = figure.axes
    assert upper.get_xlim() == lower.get_xlim()
    assert lower.get_title("left") == "other\nFewest parameters at 99 %: none on average, none in a best run"


def test_the_lines_are_the_frontiers(axes):
    parameters_against_accuracy(ALL, ax=axes)
    lines = {line.get_label(): line for line in axes.lines}
    found = {name: lines[f"frontier of the {name}"] for name in ("means", "best runs")}
    assert list(found["means"].get_xdata())[:-1] == [600, 700, 705]
    assert list(found["best runs"].get_ydata()) == [0.9851, 0.991, 0.991]
