"""The median stopping rule: decisions worked by hand, and against NumPy's median in any order of training."""

import dataclasses
import random
import time
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mnist_minimal import recipes
from mnist_minimal.engines.processes import ProcessTrain
from mnist_minimal.engines.threads import ThreadEngine
from mnist_minimal.errors import UserError
from mnist_minimal.study import ledger
from mnist_minimal.study.ledger import Ledger
from mnist_minimal.study.policies import MedianStopping, Until, milestone
from mnist_minimal.study.runner import missing, run_trials
from mnist_minimal.study.study import Study
from mnist_minimal.trial import EpochReport, Owner, Trial
from tests.study.test_ledger import FAILED, TRIAL

RULE = recipes.MedianStopping(trials=3, epoch=4, window=2)
IMAGES = 1000
HEADER = "epoch,accuracy,learning_rate,loss,val_accuracy,val_loss"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study(tmp_path, "sep697")
    study.folder.mkdir()
    return study


def write_history(study: Study, seed: int, *accuracies: float) -> None:
    rows = [f"{epoch},0.5,0.01,1.0,{accuracy},1.0" for epoch, accuracy in enumerate(accuracies)]
    study.history(seed).write_text("\r\n".join([HEADER, *rows, ""]))


def report(seed: int, accuracies: Sequence[float], epoch: int = RULE.epoch) -> EpochReport:
    """A trial at an epoch of the rule or after it."""
    figure = milestone(accuracies[: RULE.epoch], RULE, IMAGES)
    return EpochReport(seed, epoch, epoch, 200, accuracies[-1], max(accuracies), figure)


class Decision:
    """The policy in a job whose seeds come to the rule's epoch one after the other."""

    def __init__(self, study: Study, trials: Iterable[Trial] = ()) -> None:
        self.policy = MedianStopping(RULE, study, trials, IMAGES)

    def of(self, seed: int, *accuracies: float) -> str | None:
        self.policy.trial_started(seed)
        now = report(seed, accuracies)
        self.policy.epoch_ended(now)
        return self.policy.reason_to_stop(now)


# One decision, worked by hand.


@pytest.fixture
def three(study: Study) -> Decision:
    """Seeds 0 to 2 with 0.9, 0.92 and 0.96 as the means of epochs 3 and 4: the median is 0.92."""
    decision = Decision(study)
    for seed, accuracies in enumerate([(0.88, 0.92), (0.91, 0.93), (0.96, 0.96)]):
        # The first go on whatever they are, and wait for nobody.
        assert decision.of(seed, 0.5, 0.6, *accuracies) == ""
    return decision


@pytest.mark.parametrize(
    ("accuracies", "reason"),
    [
        ((0.92, 0.919), "median stopping at epoch 4: 0.919500 < 0.920000 (median of 3)"),
        ((0.9, 0.94), ""),
        ((0.919, 0.922), ""),
    ],
)
def test_a_trial_below_the_median_of_lower_seeds_stops(three, accuracies, reason):
    assert three.of(3, 0.99, 0.99, *accuracies) == reason


def test_of_an_even_number_the_median_lies_between_the_two_in_the_middle(three):
    three.of(3, 0.5, 0.5, 0.95, 0.95)
    # 0.9, 0.92, 0.95, 0.96: the median is 0.935.
    assert three.of(4, 0.5, 0.5, 0.93, 0.939) == "median stopping at epoch 4: 0.934500 < 0.935000 (median of 4)"


def test_a_figure_that_is_the_median_goes_on(three):
    three.of(3, 0.5, 0.5, 0.95, 0.95)
    assert three.of(4, 0.5, 0.5, 0.93, 0.94) == ""


def test_higher_seeds_do_not_matter(three, study):
    before = three.of(3, 0.5, 0.5, 0.9, 0.9)
    higher = [dataclasses.replace(TRIAL, seed=seed) for seed in range(4, 8)]
    for trial in higher:
        write_history(study, trial.seed, 0.1, 0.1, 0.1, 0.1)
    decision = Decision(study, higher)
    for seed, accuracies in enumerate([(0.88, 0.92), (0.91, 0.93), (0.96, 0.96)]):
        decision.of(seed, 0.5, 0.6, *accuracies)
    assert decision.of(3, 0.5, 0.5, 0.9, 0.9) == before != ""


def test_trials_that_the_csv_has_count_by_their_histories(study):
    for seed, accuracy in enumerate((0.9, 0.92, 0.96)):
        write_history(study, seed, 0.5, 0.5, accuracy, accuracy, 0.99)
    decision = Decision(study, [dataclasses.replace(TRIAL, seed=seed) for seed in range(3)])
    assert decision.of(30, 0.5, 0.5, 0.9, 0.9).endswith("< 0.920000 (median of 3)")


