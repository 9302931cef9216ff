"""What several tests need: a shell to run commands in, MNIST where the user's environment names it, saved models."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mnist_minimal.data.choice import ENVIRONMENT_VARIABLE

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Under nohup, or in the background of a script, the tests and their jobs would inherit signals that are ignored.
for _number, _handler in {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}.items():
    if signal.getsignal(_number) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(_number, _handler)

MNIST_PATH = os.environ.get(ENVIRONMENT_VARIABLE)
REPOSITORY = Path(__file__).parent.parent

# An environment in which Keras has no MNIST and can download none.
OFFLINE = {"KERAS_HOME": "keras", "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


@pytest.fixture
def mnist_path() -> str:
    """The user's MNIST; the test is skipped where there is none."""
    if MNIST_PATH is None:
        pytest.skip(f"needs MNIST: set {ENVIRONMENT_VARIABLE} to an mnist.npz or a folder of idx files")
    return MNIST_PATH


@pytest.fixture(autouse=True)
def _no_inherited_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test uses MNIST only where it says so."""
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_python(tmp_path: Path) -> Run:
    """Runs `python ARGUMENTS` in an empty folder and gives its status, output and errors."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture
def run_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `run(MAIN, ARGUMENTS)` as `run_python` runs a command, in this process, which has imported Keras already."""
    from mnist_minimal.cli.run import run

    def called(main: Callable[[Sequence[str] | None], int], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        texts = [str(argument) for argument in arguments]
        try:
            status = run(main, texts)
        except SystemExit as end:  # Argparse's.
            status = end.code
        return subprocess.CompletedProcess(texts, status, *capsys.readouterr())

    return called


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one model in both formats."""
    from mnist_minimal.saving.saved_model import save
    from tests.model_files import randomized

    folder = tmp_path_factory.mktemp("untouched")
    for name in ("model.h5", "model.keras"):
        save(randomized("sep997"), folder / name)
    return folder


@pytest.fixture
def saved(untouched: Path, tmp_path: Path) -> Path:
    """A .h5 file that `load` reads, to be tampered with."""
    return Path(shutil.copy(untouched / "model.h5", tmp_path))


@pytest.fixture
def zipped(untouched: Path, tmp_path: Path) -> Path:
    """A .keras file that `load` reads, to be tampered with."""
    return Path(shutil.copy(untouched / "model.keras", tmp_path))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how many faults the tests caused and what came of them."""
    # A test's fixtures count to its very end, so that only the report of its teardown has all.
    counted = [
        (report.nodeid, faults)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, faults in report.user_properties
        if name == "faults"
    ]
    if counted:
        terminalreporter.section("faults caused, survived, finished trials lost")
        for test, (caused, survived, lost) in counted:
            terminalreporter.write_line(f"{caused:>5} {survived:>5} {lost:>5}  {test}")
        totals = [sum(faults[index] for _, faults in counted) for index in range(3)]
        terminalreporter.write_line("{:>5} {:>5} {:>5}  in all".format(*totals))
