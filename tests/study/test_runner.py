"""The runner and its policies, with an engine that trains nothing."""

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mnist_minimal.engines.policy import Policy
from mnist_minimal.errors import UserError
from mnist_minimal.study import ledger, table
from mnist_minimal.study.ledger import Ledger
from mnist_minimal.study.policies import FailuresInARow, Interruption, Until
from mnist_minimal.study.runner import missing, run_trials
from mnist_minimal.study.study import Study
from mnist_minimal.trial import EpochReport, Outcome, Trial
from tests.study.test_ledger import FAILED, TRIAL


def trial_of(seed: int) -> Trial:
    """A seed's trial: its best accuracy is 0.985 for seed 0, 0.0005 more for each next one."""
    accuracy = round(min(0.985 + seed / 2000, 1), 4)
    return replace(TRIAL, seed=seed, best_accuracy=accuracy, saved_accuracy=accuracy - 0.0005)


def failed(seed: int) -> Trial:
    return replace(FAILED, seed=seed, reason=f"seed {seed} is broken")


class FakeEngine:
    """One place, in which a trial takes no time."""

    def __init__(self, train: Callable[[int], Trial] = trial_of) -> None:
        self.train = train
        self.closed = False

    def run(self, seeds: Iterable[int], policies: Sequence[Policy]) -> Generator[Outcome, None, None]:
        try:
            for seed in seeds:
                for policy in policies:
                    policy.trial_started(seed)
                    policy.epoch_ended(EpochReport(seed, 1, 1, 200, 0.97, 0.97))
                yield Outcome(self.train(seed))
        finally:
            self.closed = True


class Recorder(Policy):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.epochs: list[int] = []
        self.ended: list[tuple[int, str]] = []

    def trial_started(self, seed: int) -> None:
        self.started.append(seed)

    def epoch_ended(self, report: EpochReport) -> None:
        self.epochs.append(report.seed)

    def trial_ended(self, trial: Trial) -> bool:
        self.ended.append((trial.seed, trial.status))
        return False


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study(tmp_path, "sep997")
    study.folder.mkdir()
    return study


def run(study: Study, seeds: Iterable[int], *policies: Policy, engine: FakeEngine | None = None) -> None:
    table = Ledger(study)
    run_trials(engine or FakeEngine(), table, missing(table, seeds), policies)


def seeds(study: Study) -> list[int]:
    return [trial.seed for trial in ledger.finished(ledger.read(study.csv))]


def test_every_seed_is_trained_once_and_recorded(study):
    shown = Recorder()
    run(study, range(3, 7), shown)
    assert seeds(study) == shown.started == shown.epochs == [3, 4, 5, 6]
    assert shown.ended == [(seed, "finished") for seed in range(3, 7)]


def test_finished_and_stopped_seeds_are_skipped_and_missing_ones_run(study):
    run(study, [1, 3])
    table = Ledger(study)
    table.append(replace(TRIAL, seed=2, status="stopped", reason="by the rule"))
    run(study, range(5))
    assert seeds(study) == [1, 3, 0, 4]


def test_what_a_kill_after_the_row_left_behind_is_removed(study):
    run(study, [0])
    study.checkpoint(0).touch()
    run(study, range(2))
    assert not study.checkpoint(0).exists()


def test_a_row_is_there_before_the_next_trial_starts_and_its_checkpoint_until_then(study):
    def train_looking_back(seed):
        assert seeds(study) == list(range(seed))
        assert not any(study.checkpoint(other).exists() for other in range(seed))
        study.checkpoint(seed).touch()
        return trial_of(seed)

    run(study, range(3), engine=FakeEngine(train_looking_back))
    assert seeds(study) == [0, 1, 2]


def test_a_row_is_there_before_anybody_is_told_of_it(study):
    class Looking(Policy):
        def trial_ended(self, trial):
            assert seeds(study)[-1] == trial.seed
            return False

    run(study, range(3), Looking())


