"""The report page: what it says is what the studies found, and it says it safely."""

import json
import re
import xml.etree.ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

from mnist_minimal.analysis import summaries
from mnist_minimal.analysis.published import PUBLISHED
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.page import figures, text
from mnist_minimal.page.report import write_report
from mnist_minimal.recipes import RECIPES
from mnist_minimal.report import main
from mnist_minimal.study import ledger
from tests.conftest import OFFLINE
from tests.study.test_ledger import FAILED, TRIAL, append_row

CORRECT = [9875, 9880, 9884, 9892, 9901]
SAVED = [0.9861, 0.9873, 0.9873, 0.9880, 0.9889]

HOSTILE = "</script><script>window.taken = 1</script><img src=x onerror='window.taken = 1'> \" ' $style \u2028 --> ]]>"


def record(csv, correct=CORRECT, **fields):
    """Writes a study of up to five finished trials, without their models and histories."""
    for seed, (saved, right) in enumerate(zip(SAVED[: len(correct)], correct, strict=True)):
        figures = {"saved_accuracy": saved, "best_accuracy": right / 10_000, "test_correct": right}
        append_row(csv, replace(TRIAL, seed=seed, **figures, **fields))
    return csv


@pytest.fixture
def csv(tmp_path):
    return record(tmp_path / "sep997.csv")


class Reader(HTMLParser):
    """The elements of a page with their attributes, and its text outside scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.silent = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.silent = tag in ("script", "style")

    def handle_endtag(self, tag):
        self.silent = False

    def handle_data(self, data):
        self.text += "" if self.silent else data

    def values(self, attribute):
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


def written(folder, publications=PUBLISHED):
    write_report([folder], folder / "report.html", Choice("digits"), publications)
    return (folder / "report.html").read_text(encoding="utf-8")


def spoken(folder, publications=PUBLISHED):
    """The page's text, as it is read out."""
    return " ".join(Reader(written(folder, publications)).text.split())


def test_the_answer_is_computed_from_the_trials(csv):
    text = spoken(csv.parent)
    assert "The smallest network here that reached 99 % on MNIST's test set with the weights it kept has 997" in text
    assert "has 997 parameters (sep997); 1 of 5 trials did." in text
    # By hand: the mean of SAVED, sd with n - 1, and Student's t of 4 degrees of freedom, 2.7764 * sd / sqrt(5).
    assert "0.98752 on average (95 % interval 0.98624 to 0.98880), sd 0.00103" in text
    assert "sd 0.00105; ours minus that mean: \u22120.00009 (95 % interval \u22120.00136 to +0.00118, Welch)." in text
    assert "With the weights that were kept: 0.98864 on average (95 % interval 0.98737 to 0.98991), sd 0.00103" in text
    # One of five by Wilson's score: (0.2 + z2/10 -+ z sqrt(0.2 * 0.8 / 5 + z2/100)) / (1 + z2/5), z2 = 1.96 ** 2.
    assert (
        "1 of 5 trials reached 99 % with the weights that were kept (95 % interval of the share: 4% to 62%, Wilson)."
        in text
    )


def test_where_no_trial_reached_it_the_answer_says_so(tmp_path):
    record(tmp_path / "sep997.csv", correct=[9875, 9880, 9884, 9892, 9899])
    text = spoken(tmp_path)
    assert "None of the 5 trials here reached 99 % on MNIST's test set with the weights it kept." in text
    assert "The best run, of sep997 with 997 parameters, came to 0.9899." in text
    assert "0 of 5 trials reached 99 % with the weights that were kept (95 % interval of the share: 0% to 43%" in text


def test_a_mean_surely_above_is_named(tmp_path):
    record(tmp_path / "sep997.csv", correct=[9910, 9912, 9914, 9916, 9918])
    record(tmp_path / "sep697.csv", model="sep697", params=697, max_epochs=2000)
    text = spoken(tmp_path)
    assert "with the weights it kept has 697 parameters (sep697); 1 of 5 trials did." in text
    assert "The smallest whose mean lies above it with its whole 95 % interval has 997 (sep997)." in text
    (tmp_path / "sep697.csv").unlink()
    assert "5 of 5 trials did. Its mean lies above it with its whole 95 % interval." in spoken(tmp_path)


@pytest.mark.parametrize("other", [{"dataset": "digits"}, {"protocol": "holdout"}, {"max_epochs": 3}])
def test_trials_of_something_else_are_no_answer(tmp_path, other):
    record(tmp_path / "other.csv", **other)
    text = spoken(tmp_path)
    assert "There is no answer here yet" in text
    assert "best of 223 runs, last epoch: 0.9906none yet" in text


