"""Jobs killed with SIGKILL at random moments: what is there in the end is what an undisturbed job leaves."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mnist_minimal import ledger
from mnist_minimal.ledger import Trial
from mnist_minimal.training import core

NEEDS_CORE = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")


# sep997 in a study that leaves the worse half of its trials at epoch 20.
RULED = """
from dataclasses import replace
from mnist_minimal import models, recipes
net = models.MODELS["sep997"]
RECIPES = {"net": replace(recipes.RECIPES["sep997"], worse_half=recipes.WorseHalf(trials=3, epoch=20, window=3))}
"""


def start(out: Path, model: str, *options: str) -> subprocess.Popen[str]:
    command = ("-m", "mnist_minimal.trials", "--model", model, "--dataset", "digits", "--out", out)
    return subprocess.Popen(
        [sys.executable, *command, *options],
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def last_change(folder: Path) -> float:
    """When a file of the folder was last written, or 0."""
    times = [0.0]
    for path in folder.glob("**/*"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # a temporary file that has just got its final name
            continue
    return max(times)


def run_to_the_end(out: Path, model: str, *options: str) -> None:
    process = start(out, model, *options)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def without_times(trial: Trial) -> Trial:
    return replace(trial, train_seconds=0.0, cpu_seconds=0.0, finished_at="")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "trainer", "kills", "longest_wait", "options"),
    [
        pytest.param("sep997", "native", 20, 2.0, ("--runs", "10", "--epochs", "60"), marks=NEEDS_CORE),
        pytest.param("sep997", "native", 4, 2.0, ("--runs", "6", "--epochs", "60", "--jobs", "3"), marks=NEEDS_CORE),
        pytest.param(
            "ruled:net", "native", 8, 2.0, ("--runs", "16", "--epochs", "40", "--jobs", "3"), marks=NEEDS_CORE
        ),
        ("sep997", "keras", 3, 3.0, ("--runs", "2", "--epochs", "6")),
    ],
)
def test_a_job_killed_again_and_again_ends_as_if_nothing_had_happened(
    tmp_path, model, trainer, kills, longest_wait, options
):
    (tmp_path / "ruled.py").write_text(RULED)
    options = (model, *options, "--trainer", trainer)
    seed = random.randrange(10**9)
    print(f"random moments from seed {seed}")
    moments = random.Random(seed)
    killed = tmp_path / "killed"
    while_running = 0
    for _ in range(kills):
        before = last_change(killed)
        process = start(killed, *options)
        # The moments that matter begin when training goes on; the imports before it touch nothing.
        while process.poll() is None and last_change(killed) == before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, longest_wait))
        while_running += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    run_to_the_end(killed, *options)
    print(f"{while_running} of {kills} kills came while the job was running")
    assert while_running > 0
    compare_with_an_undisturbed_job(killed, *options)


@pytest.mark.slow
@NEEDS_CORE
def test_two_runners_of_which_one_is_killed_leave_what_one_undisturbed_one_leaves(tmp_path):
    (tmp_path / "ruled.py").write_text(RULED)
    options = ("ruled:net", "--runs", "16", "--epochs", "40", "--trainer", "native")
    shared = tmp_path / "shared"
    runners = [start(shared, *options), start(shared, *options)]
    # Once some rows are there, both are at work.
    while not (shared / "ruled.net-digits.csv").exists() or len(ledger.read(shared / "ruled.net-digits.csv")) < 5:
        assert all(runner.poll() is None for runner in runners)
        time.sleep(0.01)
    runners[0].send_signal(signal.SIGKILL)
    for runner in runners:
        runner.communicate()
    assert [runner.returncode for runner in runners] == [-signal.SIGKILL, 0]
    run_to_the_end(shared, *options)
    compare_with_an_undisturbed_job(shared, *options)


def compare_with_an_undisturbed_job(out: Path, model: str, *options: str) -> None:
    undisturbed = out.parent / "undisturbed"
    # One trial after the other, whatever the other job did.
    run_to_the_end(undisturbed, model, *options, "--jobs", "1")
    study = f"{model.replace(':', '.')}-digits"
    rows, expected = (
        sorted((without_times(trial) for trial in ledger.read(folder / f"{study}.csv")), key=lambda trial: trial.seed)
        for folder in (out, undisturbed)
    )
    assert rows == expected
    stopped = sum(trial.status == "stopped" for trial in rows)
    print(f"{stopped} of {len(rows)} trials were stopped by the rule")
    assert (stopped > 0) == (model == "ruled:net")
    files = {path.name for path in (undisturbed / study).iterdir()}
    assert {path.name for path in (out / study).iterdir() if path.suffix != ".lock"} >= files
    for name in files:
        left, right = ((folder / study / name).read_bytes() for folder in (out, undisturbed))
        assert left == right, f"{name} differs"
    assert not list(out.glob("**/*.checkpoint.npz"))
