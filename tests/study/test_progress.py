"""Progress: plain lines where there is no terminal, bars where there is one, and an honest guess of the time left."""

import os
import pty
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from mnist_minimal.study import progress
from mnist_minimal.study.progress import Lines, Pace, duration, trial_line
from mnist_minimal.trial import EpochReport
from tests.conftest import REPOSITORY
from tests.study.test_ledger import FAILED, TRIAL


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (42.4, "42 s"), (200, "3 min"), (3900, "65 min"), (7500, "2 h 05 min")]
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is set."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_is_bounded_first_and_estimated_after_a_trial(clock):
    pace = Pace(to_go=3, jobs=1)
    assert pace.left() == ""
    pace.trial_started(0)
    clock[0] += 20
    pace.epoch_ended(EpochReport(0, 2, 2, 200, 0.9, 0.9))
    # 10 s an epoch: at most 3 trials of 200 epochs, 20 s of them spent.
    assert pace.left() == f"at most {duration(5980)} left"
    clock[0] += 580
    pace.trial_ended(0)
    pace.trial_started(1)
    clock[0] += 100
    # One trial took 600 s; two are to go, and 100 s of them are spent.
    assert pace.left() == f"about {duration(1100)} left"


def test_two_jobs_need_half_the_time(clock):
    pace = Pace(to_go=4, jobs=2)
    for seed in (0, 1):
        pace.trial_started(seed)
    clock[0] += 600
    for seed in (0, 1):
        pace.trial_ended(seed)
    assert pace.left() == f"about {duration(600)} left"


def test_a_job_without_end_has_no_time_left(clock):
    pace = Pace(to_go=None, jobs=1)
    pace.trial_started(0)
    pace.trial_ended(0)
    assert pace.left() == ""


def test_lines_say_each_trial_and_now_and_then_an_epoch(clock, capsys):
    lines = Lines(Pace(to_go=None, jobs=1), done=0)
    lines.trial_started(7)
    for epoch in range(1, 8):
        clock[0] += 10
        lines.epoch_ended(EpochReport(7, epoch, epoch, 200, 0.9 + epoch / 100, 0.98))
    lines.trial_ended(replace(TRIAL, seed=7))
    assert capsys.readouterr().out.splitlines() == [
        "An epoch takes about 10 s here: a trial at most 33 min (200 epochs)",
        "seed 7: epoch 5 (of at most 200), monitored images 0.9500, best 0.9800",
        "seed 7: last epoch 0.9876, best 0.9881 at epoch 46 of 71, kept model 0.9881, 21 min; 1 done",
    ]


def test_a_job_says_how_long_it_takes_once_epochs_have_been_measured(clock, capsys):
    lines = Lines(Pace(to_go=5, jobs=2), done=0)
    lines.trial_started(0)
    clock[0] += 20  # Something is compiled.
    for epoch in range(1, 30):
        lines.epoch_ended(EpochReport(0, epoch, epoch, 200, 0.9, 0.9))
        clock[0] += 0.3
    # The first that lies 1 s or more behind the first epoch is the fifth, at 1.2 s. Five trials of 60 s two by two.
    (said,) = capsys.readouterr().out.splitlines()[:1]
    assert said == (
        "An epoch takes about 0.3 s here: a trial at most 60 s (200 epochs), the 5 of this job at most 3 min"
    )


def test_a_resumed_trial_says_after_which_epoch(clock, capsys):
    lines = Lines(Pace(to_go=1, jobs=1), done=0)
    lines.trial_started(3)
    lines.epoch_ended(EpochReport(3, 41, 0, 200, 0.9, 0.9))
    assert capsys.readouterr().out == "seed 3: resumed after epoch 41 (of at most 200)\n"


def test_a_failed_trial_says_why():
    assert trial_line(FAILED) == 'seed 0 failed: MemoryError: no room for 7 "GB", sorry'


def test_a_stopped_trial_says_why_and_its_figures():
    reason = "median stopping at epoch 100: 0.979870 < 0.981200 (median of 30)"
    assert trial_line(replace(TRIAL, status="stopped", reason=reason, epochs=100)) == (
        f"seed 0 stopped, {reason}: last epoch 0.9876, best 0.9881 at epoch 46 of 100, kept model 0.9881, 21 min"
    )


SHOW = """
from dataclasses import replace
from mnist_minimal.study.progress import display; from mnist_minimal.trial import EpochReport
from tests.study.test_ledger import TRIAL
shown = display(3, 1, 1)
shown.trial_started(5)
shown.epoch_ended(EpochReport(5, 4, 4, 200, 0.9765, 0.9777))
shown.live.refresh()
shown.trial_ended(replace(TRIAL, seed=5))
shown.trial_started(6)
shown.epoch_ended(EpochReport(6, 41, 0, 200, 0.9, 0.9))
shown.live.refresh()
shown.close()
"""


def test_bars_on_a_terminal():
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW],
        stdout=terminal,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "110"},
    )
    os.close(terminal)
    written = b""
    while True:
        try:
            written += os.read(main, 4096)
        except OSError:
            break
    assert process.wait() == 0
    text = written.decode()
    assert "\x1b[" in text
    for words in ("trials", "1/3", "2/3", "seed 5", "4/200", "monitored images 0.9765, best 0.9777", "at most"):
        assert words in text
    assert "seed 6, resumed after epoch 41" in text
    # What the terminal writes of Ctrl-C does not lengthen a bar, of which rich would then not erase enough.
    assert re.search(r"best 0\.9777 *(\x1b\[0m)?\r\n", text)
