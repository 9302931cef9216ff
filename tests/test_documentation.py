"""The Markdown files: their links lead somewhere, and the commands in them have the options that are given."""

import importlib
import io
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGES = [
    REPOSITORY / name
    for name in (
        *("README.md", "CONTRIBUTING.md", "results/README.md", "experiments/README.md", "experiments/CLUSTER.md"),
        "tests/README.md",
    )
]

COMMAND = re.compile(r"python (?:-m )?((?:mnist_minimal|experiments)[./]\w+)(?:\.py)?\b(?![./])([^`|\n]*)")


def commands() -> list[tuple[str, str]]:
    """Each command of this project in a page's code, as a module and its arguments."""
    found = {}
    for page in PAGES:
        text = page.read_text()
        if page == PAGES[0]:  # Its table of commands leaves out what they have in common.
            text = re.sub(r"^\| `(?!python )", "python -m mnist_minimal.", text, flags=re.MULTILINE)
        for name, arguments in COMMAND.findall(text):
            found[name.replace("/", "."), arguments.strip()] = None
    return list(found)


@cache
def known_options(module: str) -> set[str]:
    """The options that a command's --help lists."""
    main = importlib.import_module("mnist_minimal.models.__main__" if module == "mnist_minimal.models" else module).main
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setattr(sys, "argv", [module, "--help"])
        with pytest.raises(SystemExit, match=r"^0$"):
            main()
    return set(re.findall(r"--[a-z][a-z-]*", said.getvalue()))


def test_some_commands_are_found():
    modules = {module for module, _ in commands()}
    assert {"mnist_minimal.trials", "mnist_minimal.compare", "mnist_minimal.plots", "experiments.spread"} <= modules


@pytest.mark.parametrize(("module", "arguments"), commands())
def test_a_command_has_the_options_that_it_is_given(module, arguments):
    assert find_spec(module)
    given = {word.partition("=")[0] for word in shlex.split(arguments) if word.startswith("--")}
    assert not given or given <= known_options(module)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(REPOSITORY)) for page in PAGES])
def test_links_lead_to_files_of_the_project(page):
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("needs git's list of the project's files")
    files = {(REPOSITORY / name).resolve() for name in tracked.stdout.splitlines()}
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text())
    assert [link for link in links if Path(page.parent, link).resolve() not in files] == []


def test_a_page_quotes_the_published_studies_as_they_are_recorded():
    from mnist_minimal.analysis.statistics import summarize
    from mnist_minimal.study import ledger

    trials = ledger.finished(ledger.read(REPOSITORY / "results/sep997.csv"))
    ours = summarize(ledger.accuracies(trials, "saved"))
    row = f"| ours | {ours.n} | {ours.mean:.5f} | {ours.sd:.5f} |"
    assert row in (REPOSITORY / "results/README.md").read_text()
    assert f"{100 * ours.mean:.3f} %" in (REPOSITORY / "README.md").read_text()