def table(page, name):
    """The rows of a table, each the texts of its cells."""
    body = re.search(rf'<div class="table {name}".*?<tbody>(.*?)</tbody>', page)[1]
    rows = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in body.split("</tr>")[:-1]]
    return [[cell.replace("\u00a0", " ").replace("&nbsp;", " ") for cell in row] for row in rows]


def test_the_table_has_ours_beside_the_published(csv):
    page = written(csv.parent)
    rows = table(page, "comparison")
    assert len(rows) == len(PUBLISHED)
    assert rows[0] == ["sep697", "697", "best of about 700 runs, best epoch: 0.9903", "none yet", "best epoch", *"----"]
    # Welch's t test of 5 and 223 trials, here by way of its degrees of freedom.
    first, second = 0.00103053 / 5**0.5, 0.00105 / 223**0.5
    freedom = (first**2 + second**2) ** 2 / (first**4 / 4 + second**4 / 222)
    margin = stats.t.ppf(0.975, freedom) * (first**2 + second**2) ** 0.5
    difference = f"-0.00009 ({-0.00009 - margin:+.5f} to {-0.00009 + margin:+.5f})".replace("-", "\u2212")
    ours = ["5", "last epoch", "0.98752 ± 0.00128, sd 0.00103", "0.9889"]
    mean = "mean of 223 runs, last epoch: 0.98761, sd 0.00105"
    assert rows[1] == ["sep997", "997", mean, *ours, difference, "-"]
    assert rows[2] == ["sep997", "997", "best of 223 runs, last epoch: 0.9906", *ours, "-", "0 of 5"]
    kept = ["5", "0.98864 ± 0.00127, sd 0.00103", "0.9901 (seed 4)", "1 of 5 (4% to 62%)"]
    assert table(page, "kept") == [["sep997", "997", *kept]]


def test_ours_is_by_the_measure_of_what_was_published(tmp_path):
    # antman9954 was published by its best and by its last epoch, and keeps the last epoch's weights.
    record(tmp_path / "antman9954.csv", correct=[9861, 9873, 9873, 9880, 9889], model="antman9954", max_epochs=19)
    rows = (tmp_path / "antman9954.csv").read_text()
    for place, best in enumerate([0.9930, 0.9935, 0.9939, 0.9940, 0.9941]):
        rows = rows.replace(f",{SAVED[place]},{SAVED[place]},", f",{SAVED[place]},{best},", 1)
    (tmp_path / "antman9954.csv").write_text(rows)
    page = written(tmp_path)
    rows = [row[2:5] + row[6:] for row in table(page, "comparison") if row[0] == "antman9954"]
    assert rows == [
        ["one run, best epoch (18th): 0.9940", "5", "best epoch", "0.9941", "-", "2 of 5"],
        ["one run, last epoch: 0.9925", "5", "last epoch", "0.9889", "-", "0 of 5"],
    ]
    said = Reader(page).text
    assert "Accuracy of the best epoch: 0.99370 on average" in said
    assert "None of the 5 trials here reached 99\u00a0% on MNIST's test set with the weights it kept" in said
    assert "antman9954 at 997 parameters, best epoch: mean 0.99370" in said
    study = summaries.find_studies(tmp_path)[0]
    assert "the weights of its epoch 71 get 9,889 of 10,000" in text.best_run(study)
    (tmp_path / "b").mkdir()
    (other,) = summaries.find_studies(record(tmp_path / "b/sep997.csv").parent)
    assert "of its epoch 46 get" in text.best_run(other)


def test_accuracies_on_validation_images_are_not_shown_as_the_test_sets(tmp_path):
    record(tmp_path / "shared1936.csv", model="shared1936", params=1936, max_epochs=75)
    page = written(tmp_path)
    row = next(row for row in table(page, "comparison") if row[0] == "shared1936")
    assert row[2:] == [
        "one run, last epoch: 0.9910",
        "5",
        "kept model",
        "0.98864 ± 0.00127, sd 0.00103",
        "0.9901",
        "-",
        "0 of 5",
    ]
    # The mean of the last epochs on the images that were monitored is 0.98752, the highest 0.9889.
    assert "0.98752" not in page
    assert "0.9889" not in page
    figure = re.findall(r"<svg.*?</svg>", page, re.DOTALL)[1]
    assert "kept model, n = 5" in figure
    assert "last epoch" not in figure


