"""A Dask cluster of real processes in which each kind of them is killed, paused or wrong: every trial exactly once.

In the end all is, bit by bit, what the same command leaves that trains one trial after the other in one process.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mnist_minimal.training import core
from mnist_minimal.trial import Trial
from tests.dask_processes import (
    Another,
    Cluster,
    Impatient,
    other_bits,
    patient,
    wait_until,
    without_the_engine,
)
from tests.jobs import Job, Running, differences
from tests.whole import whole_only

pytest.importorskip("distributed")

pytestmark = [
    pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built"),
    pytest.mark.slow,
]

# sep997 with a median stopping rule, which asks the coordinator of every trial in the middle.
RULED = """
from dataclasses import replace
from mnist_minimal import models, recipes
net = models.MODELS["sep997"]
rule = recipes.MedianStopping(trials=2, epoch=4, window=2)
RECIPES = {"net": replace(recipes.RECIPES["sep997"], median_stopping=rule)}
"""

OPTIONS = ("--runs", "6", "--epochs", "12", "--trainer", "native")


def job_in(folder: Path, *options: str) -> Job:
    folder.mkdir(exist_ok=True)
    (folder / "ruled.py").write_text(RULED)
    return Job(folder, (*OPTIONS, *options), "ruled:net")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Job:
    job = job_in(tmp_path_factory.mktemp("undisturbed"))
    status, output = job.run()
    assert status == 0, output
    # The rule has stopped some, so that the coordinator's answers matter.
    assert {trial.status for trial in job.rows()} == {"finished", "stopped"}
    return job


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    job_in(tmp_path)
    with Cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def job(cluster) -> Job:
    return job_in(cluster.folder, "--dask", str(cluster.file))


@pytest.fixture
def check(request, undisturbed) -> Callable[[Job, Running, list[Trial]], str]:
    """Asserts that a job ends as the undisturbed one did, and notes that a fault was caused and survived."""

    def ended(job: Job, running: Running, before: list[Trial]) -> str:
        status, output = running.ended()
        assert "Traceback" not in output, output
        found = differences(job, undisturbed, before) if status == 0 else [f"status {status}: {output}"]
        lost = sum(trial not in job.rows() for trial in before)
        request.node.user_properties.append(("faults", (1, int(not found), lost)))
        assert not found
        assert [trial.seed for trial in job.rows()] == list(range(6))
        return output

    return ended


def rows(job: Job) -> list[Trial]:
    return job.rows() if job.csv.exists() else []


def printed(running: Running) -> str:
    return running.output.read_text() if running.output.exists() else ""


def some_row_and(job: Job, training: Callable[[str], int], name: str) -> Callable[[], bool]:
    """Whether a trial has ended and a worker is in the middle of another."""
    return lambda: bool(rows(job)) and training(name) > 0


def test_a_worker_is_killed(cluster, job, check):
    for name in ("a", "b"):
        cluster.start_worker(name)
    running = job.start()
    with cluster.watched() as training:
        wait_until(some_row_and(job, training, "a"))
        cluster.signal("a", signal.SIGKILL)
    check(job, running, rows(job))


@whole_only
def test_a_worker_is_paused_for_longer_than_its_time(cluster, job, check):
    for name in ("a", "b"):
        cluster.start_worker(name)
    running = job.start(Impatient(5))
    with cluster.watched() as training:
        wait_until(some_row_and(job, training, "a"))
        cluster.signal("a", signal.SIGSTOP)
        before = rows(job)
        # It is paused until after the end.
        check(job, running, before)
        assert training("a") == 0


def test_workers_of_another_version_or_other_bits_take_no_part_and_one_that_joins_late_does(cluster, job, check):
    running = job.start(patient)
    wait_until(lambda: "The cluster has no worker yet; the trials begin when one joins." in printed(running))
    cluster.start_worker("other version", Another())
    cluster.start_worker("other bits", other_bits)
    cluster.start_worker("no engine", without_the_engine)
    wait_until(lambda: printed(running).count("takes no part") == 2)
    wait_until(lambda: "left as it was made ready" in printed(running))
    assert not rows(job)
    cluster.start_worker("good")
    output = check(job, running, [])
    for reason in (
        "takes no part: it has mnist_minimal 0.0.1, expected ",
        f"this study was trained with numerics {core.NUMERICS}, and now it would be unverified: ",
    ):
        assert reason in output


def test_the_scheduler_is_killed(cluster, job, check):
    for name in ("a", "b"):
        cluster.start_worker(name)
    running = job.start()
    wait_until(lambda: rows(job))
    cluster.scheduler.kill()
    status, output = running.ended()
    assert status == 2, output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "expected the Dask scheduler to answer, found that it has gone" in errors[0]
    assert "the same command resumes the job" in errors[0]
    assert "Traceback" not in output
    before = rows(job)
    cluster.kill_workers()
    cluster.start_scheduler()
    cluster.start_worker("c")
    check(job, job.start(), before)


def test_the_coordinator_is_killed(cluster, job, check):
    for name in ("a", "b"):
        cluster.start_worker(name)
    running = job.start()
    with cluster.watched() as training:
        wait_until(some_row_and(job, training, "a"))
        os.kill(running.process.pid, signal.SIGKILL)
        running.ended()
        before = rows(job)
        # The workers drop what nobody asks for any more.
        wait_until(lambda: training("a") == training("b") == 0)
        check(job, job.start(), before)
