"""What a command's process inherits: signals, descriptors, paths, files in its folder."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mnist_minimal.cli.options import expanded_path
from mnist_minimal.cli.run import interruptible
from tests.conftest import REPOSITORY
from tests.whole import whole_only

ASKING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def handlers():
    """Puts the handlers back as they were."""
    before = {number: signal.getsignal(number) for number in ASKING}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ASKING)
def test_what_asks_a_program_to_end_interrupts(handlers, number):
    def wait():
        with interruptible() as interrupted:
            events.append(interrupted)
            os.kill(os.getpid(), number)
            signal.pause()

    events: list[threading.Event] = []
    with pytest.raises(KeyboardInterrupt):
        wait()
    assert events[0].is_set()
    assert {each: signal.getsignal(each) for each in ASKING} == handlers


@pytest.mark.parametrize("number", ASKING)
@pytest.mark.usefixtures("handlers")
def test_what_is_ignored_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    with interruptible() as interrupted:
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_IGN
    assert signal.getsignal(number) == signal.SIG_IGN
    assert not interrupted.is_set()


def test_another_thread_than_the_main_one_installs_no_handler(handlers):
    def enter():
        with interruptible():
            found.append({number: signal.getsignal(number) for number in ASKING})

    found: list[dict] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [handlers]


def test_a_tilde_is_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert expanded_path("~/runs") == Path("/home/somebody/runs")
    assert expanded_path("runs/~/x") == Path("runs/~/x")
    # As a shell has it: of a user that is not there, the name stays.
    assert expanded_path("~nobody.here/x") == Path("~nobody.here/x")
    assert expanded_path("") == Path(".")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("status", ["--results=~/none"]),
        pytest.param("models", ["--results=~/none"], marks=[pytest.mark.slow, whole_only]),
        pytest.param("plots", ["~/none.csv"], marks=[pytest.mark.slow, whole_only]),
        pytest.param("compare", ["~/none.csv", "~/other.csv", "--out=~/x.png"], marks=[pytest.mark.slow, whole_only]),
        pytest.param("evaluate", ["~/none.h5", "--data=~/none.npz"], marks=pytest.mark.slow),
        pytest.param("summary", ["~/none.h5"], marks=[pytest.mark.slow, whole_only]),
        pytest.param("report", ["--results=~/none"], marks=[pytest.mark.slow, whole_only]),
        pytest.param(
            "augment", ["pyramid3762", "--dataset=digits", "--out=~/x/y.png"], marks=[pytest.mark.slow, whole_only]
        ),
        pytest.param(
            "trials",
            ["--model=sep697", "--dataset=digits", "--runs=1", "--epochs=1", "--out=~/runs"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_no_command_takes_a_tilde_for_a_name(run_python, tmp_path, command, arguments):
    home = tmp_path / "home"
    home.mkdir()
    folders = {"HOME": str(home), "KERAS_HOME": "~/keras", "MPLCONFIGDIR": "~/mpl"}
    done = run_python("-m", f"mnist_minimal.{command}", *arguments, **folders)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert "~" not in done.stderr


HIDING = ("random", "copy", "csv", "tempfile", "statistics", "keras", "numpy", "scipy", "matplotlib", "test")


@pytest.mark.parametrize(
    "command", [["compare", "a.txt", "b.txt"], pytest.param(["evaluate", "x.h5"], marks=pytest.mark.slow)]
)
def test_files_in_the_folder_take_the_place_of_no_module(run_python, tmp_path, command):
    for name in HIDING:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("0.98\n0.99\n")
    done = run_python("-m", f"mnist_minimal.{command[0]}", *command[1:])
    assert "wrong module" not in done.stderr
    assert done.returncode == (0 if command[0] == "compare" else 2), done.stderr


@pytest.mark.slow
def test_a_model_of_the_users_own_is_found_before_a_module_of_its_name(run_python, tmp_path):
    # A package of this name is installed with pytest, and nothing here has imported it.
    (tmp_path / "pluggy.py").write_text("import helper\nvalue = helper.value\n")
    (tmp_path / "helper.py").write_text("value = 3\n")
    done = run_python("-m", "mnist_minimal.summary", "pluggy:value")
    assert done.stderr.rstrip().endswith(f"expected a function value in {tmp_path}/pluggy.py, found int")


def test_importing_the_package_leaves_the_path_alone(run_python):
    program = "import sys; before = list(sys.path); import mnist_minimal; print(sys.path == before)"
    assert run_python("-c", program).stdout == "True\n"


def test_a_job_goes_on_where_its_log_is_full(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    program = (
        "import sys\nfrom mnist_minimal.cli.run import run\n"
        "def main(arguments):\n"
        "    for step in range(3):\n"
        "        print(step, flush=True); print(step, file=sys.stderr, flush=True)\n"
        "        open(f'step-{step}', 'w').close()\n"
        "    return int(sys.argv[1])\n"
        "raise SystemExit(run(main))\n"
    )
    for status, expected in (("0", 2), ("1", 1)):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", program, status],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0", "step-1", "step-2"]
        assert done.returncode == expected
        assert done.stderr.splitlines()[-1].startswith("error: standard output: No space left on device;")


def test_output_to_a_pipe_that_does_not_wait_is_whole():
    program = "from mnist_minimal.cli.run import run\nraise SystemExit(run(lambda _: print('x' * 1_000_000) or 0))\n"
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    with open(reading, "rb") as file:
        assert len(file.read()) == 1_000_001
    assert process.wait() == 0
    process.stderr.close()