def test_keras_float32_ratios_are_the_counts_they_stand_for(study):
    """0.919 as a float32 is 0.91900002...; as a mean of ratios it would lie above the same count's ratio."""
    decision = Decision(study)
    for seed in range(3):
        decision.of(seed, *[float(np.float32(0.919))] * 4)
    assert float(np.float32(0.919)) > 0.919
    assert decision.of(3, *[0.919] * 4) == ""


def test_a_trial_that_its_recipe_ended_before_counts_with_its_last_epochs(study):
    for seed, accuracies in enumerate([(0.5, 0.6, 0.9, 0.9), (0.5, 0.6, 0.92, 0.92), (0.2, 0.96, 0.96)]):
        write_history(study, seed, *accuracies)
    trials = [dataclasses.replace(TRIAL, seed=seed, epochs=epochs) for seed, epochs in enumerate((4, 4, 3))]
    assert Decision(study, trials).of(3, 0.5, 0.5, 0.919, 0.919).endswith("0.919000 < 0.920000 (median of 3)")
    write_history(study, 2, 0.91)
    trials[2] = dataclasses.replace(trials[2], epochs=1)
    assert Decision(study, trials).of(3, 0.5, 0.5, 0.909, 0.909).endswith("0.909000 < 0.910000 (median of 3)")


def test_no_image_right_is_a_figure_too(study):
    decision = Decision(study)
    for seed, accuracy in enumerate((0.0, 0.0, 0.0, 0.2, 0.2)):
        decision.of(seed, *[accuracy] * 4)
    # The median of 0, 0, 0, 0.2 and 0.2 is 0, which 0 is not below.
    assert decision.of(5, 0.0, 0.0, 0.0, 0.0) == ""


def test_a_trial_that_failed_before_is_not_counted_and_one_that_failed_after_is(study):
    for seed, accuracies in enumerate([(0.5, 0.6, 0.9, 0.9), (0.5, 0.6, 0.92, 0.92), (0.5, 0.6, 0.96, 0.96)]):
        write_history(study, seed, *accuracies)
    trials = [*(dataclasses.replace(TRIAL, seed=seed) for seed in range(2)), dataclasses.replace(FAILED, seed=2)]
    assert Decision(study, trials).of(3, 0.5, 0.5, 0.9, 0.9) != ""
    write_history(study, 2, 0.5, 0.6)
    assert Decision(study, trials).of(3, 0.5, 0.5, 0.9, 0.9) == ""


def test_a_finished_trial_whose_history_was_removed_is_not_counted(study):
    for seed in range(2):
        write_history(study, seed, 0.5, 0.6, 0.9, 0.9)
    trials = [dataclasses.replace(TRIAL, seed=seed) for seed in range(3)]
    assert Decision(study, trials).of(3, 0.5, 0.5, 0.1, 0.1) == ""


@pytest.mark.parametrize("content", ["epoch,loss\n0,1\n", "\x00\n\n1\n", f"{HEADER}\n0,1\n"])
def test_a_damaged_history_is_named(study, content):
    for seed in range(3):
        write_history(study, seed, 0.5, 0.6, 0.9, 0.9)
    study.history(1).write_text(content)
    decision = Decision(study, [dataclasses.replace(TRIAL, seed=seed) for seed in range(3)])
    with pytest.raises(UserError, match=r"1\.csv: found"):
        decision.of(3, 0.5, 0.5, 0.91, 0.92)


def test_a_lower_seed_on_its_way_is_waited_for(study):
    policy = MedianStopping(RULE, study, (), IMAGES)
    for seed in range(4):
        policy.trial_started(seed)
    for seed in (0, 2, 3):
        policy.epoch_ended(report(seed, [0.9] * 4))
    assert policy.reason_to_stop(report(3, [0.9] * 4)) is None
    # It comes there, it ends before, or it was resumed behind the epoch and says so.
    policy.epoch_ended(report(1, [0.95] * 9, epoch=9))
    assert policy.reason_to_stop(report(3, [0.9] * 4)) == ""
    # Before its epoch a trial with fewer lower seeds than the rule needs is never held up.
    assert policy.reason_to_stop(report(2, [0.9] * 4)) == ""


def test_a_lower_seed_that_fails_is_waited_for_no_more(study):
    policy = MedianStopping(RULE, study, (), IMAGES)
    for seed in range(4):
        policy.trial_started(seed)
    for seed in (0, 2, 3):
        policy.epoch_ended(report(seed, [0.9] * 4))
    policy.trial_ended(dataclasses.replace(FAILED, seed=1))
    assert policy.reason_to_stop(report(3, [0.1] * 4)) == ""


