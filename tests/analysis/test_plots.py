"""Plots: what is drawn is what was recorded."""

import itertools
import json
import shutil
from dataclasses import replace

import matplotlib.figure
import numpy as np
import pandas
import pytest

from mnist_minimal import plots
from mnist_minimal.analysis import figures, summaries
from mnist_minimal.errors import UserError
from mnist_minimal.study import ledger
from mnist_minimal.study.study import Study
from tests.study.test_ledger import FAILED, TRIAL, append_row

SAVED = [0.9861, 0.9873, 0.9873, 0.9880, 0.9889]
BEST = [0.9875, 0.9880, 0.9884, 0.9892, 0.9901]


@pytest.fixture
def axes():
    return matplotlib.figure.Figure().subplots()


@pytest.fixture
def csv(tmp_path):
    """A study of five trials with histories of four epochs, and one failed trial."""
    path = tmp_path / "sep997.csv"
    (tmp_path / "sep997").mkdir()
    for seed, (saved, best) in enumerate(zip(SAVED, BEST, strict=True)):
        figures = {"saved_accuracy": saved, "best_accuracy": best, "test_correct": round(best * 10_000)}
        append_row(path, replace(TRIAL, seed=seed, epochs=4, best_epoch=3, **figures))
        history = pandas.DataFrame(
            {
                "epoch": range(4),
                "accuracy": [0.7, 0.9, 0.95, 0.96],
                "learning_rate": [0.01, 0.01, 0.001, 0.001],
                "loss": [1.0, 0.5, 0.2, 0.1],
                "val_accuracy": [0.9, 0.95, best, saved],
                "val_loss": [0.4, 0.2, 0.1, 0.1],
            }
        )
        history.to_csv(tmp_path / f"sep997/{seed}.csv", index=False)
    append_row(path, replace(FAILED, seed=9))
    return path


def test_histogram_bins_lie_on_the_grid_and_count_every_trial(axes):
    figures.histogram({"last epoch": SAVED, "best epoch": BEST}, 10_000, axes)
    edges = np.unique(np.concatenate([patch.get_xy()[:, 0] for patch in axes.patches]))
    halves = edges * 10_000 - 0.5
    np.testing.assert_allclose(halves, np.round(halves), atol=1e-6)
    # Each filled outline goes up to the largest count of one bin: two trials had 0.9873.
    assert max(patch.get_xy()[:, 1].max() for patch in axes.patches) == 2
    assert axes.get_legend_handles_labels()[1] == ["last epoch, n = 5", "best epoch, n = 5"]


def test_a_wide_histogram_has_wider_bins_of_equally_many_values(axes):
    figures.histogram({"last epoch": np.linspace(0.1, 0.99, 50)}, 10_000, axes)
    edges = np.unique(np.round(np.concatenate([patch.get_xy()[:, 0] for patch in axes.patches]) * 10_000 + 0.5))
    assert len(edges) <= figures.MAX_BINS + 2
    assert len(set(np.diff(edges))) == 1


def test_ecdf_rises_to_one_at_the_accuracies(axes):
    figures.ecdf({"last epoch": SAVED}, 0.99, axes)
    x, y = axes.lines[0].get_data()
    shares = {accuracy: max(y[x == accuracy]) for accuracy in SAVED}
    assert shares == pytest.approx({0.9861: 0.2, 0.9873: 0.6, 0.9880: 0.8, 0.9889: 1.0})


def test_samples_of_different_sizes_are_drawn_in_shares_of_the_same_bins(axes):
    figures.histogram({"a": [0.98, 0.98, 0.99, 0.99], "b": [0.98, 0.99]}, 10_000, axes)
    assert [patch.get_xy()[:, 1].max() for patch in axes.patches] == [0.5, 0.5]
    assert axes.get_ylabel() == "share of trials"
    first, second = (np.unique(patch.get_xy()[:, 0]) for patch in axes.patches)
    np.testing.assert_array_equal(first, second)


def test_28_samples_look_different():
    looks = list(itertools.islice(figures.styles(), 28))
    assert len({(color, line) for color, line, _ in looks}) == 28
    assert len({hatch for *_, hatch in looks[:4]}) == 4


def test_best_of_k_goes_from_the_mean_to_the_marked_best(axes):
    figures.best_of_k({"published": SAVED, "ours": BEST}, axes)
    curve, mark, _, other = axes.lines
    assert curve.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert curve.get_ydata()[[0, -1]] == pytest.approx([np.mean(SAVED), 0.9889])
    assert mark.get_xydata().tolist() == [[5, 0.9889]]
    assert other.get_xydata().tolist() == [[5, 0.9901]]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["published; best of 5: 0.9889", "ours; best of 5: 0.9901"]


def test_selection_joins_the_accuracies_of_a_trial_and_marks_their_means(axes):
    source = [replace(TRIAL, saved_accuracy=a, best_accuracy=b) for a, b in zip(SAVED, BEST, strict=True)]
    holdout = [replace(TRIAL, best_accuracy=0.99, test_correct=correct) for correct in (9850, 9870)]
    figures.selection(source, holdout, axes)
    joined = [line.get_xydata().tolist() for line in axes.lines if len(line.get_xdata()) == 2][:7]
    assert [[0, 0.9861], [1, 0.9875]] in joined
    assert [[2, 0.99], [3, 0.985]] in joined
    means = [np.mean(SAVED), np.mean(BEST), 0.99, 0.986]
    assert [text.get_text() for text in axes.texts] == [f"{mean:.5f}" for mean in means]


