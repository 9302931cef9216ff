"""The median stopping rule on real trials."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_minimal import trials
from mnist_minimal.data.choice import Choice
from mnist_minimal.data.sets import load
from mnist_minimal.recipes import RECIPES, EarlyStopping, MedianStopping
from mnist_minimal.study import ledger
from mnist_minimal.study.job import Job
from mnist_minimal.study.study import Study
from mnist_minimal.study.worker import make_train
from mnist_minimal.training import core
from mnist_minimal.training.trainers import numerics
from mnist_minimal.trial import EpochReport, Trial
from tests.whole import whole_only

NEEDS_CORE = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")


@pytest.fixture
def ruled(monkeypatch: pytest.MonkeyPatch):
    """sep697's recipe with a rule that acts in time for a test, or without a rule; 4 epochs."""

    def set_rule(rule: MedianStopping | None) -> None:
        recipe = dataclasses.replace(
            RECIPES["sep697"], max_epochs=4, early_stopping=EarlyStopping(patience=3), median_stopping=rule
        )
        monkeypatch.setitem(RECIPES, "sep697", recipe)

    return set_rule


def run_command(out: Path, *options: str) -> int:
    return trials.main(["--model", "sep697", "--dataset", "digits", "--out", str(out), *options])


def rows_of(out: Path) -> dict[int, Trial]:
    return {trial.seed: trial for trial in ledger.read(out / "sep697-digits.csv")}


@pytest.mark.parametrize(
    ("trainer", "runs", "protocol"),
    [
        pytest.param("native", 12, "source", marks=[NEEDS_CORE, pytest.mark.slow, whole_only]),
        pytest.param("native", 12, "holdout", marks=[NEEDS_CORE, pytest.mark.slow]),
        pytest.param("keras", 9, "source", marks=[pytest.mark.slow, whole_only]),
    ],
)
def test_real_trials_stop_as_their_histories_without_the_rule_say(tmp_path, ruled, trainer, runs, protocol, capsys):
    options = ("--runs", str(runs), "--trainer", trainer, "--protocol", protocol)
    ruled(None)
    run_command(tmp_path / "all", *options)
    name = "sep697-digits" if protocol == "source" else "sep697-digits-holdout"
    figures = []
    for seed in range(runs):
        history = np.genfromtxt(tmp_path / f"all/{name}/{seed}.csv", delimiter=",", names=True)
        figures.append(history["val_accuracy"][1:3].mean())
    expected = {seed for seed in range(3, runs) if figures[seed] < np.median(figures[:seed]) - 1e-6}
    assert expected

    ruled(MedianStopping(trials=3, epoch=3, window=2))
    for jobs in ("1", "3") if trainer == "native" else ("1",):
        out = tmp_path / jobs
        capsys.readouterr()
        assert run_command(out, *options, "--jobs", jobs) == 0
        output = capsys.readouterr().out
        rows = {trial.seed: trial for trial in ledger.read(out / f"{name}.csv")}
        assert {seed for seed in rows if rows[seed].status == "stopped"} == expected
        said = f"{len(expected)} stopped early by the median stopping rule, 0 failed"
        assert f"{runs - len(expected)} finished trials, {said}" in output
        assert f"Trials stopped early by the median stopping rule: {len(expected)}." in output
        for seed in range(runs):
            whole = (tmp_path / f"all/{name}/{seed}.csv").read_bytes().splitlines()
            kept = (out / f"{name}/{seed}.csv").read_bytes().splitlines()
            assert kept == (whole[:4] if seed in expected else whole)
            assert rows[seed].epochs == len(kept) - 1
            # The weights kept are those of the best epoch.
            assert protocol == "holdout" or rows[seed].test_correct == round(rows[seed].best_accuracy * 297)


def test_a_cap_on_the_epochs_up_to_the_rule_s_leaves_no_trial_for_it(tmp_path, ruled):
    ruled(MedianStopping(trials=3, epoch=3, window=2))
    run_command(tmp_path, "--runs", "8", "--epochs", "3")
    assert {trial.status for trial in rows_of(tmp_path).values()} == {"finished"}


class Killed(BaseException):
    """Raised where a kill would come."""


@pytest.mark.parametrize(
    "trainer", [pytest.param("native", marks=NEEDS_CORE), pytest.param("keras", marks=[pytest.mark.slow, whole_only])]
)
@pytest.mark.parametrize("moment", ["before the checkpoint", "after it"])
def test_a_trial_killed_at_the_rule_s_epoch_ends_as_if_nothing_had_happened(tmp_path, trainer, moment, monkeypatch):
    study = Study.of(tmp_path, "sep697", "digits", "source")
    study.folder.mkdir()
    recipe = dataclasses.replace(RECIPES["sep697"], median_stopping=MedianStopping(trials=1, epoch=2, window=1))
    choice = Choice("digits")
    facts = {"recipe": "the rule's", "numerics": numerics(trainer)}
    job = Job(study, "sep697", "digits", "source", recipe, choice, trainer, 5, 1, 697, 297, facts)
    digits = load(choice)
    few = dataclasses.replace(digits, x_train=digits.x_train[:256], y_train=digits.y_train[:256])

    class Stopping:
        """Stops a trial at the rule's epoch."""

        def __init__(self):
            self.epochs = []

        def report(self, epoch: EpochReport) -> None:
            self.epochs.append(epoch.epoch)

        def ask(self, epoch: EpochReport) -> str:
            self.report(epoch)
            assert epoch.milestone is not None
            return "below"

    class Killing(Stopping):
        def ask(self, epoch: EpochReport) -> str:
            raise Killed

    expected = make_train(job, few)(0, Stopping())
    assert (expected.status, expected.reason, expected.epochs) == ("stopped", "below", 2)
    weights = study.weights(0).read_bytes()
    history = study.history(0).read_bytes()
    study.checkpoint(0).unlink()

    with monkeypatch.context() as patched:
        if moment == "after it":
            patched.setattr(keras.callbacks.EarlyStopping, "on_train_end", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            make_train(job, few)(0, Killing() if moment == "before the checkpoint" else Stopping())
    owner = Stopping()
    again = make_train(job, few)(0, owner)
    # The report of epoch 1 or 2 is the one with which the trial is resumed.
    assert owner.epochs == ([1, 2] if moment == "before the checkpoint" else [2])
    undated = {"train_seconds": 0.0, "cpu_seconds": 0.0, "finished_at": ""}
    assert dataclasses.replace(again, **undated) == dataclasses.replace(expected, **undated)
    assert study.history(0).read_bytes() == history
    assert study.weights(0).read_bytes() == weights
