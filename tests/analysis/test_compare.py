"""Comparisons: the figures are those of the samples, and what is not alike is not compared unasked."""

import json
import re
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from scipy import stats

from mnist_minimal import compare
from mnist_minimal.analysis import figures
from mnist_minimal.analysis.comparison import compare_pairs
from mnist_minimal.analysis.samples import Sample, differences, read_sample
from mnist_minimal.analysis.tables import sample_table
from mnist_minimal.compare import main
from mnist_minimal.errors import UserError
from mnist_minimal.study import ledger
from tests.study.test_ledger import FAILED, TRIAL, append_row

RECIPE = {"source": "a page", "optimizer": {"kind": "AdamW", "learning_rate": 0.01}, "schedule": None}


def write_study(folder, name, accuracies, recipe=RECIPE, **fields):
    """A study's CSV and JSON with these saved accuracies."""
    path = folder / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    for seed, accuracy in enumerate(accuracies):
        append_row(path, replace(TRIAL, seed=seed, saved_accuracy=accuracy, **fields))
    path.with_suffix(".json").write_text(json.dumps({"recipe": recipe}))
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Where nobody says where, the picture goes to the working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def results(tmp_path):
    """Two studies that may be compared, and one under another protocol."""
    rng = np.random.default_rng(0)
    write_study(tmp_path / "results", "sep997", rng.normal(0.9876, 0.001, 12).round(4))
    write_study(tmp_path / "results", "sep697", rng.normal(0.9850, 0.001, 9).round(4), model="sep697", params=697)
    write_study(tmp_path / "results", "sep997-holdout", [0.987, 0.988], protocol="holdout")
    append_row(tmp_path / "results/sep997.csv", replace(FAILED, seed=70))
    return tmp_path / "results"


