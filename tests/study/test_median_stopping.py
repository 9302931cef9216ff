"""The rule that ends the worse half of the trials early: by hand, against NumPy's median, in any order of training."""

import dataclasses
import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mnist_minimal import trials
from mnist_minimal.engines.processes import WorkerProcesses
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import RECIPES, MedianStopping
from mnist_minimal.study import ledger
from mnist_minimal.study.median_stopping import Comparison, LeftError
from mnist_minimal.study.study import Study, open_study
from mnist_minimal.trial import EpochReport, Report, Trial
from tests.study.test_ledger import FAILED, TRIAL
from tests.study.test_trials import Recorder

RULE = MedianStopping(trials=3, epoch=4, window=2)
IMAGES = 1000
HEADER = "epoch,accuracy,learning_rate,loss,val_accuracy,val_loss"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return new_study(tmp_path / "results")


def new_study(out: Path) -> Study:
    study = Study.of(out, "sep697", "mnist", "source")
    open_study(study, RECIPES["sep697"], 2000)
    return study


def write_history(study: Study, seed: int, *accuracies: float) -> None:
    rows = [f"{epoch},0.5,0.01,1.0,{accuracy},1.0" for epoch, accuracy in enumerate(accuracies)]
    study.history(seed).write_text("\r\n".join([HEADER, *rows, ""]))


def never() -> None:
    pytest.fail("waited, where all is known")


def decide(study: Study, seed: int, rule: MedianStopping = RULE, wait=never) -> str:
    return Comparison(study, rule, IMAGES).reason_to_stop(seed, range(10), wait)


# One decision, worked by hand.


@pytest.fixture
def three(study: Study) -> Study:
    """Seeds 0 to 2 with 0.9, 0.92 and 0.96 as the means of epochs 3 and 4: the median is 0.92."""
    for seed, accuracies in enumerate([(0.88, 0.92), (0.91, 0.93), (0.96, 0.96)]):
        write_history(study, seed, 0.5, 0.6, *accuracies, 0.99)
    return study


@pytest.mark.parametrize(
    ("accuracies", "reason"),
    [
        ((0.92, 0.919), "median stopping at epoch 4: 0.919500 < 0.920000 (median of 3)"),
        ((0.9, 0.94), ""),
        ((0.919, 0.922), ""),
    ],
)
def test_a_trial_below_the_median_of_lower_seeds_stops(three, accuracies, reason):
    write_history(three, 3, 0.99, 0.99, *accuracies)
    assert decide(three, 3) == reason


def test_of_an_even_number_the_median_lies_between_the_two_in_the_middle(three):
    write_history(three, 3, 0.5, 0.5, 0.95, 0.95)
    # 0.9, 0.92, 0.95, 0.96: the median is 0.935.
    write_history(three, 4, 0.5, 0.5, 0.93, 0.939)
    assert decide(three, 4) == "median stopping at epoch 4: 0.934500 < 0.935000 (median of 4)"
    write_history(three, 4, 0.5, 0.5, 0.93, 0.94)
    assert decide(three, 4) == ""


def test_the_first_trials_go_on_whatever_they_are_and_wait_for_nobody(study):
    write_history(study, 2, 0.1, 0.1, 0.1, 0.1)
    assert decide(study, 2) == ""


def test_higher_seeds_do_not_matter(three):
    write_history(three, 3, 0.5, 0.5, 0.9, 0.9)
    before = decide(three, 3)
    for seed in range(4, 8):
        write_history(three, seed, 0.1, 0.1, 0.1, 0.1)
        ledger.append(three.csv, dataclasses.replace(TRIAL, seed=seed))
    assert decide(three, 3) == before != ""


def test_seeds_outside_the_job_count_where_the_csv_has_them(three):
    for seed in range(3):
        ledger.append(three.csv, dataclasses.replace(TRIAL, seed=seed))
    write_history(three, 30, 0.5, 0.5, 0.9, 0.9)
    compared = Comparison(three, RULE, IMAGES)
    assert compared.reason_to_stop(30, [30], never).endswith("< 0.920000 (median of 3)")