# Many decisions: the same in any order, however many run side by side.

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
class Train:
    """Trains nothing: reports a seed's accuracies, epoch by epoch, at a pace of its own."""

    study: Study
    pause: float = 0.003
    failing: tuple[int, ...] = ()

    def __call__(self, seed: int, owner: Owner) -> Trial:
        given, reason = accuracies(seed), ""
        for epoch in range(1, EPOCHS + 1):
            time.sleep(random.uniform(0, self.pause))
            if seed in self.failing and epoch == 2:
                raise MemoryError("no room")
            if epoch == RULE.epoch:
                reason = owner.ask(report(seed, given[:epoch]))
                if reason:
                    break
            else:
                owner.report(EpochReport(seed, epoch, epoch, EPOCHS, given[epoch - 1], max(given[:epoch])))
        write_history(self.study, seed, *given[:epoch])
        return dataclasses.replace(
            TRIAL, seed=seed, epochs=epoch, best_epoch=1, reason=reason, status="stopped" if reason else "finished"
        )


def failed(seed: int, reason: str) -> Trial:
    return dataclasses.replace(FAILED, seed=seed, reason=reason)


def run(study: Study, train=None, seeds: Iterable[int] = range(SEEDS), jobs: int = 1, until: float = 2) -> None:
    table = Ledger(study)
    policies = [Until(until), MedianStopping(RULE, study, table.trials(), IMAGES)]
    stop = train.stop if isinstance(train, ProcessTrain) else lambda: None
    run_trials(ThreadEngine(train or Train(study), failed, jobs, stop), table, missing(table, seeds), policies)


def by_status(study: Study, status: str) -> set[int]:
    return {trial.seed for trial in ledger.read(study.csv) if trial.status == status}


def test_the_oracle_stops_some_and_not_all():
    assert 5 < len(to_stop(range(SEEDS))) < 18
    assert to_stop(range(SEEDS)) != to_stop(range(SEEDS), failing=(1, 6))


@pytest.mark.parametrize("jobs", [1, 3, 8])
def test_the_same_trials_are_stopped_however_many_run_side_by_side(study, jobs):
    run(study, jobs=jobs)
    assert by_status(study, "stopped") == to_stop(range(SEEDS))
    assert by_status(study, "finished") == set(range(SEEDS)) - to_stop(range(SEEDS))
    rows = {trial.seed: trial for trial in ledger.read(study.csv)}
    assert all((rows[seed].epochs == 4) == (seed in to_stop(range(SEEDS))) for seed in rows)
    # A stopped trial is not trained again.
    before = study.csv.read_bytes()
    run(study, jobs=jobs)
    assert study.csv.read_bytes() == before


def test_a_lower_seed_that_is_slow_is_waited_for(study):
    def slow_first(seed, owner):
        return Train(study, pause=0.2 if seed < 3 else 0.0)(seed, owner)

    run(study, slow_first, jobs=8)
    assert by_status(study, "stopped") == to_stop(range(SEEDS))


@pytest.mark.parametrize("jobs", [1, 3])
def test_failed_trials_are_not_waited_for_and_not_counted(study, jobs):
    run(study, Train(study, failing=(1, 6)), jobs=jobs)
    assert by_status(study, "failed") == {1, 6}
    assert by_status(study, "stopped") == to_stop(range(SEEDS), failing=(1, 6))


def test_a_job_in_two_parts_stops_the_same_trials(study):
    run(study, seeds=range(11), jobs=2)
    run(study, seeds=range(SEEDS), jobs=2)
    assert by_status(study, "stopped") == to_stop(range(SEEDS))


def test_until_ends_the_trials_that_wait(study):
    def reach_without_a_milestone(seed, owner):
        if seed == 0:
            # The others come to the rule's epoch meanwhile, and wait.
            time.sleep(0.5)
            return dataclasses.replace(TRIAL, best_accuracy=0.99)
        return dataclasses.replace(Train(study)(seed, owner), best_accuracy=0.9)

    run(study, reach_without_a_milestone, seeds=range(1000), jobs=5, until=0.99)
    assert by_status(study, "finished") == {0, 1, 2}


def test_processes_stop_the_same_trials(study):
    run(study, ProcessTrain(MakeTrain(study), 2), jobs=2)
    assert by_status(study, "stopped") == to_stop(range(SEEDS))
    assert by_status(study, "failed") == set()


@dataclasses.dataclass
class MakeTrain:
    """Picklable, as what `ProcessTrain` is handed must be."""

    study: Study

    def __call__(self) -> Train:
        return Train(self.study)


def test_the_figure_is_the_mean_count_of_the_window():
    assert milestone([0.5, 0.9, 0.901], recipes.MedianStopping(1, 3, 2), 1000) == Fraction(1801, 2)
    assert milestone([0.9], recipes.MedianStopping(1, 3, 2), 1000) == 900