def test_two_studies_by_name(results, capsys):
    assert main(["sep997", "sep697", "--results", str(results), "--out", str(results / "pictures/both.png")]) == 0
    head, _, first, second, _, explained, _, said, _, picture = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.split("|")][1:4] == ["accuracy, last epoch", "n", "failed"]
    assert explained.startswith("Last epoch: the accuracy on the monitored images after the last epoch")
    samples = [
        [trial.saved_accuracy for trial in ledger.finished(ledger.read(results / f"{name}.csv"))]
        for name in ("sep997", "sep697")
    ]
    for row, name, sample, failed in zip((first, second), ("sep997", "sep697"), samples, "10", strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[:6] == [
            name,
            str(len(sample)),
            failed,
            "0",
            f"{np.mean(sample):.5f}",
            f"{np.std(sample, ddof=1):.5f}",
        ]
        assert cells[7] == f"{max(sample):.4f}"
    welch = stats.ttest_ind(*samples, equal_var=False).confidence_interval(0.95)
    difference = np.mean(samples[0]) - np.mean(samples[1])
    assert f"by {difference:+.5f}, 95 % interval {welch.low:+.5f} to {welch.high:+.5f}" in said
    assert "p < 0.001). The means are different; with n = 12 and 9," in said
    assert "corrected" not in said
    assert picture == str(results / "pictures/both.png")
    assert matplotlib.image.imread(picture).std() > 0.05


def test_three_samples_have_corrected_p_values():
    rng = np.random.default_rng(3)
    samples = [Sample(name, rng.normal(0.98, 0.001, 10).tolist()) for name in "abc"]
    said = compare_pairs(samples)
    assert [text.split(":")[0] for text in said] == ["a minus b", "a minus c", "b minus c"]
    p = [
        stats.ttest_ind(first.accuracies, second.accuracies, equal_var=False).pvalue
        for first, second in [samples[:2], samples[::2], samples[1:]]
    ]
    smallest = int(np.argmin(p))
    assert f"t test, p = {p[smallest]:.3f}; corrected for 3 pairs p = {3 * p[smallest]:.3f})" in said[smallest]


def test_no_evidence_and_no_spread_are_said():
    said = compare_pairs([Sample("a", [0.981, 0.983, 0.982]), Sample("b", [0.982, 0.983, 0.981])])
    assert "The means are not shown to differ; with n = 3 and 3, a difference smaller than" in said[0]
    assert "A trial of a is above one of b with probability 0.50, 95 % interval" in said[0]
    (said,) = compare_pairs([Sample("a", [0.98]), Sample("b", [0.98, 0.98])])
    assert "with n = 1 and 2 and no spread to judge by, nothing can be said. All their accuracies are equal." in said


def test_measures(results, tmp_path):
    path = write_study(tmp_path / "other", "x", [0.98, 0.97], best_accuracy=0.985, test_correct=9850)
    assert read_sample(path, "saved").accuracies == [0.98, 0.97]
    assert read_sample(path, "best").accuracies == read_sample(path, "test").accuracies == [0.985, 0.985]


@pytest.mark.parametrize(
    ("fields", "recipe", "measure", "images"),
    [
        ({}, RECIPE, "saved", 10_000),
        # The last twelfth of MNIST's training set, or of the 1,500 digits to train on.
        ({"protocol": "holdout"}, RECIPE, "saved", 5_000),
        ({"protocol": "holdout"}, RECIPE, "test", 10_000),
        ({"protocol": "holdout", "dataset": "digits", "test_correct": 290, "test_size": 297}, RECIPE, "best", 125),
        # Of ten folds of MNIST, 63,000 images to train on.
        (
            {"protocol": "holdout", "dataset": "mnist-fold3of10", "test_correct": 6_900, "test_size": 7_000},
            RECIPE,
            "best",
            5_250,
        ),
        # Its source holds out a tenth; where no JSON tells, the published recipe does.
        ({"model": "shared1936"}, {"validation_share": 0.1}, "best", 6_000),
        ({"model": "shared1936"}, {}, "best", 6_000),
        ({"model": "own:net"}, {"validation_share": 0.25}, "saved", 15_000),
        ({"model": "own:net"}, {}, "saved", None),
        ({"dataset": "fashion", "protocol": "holdout"}, RECIPE, "saved", None),
        ({"dataset": "fashion"}, RECIPE, "saved", 10_000),
    ],
)
def test_accuracies_are_of_the_images_that_were_monitored(tmp_path, fields, recipe, measure, images):
    path = write_study(tmp_path, "study", [0.98], recipe, **fields)
    assert read_sample(path, measure).images == images


def test_the_picture_has_bins_of_the_images_that_the_accuracies_are_of(results, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    samples = [read_sample(results / f"{name}.csv", "saved") for name in ("sep997", "sep997-holdout")]
    figures.draw_samples(samples, "saved", results / "both.png")
    upper, lower = drawn[0].axes
    assert re.fullmatch(r"last epoch, accuracy \(bins of \d+/5,000\)", lower.get_xlabel())
    # Every trial is drawn: so few are dots.
    for sample in samples:
        dots = next(line for line in upper.lines if line.get_label() == sample.name)
        assert sorted(dots.get_xdata()) == sorted(sample.accuracies)


def test_it_draws_unless_asked_where_in_the_working_folder(results, capsys, monkeypatch):
    monkeypatch.chdir(results.parent)
    assert main(["sep997", "results/sep697.csv"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "compare-sep997-sep697.png"
    assert matplotlib.image.imread(results.parent / "compare-sep997-sep697.png").std() > 0.05


@pytest.mark.parametrize(
    ("content", "measure"),
    [
        ("0.98\n0.99\n", "test"),
        ("0.98\r\n\r\n0.99", "saved"),
        ("run,saved_accuracy\n1,0.98\n2,0.99\n", "saved"),
        ("\ufeffbest_accuracy\n0.98\n0.99\n", "best"),
        ("0,98\n0,99\n", "test"),
        ("saved_accuracy\n0,98\n0,99\n", "saved"),
        ("run;saved_accuracy;note\n1;0,98;a,b\n;;\n2;0,99;\n", "saved"),
        ("saved_accuracy\tnote\n0.98\t'good'\n0.99\n\t\n", "saved"),
        ("0.98,\n0.99,\n,\n", "saved"),
    ],
)
def test_files_of_accuracies_alone(tmp_path, results, capsys, content, measure):
    path = tmp_path / "published.csv"
    path.write_text(content, encoding="utf-8", newline="")
    assert read_sample(path, measure) == Sample("published", [0.98, 0.99])
    assert main(["sep997", str(path), "--results", str(results), "--measure", measure]) == 0
    assert "Of published nothing but the accuracies is known" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "found an empty file, expected the CSV of a study"),
        ("0.98\n98.7\n", r"line 2: expected an accuracy in \[0, 1\], found '98.7'"),
        ("0.98\nnan\n", "line 2: expected an accuracy"),
        ("run,saved_accuracy\n1\n", "line 2: expected an accuracy .* found ''"),
        ("run,best_accuracy\n1,0.9\n", "begins with 'run,best_accuracy', expected .* or in a column saved_accuracy"),
        ("model,seed,status\n", "found no column params, dataset, .* and 13 more of a table of trials in its header"),
        ("model;seed;status\n", "found no column params, dataset, .* and 13 more of a table of trials in its header"),
        ("0.98,0.97\n", "begins with '0.98,0.97', expected .* one a line or in a column saved_accuracy"),
        ("run,saved_accuracy\n1,0,98\n", "line 2: expected 2 fields, found 3; fix the line"),
        (ledger.HEADER + "\n", "found no finished trial in it, expected one or more"),
    ],
)
def test_damaged_files_are_errors_with_their_name(tmp_path, content, message):
    path = tmp_path / "odd.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=f"odd.csv.*{message}"):
        read_sample(path, "saved")


def test_names_with_a_dot_in_front_are_no_studies(results):
    (results / "._sep997.csv").write_bytes(b"\x00\x05\x16\x07")
    (results / ".sep697.csv").write_bytes((results / "sep697.csv").read_bytes())
    with pytest.raises(UserError, match=r"no study in .*results, expected one \(there: .*sep697, .*sep997, "):
        main(["sep997", "x", "--results", str(results)])


def test_bytes_are_no_accuracies(tmp_path):
    (tmp_path / "odd.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"odd\.csv: found .*, expected the CSV of a study, or accuracies as text"):
        read_sample(tmp_path / "odd.csv", "saved")


def test_protocols_are_not_mixed_unasked(results, capsys):
    arguments = ["sep997", "sep997-holdout", "--results", str(results)]
    with pytest.raises(UserError, match=r"protocol \(sep997: source, sep997-holdout: holdout\)"):
        main(arguments)
    assert main([*arguments, "--mix"]) == 0
    assert "Compared as asked although not alike: protocol (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, []),
        ({"model": "sep697", "max_epochs": 2000, "recipe": {"batch_size": 256}}, []),
        ({"recipe": {**RECIPE, "source": "another page"}}, []),
        (
            {"dataset": "digits", "test_correct": 290, "test_size": 297},
            ["data set (a: mnist, b: digits)", "test images (a: 10000, b: 297)"],
        ),
        ({"max_epochs": 3}, ["cap on the epochs (a: 200, b: 3) of sep997"]),
        (
            {"recipe": {**RECIPE, "optimizer": {"kind": "AdamW", "learning_rate": 0.02}}},
            ["recipe.optimizer.learning_rate (a: 0.01, b: 0.02) of sep997"],
        ),
    ],
)
def test_what_is_not_alike_is_named(tmp_path, fields, found):
    paths = [write_study(tmp_path, "a", [0.98]), write_study(tmp_path, "b", [0.98], **fields)]
    assert differences([read_sample(path, "saved") for path in paths]) == found


