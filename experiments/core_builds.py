"""The core built apart from the installed one, by another compiler, with other flags or for another processor."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.bits import Case, save

REPOSITORY = Path(__file__).parent.parent

CLANG = {"CC": "clang", "CXX": "clang++", "LDSHARED": "clang++ -shared", "LDCXXSHARED": "clang++ -shared"}
GCC = {"CC": "gcc", "CXX": "g++", "LDSHARED": "g++ -shared", "LDCXXSHARED": "g++ -shared"}


def build(folder: Path, environment: dict[str, str], python: Sequence[str] = (sys.executable,)) -> None:
    """Copies the package to a folder, without the extension that it has, and builds the extension there.

    Args:
        folder: A new folder.
        environment: Variables that choose compiler and flags, as setuptools knows them.
        python: The command of the Python that it is built for; it needs setuptools and pybind11.

    Raises:
        subprocess.CalledProcessError: if it can't be built.
    """
    unwanted = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(REPOSITORY / "mnist_minimal", folder / "mnist_minimal", ignore=unwanted)
    (folder / "experiments").mkdir()
    shutil.copy(REPOSITORY / "experiments/bits.py", folder / "experiments")
    # Without setup.cfg and its version, which git has: only the extension is built.
    shutil.copy(REPOSITORY / "setup.py", folder)
    chosen = {"MNIST_MINIMAL_REQUIRE_CORE": "1", "MNIST_MINIMAL_SANITIZE": "", **environment}
    command = [*python, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env={**os.environ, **chosen}, check=True)


def digests(
    folder: Path, cases: dict[str, Case], python: Sequence[str] = (sys.executable,), path: Sequence[Path] = ()
) -> dict[str, Any]:
    """What `bits.found` gives for cases in a process with a core that `build` has built.

    Args:
        folder: The folder of the build.
        cases: The cases.
        python: The command of the Python that it was built for.
        path: More folders of modules for it.
    """
    save(cases, folder / "cases")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [folder, *path]))}
    command = [*python, "-m", "experiments.bits", "cases"]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)
