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


MANY = np.repeat([0.9861, 0.9873, 0.9880], [5, 20, 10])


def test_bars_lie_on_the_grid_and_count_every_trial(axes):
    figures.histogram({"a": MANY, "b": MANY[:30]}, 10_000, axes)
    edges = np.array([bar.get_x() for bar in axes.patches]) * 10_000
    np.testing.assert_allclose(edges - 0.5, np.round(edges - 0.5), atol=1e-6)
    first, second = axes.containers
    assert [bar.get_y() for bar in first] == [0, 0, 0]
    assert [bar.get_y() for bar in second] == [-1, -1, -1]
    # Shares of trials: 5, 20 and 10 of 35, and 5, 20 and 5 of 30, by one unit.
    shares = [bar.get_height() / first[0].get_height() for bar in [*first, *second]]
    np.testing.assert_allclose(shares, np.array([5, 20, 10, 5 * 7 / 6, 20 * 7 / 6, 5 * 7 / 6]) / 5)


def test_ticks_of_counts_are_whole_numbers_where_the_bars_end(axes):
    figures.histogram({"a": MANY}, 10_000, axes)
    tallest = max(bar.get_height() for bar in axes.patches)
    assert dict(zip((tick.get_text() for tick in axes.get_yticklabels()), axes.get_yticks(), strict=True)) == {
        "0": 0,
        "20": pytest.approx(tallest),
    }


def test_fewer_than_thirty_trials_are_dots_at_their_accuracies(axes):
    figures.histogram({"a": SAVED, "b": MANY}, 10_000, axes)
    dots = next(line for line in axes.lines if line.get_label() == "a")
    assert sorted(dots.get_xdata()) == SAVED
    assert len(set(zip(*dots.get_data(), strict=True))) == 5
    assert {bar.get_y() for bar in axes.patches} == {-1}


def test_a_wide_histogram_has_wider_bins_of_equally_many_values(axes):
    figures.histogram({"saved accuracy": np.linspace(0.1, 0.99, 50)}, 10_000, axes)
    widths = np.array([bar.get_width() for bar in axes.patches]) * 10_000
    assert len(axes.patches) <= figures.MAX_BINS + 1
    np.testing.assert_allclose(widths, round(widths[0]), atol=1e-6)
    assert widths[0] > 100


def test_no_figure_has_a_frame_or_a_legend(axes):
    figures.ecdf({"a": SAVED, "b": BEST}, 0.99, axes)
    assert axes.get_legend() is None
    assert {side for side, spine in axes.spines.items() if spine.get_visible()} == {"bottom"}
    assert [text.get_text() for text in axes.texts] == ["a", "b", "99 %"]
    assert [text.get_color() for text in axes.texts[:2]] == [line.get_color() for line in axes.lines[:2]]


def test_ecdf_rises_to_one_at_the_accuracies(axes):
    figures.ecdf({"last epoch": SAVED}, 0.99, axes)
    x, y = axes.lines[0].get_data()
    shares = {accuracy: max(y[x == accuracy]) for accuracy in SAVED}
    assert shares == pytest.approx({0.9861: 0.2, 0.9873: 0.6, 0.9880: 0.8, 0.9889: 1.0})


def test_28_samples_look_different():
    assert len(set(itertools.islice(figures.styles(), 28))) == 28


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ({"a": [0.98, 0.981, 0.982], "b": [0.97, 0.971, 0.972]}, "a lies 1.000 points above b on average"),
        ({"a": [0.98, 0.99], "b": [0.981, 0.99]}, "b and a are not shown to differ, 0.050 points apart on average"),
        ({"a": [0.98], "b": [0.98]}, "All come to the same on average"),
        (
            {"a": [0.98], "b": [0.97], "c": [0.96]},
            "a lies 2.000 points above c on average, the highest and the lowest of 3",
        ),
    ],
)
def test_a_title_says_the_finding(accuracies, said):
    assert figures.finding(accuracies) == said


def test_best_of_k_goes_from_the_mean_to_the_marked_best(axes):
    figures.best_of_k({"published": SAVED, "ours": BEST}, axes)
    curve, mark, _, other = axes.lines
    assert curve.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert curve.get_ydata()[[0, -1]] == pytest.approx([np.mean(SAVED), 0.9889])
    assert mark.get_xydata().tolist() == [[5, 0.9889]]
    assert other.get_xydata().tolist() == [[5, 0.9901]]
    said = [text.get_text() for text in axes.texts]
    assert said == ["published,\nbest of 5: 98.89 %", "ours,\nbest of 5: 99.01 %"]