def test_keras_float32_ratios_are_the_counts_they_stand_for(study):
    """0.919 as a float32 is 0.91900002...; as a mean of ratios it would lie above the same count's ratio."""
    for seed in range(3):
        write_history(study, seed, *[float(np.float32(0.919))] * 4)
    write_history(study, 3, *[0.919] * 4)
    assert float(np.float32(0.919)) > 0.919
    assert decide(study, 3) == ""


def test_a_trial_that_its_recipe_ended_before_counts_with_its_last_epochs(three):
    write_history(three, 2, 0.2, 0.96, 0.96)
    ledger.append(three.csv, dataclasses.replace(TRIAL, seed=2, epochs=3))
    write_history(three, 3, 0.5, 0.5, 0.919, 0.919)
    assert decide(three, 3).endswith("0.919000 < 0.920000 (median of 3)")
    write_history(three, 2, 0.91)
    three.csv.unlink()
    ledger.append(three.csv, dataclasses.replace(TRIAL, seed=2, epochs=1))
    write_history(three, 3, 0.5, 0.5, 0.909, 0.909)
    assert decide(three, 3).endswith("0.909000 < 0.910000 (median of 3)")


def test_no_image_right_is_a_figure_too(study):
    for seed in range(3):
        write_history(study, seed, 0.0, 0.0, 0.0, 0.0)
        ledger.append(study.csv, dataclasses.replace(TRIAL, seed=seed))
    for seed in (3, 4):
        write_history(study, seed, 0.2, 0.2, 0.2, 0.2)
    write_history(study, 5, 0.0, 0.0, 0.0, 0.0)
    # The median of 0, 0, 0, 0.2 and 0.2 is 0, which 0 is not below.
    assert decide(study, 5) == ""


def test_a_trial_that_failed_before_is_not_counted_and_one_that_failed_after_is(three):
    ledger.append(three.csv, dataclasses.replace(FAILED, seed=2))
    write_history(three, 3, 0.5, 0.5, 0.9, 0.9)
    assert decide(three, 3) != ""
    write_history(three, 2, 0.5, 0.6)
    assert decide(three, 3) == ""


def test_a_finished_trial_whose_history_was_removed_is_not_counted(three):
    ledger.append(three.csv, dataclasses.replace(TRIAL, seed=2))
    three.history(2).unlink()
    write_history(three, 3, 0.5, 0.5, 0.9, 0.9)
    assert decide(three, 3) == ""


def test_a_trial_that_nobody_trains_is_named(three):
    write_history(three, 1, 0.5, 0.6)
    write_history(three, 3, 0.5, 0.5, 0.9, 0.9)
    with pytest.raises(LeftError) as left:
        decide(three, 3)
    assert left.value.seed == 1


def test_a_trial_on_its_way_is_waited_for_and_half_a_line_is_not_yet_there(three):
    steps = iter([(0.5, 0.6, 0.91), (0.5, 0.6, 0.91, 0.9), (0.5, 0.6, 0.91, 0.93)])
    waited = []

    def wait():
        waited.append(True)
        write_history(three, 1, *next(steps))
        if len(waited) == 2:
            # "0.93" of which only "0.9" is written.
            history = three.history(1)
            history.write_bytes(history.read_bytes().removesuffix(b",1.0\r\n"))

    write_history(three, 1, 0.5)
    write_history(three, 3, 0.5, 0.5, 0.91, 0.92)
    with FileLock(three.claim(1)):
        assert decide(three, 3, wait=wait).endswith("0.915000 < 0.920000 (median of 3)")
    assert len(waited) == 3


@pytest.mark.parametrize("content", ["epoch,loss\n0,1\n", "\x00\n\n1\n", f"{HEADER}\n0,1\n"])
def test_a_damaged_history_is_named(three, content):
    three.history(1).write_text(content)
    write_history(three, 3, 0.5, 0.5, 0.91, 0.92)
    with pytest.raises(UserError, match=r"1\.csv: expected the history of a trial.*or remove it to leave that trial"):
        decide(three, 3)


