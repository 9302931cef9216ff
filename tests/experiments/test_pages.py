"""The tables of the pages: they are what the published studies give, and nothing else of a page is changed."""

import pytest

from experiments import pages
from mnist_minimal.errors import UserError
from tests.conftest import REPOSITORY

PAGE = """# Page

| a | b |
|---|---|
| 1 | 2 |

Between, with a | in it.

| a | b |
|---|---|
| 3 | 4 |

| c |
|---|
| 5 |
"""


def test_the_published_pages_have_the_tables_that_their_studies_give(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for page, sources in pages.PAGES.items():
        fresh = "\n\n".join(source() for source in sources)
        assert pages.tables(fresh)
        assert pages.renewed(page.read_text(), fresh) == page.read_text()


def test_a_table_takes_the_place_of_that_with_its_head_in_their_order():
    fresh = "| c   |\n|-----|\n| six |\n| 7   |\n\nsaid\n\n| a | b   |\n|---|-----|\n| 1 | new |"
    expected = PAGE.replace("| 1 | 2 |", "| 1 | new |").replace("| 5 |", "| six |\n| 7 |")
    assert pages.renewed(PAGE, fresh) == expected


@pytest.mark.parametrize("fresh", ["| d |\n|---|\n| 1 |", "\n\n".join(["| c |\n|---|\n| 1 |"] * 2)])
def test_a_table_without_a_place_is_refused(fresh):
    with pytest.raises(UserError, match=r"expected a table with the head \| [cd] \|"):
        pages.renewed(PAGE, fresh)