def test_only_accuracies_on_the_test_set_are_compared():
    for publication in PUBLISHED:
        assert (publication.measure == "test") == (RECIPES[publication.model].validation_share > 0)


def test_trials_stopped_early_are_counted_as_censored(csv, monkeypatch):
    trials = ledger.read(csv) + [replace(TRIAL, seed=seed, status="stopped") for seed in (5, 6, 7)]
    trials += [replace(FAILED, seed=seed) for seed in (4, 7, 8)]
    monkeypatch.setattr(ledger, "read", lambda path: trials)
    page = written(csv.parent)
    rows = [row for row in table(page, "comparison") if row[0] == "sep997"]
    assert [row[3] for row in rows] == ["5 (and 3 stopped early)"] * 2
    assert [row[7] for row in rows] == ["-", "-"]
    assert table(page, "provenance")[0][1:4] == ["5", "3", "1"]
    text = Reader(page).text
    assert "1 to 4 of 8 trials did, 3 of which were stopped early." in text
    assert "3 more were stopped early" in text
    assert "the means are of the others alone" in text
    # Wilson's limits: the lower for 1 of 8, the upper for 4 of 8; the higher accuracy of the publication, for 0 and 3.
    assert "Depending on the trials that were stopped, 1 to 4 of 8 trials reached 99\u00a0%" in text
    assert "(95\u00a0% interval of the share: 2% to 78%, Wilson)" in text
    assert table(page, "kept")[0][-1] == "1 to 4 of 8 (2% to 78%)"
    assert rows[1][-1] == "0 to 3 of 8"


def test_a_single_trial_has_neither_sd_nor_interval(tmp_path):
    append_row(tmp_path / "sep997.csv", TRIAL)
    text = spoken(tmp_path)
    assert "sep997, 997 parameters, 1 trial. Accuracy of the last epoch: 0.98760 on average, 0.9876 in" in text
    assert "nan" not in text.lower()


def test_failures_are_shown_but_not_those_that_were_mended(csv):
    append_row(csv, replace(FAILED, seed=9, reason="the loss was NaN"))
    append_row(csv, replace(FAILED, seed=9, reason="out of memory"))
    append_row(csv, replace(FAILED, seed=2, reason="mended"))
    text = spoken(csv.parent)
    assert "sep997, seed 9: out of memory" in text
    assert "NaN" not in text
    assert "mended" not in text
    assert "1 more failed" in text


def test_versions_and_dates_come_from_the_studies_files(csv):
    versions = {"mnist_minimal": "0.1.0", "python": "3.12.1", "keras": "3.15.1"}
    csv.with_suffix(".json").write_text(json.dumps({"versions": versions}))
    text = spoken(csv.parent)
    assert "2026-01-02" in text
    assert "python 3.12.1, keras 3.15.1" in text
    assert "keras (tensorflow on cpu, keras 3.15.1)" in text


def test_other_tables_are_passed_over(csv):
    (csv.parent / "confusion.csv").write_text("a,b\n1,2\n")
    assert [study.name for study in summaries.find_studies(csv.parent)] == ["sep997"]


def test_the_study_shown_is_the_one_with_the_most_trials(tmp_path):
    record(tmp_path / "a.csv", params=100, correct=[9875, 9880])
    record(tmp_path / "b.csv", params=200, correct=[9875, 9880, 9884])
    record(tmp_path / "c.csv", params=300, correct=[9910, 9912, 9914])
    record(tmp_path / "d.csv", params=50, correct=[9875, 9880, 9884, 9892], protocol="holdout")
    found = summaries.find_studies(tmp_path)
    assert [study.name for study in found] == ["d", "a", "b", "c"]
    assert summaries.highlighted(found).name == "b"
    assert summaries.highlighted(found[:1]).name == "d"


def test_what_a_file_says_stays_text(tmp_path):
    record(tmp_path / "sep997.csv", version=HOSTILE, backend=HOSTILE, weights=HOSTILE, finished_at=HOSTILE)
    append_row(tmp_path / "sep997.csv", replace(FAILED, seed=9, reason=HOSTILE))
    (tmp_path / "sep997.json").write_text(json.dumps({"versions": {HOSTILE: HOSTILE}}))
    record(tmp_path / "hostile.csv", model=HOSTILE, dataset=HOSTILE, protocol=HOSTILE, trainer=HOSTILE)
    reader = Reader(written(tmp_path))
    tags = [tag for tag, _ in reader.elements]
    assert "img" not in tags
    assert "script" not in tags
    assert not any(name.startswith("on") for _, attributes in reader.elements for name in attributes)
    assert reader.text.count("window.taken") > 5