def test_selection_joins_the_accuracies_of_a_trial_and_marks_their_means(axes):
    source = [replace(TRIAL, saved_accuracy=a, best_accuracy=b) for a, b in zip(SAVED, BEST, strict=True)]
    holdout = [replace(TRIAL, best_accuracy=0.99, test_correct=correct) for correct in (9850, 9870)]
    figures.selection(source, holdout, axes)
    joined = [line.get_xydata().tolist() for line in axes.lines if len(line.get_xdata()) == 2][:7]
    assert [[0, 0.9861], [1, 0.9875]] in joined
    assert [[2, 0.99], [3, 0.985]] in joined
    means = [np.mean(SAVED), np.mean(BEST), 0.99, 0.986]
    said = [text.get_text() for text in axes.texts]
    assert said[:4] == [f"{100 * mean:.3f} %" for mean in means]
    assert said[4:] == ["test set monitored, 5 trials", "held-out images monitored, 2 trials"]
    # 0.98864 - 0.98752, and 0.99 - 0.986.
    assert "0.112 points above the last one there" in axes.get_title(loc="left")
    assert "0.400 points lower on the test set than on them" in axes.get_title(loc="left")


@pytest.mark.parametrize(
    ("fields", "monitored"),
    [({}, "test set (monitored)"), ({"protocol": "holdout"}, "held-out images (monitored)")],
)
def test_all_curves_are_pale_behind_the_bold_median(csv, monkeypatch, fields, monitored):
    rows = [replace(trial, **fields) for trial in ledger.finished(ledger.read(csv))]
    csv.unlink()
    for row in rows:
        append_row(csv, row)
    (csv.with_suffix("") / "0.csv").unlink()  # Only the best and the median trial's must be there.
    curves, rates = drawn(monkeypatch, Study.at(csv), csv.parent)[1].axes
    assert curves.get_ylabel() == f"accuracy on the {monitored}"
    pale = [line for line in curves.lines if line.get_alpha()]
    assert sorted(line.get_ydata()[2] for line in pale) == BEST[1:]
    widest = max(curves.lines, key=lambda line: line.get_linewidth())
    assert widest.get_ydata()[2] == BEST[2]
    assert {text.get_text() for text in curves.texts} == {
        "best kept model: seed 4, 99.01 %",
        "median: seed 2, 98.84 %",
        "training accuracy of the median",
    }
    assert all(tick == round(tick) for tick in curves.get_xticks())
    assert rates.get_ylabel() == "learning rate"


def test_median_trial_is_the_middle_one():
    trials = [
        replace(TRIAL, seed=seed, best_accuracy=accuracy) for seed, accuracy in enumerate([0.99, 0.95, 0.97, 0.98])
    ]
    assert summaries.median_trial(trials).best_accuracy == 0.97
    assert summaries.median_trial(trials[:3]).best_accuracy == 0.97


@pytest.mark.slow
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
        ({}, ["last epoch", "best epoch"]),
        ({"protocol": "holdout"}, ["kept model"]),
        ({"model": "shared1936", "params": 1936, "max_epochs": 75}, ["kept model"]),
    ],
)
def test_what_is_drawn_is_the_accuracy_on_the_test_set(csv, monkeypatch, fields, labels):
    rows = [replace(trial, test_correct=9800 + trial.seed, **fields) for trial in ledger.finished(ledger.read(csv))]
    csv.unlink()
    for row in rows:
        append_row(csv, row)
    distribution, _ = drawn(monkeypatch, Study.at(csv), csv.parent)
    histogram, ecdf = distribution.axes
    assert [text.get_text().partition(":")[0] for text in histogram.texts] == labels
    assert ecdf.get_xlabel().endswith("/10,000)")
    correct = {0.98, 0.9801, 0.9802, 0.9803, 0.9804}
    assert (correct == {x for x in ecdf.lines[0].get_xdata() if np.isfinite(x)}) == (labels == ["kept model"])


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
    with pytest.raises(UserError, match="found no finished trial in it, expected a CSV with at least one"):
        summaries.read_study(Study(tmp_path, "sep997"))


@pytest.mark.parametrize("content", ["", "epoch,loss\n0,1\n", "\x00"])
def test_a_damaged_history_is_an_error_with_its_name(csv, content):
    path = csv.with_suffix("") / "4.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=r"4\.csv: found .*expected"):
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
    results = csv.parent / "runs"
    results.mkdir()
    # What macOS writes beside a file on a foreign disk, and a copy that an editor keeps.
    (results / "._sep997.csv").write_bytes(b"\x00\x05\x16\x07")
    (results / ".sep697.csv").write_bytes(csv.read_bytes())
    (results / "sep997.csv").write_bytes(csv.read_bytes())
    shutil.copytree(csv.parent / "sep997", results / "sep997")
    monkeypatch.chdir(csv.parent)
    assert plots.main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "runs/sep997-distribution.png",
        "runs/sep997-curves.png",
    ]
    assert [study.name for study in summaries.find_studies(results)] == ["sep997"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_with_notes_and_rows_of_empty_fields_is_drawn(csv, capsys, delimiter):
    whole = pandas.read_csv(csv).assign(note="good")
    whole[["note", *whole.columns[:-1]]].to_csv(csv, index=False, sep=delimiter)
    csv.write_text(csv.read_text() + 21 * delimiter + "\n")
    assert plots.main([str(csv)]) == 0
    assert summaries.read_study(Study.at(csv)).accuracies("saved") == SAVED