def test_a_failed_trial_is_recorded_and_tried_again_next_time(study):
    run(study, range(3), engine=FakeEngine(lambda seed: failed(1) if seed == 1 else trial_of(seed)))
    assert [(trial.seed, trial.status, trial.reason) for trial in ledger.read(study.csv)] == [
        (0, "finished", ""),
        (1, "failed", "seed 1 is broken"),
        (2, "finished", ""),
    ]
    run(study, range(3))
    assert seeds(study) == [0, 2, 1]


def test_three_failures_in_a_row_end_a_job_without_end(study):
    engine = FakeEngine(failed)
    with pytest.raises(UserError, match="3 trials in a row failed, the last one with: seed 2 is broken"):
        run(study, itertools.count(), FailuresInARow([]), engine=engine)
    assert len(ledger.read(study.csv)) == 3
    assert engine.closed


def test_of_trials_side_by_side_as_many_may_fail():
    """All of them may before one can come to its end."""
    policy = FailuresInARow([])
    for seed in range(4):
        policy.trial_started(seed)
    for seed in range(3):
        policy.trial_ended(failed(seed))
    with pytest.raises(UserError, match="4 trials in a row failed"):
        policy.trial_ended(failed(3))


def test_failures_that_are_no_news_do_not_keep_a_job_from_the_seeds_behind_them(study):
    run(study, range(8), FailuresInARow(range(5)), engine=FakeEngine(lambda seed: failed(seed) if seed < 7 else TRIAL))
    assert [trial.status for trial in ledger.read(study.csv)] == 7 * ["failed"] + ["finished"]


def test_a_finished_trial_between_failures_begins_the_count_again(study):
    train = {seed: trial_of(seed) if seed == 2 else failed(seed) for seed in range(5)}
    run(study, range(5), FailuresInARow([]), engine=FakeEngine(train.__getitem__))
    assert len(ledger.read(study.csv)) == 5


def test_until_stops_at_the_first_trial_that_reaches_it(study):
    # Seed 10 has 0.985 + 0.005.
    shown, engine = Recorder(), FakeEngine()
    run(study, itertools.count(), Until(0.99), shown, engine=engine)
    assert seeds(study) == list(range(11))
    # All are told of the trial that ends the job.
    assert shown.ended[-1] == (10, "finished")
    assert engine.closed


def test_until_may_be_reached_by_a_stopped_trial_and_not_by_a_failed_one(study):
    train = {
        0: failed(0),
        1: replace(trial_of(1), status="stopped", reason="by the rule", best_accuracy=0.995),
        2: trial_of(2),
    }
    run(study, range(3), Until(0.99), engine=FakeEngine(train.__getitem__))
    assert [trial.seed for trial in ledger.read(study.csv)] == [0, 1]


def test_an_interrupt_that_python_drops_ends_the_job_at_the_next_event(study):
    interrupted = threading.Event()

    def train_and_be_interrupted(seed):
        if seed == 2:
            interrupted.set()
        return trial_of(seed)

    engine = FakeEngine(train_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(study, itertools.count(), Interruption(interrupted), engine=engine)
    assert seeds(study) == [0, 1, 2]
    assert engine.closed


def test_a_csv_that_is_edited_during_the_job_is_read_again(study):
    def train_and_lose_a_row(seed):
        if seed == 2:
            content = study.csv.read_bytes().splitlines(keepends=True)
            study.csv.write_bytes(b"".join(content[:-1]))
        return trial_of(seed)

    run(study, range(3), engine=FakeEngine(train_and_lose_a_row))
    assert seeds(study) == [0, 2]
    run(study, range(3))
    assert seeds(study) == [0, 2, 1]


@pytest.mark.slow
def test_ten_thousand_finished_trials_are_read_once(study, monkeypatch):
    rows = "".join(table.format_row(replace(TRIAL, seed=seed)) for seed in range(10_000))
    study.csv.write_text(f"{ledger.HEADER}\n{rows}")
    read = []
    really_read = ledger._content
    monkeypatch.setattr(ledger, "_content", lambda path: (read.append(path), really_read(path))[1])
    run(study, range(10_010))
    assert len(read) == 1
    assert len(seeds(study)) == 10_010
