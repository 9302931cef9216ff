"""Faults that are really caused: what was finished is there exactly once, and the same command goes on.

Each test notes how many faults it caused, how many of them the job survived (in the end all is as an undisturbed job
leaves it) and how many finished trials were lost; `python -m pytest tests/test_faults.py` prints the table of README.md.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mnist_minimal import ledger
from mnist_minimal.training import core
from tests.disturbances import AtStep, Edit, FillDisk, KillHalfwayThroughARow, ReadOnly, Signal, Unprivileged, kill
from tests.jobs import Job, differences

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built"),
]

OPTIONS = ("--runs", "2", "--epochs", "2", "--trainer", "native")


class Count:
    """Counts the faults of a test as they are caused."""

    def __init__(self, undisturbed: Job) -> None:
        self.undisturbed = undisturbed
        self.caused = self.survived = self.lost = 0
        self.what: list[str] = []

    def goes_on(self, job: Job, before: list[ledger.Trial], disturb: Callable[[], None] | None = None) -> None:
        """Gives the command again and looks at what is there then.

        Args:
            job: The job that met a fault.
            before: Its finished trials when the fault came.
            disturb: As of `Job.start`.
        """
        self.caused += 1
        status, output = job.run(disturb)
        assert "Traceback" not in output, output
        found = differences(job, self.undisturbed, before) if status == 0 else [f"status {status}: {output}"]
        self.survived += not found
        self.lost += sum(trial not in job.rows() for trial in before)
        self.what += found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Job:
    job = Job(tmp_path_factory.mktemp("undisturbed"), OPTIONS)
    status, output = job.run()
    assert status == 0, output
    return job


@pytest.fixture
def count(request, undisturbed) -> Iterator[Count]:
    """Counts this test's faults for the table, and fails it unless each was survived and none lost a trial."""
    count = Count(undisturbed)
    yield count
    request.node.user_properties.append(("faults", (count.caused, count.survived, count.lost)))
    assert count.caused > 0
    assert (count.survived, count.lost) == (count.caused, 0), count.what


@pytest.fixture
def new_job(tmp_path) -> Callable[[], Job]:
    """Jobs like the undisturbed one, each in a folder of its own."""

    def job() -> Job:
        return Job(Path(tempfile.mkdtemp(dir=tmp_path)), OPTIONS)

    return job


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A folder with 3 MB of room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root's right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which everybody may write."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def rows(job: Job) -> list[ledger.Trial]:
    return job.rows() if job.csv.exists() else []


def one_error(output: str, *said: str) -> None:
    """Asserts that a job ended with one plain line that says all this."""
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert all(text in errors[0] for text in said), errors[0]
    assert "Traceback" not in output
    assert "Exception ignored" not in output


def test_kill_before_every_step_that_changes_a_file(count, new_job):
    for step in itertools.count(1):
        job = new_job()
        status, output = job.run(AtStep(step, kill))
        if status == 0:
            break
        assert status == -signal.SIGKILL, output
        count.goes_on(job, rows(job))
    # The folder, the JSON, and for each trial two checkpoints, the model and the row at least.
    assert count.caused > 15


@pytest.mark.parametrize("row", [1, 2])
def test_kill_halfway_through_a_row(count, new_job, row):
    job = new_job()
    status, _ = job.run(KillHalfwayThroughARow(row))
    assert status == -signal.SIGKILL
    assert not job.csv.read_bytes().endswith(b"\n")
    count.goes_on(job, rows(job))
    assert len(job.csv.with_name(f"{job.csv.name}.torn").read_text().splitlines()) == 1


def test_kill_while_a_model_is_written(count, new_job):
    in_writing = 0
    for attempt in range(8):
        job = new_job()
        running = job.start()
        temporary = job.study / f".{attempt % 2}.h5"
        while not temporary.exists() and running.process.is_alive():
            pass
        time.sleep(random.uniform(0, 0.02))
        running.process.kill()
        running.ended()
        in_writing += temporary.exists()
        count.goes_on(job, rows(job))
        assert not temporary.exists()
    print(f"{in_writing} of {count.caused} kills left a part of a model")


def test_full_disk_at_every_step_that_changes_a_file(count, new_job, small_disk):
    for step in itertools.count(1):
        job = replace(new_job(), out=small_disk / "results")
        status, output = job.run(AtStep(step, FillDisk(small_disk)))
        full = (small_disk / "fill").exists()
        (small_disk / "fill").unlink(missing_ok=True)
        if not full:
            assert status == 0, output
            break
        # A disk that fills up when nothing more is to be written does no harm.
        if status != 0:
            assert status == 2
            one_error(output, str(small_disk), "No space left on device")
        count.goes_on(job, rows(job))
        shutil.rmtree(job.results)
    assert count.caused > 15
