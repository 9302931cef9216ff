"""Kills, signals and training that fails, really caused: what was finished stays, and the same command goes on.

Each test notes how many faults it caused, how many of them the job survived (in the end all is as an undisturbed job
leaves it) and how many finished trials were lost; the end of a run prints a table of them.
"""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mnist_minimal.training import core
from tests.disturbances import AtStep, KillHalfwayThroughARow, Signal, kill
from tests.faults import OPTIONS, one_error, rows
from tests.jobs import Job
from tests.whole import STRIDE, WHOLE, whole_only

pytestmark = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")


# A kill at every step of a job takes minutes; at some of them, seconds.
@pytest.mark.parametrize(
    "stride", [pytest.param(80, id="some"), pytest.param(STRIDE, id="more", marks=pytest.mark.slow)]
)
def test_kill_before_every_step_that_changes_a_file(count, new_job, stride):
    for step in itertools.count(1, stride):
        job = new_job()
        status, output = job.run(AtStep(step, kill))
        if status == 0:
            break
        assert status == -signal.SIGKILL, output
        count.goes_on(job, rows(job))
    # The folder, the JSON, and for each trial two checkpoints, the model and the row at least.
    assert count.caused * stride > 15


@pytest.mark.parametrize("row", [1, 2])
@pytest.mark.slow
def test_kill_halfway_through_a_row(count, new_job, row):
    job = new_job()
    status, _ = job.run(KillHalfwayThroughARow(row))
    assert status == -signal.SIGKILL
    assert not job.csv.read_bytes().endswith(b"\n")
    count.goes_on(job, rows(job))
    assert len(job.csv.with_name(f"{job.csv.name}.torn").read_text().splitlines()) == 1


@pytest.mark.slow
def test_kill_while_a_model_is_written(count, new_job):
    in_writing = 0
    for attempt in range(8 if WHOLE else 4):
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


@pytest.mark.slow
def test_a_study_that_another_job_is_training_is_refused_until_that_ends(count, new_job):
    job = replace(new_job(), options=("--runs", "2", "--epochs", "200", "--trainer", "native"))
    running = job.start()
    while not (job.study / "0.csv").exists():
        assert running.process.is_alive()
        time.sleep(0.01)
    folders = [Path(tempfile.mkdtemp(dir=job.folder)) for _ in range(7)]
    for status, output in (replace(job, folder=folder, out=job.results).run() for folder in folders):
        assert status == 2
        one_error(output, f"process {running.process.pid} on ", "is training this study", "another folder with --out")
    # Whoever dies gives the study away.
    running.process.kill()
    running.ended()
    job = replace(new_job(), out=job.results)
    (job.results / "sep997-digits.json").unlink()
    for checkpoint in job.study.glob("*.checkpoint.npz"):
        checkpoint.unlink()
    count.goes_on(job, rows(job))


CLOCK = """
#include <time.h>
#include <sys/time.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The day before yesterday by every clock that tells the date. */
static const long BACK = 2 * 86400;

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec -= BACK;
    return status;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec time;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.mark.slow
def test_clock_set_back(count, new_job, run_python, tmp_path):
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or not compiler:
        pytest.skip("needs Linux and a C compiler to set a process's clock back")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "clock.c"], check=True)
    job = new_job()
    assert job.run(AtStep(1, kill, "1.checkpoint.npz", ("replace",)))[0] == -signal.SIGKILL
    before = rows(job)
    model = ("--model", "sep997", "--dataset", "digits")
    finished = run_python("-m", "mnist_minimal.trials", *model, "--out", job.results, *OPTIONS, LD_PRELOAD=str(library))
    assert finished.returncode == 0, finished.stderr
    first, second = job.rows()
    assert second.finished_at < first.finished_at
    count.goes_on(job, [*before, second])


# A network that does harm in the training of about half of the seeds, as long as a file is there.
FRAGILE = """
import random
from pathlib import Path

import keras
import numpy as np

from mnist_minimal.recipes import RECIPES as PUBLISHED


class Fragile(keras.layers.Layer):
    def call(self, pixels, training=False):
        if training and self.drawn < 0.5 and Path("armed").exists():
            {harm}
        return pixels


def net():
    fragile = Fragile()
    # Before Keras draws from it.
    fragile.drawn = random.random()
    layers = [keras.layers.AveragePooling2D(4), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Rescaling(1 / 255), fragile, *layers])


