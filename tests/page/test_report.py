"""The report page: what it says is what the studies found, and it says it safely."""

import base64
import csv as csv_module
import io
import itertools
import json
import re
from dataclasses import astuple, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

from mnist_minimal.analysis import summaries
from mnist_minimal.analysis.published import PUBLISHED
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.page import digits, text
from mnist_minimal.page.report import write_report
from mnist_minimal.recipes import PUBLISHED_RECIPES, RECIPES
from mnist_minimal.report import main
from mnist_minimal.study import ledger
from mnist_minimal.training import core
from tests.conftest import OFFLINE
from tests.study.test_ledger import FAILED, TRIAL, append_row

CORRECT = [9875, 9880, 9884, 9892, 9901]
SAVED = [0.9861, 0.9873, 0.9873, 0.9880, 0.9889]

# The published models' names end in their numbers of parameters.
PARAMETERS = {name: int(re.sub(r"\D", "", name)) for name in PUBLISHED_RECIPES}

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
    assert "997 parameters were enough for 99 % on MNIST's test set, in 1 of 5 trials of sep997." in text
    # By hand: the mean of SAVED, sd with n - 1, and Student's t of 4 degrees of freedom, 2.7764 * sd / sqrt(5).
    assert "last epoch: 98.752 % on average (95 % interval 98.624 to 98.880 %), sd 0.103" in text
    assert "sd 0.105; ours minus that mean: \u22120.009 percentage points (95 % interval \u22120.136 to +0.118" in text
    assert "Kept model: 98.864 % on average (95 % interval 98.737 to 98.991 %), sd 0.103" in text
    # One of five by Wilson's score: (0.2 + z2/10 -+ z sqrt(0.2 * 0.8 / 5 + z2/100)) / (1 + z2/5), z2 = 1.96 ** 2.
    assert (
        "1 of 5 trials reached 99 % with the model they kept (95 % interval of the share: 4 to 62 %, Wilson)." in text
    )


def numbers(page):
    """The three large numbers, each with what it is."""
    found = re.findall(r"<div><dd>(.*?)</dd><dt>(.*?)</dt></div>", page)
    return [(value, about.replace("\u00a0", " ")) for value, about in found]


def test_three_large_numbers_come_first(csv):
    page = written(csv.parent)
    (first, about), (second, _), (third, _) = numbers(page)
    assert (first, second, third) == ("99.01\u00a0%", "98.86\u00a0%", "1 of 5")
    assert about == "in the best trial, seed 4"
    assert page.index("<dd>1 of 5</dd>") < page.index("<h2")


def test_where_no_trial_reached_it_the_answer_says_so(tmp_path):
    record(tmp_path / "sep997.csv", correct=[9875, 9880, 9884, 9892, 9899])
    text = spoken(tmp_path)
    assert (
        "None of 5 trials of sep997, 997 parameters, reached 99 % on MNIST's test set with the model it kept; the best "
        "came to 98.99 %."
    ) in text
    assert "0 of 5 trials reached 99 % with the model they kept (95 % interval of the share: 0 to 43 %" in text


def test_a_mean_surely_above_is_named(tmp_path):
    record(tmp_path / "sep997.csv", correct=[9910, 9912, 9914, 9916, 9918])
    assert "in 5 of 5 trials of sep997, and on average." in spoken(tmp_path)


@pytest.mark.parametrize("other", [{"protocol": "holdout"}, {"max_epochs": 3}])
def test_trials_of_something_else_are_no_answer(tmp_path, other):
    record(tmp_path / "other.csv", **other)
    text = spoken(tmp_path)
    assert "There is no answer here yet" in text
    assert "best of 223 runs, last epoch: 99.06 %none yet" in text.replace(" none yet", "none yet")


def test_what_is_mnists_alone_is_not_claimed_of_other_images(tmp_path):
    record(tmp_path / "other.csv", model="own:net", dataset="cifar10")
    page = written(tmp_path)
    text = " ".join(Reader(page).text.split())
    assert "What training came to: own:net, 997 parameters, on cifar10" in text
    assert "the aim of 99 %, are of MNIST and do not apply to cifar10." in text
    assert "The drawing board is for digits" in text
    assert 'id="board"' not in page
    assert "sep697" not in content(page)["plane"]
    assert [model["name"] for model in content(page)["plane"]["models"]] == ["own:net"]


