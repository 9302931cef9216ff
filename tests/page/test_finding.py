"""The page's first sentence and picture: the fewest parameters, where there are several networks to choose from."""

import base64
import html
import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mnist_minimal.analysis.published import PUBLISHED
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.page.report import write_report
from tests.page.test_report import Reader, check_references, record, spoken, table, written
from tests.page.test_report_in_browser import BROWSER, in_browser
from tests.study.test_ledger import STOPPED, append_row

SOURCES, BLIND = "as the sources count, by the best epoch on the test set", "with nothing chosen by the test set"


def sep697(path, correct, **fields):
    return record(path, correct, model="sep697", params=697, max_epochs=2000, **fields)


def sentence(folder):
    """The page's first sentence."""
    found = re.search(r'<p class="lead.*?">(.*?)</p>', written(folder))[1]
    return " ".join(html.unescape(found).replace("\u00a0", " ").split())


@pytest.fixture
def results(tmp_path):
    """Two networks: of the smaller one of seven trials is at 99 %, of the larger one three are on average."""
    sep697(tmp_path / "sep697.csv", [9875, 9880, 9884, 9892, 9901])
    sep697(tmp_path / "sep697-again.csv", [9870, 9871])
    record(tmp_path / "sep997.csv", [9890, 9900, 9910])
    record(tmp_path / "sep997-holdout.csv", [9880, 9900], protocol="holdout")
    return tmp_path


def test_the_fewest_parameters_on_average_and_in_a_best_run(results):
    assert sentence(results) == (
        "The fewest parameters with 99 % on MNIST: 997 on average (sep997, n = 3) and 697 in a best run (sep697, the "
        f"best of 7) {SOURCES}; none on average and 997 in a best run (sep997, the best of 2) {BLIND}."
    )
    # The sentence comes before everything else but the title.
    assert spoken(results).index("The fewest parameters with") < spoken(results).index("Contents")


def test_a_best_run_of_one_and_none_at_all(tmp_path):
    sep697(tmp_path / "sep697.csv", [9892, 9880])
    record(tmp_path / "sep997.csv", [9899])
    record(tmp_path / "small7384-holdout.csv", [9910], model="small7384", params=7384, protocol="holdout")
    assert sentence(tmp_path) == (
        f"The fewest parameters with 99 % on MNIST: none (98.99 % in the best run, of sep997, the only one) {SOURCES}; "
        f"none on average and 7,384 in a best run (small7384, the only one) {BLIND}."
    )


def test_a_mean_beside_stopped_trials_is_not_the_networks(results):
    for seed in (5, 6):
        append_row(results / "sep997.csv", replace(STOPPED, seed=seed))
    assert sentence(results).startswith(
        "The fewest parameters with 99 % on MNIST: none on average and 697 in a best run (sep697, the best of 7)"
    )


@pytest.mark.slow
def test_finalists_of_a_search_among_the_results_count(results):
    (results / "search").mkdir()
    trainings = [("c600_1f", 600, "2", 0.999), ("c600_1f", 600, "final", 0.9890), ("c600_1f", 600, "final", 0.9912)]
    ledger = results / "search/ledger.csv"
    pd.DataFrame(trainings, columns=["name", "params", "rung", "accuracy"]).to_csv(ledger, index=False)
    # A study of that name is no search.
    (results / "other").mkdir()
    record(results / "other/ledger.csv")
    said = f"600 on average (c600, n = 2) and 600 in a best run (c600, the best of 2) {BLIND}."
    assert sentence(results).endswith(said)
    assert table(written(results), "nothing-chosen")[0][:4] == ["c600_1f", "600", "kept model", "2"]
    ledger.write_text(ledger.read_text().replace("0.989", "?"))
    with pytest.raises(UserError, match="expected the ledger of a search, found none"):
        written(results)


def test_every_study_is_in_the_tables_and_the_losers_too(results):
    page = written(results)
    rows = table(page, "as-sources-count")
    assert [row[0] for row in rows] == ["sep697", "sep697-again", "sep997"]
    # By hand: the mean of .9870 and .9871, their sd, and 12.706 standard errors.
    assert rows[1][1:] == [
        *("697", "best epoch", "2", "98.705 ± 0.064 %, sd 0.007", "98.71 %", "0 of 2 (0 to 66 %)", "-"),
    ]
    assert [row[-1] for row in rows] == ["mean, best run", "-", "mean, best run"]
    assert [row[0] for row in table(page, "nothing-chosen")] == ["sep997-holdout"]
    check_references(page)


def embedded(page):
    """The picture's two PNGs, for a narrow screen and for a wide one."""
    found = re.findall(r'(?:srcset|src)="data:image/png;base64,(.*?)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(png))) for png in found]


def test_the_picture_is_in_the_page_with_a_text(results):
    page = written(results)
    narrow, wide = embedded(page)
    assert narrow.width < 390 * 2 < wide.width
    for picture in (narrow, wide):
        ink = np.asarray(picture.convert("RGBA"))
        # Nothing behind it, or a dark page would have a bright square.
        assert (ink[..., 3] == 0).mean() > 0.5
        assert len(np.unique(ink[ink[..., 3] == 255], axis=0)) > 5
    (alt,) = Reader(page).values("alt")
    assert alt.startswith("Parameters against accuracy: every trial")
    assert all(source.startswith("data:") for source in Reader(page).values("src") + Reader(page).values("srcset"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "997 parameters were enough for 99 % on MNIST's test set, in 1 of 5 trials of sep997."),
        ({"protocol": "holdout"}, "There is no answer here yet"),
        ({"dataset": "digits"}, "The best of 5 trials of sep997, 997 parameters, on digits, came to 99.01 %"),
        ({"dataset": "mnist-fold3of10"}, "The best of 5 trials of sep997, 997 parameters, on mnist-fold3of10, came to"),
    ],
)
def test_of_one_network_and_of_other_images_there_are_no_fewest_parameters(tmp_path, fields, said):
    record(tmp_path / "sep997.csv", **fields)
    # Another network on other images is nothing to compare it with.
    sep697(tmp_path / "sep697.csv", [9900, 9910], dataset="digits")
    page = written(tmp_path)
    assert sentence(tmp_path).startswith(said)
    assert "fewest parameters" not in page.lower()
    assert embedded(page) == []


@pytest.mark.skipif(BROWSER is None, reason="needs the browser Chromium on the path")
@pytest.mark.parametrize(("width", "scheme"), [pytest.param(390, "dark", marks=pytest.mark.slow), (1200, "light")])
def test_a_screen_shows_the_picture_drawn_for_it(results, width, scheme):
    write_report([results], results / "report.html", Choice("digits"), PUBLISHED)
    program = """
        document.querySelector("header details").open = true;
        const picture = document.querySelector(".finding img");
        return [picture.naturalWidth, picture.getBoundingClientRect().width, getComputedStyle(picture).filter,
            document.documentElement.scrollWidth];"""
    drawn, shown, filtered, scrolled = in_browser(results / "report.html", program, width, scheme)
    assert drawn == embedded((results / "report.html").read_text())[0 if width == 390 else 1].width
    assert 1.5 < drawn / shown < 2.5
    assert (filtered != "none") == (scheme == "dark")
    assert scrolled <= width
