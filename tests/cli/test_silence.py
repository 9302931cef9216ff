"""TensorFlow's log: commands keep it to themselves unless its import fails; the library touches no descriptor."""

import signal
import textwrap
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.whole import whole_only

# As TensorFlow does: past Python's own stream.
FAKE = 'import os\nos.write(2, b"the log of an import\\n")\n'
COMMAND = """
import sys
from mnist_minimal.cli.run import run
def main(arguments):
    import tensorflow
    print("after", file=sys.stderr)
    return 0
sys.exit(run(main))
"""


@pytest.fixture
def fake_tensorflow(tmp_path):
    """Puts a package of this name with some code first in a path."""

    def make(code: str) -> str:
        (tmp_path / "fake/tensorflow").mkdir(parents=True)
        (tmp_path / "fake/tensorflow/__init__.py").write_text(FAKE + textwrap.dedent(code))
        return f"{tmp_path / 'fake'}:{REPOSITORY}"

    return make


@pytest.mark.slow
def test_evaluating_writes_nothing_to_the_standard_error(run_python):
    model = next((REPOSITORY / "results/sep997").glob("*.h5"))
    evaluated = run_python("-m", "mnist_minimal.evaluate", model, "--dataset", "digits")
    assert evaluated.returncode == 0
    assert "accuracy" in evaluated.stdout
    assert evaluated.stderr == ""


def test_a_log_is_withheld_and_the_stream_given_back(run_python, fake_tensorflow):
    done = run_python("-c", COMMAND, PYTHONPATH=fake_tensorflow(""))
    assert (done.returncode, done.stderr) == (0, "after\n")


def test_the_log_of_an_import_that_fails_is_shown(run_python, fake_tensorflow):
    done = run_python("-c", COMMAND, PYTHONPATH=fake_tensorflow("raise ImportError('no such symbol')"))
    assert done.returncode == 1
    log, line = done.stderr.splitlines()
    assert log == "the log of an import"
    assert line.startswith("error: ")
    assert "no such symbol" in line


def test_the_log_of_an_import_that_ends_the_process_is_shown(run_python, fake_tensorflow):
    done = run_python("-c", COMMAND, PYTHONPATH=fake_tensorflow("os.abort()"))
    assert done.returncode == -signal.SIGABRT
    assert done.stderr == "the log of an import\n"


def test_who_asks_for_the_log_gets_it(run_python, fake_tensorflow):
    done = run_python("-c", COMMAND, PYTHONPATH=fake_tensorflow(""), TF_CPP_MIN_LOG_LEVEL="0")
    assert done.stderr == "the log of an import\nafter\n"


def test_the_library_leaves_the_log_to_the_program_that_imports_it(run_python, fake_tensorflow):
    program = "import mnist_minimal, mnist_minimal.models.lookup, tensorflow"
    assert run_python("-c", program, PYTHONPATH=fake_tensorflow("")).stderr == "the log of an import\n"


@pytest.mark.slow
@whole_only
def test_a_process_for_trials_is_silent_too(run_python, tmp_path: Path):
    options = ("--model", "sep697", "--dataset", "digits", "--runs", "2", "--jobs", "2", "--epochs", "1")
    trained = run_python("-m", "mnist_minimal.trials", *options, "--trainer", "keras", "--out", tmp_path / "out")
    assert trained.returncode == 0
    assert trained.stderr == ""
