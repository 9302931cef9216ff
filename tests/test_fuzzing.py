"""The readers of foreign data under a fuzzer, for as many inputs as a CI can afford; `fuzz_targets` takes more."""

import random

import pytest

pytest.importorskip("atheris", reason="needs the fuzzer atheris, which has no wheel for this Python or system")

# Inputs of each target; the quick tier takes a FEW of one of them.
RUNS = {"idx": 2000, "npz": 2000, "h5": 50, "keras": 50, "load": 15}
FEW = 4

# A process begins with its parent's peak of memory as its own, and pytest's is above the fuzzer's limit by now.
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"


@pytest.mark.parametrize(
    ("target", "runs", "seed"),
    [
        pytest.param("h5", FEW, 1, id="few inputs"),
        *(pytest.param(target, runs, None, id=target, marks=pytest.mark.slow) for target, runs in RUNS.items()),
    ],
)
def test_no_input_does_more_than_be_refused(target, runs, seed, run_python):
    # The seed of a failure stands in its message, the input in the folder that it names.
    seed = seed or random.SystemRandom().randrange(2, 2**31)
    options = ("--runs", str(runs), "--seed", str(seed))
    finished = run_python("-c", LAUNCHER, "-m", "tests.fuzz_targets", target, *options)
    assert finished.returncode == 0, f"--seed {seed}\n{finished.stdout[-2000:]}\n{finished.stderr[-4000:]}"
    assert f"Done {runs} runs" in finished.stderr


@pytest.mark.slow
def test_the_fuzzer_tells_what_is_no_refusal(run_python, tmp_path):
    # A reader with a fault, to see that it would be found.
    (tmp_path / "faulty.py").write_text(
        "from tests import fuzz_targets\n"
        "def read(content):\n    if content[5:6] > b'\\x80':\n        raise KeyError('a fault')\n"
        "target = fuzz_targets.targets()['idx']\n"
        "fuzz_targets.targets = lambda: {'faulty': fuzz_targets.Target(read, target.change, target.seeds)}\n"
        "fuzz_targets.main()\n"
    )
    finished = run_python("-c", LAUNCHER, "faulty.py", "faulty", "--runs", "100000", "--seed", "1")
    assert finished.returncode != 0
    assert "KeyError: 'a fault'" in finished.stdout + finished.stderr
    assert list(tmp_path.glob("crash-*")), (finished.stdout + finished.stderr)[-1000:]
