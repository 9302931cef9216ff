"""The runner, with an engine that needs no training, and the command as a user runs it."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from mnist_minimal import trials
from mnist_minimal.engines.processes import WorkerProcesses
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import RECIPES
from mnist_minimal.study import ledger
from mnist_minimal.study.study import Study, open_study
from mnist_minimal.training import core
from mnist_minimal.trial import EpochReport, Trial
from tests.conftest import REPOSITORY
from tests.study.test_ledger import FAILED, TRIAL


class Recorder:
    """A display that remembers."""

    def __init__(self):
        self.started, self.reports, self.ended = [], [], []

    def trial_started(self, seed):
        self.started.append(seed)

    def epoch_ended(self, report):
        self.reports.append(report)

    def trial_ended(self, trial, trials):
        self.ended.append((trial.seed, trial.status, trials))

    def close(self):
        pass


def train(seed: int, report: Callable[[EpochReport], None]) -> Trial:
    """An engine that gives a seed's accuracy at once: 0.985 for seed 0, 0.0005 more for each next one."""
    report(EpochReport(seed, 1, 200, 0.97, 0.97))
    accuracy = round(0.985 + seed / 2000, 4)
    return replace(TRIAL, seed=seed, best_accuracy=accuracy, saved_accuracy=accuracy - 0.0005)


def failed(seed: int, reason: str) -> Trial:
    return replace(FAILED, seed=seed, reason=reason)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study.of(tmp_path / "results", "sep997", "mnist", "source")
    open_study(study, RECIPES["sep997"], 200)
    return study


@pytest.fixture
def shown() -> Recorder:
    return Recorder()


def seeds(study: Study) -> list[int]:
    return [trial.seed for trial in ledger.finished(ledger.read(study.csv))]


def test_every_seed_is_trained_once_and_recorded(study, shown):
    assert trials.run_trials(train, failed, study, range(3, 7), shown) == []
    assert seeds(study) == [3, 4, 5, 6]
    assert shown.started == [3, 4, 5, 6]
    assert shown.ended == [(3, "finished", 1), (4, "finished", 2), (5, "finished", 3), (6, "finished", 4)]
    assert [report.seed for report in shown.reports] == [3, 4, 5, 6]


def test_finished_seeds_are_skipped_and_missing_ones_run(study, shown):
    trials.run_trials(train, failed, study, [1, 3], shown)
    trials.run_trials(train, failed, study, range(5), shown)
    assert seeds(study) == [1, 3, 0, 2, 4]


def test_what_a_kill_after_the_row_left_behind_is_removed(study, shown):
    trials.run_trials(train, failed, study, [0], shown)
    study.checkpoint(0).touch()
    trials.run_trials(train, failed, study, range(2), shown)
    assert not study.checkpoint(0).exists()


def test_a_row_is_there_before_the_next_trial_starts(study, shown):
    def train_looking_back(seed, report):
        assert seeds(study) == list(range(seed))
        return train(seed, report)

    trials.run_trials(train_looking_back, failed, study, range(3), shown)
    assert seeds(study) == [0, 1, 2]


def test_a_failed_trial_is_recorded_with_its_reason_and_tried_again_next_time(study, shown):
    def fail_at_one(seed, report):
        if seed == 1:
            raise MemoryError("no room")
        return train(seed, report)

    trials.run_trials(fail_at_one, failed, study, range(3), shown)
    assert [(trial.seed, trial.status, trial.reason) for trial in ledger.read(study.csv)] == [
        (0, "finished", ""),
        (1, "failed", "MemoryError: no room"),
        (2, "finished", ""),
    ]
    trials.run_trials(train, failed, study, range(3), shown)
    assert seeds(study) == [0, 2, 1]


def test_three_failures_in_a_row_end_a_job_without_end(study, shown):
    def fail(seed, report):
        raise ValueError(f"seed {seed} is broken")

    with pytest.raises(UserError, match="3 trials in a row failed, the last one with: ValueError: seed 2 is broken"):
        trials.run_trials(fail, failed, study, itertools.count(), shown)
    assert len(ledger.read(study.csv)) == 3


