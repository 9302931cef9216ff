"""What is installed: the packages that the code imports are required, and the sdist and the wheel are complete."""

import ast
import configparser
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from mnist_minimal.version import version
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "mnist_minimal"

# Imported only in a notebook, in whose process it has been imported before.
NOTEBOOKS_OWN = {"ipython"}

# Imported only where they are asked for, and extras.
EXTRA = {"distributed", "jax", "optuna"}


def normalized(distribution: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def imported(source: str) -> set[str]:
    """The top-level packages that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_what_the_package_imports_is_what_it_requires():
    modules = set().union(*(imported(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")))
    distributions = metadata.packages_distributions()
    imports = {
        normalized(distribution)
        for module in modules - sys.stdlib_module_names - {"mnist_minimal"}
        for distribution in distributions[module]
    }
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    lines = settings["options"]["install_requires"].split("\n")
    required = {normalized(re.match(r"[\w.-]+", line)[0]) for line in lines if line}
    assert imports - NOTEBOOKS_OWN - EXTRA == required


BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def build(hook: str, source: Path, folder: Path) -> Path:
    """What a hook of setuptools' builds of a folder, without the core."""
    subprocess.run(
        [sys.executable, "-c", BUILD, hook, folder],
        cwd=source,
        env={**os.environ, "MNIST_MINIMAL_WITHOUT_CORE": "1", "MNIST_MINIMAL_REQUIRE_CORE": ""},
        check=True,
    )
    (built,) = folder.iterdir()
    return built


def test_a_checkout_has_the_version_that_an_installation_of_it_gets():
    """By which the workers of a cluster are compared, some of them installed and some not."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("needs a checkout")
    # What pip's build asks.
    asked = [sys.executable, "-m", "setuptools_scm"]
    built = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
    assert version() == built


@pytest.mark.slow
def test_the_sdist_and_the_wheel_built_from_it_are_complete(tmp_path):
    if tuple(map(int, metadata.version("setuptools").split(".")[:2])) < (70, 1):
        pytest.skip("needs setuptools 70.1 or later, which builds wheels by itself")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout.split("\0")[:-1]
    if not tracked:
        pytest.skip("needs a checkout, whose files git lists")
    # Without git, so that the sdist has what MANIFEST.in says and not everything that is tracked.
    for name in tracked:
        if (REPOSITORY / name).is_file():
            copy = tmp_path / "checkout" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((REPOSITORY / name).read_bytes())
    for folder in ("sdist", "unpacked", "wheel"):
        (tmp_path / folder).mkdir()

    sdist = build("build_sdist", tmp_path / "checkout", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    of_package = {name for name in tracked if name.startswith("mnist_minimal/")}
    packed = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert packed >= of_package | {"setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"}

    wheel = build("build_wheel", unpacked, tmp_path / "wheel")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        installed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert installed == {name for name in of_package if Path(name).suffix not in (".cpp", ".h")}