def test_a_fold_of_mnist_is_of_digits_and_compared_with_nothing_published(tmp_path):
    record(tmp_path / "other.csv", dataset="mnist-fold3of10")
    page = " ".join(Reader(written(tmp_path)).text.split())
    assert "What training came to: sep997, 997 parameters, on mnist-fold3of10" in page
    assert "are of MNIST and do not apply to mnist-fold3of10." in page
    assert "The drawing board is for digits" not in page
    assert text.digits_source("mnist-fold3of10").startswith(
        "The images are of fold 3/10 of all images of MNIST by Yann"
    )
    assert text.digits_source("digits").startswith("The images are of the test set of scikit-learn's copy")
    assert text.digits_source("cifar10-fold3of10") == ""


def content(page):
    """The data of the charts and the board."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])


def test_every_trial_is_a_dot_at_its_true_number_of_parameters(csv):
    append_row(csv, replace(TRIAL, seed=9, saved_accuracy=0.9873, test_correct=9900))
    models = {model["name"]: model for model in content(written(csv.parent))["plane"]["models"]}
    assert {name: model["params"] for name, model in models.items()} == PARAMETERS
    (study,) = models["sep997"]["studies"]
    assert study["dots"] == [[0.9861, 1, [0]], [0.9873, 3, [1, 2, 9]], [0.988, 1, [3]], [0.9889, 1, [4]]]
    all_six = [*SAVED, 0.9873]
    assert study["interval"] == pytest.approx(stats.t.interval(0.95, 5, np.mean(all_six), stats.sem(all_six)))
    assert models["small7344"]["published"] == [
        {"accuracy": 0.9899, "of": "run", "note": "one run, best epoch (9th): 98.99 %"}
    ]


def test_the_slider_has_the_mean_best_of_all_sets_of_k_trials(csv):
    strip = content(written(csv.parent))["strip"]
    best, last, published = strip["rows"]
    assert (best["name"], last["name"]) == ("ours, best epoch (kept model)", "ours, last epoch")
    expected = [[k, np.mean([max(some) for some in itertools.combinations(SAVED, k)])] for k in range(1, 6)]
    np.testing.assert_allclose(last["best"], expected, atol=1e-7)
    # The 223 published: their mean, sd and best are those that their source states.
    assert published["n"] == 223
    assert round(published["mean"], 5) == 0.98761
    assert round(published["sd"], 5) == 0.00105
    assert published["best"][-1] == [223, 0.9906]
    assert sum(count for _, count, _ in published["dots"]) == 223
    assert strip["sizes"][:50] == list(range(1, 51))
    assert strip["sizes"][-1] == 223


def test_curves_are_of_all_trials_and_the_median_ones_training(csv):
    header = "epoch,accuracy,learning_rate,loss,val_accuracy,val_loss\n"
    csv.with_suffix("").mkdir()
    for seed in (1, 2, 4):
        rows = f"0,0.9,0.01,0.3,0.95,0.2\n1,0.95,0.001,0.2,0.98{seed},0.1\n"
        (csv.with_suffix("") / f"{seed}.csv").write_text(header + rows)
    missing = write_report([csv.parent], csv.parent / "report.html", Choice("digits"), PUBLISHED)
    assert "no curves of 2 trials of sep997 are drawn: no histories of seeds 0, 3" in missing
    page = (csv.parent / "report.html").read_text()
    curves = content(page)["curves"]
    assert (curves["median"], curves["best"]) == (2, 4)
    assert curves["training"] == [0.9, 0.95]
    assert {run["seed"]: run["accuracy"] for run in curves["runs"]} == {
        seed: [0.95, round(0.98 + seed / 1000, 4)] for seed in (1, 2, 4)
    }
    assert curves["runs"][0]["rates"] == [[1, 0.01], [2, 0.001]]
    assert "accuracy on the test set (monitored) by epoch" in " ".join(Reader(page).text.split())


def test_ten_thousand_trials_are_a_page_that_can_be_sent(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        replace(TRIAL, seed=seed, saved_accuracy=saved / 10_000, best_accuracy=best / 10_000, test_correct=int(best))
        for seed, (saved, best) in enumerate(zip(*rng.binomial(10_000, 0.988, (2, 10_000)), strict=True))
    ]
    with (tmp_path / "sep997.csv").open("w", newline="") as file:
        csv_module.writer(file, lineterminator="\n").writerows([ledger.COLUMNS, *map(astuple, rows)])
    page = written(tmp_path)
    assert len(page) < 400_000
    study = next(model for model in content(page)["plane"]["models"] if model["name"] == "sep997")["studies"][0]
    assert sum(count for _, count, _ in study["dots"]) == 10_000
    assert len(study["dots"]) < 200


def table(page, name):
    """The rows of a table, each the texts of its cells."""
    body = re.search(rf'<table aria-labelledby="{name}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)[1]
    rows = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in body.split("</tr>")[:-1]]
    return [[" ".join(re.sub("<.*?>", "", cell).replace("\u00a0", " ").split()) for cell in row] for row in rows]


def test_the_table_has_ours_beside_the_published(csv):
    page = written(csv.parent)
    rows = table(page, "comparison")
    assert len(rows) == len(PUBLISHED)
    assert rows[0] == [
        "sep697",
        "697",
        "best of about 700 runs, best epoch: 99.03 %",
        "none yet",
        "best epoch",
        *"----",
    ]
    # Welch's t test of 5 and 223 trials, here by way of its degrees of freedom.
    first, second = 0.00103053 / 5**0.5, 0.00105 / 223**0.5
    freedom = (first**2 + second**2) ** 2 / (first**4 / 4 + second**4 / 222)
    margin = stats.t.ppf(0.975, freedom) * (first**2 + second**2) ** 0.5
    difference = f"-0.009 ({-0.009 - 100 * margin:+.3f} to {-0.009 + 100 * margin:+.3f})".replace("-", "\u2212")
    ours = ["5", "last epoch", "98.752 ± 0.128 %, sd 0.103", "98.89 %"]
    mean = "mean of 223 runs, last epoch: 98.761 %, sd 0.105"
    assert rows[1] == ["sep997", "997", mean, *ours, difference, "-"]
    assert rows[2] == ["sep997", "997", "best of 223 runs, last epoch: 99.06 %", *ours, "-", "0 of 5"]
    kept = ["5", "98.864 ± 0.127 %, sd 0.103", "99.01 % (seed 4)", "1 of 5 (4 to 62 %)"]
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
        ["one run, best epoch (18th): 99.40 %", "5", "best epoch", "99.41 %", "-", "2 of 5"],
        ["one run, last epoch: 99.25 %", "5", "last epoch", "98.89 %", "-", "0 of 5"],
    ]
    said = Reader(page).text
    assert "best epoch: 99.370\u00a0% on average" in said
    assert "None of 5 trials of antman9954, 997 parameters, reached 99\u00a0% on MNIST's test set with" in said
    assert "antman9954 at 997 parameters, best epoch: mean 99.370" in described(page)["plane"]
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
        "one run, last epoch: 99.10 %",
        "5",
        "kept model",
        "98.864 ± 0.127 %, sd 0.103",
        "99.01 %",
        "-",
        "0 of 5",
    ]
    # The mean of the last epochs on the images that were monitored is 0.98752, the highest 0.9889.
    assert "98.752" not in page
    assert "98.89" not in page
    assert [row["name"] for row in content(page)["strip"]["rows"]] == ["ours, kept model"]


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
    text = " ".join(Reader(page).text.split())
    assert "in 1 to 4 of 8 trials of sep997, 3 of which were stopped early." in text.replace("\u00a0", " ")
    assert "3 more were stopped early" in text
    assert "the means are of the others alone" in text
    # Wilson's limits: the lower for 1 of 8, the upper for 4 of 8; the higher accuracy of the publication, for 0 and 3.
    assert "Depending on the trials that were stopped, 1 to 4 of 8 trials reached 99 %" in text
    assert "(95 % interval of the share: 2 to 78 %, Wilson)" in text
    assert table(page, "kept")[0][-1] == "1 to 4 of 8 (2 to 78 %)"
    assert rows[1][-1] == "0 to 3 of 8"


def test_a_single_trial_has_neither_sd_nor_interval(tmp_path):
    append_row(tmp_path / "sep997.csv", TRIAL)
    text = spoken(tmp_path)
    assert "1 trial, last epoch: 98.760 % on average, 98.76 % in the best trial." in text
    assert "nan" not in text.lower()


def test_failures_are_shown_but_not_those_of_seeds_that_finished(csv):
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
    assert tags.count("script") == 2
    assert not any(name.startswith("on") for _, attributes in reader.elements for name in attributes)
    assert reader.text.count("window.taken") > 5
    assert content(written(tmp_path))["plane"]["models"]


def test_nothing_is_loaded_from_anywhere(csv):
    page = written(csv.parent)
    reader = Reader(page)
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"link", "iframe", "object", "embed", "base", "source", "audio", "video"}
    assert not reader.values("src")
    # A link is followed only by whoever clicks it; those are to the sources.
    targets = [target for target in reader.values("href") if not target.startswith("#")]
    assert {tag for tag, attributes in reader.elements if "href" in attributes} == {"a"}
    assert set(targets) == {text.source(model).url for model in PARAMETERS} - {""}
    assert len(set(targets)) > 5
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
    targets |= {target[1:] for target in reader.values("href") if target.startswith("#")}
    assert targets <= set(identifiers)


def test_every_reference_finds_its_id(csv):
    check_references(written(csv.parent))


def described(page):
    """What those who don't see a chart are told of it, by the chart's id."""
    charts = [attributes for _, attributes in Reader(page).elements if attributes.get("class") == "plot"]
    return {attributes["id"]: attributes["aria-label"] for attributes in charts if attributes["role"] == "img"}


def test_charts_tell_what_they_show(csv):
    said = described(written(csv.parent))
    assert set(said) == {"plane", "strip"}
    assert "sep997 at 997 parameters, last epoch: mean 98.752\u00a0±\u00a00.128\u00a0%, sd\u00a00.103" in said["plane"]
    assert "Published: mean of 223 runs, last epoch: 98.761\u00a0%" in said["strip"]


def test_the_page_says_which_trials_can_be_verified_and_how(tmp_path):
    csv = record(tmp_path / "sep997.csv", trainer="native")
    page, command = spoken(tmp_path), "by python -m mnist_minimal.verify"
    assert "trained again to the same bits, and why: sep997: no JSON tells the recipe." in page
    assert command not in page
    recipe = {"recipe": RECIPES["sep997"].as_dict()}
    csv.with_suffix(".json").write_text(json.dumps({**recipe, "numerics": core.NUMERICS}))
    others = {"sep697": recipe, "small7344": {**recipe, "numerics": "unverified: <b>"}, "small7384": recipe}
    for name, told in others.items():
        trainer = "keras" if name == "small7384" else "native"
        record(csv.with_name(f"{name}.csv"), CORRECT[:2], model=name, params=PARAMETERS[name], trainer=trainer)
        csv.with_name(f"{name}.json").write_text(json.dumps(told))
    page = spoken(tmp_path)
    assert "every trial of sep997 can be trained again, to the same bits on any processor, and compared" in page
    assert f"{command} sep997; with --sample 5, five of them" in page
    found = [
        f"sep697: its bits are those of numerics 0, and this version has numerics {core.NUMERICS}",
        "small7344: unverified: <b>",
        "small7384: Keras trained it, whose bits depend on the machine",
    ]
    assert f"and why: {'; '.join(found)}." in page


def test_a_page_without_models_is_written_without_keras(csv, run_python):
    program = """
