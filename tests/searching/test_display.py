"""What a terminal shows of a search, and how it is left."""

import io
import os
import pty
import subprocess
import sys

import optuna
import pytest
from rich.console import Console

from mnist_minimal.models.searched import Candidate
from mnist_minimal.searching import storage
from mnist_minimal.searching.display import MOST_TRAININGS, Table
from mnist_minimal.searching.evaluation import Score
from mnist_minimal.searching.interfaces import Training
from mnist_minimal.searching.rungs import rungs
from mnist_minimal.searching.space import COORDINATES, Space
from tests.conftest import REPOSITORY

HIDES, SHOWS = "\x1b[?25l", "\x1b[?25h"


def judged_study() -> optuna.Study:
    """A study with a candidate that was judged."""
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    candidate: Candidate = Space(120, 9).decode(dict.fromkeys(COORDINATES, 0.5))
    trial.set_user_attr(storage.NAME, candidate.name)
    trial.set_user_attr(storage.PARAMS, candidate.network.parameters)
    trial.set_user_attr(storage.CANDIDATE, candidate.as_dict())
    for place, correct in enumerate((110, 112, 114, 120)):
        trial.set_user_attr(storage.score_key(2, place), storage.plain(Score(correct, 125, 0.3, 1375, 1.0)))
    trial.report(0.9, 2)
    study.tell(trial, 0.9)
    return study


def shown(table: Table) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table.content())
    return console.file.getvalue()


def test_a_terminal_shows_what_runs_and_the_time_left_as_it_passes():
    table = Table(rungs(9), Console(file=io.StringIO()))
    study, left = judged_study(), iter(["42 s left", "41 s left"])
    table.begun(study, lambda: next(left))
    table.training(7, Training("candidate 1, rung 2 of 3", 1, 2, 3))
    table.training(7, Training("candidate 1, rung 2 of 3", 1, 2, 3, epoch=2))
    table.training(8, Training("finalist c100_0", 2, 5, 9))
    table.training(9, Training("candidates 2 to 9, rung 2 of 3", 5, 16, 3, epoch=1, slots=4))
    text = shown(table)
    # The median and the best one of 110, 112, 114 and 120 of 125.
    assert study.trials[0].user_attrs[storage.NAME] in text
    assert "0.9040" in text
    assert "0.9600" in text
    assert "in training: candidate 1, rung 2 of 3, seed 1 of 2, epoch 2 of 3\n" in text
    assert "in training: finalist c100_0, seed 2 of 5, 9 epochs\n" in text
    assert "in training: candidates 2 to 9, rung 2 of 3, trainings 5 to 8 of 16, epoch 1 of 3\n" in text
    assert "1 candidate done, 42 s left\n" in text
    table.training(7, None)
    text = shown(table)
    assert "candidate 1, rung" not in text
    assert "1 candidate done, 41 s left\n" in text


def test_more_trainings_than_a_terminal_has_room_for_are_counted():
    table = Table(rungs(9), Console(file=io.StringIO()))
    for job in range(MOST_TRAININGS + 3):
        table.training(job, Training(f"candidate {job}, rung 1 of 3", 1, 1, 1))
    text = shown(table)
    assert text.count("in training: ") == MOST_TRAININGS
    assert "and 3 more" in text


def test_a_display_that_is_not_begun_leaves_the_terminal_as_it_is():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    table = Table(rungs(9), console)
    assert console.file.getvalue() == ""
    with pytest.raises(KeyboardInterrupt), table:
        raise KeyboardInterrupt
    assert console.file.getvalue().rindex(SHOWS) > console.file.getvalue().rindex(HIDES)


@pytest.mark.slow
def test_what_is_refused_leaves_the_cursor_of_the_terminal(tmp_path):
    pytest.importorskip("distributed")
    command = [sys.executable, "-m", "mnist_minimal.search", "--dataset", "digits", "--max-params", "120"]
    ours, theirs = pty.openpty()
    found = subprocess.run(
        [*command, "--budget", "1m", "--dask", "none.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"},
        check=False,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = os.read(ours, 100_000).decode()
    os.close(ours)
    assert found.returncode == 2
    assert "expected a Dask scheduler" in text
    assert text.count(HIDES) == text.count(SHOWS)