RECIPES = {{"net": PUBLISHED["sep997"]}}
"""


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        pytest.param(
            "return pixels * float('nan')",
            "DivergedError: the training loss became nan in epoch 1",
            id="loss that is no number",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "np.ones(2**50)",
            "Exception encountered when calling Fragile.call()",
            id="no memory",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_harm_in_some_trials_of_many(new_job, request, harm, reason):
    job = replace(new_job(), model="fragile:net", options=("--runs", "4", "--epochs", "1"))
    (job.folder / "fragile.py").write_text(FRAGILE.format(harm=harm))
    (job.folder / "armed").touch()
    harmed = {seed for seed in range(4) if random.Random(seed).random() < 0.5}
    status, output = job.run()
    assert status == 1, output
    assert "Traceback" not in output
    before = [trial for trial in rows(job) if trial.status == "finished"]
    assert {trial.seed for trial in before} == set(range(4)) - harmed
    assert {trial.seed for trial in rows(job) if reason in trial.reason} == harmed
    (job.folder / "armed").unlink()
    status, output = job.run()
    assert status == 0, output
    finished = [trial for trial in rows(job) if trial.status == "finished"]
    assert [trial.seed for trial in finished] == list(range(4))
    lost = sum(trial not in finished for trial in before)
    request.node.user_properties.append(("faults", (len(harmed), len(harmed), lost)))
    assert lost == 0


DIVERGING = """
from dataclasses import replace

from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES as PUBLISHED, AdamW

net = MODELS["sep997"]
RECIPES = {"net": replace(PUBLISHED["sep997"], optimizer=AdamW(learning_rate=1e38, weight_decay=0.0))}
"""


def test_training_in_the_core_that_diverges_for_every_seed(new_job, request):
    job = replace(new_job(), model="diverging:net", options=("--runs", "5", "--epochs", "2"))
    (job.folder / "diverging.py").write_text(DIVERGING)
    status, output = job.run()
    assert status == 2
    one_error(output, "3 trials in a row failed", "the training loss became")
    assert [trial.seed for trial in rows(job)] == [0, 1, 2]
    status, output = job.run()
    assert status == 1
    assert {trial.seed for trial in rows(job) if trial.status == "failed"} == set(range(5))
    assert "0 finished trials, 5 failed" in output
    request.node.user_properties.append(("faults", (5, 5, 0)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "jobs"),
    [
        (signal.SIGINT, "1"),
        pytest.param(signal.SIGTERM, "2", marks=whole_only),
        pytest.param(signal.SIGHUP, "1", marks=whole_only),
        pytest.param(signal.SIGINT, "2", marks=whole_only),
        pytest.param(signal.SIGTERM, "1", marks=whole_only),
        pytest.param(signal.SIGHUP, "2", marks=whole_only),
    ],
)
def test_signals_at_steps_of_a_job(count, new_job, number, jobs):
    for step in itertools.count(2, 4 if WHOLE else STRIDE):
        job = replace(new_job(), options=(*OPTIONS, "--jobs", jobs))
        status, output = job.run(AtStep(step, Signal(number)))
        if status == 0:
            break
        assert status == 130, output
        # In other words where nothing was begun yet.
        assert "topped" in output
        assert "Traceback" not in output
        count.goes_on(job, rows(job))
    assert count.caused > 3


def children(process: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False).stdout.split()
    return [int(child) for child in found] + [each for child in found for each in children(int(child))]


def trainers(running) -> list[int]:
    """The processes in which Keras trains for a job; empty as long as they are not there."""
    return [
        child for child in children(running.process.pid) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.fixture(scope="module")
def undisturbed_by_keras(tmp_path_factory) -> Job:
    job = Job(tmp_path_factory.mktemp("keras"), (*OPTIONS[:-1], "keras"))
    status, output = job.run()
    assert status == 0, output
    return job


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to find the processes of a job")
@pytest.mark.parametrize("whose", [pytest.param("job's", marks=whole_only), "trial's"])
def test_kill_of_one_of_the_processes_in_which_keras_trains(request, new_job, undisturbed_by_keras, whose):
    job = replace(new_job(), options=(*undisturbed_by_keras.options, "--jobs", "2"))
    running = job.start()
    while not (job.study / "1.checkpoint.npz").exists():
        assert running.process.is_alive()
        time.sleep(0.01)
    workers = trainers(running)
    assert len(workers) == 2
    if whose == "job's":
        running.process.kill()
        running.ended()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "the trials go on without their job"
            time.sleep(0.01)
        before = rows(job)
    else:
        os.kill(workers[0], signal.SIGKILL)
        status, output = running.ended()
        assert status in (0, 1), output
        assert "Traceback" not in output
        before = [trial for trial in rows(job) if trial.status == "finished"]
        (failed,) = (trial for trial in rows(job) if trial.status == "failed")
        assert "the trial's process died (exit code -9); too little memory?" in failed.reason
    status, output = job.run()
    assert status == 0, output
    finished = [trial for trial in rows(job) if trial.status == "finished"]
    assert [trial.seed for trial in finished] == [0, 1]
    lost = sum(trial not in finished for trial in before)
    request.node.user_properties.append(("faults", (1, 1, lost)))
    assert lost == 0