import sys
from mnist_minimal.report import main
main(["--results", sys.argv[1]])
print({"tensorflow", "keras", "sklearn", "matplotlib"} & set(sys.modules))
"""
    finished = run_python("-c", program, csv.parent)
    assert finished.stdout.splitlines() == [str(csv.parent / "report.html"), "set()"], finished.stderr
    best, median, curve, others = finished.stderr.splitlines()
    again = f"python -m mnist_minimal.verify {csv} --seeds 4 --keep {csv.parent}/sep997 trains it again"
    not_kept = f"{csv.parent}/sep997/4.h5: the model of this trial was not kept; {again}"
    assert best == f"left out: the best trial of sep997 can't be asked: {not_kept}"
    assert median == f"left out: no curve of the median trial of sep997 is drawn: there is no {csv.parent}/sep997/2.csv"
    assert curve == f"left out: no curve of the best trial of sep997 is drawn: there is no {csv.parent}/sep997/4.csv"
    assert "no curves of 3 trials of sep997 are drawn" in others
    assert "Draw a digit" not in (csv.parent / "report.html").read_text()


def test_a_folder_without_trials_is_an_error(tmp_path):
    with pytest.raises(UserError, match="found no finished trial in it, expected CSVs with finished trials; run"):
        main(["--results", str(tmp_path)])


@pytest.mark.parametrize("content", ["", "[]", '{"versions": 3}', "\x00"])
def test_a_damaged_json_is_an_error_with_its_name(csv, content):
    csv.with_suffix(".json").write_text(content)
    with pytest.raises(UserError, match=r"sep997\.json: .*expected (the versions|the study's recipe|JSON)"):
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
    assert missing[0].startswith("no images are shown: sep997 was tested on mnist, and the images found are of digits")
    page = (csv.parent / "report.html").read_text(encoding="utf-8")
    assert "Draw a digit" in page
    assert "What it takes for what" not in page


@pytest.mark.slow
def test_without_mnist_the_digits_do_not_stand_in_for_it(csv, run_python):
    from mnist_minimal.models import MODELS
    from mnist_minimal.saving.saved_model import save

    csv.with_suffix("").mkdir()
    save(MODELS["sep997"](), csv.with_suffix("") / "4.h5")
    done = run_python("-m", "mnist_minimal.report", "--results", csv.parent, **OFFLINE)
    assert done.returncode == 0, done.stderr
    assert "left out: no images are shown: MNIST was found nowhere: Keras has no usable copy" in done.stderr
    page = csv.with_name("report.html").read_text(encoding="utf-8")
    assert "Draw a digit" in page
    assert "What it takes for what" not in page


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
    assert all("curve" in line for line in missing), missing
    assert "What it takes for what" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_weights_come_back_from_json_to_the_last_bit():
    import keras

    from mnist_minimal.models import MODELS
    from mnist_minimal.page.network import describe

    model = MODELS["sep997"]()
    description = json.loads(json.dumps(describe(model)))
    assert description["parameters"] == 997
    for layer in model.layers:
        for variable in layer.weights:
            values = np.frombuffer(base64.b64decode(description["weights"][layer.name][variable.name]), "<f4")
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
    missing = write_report([csv.parent], csv.parent / "report.html", Choice("digits"), PUBLISHED)
    assert missing[0].startswith(
        "the best trial of sep997 can't be asked: layer 'other': the page computes only chains"
    )
    assert "<canvas" not in (csv.parent / "report.html").read_text(encoding="utf-8")


def test_an_operation_that_the_page_can_not_compute_is_named():
    import keras
    from keras import layers

    from mnist_minimal.page.network import describe

    pixels = keras.Input((28, 28, 1))
    model = keras.Model(pixels, layers.Dense(10, "softmax")(layers.Flatten()(pixels / 255)))
    with pytest.raises(UserError, match="expected one that the page can compute, found 'divide'"):
        describe(model)


def test_percent_signs_stay_with_their_numbers_and_texts_are_escaped(csv):
    page = written(csv.parent)
    assert "99\u00a0%" in page
    assert not re.search(r"\d %", re.sub(r"<style>.*?</style>|<script.*?</script>", "", page, flags=re.DOTALL))


def test_the_map_of_confusions_counts_every_image():
    labels, predicted = [0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 0, 2]
    found = digits.read(np.zeros((6, 28, 28, 1), np.uint8), np.array(labels), np.eye(3)[predicted].astype(np.float32))
    assert digits.confusion(found) == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]
    assert digits.commonest(found) == [(2, 0, 2), (0, 1, 1)]
    assert digits.confusion([*found, replace(found[0], label=12)]) == []


def test_images_in_colour_are_shown_as_they_are():
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    (first, _) = digits.read(images, np.array([3, 1]), np.eye(4, dtype=np.float32)[[1, 1]])
    shown = Image.open(io.BytesIO(base64.b64decode(first.png)))
    np.testing.assert_array_equal(np.asarray(shown), images[0])
    assert (first.right, first.note) == (False, "a 3, taken for a 1")
