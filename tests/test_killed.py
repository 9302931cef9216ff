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


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    command = ("-m", "mnist_minimal.trials", "--model", "sep997", "--dataset", "digits", "--out", out)
    return subprocess.Popen(
        [sys.executable, *command, *options],
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


def run_to_the_end(out: Path, *options: str) -> None:
    process = start(out, *options)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def without_times(trial: Trial) -> Trial:
    return replace(trial, train_seconds=0.0, cpu_seconds=0.0, finished_at="")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "kills", "longest_wait", "options"),
    [
        pytest.param("native", 20, 2.0, ("--runs", "10", "--epochs", "60"), marks=NEEDS_CORE),
        pytest.param("native", 4, 2.0, ("--runs", "6", "--epochs", "60", "--jobs", "3"), marks=NEEDS_CORE),
        pytest.param("keras", 3, 3.0, ("--runs", "2", "--epochs", "6")),
    ],
)
def test_a_job_killed_again_and_again_ends_as_if_nothing_had_happened(tmp_path, trainer, kills, longest_wait, options):
    options = (*options, "--trainer", trainer)
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
    undisturbed = tmp_path / "undisturbed"
    run_to_the_end(undisturbed, *options)
    print(f"{while_running} of {kills} kills came while the job was running")
    assert while_running > 0

    rows, expected = (
        sorted((without_times(trial) for trial in ledger.read(out / "sep997-digits.csv")), key=lambda trial: trial.seed)
        for out in (killed, undisturbed)
    )
    assert rows == expected
    files = {path.name for path in (undisturbed / "sep997-digits").iterdir()}
    assert {path.name for path in (killed / "sep997-digits").iterdir() if path.suffix != ".lock"} >= files
    for name in files:
        left, right = ((out / "sep997-digits" / name).read_bytes() for out in (killed, undisturbed))
        assert left == right, f"{name} differs"
    assert not list(killed.glob("**/*.checkpoint.npz"))