# Many decisions: the same in any order, whoever trains.

EPOCHS = 7
SEEDS = 24


def accuracies(seed: int) -> list[float]:
    """A seed's accuracies; few enough that some figures are equal."""
    return [0.9 + count / IMAGES for count in np.random.default_rng(seed).integers(0, 8, EPOCHS).tolist()]


def to_stop(seeds: range, failing: tuple[int, ...] = ()) -> set[int]:
    """The seeds that the rule stops, by NumPy from all the figures."""
    figures = {seed: sum(round(a * IMAGES) for a in accuracies(seed)[2:4]) for seed in seeds if seed not in failing}
    lower = {seed: [figures[other] for other in figures if other < seed] for seed in figures}
    return {seed for seed in figures if len(lower[seed]) >= 3 and figures[seed] < np.median(lower[seed])}


@dataclasses.dataclass
class Engine:
    """Trains nothing: writes a seed's history, epoch by epoch, at a pace of its own."""

    study: Study
    pause: float = 0.003
    failing: tuple[int, ...] = ()

    def __call__(self, seed: int, report: Report) -> Trial:
        given = accuracies(seed)
        for epoch in range(1, EPOCHS + 1):
            time.sleep(random.uniform(0, self.pause))
            if seed in self.failing and epoch == 2:
                raise MemoryError("no room")
            write_history(self.study, seed, *given[:epoch])
            reason = report(EpochReport(seed, epoch, EPOCHS, given[epoch - 1], max(given[:epoch])))
            if reason:
                break
        figures = {"epochs": epoch, "best_epoch": 1, "saved_accuracy": given[epoch - 1], "best_accuracy": max(given)}
        return dataclasses.replace(
            TRIAL, seed=seed, reason=reason, status="stopped" if reason else "finished", **figures
        )


def failed(seed: int, reason: str) -> Trial:
    return dataclasses.replace(FAILED, seed=seed, reason=reason)


def run(study: Study, engine=None, seeds=range(SEEDS), **options) -> list[int]:
    comparison = Comparison(study, RULE, IMAGES)
    return trials.run_trials(
        engine or Engine(study), failed, study, seeds, Recorder(), comparison=comparison, **options
    )


def by_status(study: Study, status: str) -> set[int]:
    return {trial.seed for trial in ledger.read(study.csv) if trial.status == status}


def test_the_oracle_stops_some_and_not_all():
    assert 5 < len(to_stop(range(SEEDS))) < 18
    assert to_stop(range(SEEDS)) != to_stop(range(SEEDS), failing=(1, 6))


@pytest.mark.parametrize("jobs", [1, 3, 8])
def test_the_same_trials_are_stopped_however_many_run_side_by_side(study, jobs):
    assert run(study, jobs=jobs) == []
    assert by_status(study, "stopped") == to_stop(range(SEEDS))
    assert by_status(study, "finished") == set(range(SEEDS)) - to_stop(range(SEEDS))
    rows = {trial.seed: trial for trial in ledger.read(study.csv)}
    assert all((rows[seed].epochs == 4) == (seed in to_stop(range(SEEDS))) for seed in rows)
    # A stopped trial is not trained again.
    before = study.csv.read_bytes()
    run(study, jobs=jobs)
    assert study.csv.read_bytes() == before


def test_a_lower_seed_that_is_slow_is_waited_for(study):
    def slow_first(seed, report):
        return Engine(study, pause=0.2 if seed < 3 else 0.0)(seed, report)

    run(study, slow_first, jobs=8)
    assert by_status(study, "stopped") == to_stop(range(SEEDS))


@pytest.mark.parametrize("jobs", [1, 3])
def test_failed_trials_are_not_waited_for_and_not_counted(study, jobs):
    run(study, Engine(study, failing=(1, 6)), jobs=jobs)
    assert by_status(study, "failed") == {1, 6}
    assert by_status(study, "stopped") == to_stop(range(SEEDS), failing=(1, 6))