def test_without_its_json_a_study_is_judged_by_its_rows(tmp_path):
    paths = [write_study(tmp_path, "a", [0.98]), write_study(tmp_path, "b", [0.98], max_epochs=3)]
    paths[0].with_suffix(".json").unlink()
    assert differences([read_sample(path, "saved") for path in paths]) == ["cap on the epochs (a: 200, b: 3) of sep997"]


def test_trials_stopped_early_are_counted_as_censored(tmp_path, monkeypatch):
    trials = [replace(TRIAL, seed=seed) for seed in range(3)] + [replace(FAILED, seed=3), replace(FAILED, seed=0)]
    trials += [replace(FAILED, seed=seed, status="stopped") for seed in (4, 5)]
    path = write_study(tmp_path, "sep997", [0.98])
    monkeypatch.setattr(ledger, "read", lambda path: trials)
    sample = read_sample(path, "saved")
    assert (len(sample.accuracies), sample.failed, sample.stopped) == (3, 1, 2)
    assert compare.notes([sample], []) == [
        "sep997: 2 trials were stopped early and have no accuracy here; the share has bounds that hold for them too, "
        "and all else is of the trials that went on."
    ]
    # None of the three reached 99 %, the two might have: Wilson's limits for 0 and for 2 of 5.
    assert "| 0 to 2 of 5 (0% to 77%)" in sample_table([sample], "accuracy, last epoch")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sep997"], "expected two studies or more to compare, found 1"),
        (["sep997", "sep99"], r"sep99: found no file .* \(there: results/sep697, results/sep997, .*\)"),
        (["sep997", "results/sep997.csv"], "expected every study once"),
        (["sep997", "sep697", "--out", "x.pdf"], r"x\.pdf: expected a file that ends in \.png"),
    ],
)
def test_what_cannot_be_compared_is_said(results, monkeypatch, arguments, message):
    monkeypatch.chdir(results.parent)
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_studies_of_one_name_are_called_by_their_paths(results, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path / "mine", "sep997", [0.98, 0.99])
    main(["sep997", "mine/sep997.csv"])
    assert "results/sep997.csv minus mine/sep997.csv:" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_needs_no_keras(run_python, results):
    done = run_python(
        "-c",
        "import sys; from mnist_minimal.compare import main; main(sys.argv[1:]);"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)",
        results / "sep997.csv",
        results / "sep697.csv",
        "--out",
        results / "both.png",
    )
    assert done.returncode == 0, done.stderr


def test_an_error_is_one_line(run_python):
    refused = run_python("-m", "mnist_minimal.compare", "a", "b")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: a: found no file of this name and no study in runs, expected one")