def test_nothing_is_loaded_from_anywhere(csv):
    page = written(csv.parent)
    reader = Reader(page)
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"link", "iframe", "object", "embed", "base", "source", "audio", "video"}
    assert not reader.values("src")
    assert all(target.startswith("#") for target in [*reader.values("href"), *reader.values("xlink:href")])
    assert not re.search(r"@import|url\((?!#)", page)
    policy = dict(zip(reader.values("http-equiv"), reader.values("content"), strict=False))["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")


def check_references(page):
    """Every id is there once, and what is referred to by one is there."""
    reader = Reader(page)
    identifiers = reader.values("id")
    assert len(identifiers) == len(set(identifiers))
    attributes = ("aria-labelledby", "aria-describedby", "for")
    targets = {name for attribute in attributes for value in reader.values(attribute) for name in value.split()}
    targets |= {target[1:] for target in [*reader.values("href"), *reader.values("xlink:href")]}
    assert targets <= set(identifiers)


def test_every_reference_finds_its_id(csv):
    check_references(written(csv.parent))


def test_figures_are_whole_and_tell_what_they_show(csv):
    figures = re.findall(r"<svg.*?</svg>", written(csv.parent), re.DOTALL)
    assert len(figures) == 2
    for figure in figures:
        root = xml.etree.ElementTree.fromstring(figure)
        title, description = root[0], root[1]
        assert root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
        assert "published" in description.text.lower()
    assert "sep997 at 997 parameters, last epoch: mean 0.98752\u00a0±\u00a00.00128, sd\u00a00.00103" in figures[0]


def test_columns_are_moved_apart_as_little_as_can_be():
    np.testing.assert_allclose(figures._apart([0.1, 0.5, 0.51, 0.9]), [0.1, 0.465, 0.545, 0.9])
    np.testing.assert_allclose(figures._apart([0.99, 0.99]), [0.88, 0.96])
    np.testing.assert_allclose(np.diff(figures._apart([0.5] * 24)), 0.04)


def test_a_page_without_models_is_written_without_keras(csv, run_python):
    program = """
import sys
from mnist_minimal.report import main
main(["--results", sys.argv[1]])
print({"tensorflow", "keras", "sklearn"} & set(sys.modules))
"""
    finished = run_python("-c", program, csv.parent)
    assert finished.stdout.splitlines() == [str(csv.parent / "report.html"), "set()"], finished.stderr
    best, curves, median = finished.stderr.splitlines()
    assert best == f"left out: the best run of sep997 can't be asked: there is no {csv.parent}/sep997/4.h5"
    assert curves == f"left out: no curves of the best run of sep997 are drawn: there is no {csv.parent}/sep997/4.csv"
    assert "median" in median
    assert "Draw a digit" not in (csv.parent / "report.html").read_text()


def test_a_folder_without_trials_is_an_error(tmp_path):
    with pytest.raises(UserError, match="expected CSVs with finished trials, found none; run"):
        main(["--results", str(tmp_path)])


@pytest.mark.parametrize("content", ["", "[]", '{"versions": 3}', "\x00"])
def test_a_damaged_json_is_an_error_with_its_name(csv, content):
    csv.with_suffix(".json").write_text(content)
    with pytest.raises(UserError, match=r"sep997\.json: expected (the versions|the study's recipe|JSON)"):
        written(csv.parent)


def test_a_model_of_other_trials_is_refused(csv):
    from mnist_minimal.models import MODELS
    from mnist_minimal.saving.saved_model import save

    csv.unlink()
    append_row(csv, replace(TRIAL, seed=4, dataset="digits", test_correct=290, test_size=297))
    csv.with_suffix("").mkdir()
    save(MODELS["sep997"](), csv.with_suffix("") / "4.h5")
    with pytest.raises(UserError, match="expected the model that gets 290 test images right"):
        written(csv.parent)


def test_without_the_images_the_page_has_the_board_but_no_digits(csv):
    from mnist_minimal.models import MODELS
    from mnist_minimal.saving.saved_model import save

    csv.with_suffix("").mkdir()
    save(MODELS["sep997"](), csv.with_suffix("") / "4.h5")
    missing = write_report([csv.parent], csv.parent / "report.html", Choice("digits"), PUBLISHED)
    assert missing[0].startswith("no digits are shown: sep997 was tested on mnist, and the images found are of digits")
    page = (csv.parent / "report.html").read_text(encoding="utf-8")
    assert "Draw a digit" in page
    assert "takes for others" not in page