def test_a_job_in_two_parts_stops_the_same_trials(study):
    run(study, seeds=range(11), jobs=2)
    run(study, seeds=range(SEEDS), jobs=2)
    assert by_status(study, "stopped") == to_stop(range(SEEDS))


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_interrupt_ends_a_job_that_waits(study, jobs):
    interrupted = threading.Event()
    comparison = Comparison(study, RULE, IMAGES)
    # Another runner trains seed 2 and comes to no end.
    with FileLock(study.claim(2)):
        threading.Timer(1.0, interrupted.set).start()
        with pytest.raises(KeyboardInterrupt):
            trials.run_trials(
                Engine(study),
                failed,
                study,
                range(SEEDS),
                Recorder(),
                jobs=jobs,
                comparison=comparison,
                interrupted=interrupted,
            )
    assert by_status(study, "finished") == {0, 1}
    run(study, jobs=jobs)
    assert by_status(study, "stopped") == to_stop(range(SEEDS))


def test_until_ends_the_trials_that_wait(study):
    def reach_without_a_history(seed, report):
        if seed == 0:
            # The others come to the rule's epoch meanwhile, and wait.
            time.sleep(1)
            return dataclasses.replace(TRIAL, best_accuracy=0.99)
        return dataclasses.replace(Engine(study, pause=0.05)(seed, report), best_accuracy=0.9)

    run(study, reach_without_a_history, seeds=itertools.count(), jobs=5, until=0.99)
    assert by_status(study, "finished") == {0, 1, 2}


def test_until_may_be_reached_by_a_stopped_trial(study):
    stopped = min(to_stop(range(SEEDS)))

    def best_is_stopped(seed, report):
        return dataclasses.replace(Engine(study)(seed, report), best_accuracy=0.99 if seed == stopped else 0.9)

    run(study, best_is_stopped, seeds=itertools.count(), until=0.99)
    assert {trial.seed for trial in ledger.read(study.csv)} == set(range(stopped + 1))


@dataclasses.dataclass
class MakeEngine:
    """Picklable, as what `WorkerProcesses` is handed must be."""

    out: Path

    def __call__(self) -> Engine:
        return Engine(new_study(self.out))


def test_worker_processes_stop_the_same_trials(study):
    workers = WorkerProcesses(MakeEngine(study.out), 2)
    run(study, workers, jobs=2, stop_training=workers.stop)
    assert by_status(study, "stopped") == to_stop(range(SEEDS))
    assert by_status(study, "failed") == set()


def _run_all(out: Path) -> None:
    run(new_study(out))


def test_two_runners_on_one_folder_stop_the_same_trials(study):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run_all, args=(study.out,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(trial.seed for trial in ledger.read(study.csv)) == list(range(SEEDS))
    assert by_status(study, "stopped") == to_stop(range(SEEDS))


def _train_two_and_hang(out: Path) -> None:
    study = new_study(out)

    def hang_at_two(seed, report):
        if seed == 2:
            write_history(study, seed, 0.5)
            time.sleep(600)
        return Engine(study)(seed, report)

    run(study, hang_at_two)


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("in_processes", [False, True])
def test_the_seed_of_a_runner_that_is_killed_is_taken_over(study, jobs, in_processes):
    other = multiprocessing.get_context("spawn").Process(target=_train_two_and_hang, args=(study.out,))
    other.start()
    while not study.history(2).exists():
        time.sleep(0.01)
    # By then this runner has come to seed 3 and waits for seed 2.
    threading.Timer(3.0, os.kill, (other.pid, signal.SIGKILL)).start()
    if in_processes:
        workers = WorkerProcesses(MakeEngine(study.out), jobs)
        assert run(study, workers, jobs=jobs, stop_training=workers.stop) == []
    else:
        assert run(study, jobs=jobs) == []
    other.join()
    assert sorted(trial.seed for trial in ledger.read(study.csv)) == list(range(SEEDS))
    assert by_status(study, "stopped") == to_stop(range(SEEDS))
    assert by_status(study, "failed") == set()
