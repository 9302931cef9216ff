"""`mnist_minimal.status`: what another terminal sees of a job that runs, and of one that was killed."""

import json
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from mnist_minimal import status
from mnist_minimal.cli.run import run
from mnist_minimal.study import watching
from mnist_minimal.study.study import Study
from tests.study.test_ledger import FAILED, TRIAL, append_row


def wait_for(condition, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_a_job_that_runs_and_one_that_was_killed(tmp_path, capsys):
    epochs = "--set", "max_epochs=1000000", "--set", "early_stopping=null"
    job = subprocess.Popen(
        [
            sys.executable,
            *["-m", "mnist_minimal.trials", "--model", "sep997", "--dataset", "digits", "--runs", "3", "--seed", "5"],
            *epochs,
            "--out",
            tmp_path,
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: [path for path in tmp_path.glob("*/5.csv") if path.read_text().count("\n") > 2])
        assert run(status.main, ["--results", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        host = re.escape(socket.gethostname())
        assert re.search(rf"0 done, 0 of the 3 that are asked for; trained by process {job.pid} on {host} since", said)
        assert re.search(
            r"seed 5: running, epoch \d+ of at most 1000000, monitored accuracy 0\.\d{4}, last heard", said
        )
    finally:
        job.kill()
        job.wait()
    assert run(status.main, ["--results", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "0 done; nobody is training it" in said
    assert "seed 5: stale, epoch" in said


@pytest.fixture
def study(tmp_path) -> Study:
    """A study by hand: three trials of 100 s and 50 epochs each are done, one seed failed, another is at epoch 20."""
    study = Study(tmp_path, "sep997")
    study.folder.mkdir()
    for seed in range(3):
        append_row(study.csv, replace(TRIAL, seed=seed, epochs=50, best_epoch=40, train_seconds=100.0, max_epochs=200))
    append_row(study.csv, replace(FAILED, seed=3))
    rows = "".join(f"{epoch},.5,.8,.4,.{80 + epoch % 10},.01\r\n" for epoch in range(20))
    study.history(4).write_text(f"epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\r\n{rows}")
    return study


def owned_by(study: Study, **facts) -> None:
    study.owner.write_text(json.dumps({"process": 1, "host": "elsewhere", "since": "today", **facts}))


def test_the_time_left_is_that_of_the_mean_trial(study):
    owned_by(study, runs=10, seed=0, jobs=2)
    found = watching.progress(study)
    assert (found.done, found.failed, found.asked, found.asked_done) == (3, 1, 10, 3)
    (running,) = found.underway
    assert (running.seed, running.epochs, running.accuracy, running.stale) == (4, 20, 0.89, False)
    # Seven trials of 100 s, of which 20 epochs of 2 s are behind one, two side by side.
    assert found.left == pytest.approx((7 * 100 - 20 * 2) / 2)


def test_a_job_without_end_has_no_time_left(study):
    owned_by(study, runs=None, seed=0, jobs=1)
    found = watching.progress(study)
    assert (found.asked, found.left) == (None, None)
    assert found.owner


def test_an_owner_that_has_gone_is_none(study):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owned_by(study, runs=10, seed=0, jobs=1, process=gone.pid, host=socket.gethostname())
    found = watching.progress(study)
    assert found.owner == ""
    assert [trial.stale for trial in found.underway] == [True]


def test_a_study_that_was_stopped_before_its_first_row_is_there(tmp_path, study, capsys):
    study.csv.unlink()
    study.checkpoint(4).touch()
    assert run(status.main, ["--results", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "0 done; nobody is training it" in said
    assert "seed 4: stale, epoch 20" in said


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"process": "x", "host": "y", "since": 1, "runs": 2}'])
def test_an_owner_that_is_being_written_is_none(content, study):
    study.owner.write_text(content)
    assert watching.progress(study).owner == ""


def test_no_study(tmp_path, capsys, study):
    assert run(status.main, ["--results", str(tmp_path), "sep996"]) == 2
    assert "sep996: found no such study" in capsys.readouterr().err
    assert run(status.main, ["--results", str(tmp_path / "none")]) == 2
    assert "found no study, expected one" in capsys.readouterr().err
