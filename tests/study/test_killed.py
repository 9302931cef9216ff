"""Jobs killed with SIGKILL at random moments: what is there in the end is what an undisturbed job leaves."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_minimal.training import core
from tests.jobs import Job, differences
from tests.whole import WHOLE, whole_only

NEEDS_CORE = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")
SLOW = [NEEDS_CORE, pytest.mark.slow]


# sep997 with a median stopping rule at epoch 20, and by SOAP, which has new bases in every second or third epoch here,
# with weights that are averaged from epoch 12 of 30 on.
RULED = """
from dataclasses import replace
from mnist_minimal import models, recipes
net = averaged = models.MODELS["sep997"]
rule = recipes.MedianStopping(trials=3, epoch=20, window=3)
RECIPES = {
    "net": replace(recipes.RECIPES["sep997"], median_stopping=rule),
    "averaged": replace(
        recipes.RECIPES["sep997-cosine"],
        max_epochs=30,
        optimizer=recipes.SOAP(0.02),
        averaging=recipes.Averaging(0.4),
    ),
}
"""


def last_change(folder: Path) -> float:
    """When a file of the folder was last written, or 0."""
    times = [0.0]
    for path in folder.glob("**/*"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # a temporary file that has just got its final name
            continue
    return max(times)


def run_to_the_end(job: Job) -> None:
    status, output = job.run()
    assert status == 0, output


@pytest.fixture
def new_job(tmp_path) -> Callable[..., Job]:
    """Jobs of one model with one set of options, each in a folder of its own."""

    def job(name: str, model: str, options: tuple[str, ...]) -> Job:
        (tmp_path / name).mkdir()
        (tmp_path / name / "ruled.py").write_text(RULED)
        return Job(tmp_path / name, options, model)

    return job


@pytest.mark.parametrize(
    ("model", "trainer", "kills", "longest_wait", "options"),
    [
        pytest.param(
            "ruled:net", "native", 2, 1.0, ("--runs", "8", "--epochs", "25", "--jobs", "2"), marks=[*SLOW, whole_only]
        ),
        pytest.param("ruled:averaged", "native", 4, 1.0, ("--runs", "8" if WHOLE else "4", "--jobs", "2"), marks=SLOW),
        pytest.param("sep997", "native", 8 if WHOLE else 5, 2.0, ("--runs", "5", "--epochs", "60"), marks=SLOW),
        pytest.param(
            "sep997", "native", 4, 2.0, ("--runs", "6", "--epochs", "60", "--jobs", "3"), marks=[*SLOW, whole_only]
        ),
        pytest.param(
            "ruled:net", "native", 8, 2.0, ("--runs", "16", "--epochs", "40", "--jobs", "3"), marks=[*SLOW, whole_only]
        ),
        pytest.param("sep997", "keras", 3, 3.0, ("--runs", "2", "--epochs", "6"), marks=[pytest.mark.slow, whole_only]),
    ],
)
def test_a_job_killed_again_and_again_ends_as_if_nothing_had_happened(
    new_job, request, model, trainer, kills, longest_wait, options
):
    job = new_job("killed", model, (*options, "--trainer", trainer))
    seed = random.randrange(10**9)
    print(f"random moments from seed {seed}")
    moments = random.Random(seed)
    while_running, lost = 0, []
    for _ in range(kills):
        before, rows = last_change(job.folder), job.rows() if job.csv.exists() else []
        running = job.start()
        # The moments that matter begin when training goes on.
        while running.process.is_alive() and last_change(job.results) <= before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, longest_wait))
        while_running += running.process.is_alive()
        running.process.kill()
        running.ended()
        lost += [trial for trial in rows if trial not in job.rows()]
    before = job.rows()
    run_to_the_end(job)
    print(f"{while_running} of {kills} kills came while the job was running")
    assert while_running > 0
    # One trial after the other, whatever the other job did.
    undisturbed = new_job("undisturbed", model, (*job.options, "--jobs", "1"))
    run_to_the_end(undisturbed)
    found = differences(job, undisturbed, before)
    request.node.user_properties.append(("faults", (while_running, 0 if found else while_running, len(lost))))
    assert not lost
    assert not found
    stopped = sum(trial.status == "stopped" for trial in job.rows())
    print(f"{stopped} of {len(job.rows())} trials were stopped by the rule")
    assert (stopped > 0) == (model == "ruled:net")