def test_curves_mark_the_best_epoch_and_the_steps_of_the_learning_rate(csv, axes):
    history = figures.read_history(csv.with_suffix("") / "4.csv")
    figures.accuracy_curves(history, axes)
    training, validation, best, step = axes.lines
    np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(validation.get_ydata(), [0.9, 0.95, 0.9901, 0.9889])
    assert best.get_xydata().tolist() == [[3, 0.9901]]
    # The rate fell from epoch 2 to epoch 3.
    assert list(step.get_xdata()) == [2.5, 2.5]


def test_median_trial_is_the_middle_one():
    trials = [
        replace(TRIAL, seed=seed, best_accuracy=accuracy) for seed, accuracy in enumerate([0.99, 0.95, 0.97, 0.98])
    ]
    assert summaries.median_trial(trials).best_accuracy == 0.97
    assert summaries.median_trial(trials[:3]).best_accuracy == 0.97


def test_the_command_draws_both_pictures_without_keras(csv, run_python):
    drawn = run_python(
        "-c",
        "import sys; from mnist_minimal.plots import main; main(sys.argv[1:]);"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)",
        csv,
    )
    assert drawn.returncode == 0, drawn.stderr
    pictures = drawn.stdout.split()
    assert pictures == [str(csv.parent / f"sep997-{kind}.png") for kind in ("distribution", "curves")]
    for picture in pictures:
        pixels = matplotlib.image.imread(picture)
        assert pixels.std() > 0.05, "the picture is empty"


def drawn(monkeypatch, study, out):
    """The figures that `draw_study` would write."""
    found = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: found.append(figure) or path)
    figures.draw_study(summaries.read_study(study), out)
    return found


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({}, ["last epoch, n = 5", "best epoch, n = 5"]),
        ({"protocol": "holdout"}, ["kept model, n = 5"]),
        ({"model": "shared1936", "params": 1936, "max_epochs": 75}, ["kept model, n = 5"]),
    ],
)
def test_what_is_drawn_is_the_accuracy_on_the_test_set(csv, monkeypatch, fields, labels):
    rows = [replace(trial, test_correct=9800 + trial.seed, **fields) for trial in ledger.finished(ledger.read(csv))]
    csv.unlink()
    for row in rows:
        append_row(csv, row)
    distribution, _ = drawn(monkeypatch, Study.at(csv), csv.parent)
    histogram, ecdf = distribution.axes
    assert histogram.get_legend_handles_labels()[1] == labels
    assert histogram.get_xlabel().endswith("/10,000)")
    correct = {0.98, 0.9801, 0.9802, 0.9803, 0.9804}
    assert (correct == {x for x in ecdf.lines[0].get_xdata() if np.isfinite(x)}) == (labels == ["kept model, n = 5"])


def test_a_recipe_of_a_models_own_says_what_was_monitored(csv, monkeypatch):
    rows = [replace(trial, model="nets:tiny") for trial in ledger.finished(ledger.read(csv))]
    csv.unlink()
    for row in rows:
        append_row(csv, row)
    assert summaries.read_study(Study.at(csv)).measures == ("test",)
    for share, measures in ((0.0, ("saved", "best")), (0.1, ("test",))):
        csv.with_suffix(".json").write_text(json.dumps({"recipe": {"validation_share": share, "max_epochs": 200}}))
        assert summaries.read_study(Study.at(csv)).measures == measures


def test_a_csv_without_finished_trials_is_an_error(tmp_path):
    append_row(tmp_path / "sep997.csv", FAILED)
    with pytest.raises(UserError, match="expected a CSV with at least one finished trial"):
        summaries.read_study(Study(tmp_path, "sep997"))


@pytest.mark.parametrize("content", ["", "epoch,loss\n0,1\n", "\x00"])
def test_a_damaged_history_is_an_error_with_its_name(csv, content):
    path = csv.with_suffix("") / "4.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=r"4\.csv: expected"):
        figures.read_history(path)


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs the program dot of Graphviz")
def test_keras_draws_its_diagram(tmp_path):
    figures.model_diagram("sep997", tmp_path / "sep997.png")
    height, width = matplotlib.image.imread(tmp_path / "sep997.png").shape[:2]
    assert height > 1000 > width


def test_without_graphviz_the_error_says_what_to_install(run_main, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = run_main(plots.main, "--diagram", "sep997")
    assert refused.returncode == 2
    assert "error: Keras draws a model with pydot and Graphviz" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_names_with_a_dot_in_front_are_not_drawn(csv, monkeypatch, capsys):
    results = csv.parent / "results"
    results.mkdir()
    # What macOS writes beside a file on a foreign disk, and a copy that an editor keeps.
    (results / "._sep997.csv").write_bytes(b"\x00\x05\x16\x07")
    (results / ".sep697.csv").write_bytes(csv.read_bytes())
    (results / "sep997.csv").write_bytes(csv.read_bytes())
    shutil.copytree(csv.parent / "sep997", results / "sep997")
    monkeypatch.chdir(csv.parent)
    assert plots.main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "results/sep997-distribution.png",
        "results/sep997-curves.png",
    ]
    assert [study.name for study in summaries.find_studies(results)] == ["sep997"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_with_notes_and_rows_of_empty_fields_is_drawn(csv, capsys, delimiter):
    whole = pandas.read_csv(csv).assign(note="good")
    whole[["note", *whole.columns[:-1]]].to_csv(csv, index=False, sep=delimiter)
    csv.write_text(csv.read_text() + 21 * delimiter + "\n")
    assert plots.main([str(csv)]) == 0
    assert summaries.read_study(Study.at(csv)).accuracies("saved") == SAVED
