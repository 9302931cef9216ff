"""The Markdown files: their links lead somewhere, and the commands in them have the options that are given."""

import importlib
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGES = [
    REPOSITORY / name
    for name in ("README.md", "CONTRIBUTING.md", "results/README.md", "experiments/README.md", "tests/README.md")
]

COMMAND = re.compile(r"python (?:-m mnist_minimal\.(?P<name>\w+)|(?P<script>experiments/\w+\.py))(?P<arguments>[^`\n|]*)")


def commands() -> list[tuple[str, str]]:
    """Each command of this project in a page's code, as a module and its arguments."""
    found = {}
    for page in PAGES:
        for match in COMMAND.finditer(page.read_text()):
            module = f"mnist_minimal.{match['name']}" if match["name"] else match["script"][:-3].replace("/", ".")
            found[module, match["arguments"].strip()] = None
        # The table of commands in the README leaves out what they have in common.
        if "| `python -m mnist_minimal." in page.read_text():
            table = page.read_text().split("| `python -m mnist_minimal.")[1].split("\n\n")[0]
            for row in re.findall(r"^\| `(\w+)([^`]*)`", table, re.MULTILINE):
                found[f"mnist_minimal.{row[0]}", row[1].strip()] = None
    return list(found)


@cache
def known_options(module: str) -> set[str]:
    """The options that a command's --help lists."""
    path = module if module.startswith("mnist_minimal") else None
    if module == "mnist_minimal.models":
        path = "mnist_minimal.models.__main__"
    main = importlib.import_module(path or module).main
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        lines: list[str] = []
        patch.setattr("argparse.ArgumentParser.print_help", lambda parser, file=None: lines.append(parser.format_help()))
        main(["--help"])
    assert ended.value.code == 0
    return set(re.findall(r"--[a-z][a-z-]*", lines[0]))


def test_some_commands_are_found():
    modules = {module for module, _ in commands()}
    assert {"mnist_minimal.trials", "mnist_minimal.compare", "mnist_minimal.plots", "experiments.spread"} <= modules


@pytest.mark.parametrize(("module", "arguments"), commands())
def test_a_command_has_the_options_that_it_is_given(module, arguments):
    if module == "experiments.benchmark":
        pytest.importorskip("threadpoolctl")
    given = {word.partition("=")[0] for word in shlex.split(arguments) if word.startswith("--")}
    assert given <= known_options(module)


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