@pytest.mark.slow
def test_without_mnist_the_digits_do_not_stand_in_for_it(csv, run_python):
    from mnist_minimal.models import MODELS
    from mnist_minimal.saving.saved_model import save

    csv.with_suffix("").mkdir()
    save(MODELS["sep997"](), csv.with_suffix("") / "4.h5")
    done = run_python("-m", "mnist_minimal.report", "--results", csv.parent, **OFFLINE)
    assert done.returncode == 0, done.stderr
    assert "left out: no digits are shown: MNIST was found nowhere: Keras has no usable copy" in done.stderr
    page = csv.with_name("report.html").read_text(encoding="utf-8")
    assert "Draw a digit" in page
    assert "takes for others" not in page


def test_the_digits_of_a_study_on_the_digits_are_shown_unasked(tmp_path):
    from mnist_minimal.data import sets
    from mnist_minimal.models import MODELS
    from mnist_minimal.saving.saved_model import save
    from mnist_minimal.training.evaluation import evaluate

    model, digits = MODELS["sep997"](), sets.load(Choice("digits"))
    found = evaluate(model, digits.x_test, digits.y_test)
    fields = {"dataset": "digits", "test_correct": found.correct, "test_size": found.size}
    append_row(tmp_path / "sep997-digits.csv", replace(TRIAL, seed=4, **fields))
    (tmp_path / "sep997-digits").mkdir()
    save(model, tmp_path / "sep997-digits/4.h5")
    missing = write_report([tmp_path], tmp_path / "report.html", Choice(), PUBLISHED)
    assert all("curves" in line for line in missing), missing
    assert "takes for others" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_weights_come_back_from_json_to_the_last_bit():
    import keras

    from mnist_minimal.models import MODELS
    from mnist_minimal.page.network import describe

    model = MODELS["sep997"]()
    description = json.loads(json.dumps(describe(model)))
    assert description["parameters"] == 997
    for layer in model.layers:
        for variable in layer.weights:
            values = np.array(description["weights"][layer.name][variable.name], dtype=np.float32)
            np.testing.assert_array_equal(values, keras.ops.convert_to_numpy(variable).ravel())


def test_a_layer_that_the_page_can_not_compute_is_refused():
    import keras
    from keras import layers

    from mnist_minimal.page.network import describe

    def chain(layer):
        return keras.Sequential([keras.Input((28, 28, 1)), layer, layers.Flatten(), layers.Dense(10, "softmax")])

    with pytest.raises(UserError, match="layer 'up': expected one that the page can compute, found 'Conv2DTranspose'"):
        describe(chain(layers.Conv2DTranspose(1, 3, name="up")))
    with pytest.raises(UserError, match=r"layer 'wide': the page computes only dilation_rate \[1, 1\], found \[2, 2\]"):
        describe(chain(layers.Conv2D(1, 3, dilation_rate=2, name="wide")))


def test_a_network_with_branches_is_not_drawn_and_the_page_says_why(csv):
    import keras
    from keras import layers

    from mnist_minimal.saving.saved_model import save

    pixels = keras.Input((28, 28, 1))
    flat = layers.Flatten(name="flat")(pixels / 255)
    both = layers.Add(name="meet")([layers.Dense(10, name="one")(flat), layers.Dense(10, name="other")(flat)])
    (csv.parent / "sep997").mkdir()
    save(keras.Model(pixels, layers.Softmax()(both)), csv.parent / "sep997" / "4.h5")
    missing = write_report(csv.parent, csv.parent / "report.html", Choice("digits"), PUBLISHED)
    assert missing[0].startswith("the best run of sep997 can't be asked: layer 'other': the page computes only chains")
    assert "<canvas" not in (csv.parent / "report.html").read_text(encoding="utf-8")


def test_an_operation_that_the_page_can_not_compute_is_named():
    import keras
    from keras import layers

    from mnist_minimal.page.network import describe

    pixels = keras.Input((28, 28, 1))
    model = keras.Model(pixels, layers.Dense(10, "softmax")(layers.Flatten()(pixels / 255)))
    with pytest.raises(UserError, match="expected one that the page can compute, found 'divide'"):
        describe(model)


def test_percent_signs_stay_with_their_numbers():
    assert text.html("99 % < 100 %") == "99&nbsp;% &lt; 100&nbsp;%"
