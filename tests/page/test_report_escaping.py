"""The report page says what a CSV contains and takes none of it for HTML: Python's own parser is the judge."""

import csv
import json
from collections import Counter
from dataclasses import astuple, replace
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mnist_minimal.analysis.published import PUBLISHED
from mnist_minimal.data.choice import Choice
from mnist_minimal.page import report, text
from mnist_minimal.study.ledger import COLUMNS
from tests.study.test_ledger import FAILED, TRIAL

PIECES = [
    *("<script>", "</script>", "<!--", "-->", "<![CDATA[", "]]>", "</title>", "</desc>", "</svg>", "</td>", "</style>"),
    *("<img src=x ", "onerror=alert(1)>", "javascript:", "&lt;", "&#60;", "&", "<", ">", '"', "'", "`", "=", " ", "x"),
    *("$", "${style}", "\\", "{0}", "%s", 'id="', "url(#", "#333333"),
    *("\u2028", "\u2029", "\x0b", "\x1b[31m", "\x85", "\ufeff", "\u202e"),
]
# A row is one line, and a CSV is UTF-8.
characters = st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"])
fields = st.lists(st.sampled_from(PIECES) | st.text(characters, max_size=3), max_size=6).map("".join)
names = fields.map(lambda text: text.replace("/", "|")[:40].strip(". "))

# However long a busy machine takes for an example.
UNTIMED = settings(deadline=None, suppress_health_check=list(HealthCheck))

TEXTS = ("model", "dataset", "protocol", "trainer", "finished_at", "version", "weights", "backend", "reason")


class Parsed(HTMLParser):
    """How often there is each element with these attributes, and what else is no text; and the text."""

    def __init__(self, page):
        super().__init__()
        self.parts, self.text = Counter(), []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.parts[(tag, *(name for name, _ in attributes))] += 1
        # What a text could bring in by an attribute's value.
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "http-equiv") and not (value or "").startswith(("#", "data:")):
                self.parts[tag, name, value] += 1

    def handle_comment(self, data):
        self.parts["comment"] += 1

    def handle_decl(self, decl):
        self.parts["declaration"] += 1

    def unknown_decl(self, data):
        self.parts["unknown declaration"] += 1

    def handle_pi(self, data):
        self.parts["processing instruction"] += 1

    def handle_data(self, data):
        self.text.append(data)


def page(folder, study, texts, versions):
    """The page of one study and one failure with these texts in every row, beside one of a published model."""
    for path in folder.glob("*"):
        path.unlink()
    rows = [replace(TRIAL, seed=seed, **texts) for seed in range(2)] + [replace(FAILED, seed=2, **texts)]
    for name, trials in ((study, rows), ("sep997", [TRIAL])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *map(astuple, trials)])
    (folder / f"{study}.json").write_text(json.dumps({"versions": versions}))
    report.write_report([folder], folder / "report.html", Choice("digits"), PUBLISHED)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def harmless(folder):
    texts = {name: name for name in TEXTS}
    return Parsed(page(folder, "harmless", texts, {"package": "1"})).parts


@pytest.mark.parametrize("count", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_no_text_becomes_an_element_an_attribute_or_a_script(folder, harmless, count):
    @settings(UNTIMED, max_examples=count, derandomize=True)
    @given(st.fixed_dictionaries(dict.fromkeys(TEXTS, fields)), names, fields, fields)
    @example(dict.fromkeys(TEXTS, "".join(PIECES)), "<img src=x onerror=alert(1)>", "<script>", "</script>")
    @example(dict.fromkeys(TEXTS, "<!--<script>"), "<title><script>", "<!--", "${script}")
    def stays_text(texts, name, package, version):
        parsed = Parsed(page(folder, f"study {name}", texts, {package: version}))
        assert not parsed.parts - harmless
        said = " ".join("".join(parsed.text).split())
        assert " ".join(texts["reason"].split()) in said

    stays_text()


@settings(UNTIMED)
@given(fields)
@example("".join(PIECES))
@example("</script><!--<script>")
def test_any_name_stays_a_string_of_the_embedded_json(name):
    # A study's name is in the page's JSON, whose element ends at the first thing that looks like its end.
    def embedded(text):
        page = report.render("data.html", content={"name": text})
        parsed = Parsed(page)
        return parsed.parts, json.loads("".join(parsed.text))

    assert embedded(name) == (embedded("harmless")[0], {"name": name})


@settings(UNTIMED)
@given(fields, names)
@example("".join(PIECES), "<img src=x onerror=alert(1)>")
@example('" onpointerdown="alert(1)', "' onpointerdown='alert(1)")
def test_any_text_is_a_cell_of_a_table_and_a_texts_attribute(cell, head):
    def drawn(cell, head):
        rows = [("row", cell, text.Link(cell, "https://example.org"))]
        return Parsed(report.render("table.html", table=text.Table("name", cell, ("first", head, head), rows)))

    found = drawn(cell, head)
    assert found.parts == drawn("harmless", "harmless").parts
    assert cell.replace(" %", "\u00a0%") in "".join(found.text)