def test_an_error_of_the_user_is_no_failed_trial(study, shown):
    def refuse(seed, report):
        raise UserError("this can't be trained")

    with pytest.raises(UserError, match="this can't be trained"):
        trials.run_trials(refuse, failed, study, range(3), shown)
    assert ledger.read(study.csv) == []


def test_until_stops_at_the_first_trial_that_reaches_it(study, shown):
    # Seed 10 has 0.985 + 0.005.
    trials.run_trials(train, failed, study, itertools.count(), shown, until=0.99)
    assert seeds(study) == list(range(11))


def test_a_seed_that_another_runner_holds_is_left_to_it(study, shown):
    with FileLock(study.claim(1)):
        assert trials.run_trials(train, failed, study, range(3), shown) == [1]
    assert seeds(study) == [0, 2]


@pytest.mark.parametrize("jobs", [2, 5])
def test_jobs_side_by_side_train_every_seed_once(study, shown, jobs):
    running, most = set(), []

    def train_slowly(seed, report):
        running.add(seed)
        most.append(len(running))
        time.sleep(0.02)
        running.discard(seed)
        return train(seed, report)

    trials.run_trials(train_slowly, failed, study, range(12), shown, jobs=jobs)
    assert sorted(seeds(study)) == list(range(12))
    assert 1 < max(most) <= jobs


def test_until_stops_the_jobs_beside(study, shown):
    released = threading.Event()

    def train_or_wait(seed, report):
        if seed == 0:
            released.wait(30)
            report(EpochReport(seed, 2, 200, 0.9, 0.9))
        return train(seed, report)

    trials.run_trials(train_or_wait, failed, study, range(10), shown, jobs=2, until=0.9865, stop_training=released.set)
    assert seeds(study) == [1, 2, 3]


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_interrupt_that_python_drops_ends_the_job_at_the_next_epoch(study, shown, jobs):
    interrupted = threading.Event()

    def train_and_be_interrupted(seed, report):
        if seed == 4:
            interrupted.set()
        return train(seed, report)

    with pytest.raises(KeyboardInterrupt):
        trials.run_trials(
            train_and_be_interrupted, failed, study, itertools.count(), shown, jobs=jobs, interrupted=interrupted
        )
    assert 4 not in seeds(study)
    assert jobs > 1 or seeds(study) == [0, 1, 2, 3]
    assert all(trial.status == "finished" for trial in ledger.read(study.csv))


def test_an_error_in_one_job_ends_all(study, shown):
    def refuse(seed, report):
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        trials.run_trials(refuse, failed, study, range(10), shown, jobs=3)


def _run_all(study: Study) -> None:
    trials.run_trials(train, failed, study, range(20), Recorder())


def test_eight_runners_on_one_csv_train_every_seed_once(study):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run_all, args=(study,)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(seeds(study)) == list(range(20))


def _make_train() -> Callable:
    return train


def _make_fragile_train() -> Callable:
    def die_at_one(seed, report):
        if seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 2:
            raise ValueError("wrong seed")
        return train(seed, report)

    return die_at_one


def test_worker_processes_give_the_same_rows(study, shown):
    workers = WorkerProcesses(_make_train, 2)
    trials.run_trials(workers, failed, study, range(4), shown, jobs=2, stop_training=workers.stop)
    assert sorted(trial.best_accuracy for trial in ledger.read(study.csv)) == [0.985, 0.9855, 0.986, 0.9865]
    assert sorted(report.seed for report in shown.reports) == [0, 1, 2, 3]


