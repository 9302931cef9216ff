"""Jobs of trials that are trained together, killed with SIGKILL: they end as if nothing had happened."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_minimal.engines.slots import SlotEngine
from mnist_minimal.study import slots
from mnist_minimal.study.ledger import Ledger
from mnist_minimal.study.ownership import owned
from mnist_minimal.study.runner import missing, run_trials
from tests.disturbances import AtStep, kill
from tests.jobs import SERVER, Job, differences
from tests.study.test_slots import files_of, job_in, make, rows

TRIALS, PLACES = 5, 2


def train(folder: Path, disturb: Callable[[], None] | None = None) -> None:
    """Trains what is missing, with a checkpoint after every epoch; the program is the one that trains nothing."""
    slots.SECONDS_BETWEEN_CHECKPOINTS = 0
    job = job_in(folder)
    if disturb:
        disturb()
    with owned(job.study):
        table, found = Ledger(job.study), make(job, PLACES)
        run_trials(SlotEngine(found, found.failed), table, missing(table, range(TRIALS)), [])


def in_a_process(*arguments: object) -> multiprocessing.process.BaseProcess:
    process = SERVER.Process(target=train, args=arguments)
    process.start()
    process.join(300)
    return process


# Of the 200 steps or so that change a file.
@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 200, 12))
def test_killed_before_a_step_that_changes_a_file(tmp_path, step):
    job, other = (job_in(tmp_path / name) for name in ("killed", "undisturbed"))
    killed = in_a_process(tmp_path / "killed", AtStep(step, kill)).exitcode == -9
    assert killed or step > 100
    before = rows(job)
    train(tmp_path / "killed")
    train(tmp_path / "undisturbed")
    assert rows(job) == rows(other)
    assert all(row in rows(job) for row in before)
    assert files_of(job) == files_of(other)


OWN = "from tests.study.test_slots_trials import net, RECIPE\nRECIPES = {'net': RECIPE.replace(early_stopping=None)}\n"


def every_epoch() -> None:
    """Has a job write its checkpoint after every epoch."""
    slots.SECONDS_BETWEEN_CHECKPOINTS = 0


@pytest.mark.slow
def test_a_job_of_jax_that_is_killed_is_resumed_to_the_same_trials(tmp_path):
    options = ("--runs", "3", "--epochs", "6", "--trainer", "jax", "--jobs", "2")
    job, undisturbed = (Job(tmp_path / name, options, "own:net") for name in ("killed", "undisturbed"))
    for each in (job, undisturbed):
        each.folder.mkdir()
        (each.folder / "own.py").write_text(OWN)
    running, checkpoint = job.start(every_epoch), job.study / "slots.checkpoint.npz"
    while running.process.is_alive() and not checkpoint.exists():
        running.process.join(0.05)
    running.process.kill()
    running.ended()
    assert checkpoint.exists()
    status, output = job.run(every_epoch)
    assert status == 0, output
    assert output.count("resumed after epoch") == 2
    assert undisturbed.run()[0] == 0
    assert not differences(job, undisturbed)
    facts = json.loads(job.csv.with_suffix(".json").read_text())
    assert (facts["trainer"], facts["versions"]["places"]) == ("jax", 2)