def test_a_process_that_dies_is_a_failed_trial_and_the_others_go_on(study, shown):
    workers = WorkerProcesses(_make_fragile_train, 2)
    trials.run_trials(workers, failed, study, range(5), shown, jobs=2, stop_training=workers.stop)
    rows = {trial.seed: (trial.status, trial.reason) for trial in ledger.read(study.csv)}
    assert rows.pop(1) == ("failed", "the trial's process died (exit code -9); too little memory?")
    assert rows.pop(2) == ("failed", "ValueError: wrong seed")
    assert {status for status, _ in rows.values()} == {"finished"}
    assert rows.keys() == {0, 3, 4}


# The command, as a user runs it.

COMMAND = ("-m", "mnist_minimal.trials", "--model", "sep997", "--dataset", "digits", "--epochs", "1")


@pytest.fixture(scope="module")
def finished_job(tmp_path_factory) -> Path:
    """The folder where a job of two short trials on the digits was run."""
    folder = tmp_path_factory.mktemp("job")
    finished = subprocess.run(
        [sys.executable, *COMMAND, "--runs", "2"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    (folder / "output").write_text(finished.stdout)
    return folder


def test_the_main_job_leaves_csv_recipe_models_and_histories(finished_job):
    results = finished_job / "results"
    rows = ledger.read(results / "sep997-digits.csv")
    assert [(row.model, row.params, row.dataset, row.protocol, row.trainer, row.seed, row.epochs) for row in rows] == [
        ("sep997", 997, "digits", "source", "native" if core.available() else "keras", seed, 1) for seed in (0, 1)
    ]
    assert [row.weights for row in rows] == ["sep997-digits/0.h5", "sep997-digits/1.h5"]
    assert all((results / row.weights).stat().st_size > 0 for row in rows)
    # Under the source's protocol the restored weights are those of the best epoch on the test set.
    assert all(row.test_correct / row.test_size == row.best_accuracy for row in rows)
    recipe = json.loads((results / "sep997-digits.json").read_text())
    assert recipe["recipe"] == RECIPES["sep997"].as_dict()
    assert recipe["max_epochs"] == 1
    history = (results / "sep997-digits/1.csv").read_text().splitlines()
    assert history[0] == "epoch,accuracy,learning_rate,loss,val_accuracy,val_loss"
    assert len(history) == 2


def test_the_main_job_says_what_came_out(finished_job):
    output = (finished_job / "output").read_text()
    rows = ledger.read(finished_job / "results/sep997-digits.csv")
    mean = sum(row.saved_accuracy for row in rows) / 2
    assert "sep997 on digits, protocol source: 2 finished trials, 0 failed" in output
    assert "The epochs were capped at 1; the recipe has up to 200." in output
    assert f"saved accuracy     2  {mean:.6f}" in output
    assert "0 of 2 (95 %: 0% to 66%)" in output
    assert "\x1b" not in output
    assert f"seed 1: saved {rows[1].saved_accuracy:.4f}" in output


def test_the_same_command_again_runs_nothing_and_more_runs_only_what_is_missing(finished_job, run_python):
    out = ("--out", finished_job / "results")
    before = (finished_job / "results/sep997-digits.csv").read_text()
    left_by_a_kill = finished_job / "results/sep997-digits/1.checkpoint.npz"
    left_by_a_kill.touch()
    again = run_python(*COMMAND, "--runs", "2", *out)
    assert again.returncode == 0, again.stderr
    assert (finished_job / "results/sep997-digits.csv").read_text() == before
    assert not left_by_a_kill.exists()
    more = run_python(*COMMAND, "--runs", "3", *out)
    assert more.returncode == 0, more.stderr
    after = (finished_job / "results/sep997-digits.csv").read_text()
    assert after.startswith(before)
    assert [row.seed for row in ledger.read(finished_job / "results/sep997-digits.csv")] == [0, 1, 2]


@pytest.mark.parametrize("trainer", ["auto", "keras"])
def test_a_trial_gives_the_same_bits_in_another_process_and_beside_others(run_python, tmp_path, trainer):
    for jobs in ("1", "2"):
        options = ("--runs", "2", "--trainer", trainer, "--jobs", jobs, "--out", tmp_path / jobs)
        finished = run_python(*COMMAND, *options)
        assert finished.returncode == 0, finished.stderr
    for name in ("0.h5", "1.h5", "0.csv", "1.csv"):
        one, two = (tmp_path / jobs / "sep997-digits" / name for jobs in ("1", "2"))
        assert one.read_bytes() == two.read_bytes()


def test_another_cap_on_the_epochs_does_not_join_the_study(finished_job, run_python):
    finished = run_python(*COMMAND[:-1], "2", "--runs", "3", "--out", finished_job / "results")
    assert finished.returncode == 2
    assert "this study was begun with max_epochs 1, and now it would be 2" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_study_goes_on_where_its_recipe_is_only_described_in_other_words(tmp_path):
    study, recipe = Study.of(tmp_path, "sep997", "mnist", "source"), RECIPES["sep997"]
    open_study(study, replace(recipe, source="https://example.org", assumed=("Nothing.",)), 200)
    open_study(study, recipe, 200)
    with pytest.raises(UserError, match=r"begun with recipe\.batch_size 128, and now it would be 64"):
        open_study(study, replace(recipe, batch_size=64), 200)


@pytest.mark.parametrize(
    ("asked_with", "options"),
    [
        (signal.SIGINT, ("--trainer", "keras")),
        (signal.SIGINT, ("--trainer", "keras", "--jobs", "2")),
        (signal.SIGTERM, ()),
        (signal.SIGHUP, ("--jobs", "2")),
    ],
)
def test_a_job_asked_to_stop_ends_cleanly_says_how_to_go_on_and_does(tmp_path, run_python, asked_with, options):
    out = tmp_path / "results"
    process = subprocess.Popen(
        [sys.executable, *COMMAND, *options, "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("seed 1:"):
            break
    process.send_signal(asked_with)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "Stopped; the same command goes on from here." in output
    done = {row.seed for row in ledger.read(out / "sep997-digits.csv")}
    assert 1 in done
    finished = run_python(*COMMAND, *options, "--runs", str(max(done) + 2), "--out", out)
    assert finished.returncode == 0, finished.stderr
    assert sorted(row.seed for row in ledger.read(out / "sep997-digits.csv")) == list(range(max(done) + 2))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--runs", "0"), "--runs: expected a whole number of at least 1, found '0'"),
        (("--seed", "-1"), "--seed: expected a whole number from 0"),
        (("--until", "99"), "--until: expected an accuracy above 0 and at most 1, such as 0.99, found '99'"),
        (("--model", "sep998"), "--model: expected one of the models conv18242, gap13914, "),
        (("--model", "sep998"), "or one of your own as module:function, such as mypackage.nets:tiny, found 'sep998'"),
        (("--model", "sep997", "--recipe", "sep697"), "sep997 is trained by its own recipe"),
    ],
)
def test_wrong_options_are_refused_in_one_line(run_python, arguments, complaint):
    finished = run_python("-m", "mnist_minimal.trials", "--model", "sep997", *arguments)
    assert finished.returncode == 2
    assert complaint in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_read_only_output_folder_is_an_error_before_any_training(run_python, tmp_path):
    (tmp_path / "file").write_text("")
    finished = run_python(*COMMAND, "--runs", "1", "--out", tmp_path / "file" / "results")
    assert finished.returncode == 2
    assert "error: " in finished.stderr
    assert "can't be written or read (Not a directory); choose another folder with --out" in finished.stderr


@pytest.mark.slow
def test_sep997_on_mnist_by_the_main_job(run_python, tmp_path, mnist_path):
    finished = run_python(
        *("-m", "mnist_minimal.trials", "--model", "sep997", "--runs", "1", "--epochs", "2", "--data", mnist_path)
    )
    assert finished.returncode == 0, finished.stderr
    (row,) = ledger.read(tmp_path / "results/sep997.csv")
    assert (row.dataset, row.test_size, row.epochs) == ("mnist", 10_000, 2)
    assert 0.9 < row.best_accuracy < 0.99
