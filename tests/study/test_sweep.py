"""Several settings of a model, each a study of its own."""

import argparse
from pathlib import Path

import pytest

import mnist_minimal as mm
from mnist_minimal import trials
from mnist_minimal.cli.options import assignments
from mnist_minimal.study import ledger
from tests.jobs import without_times

RATES = (0.01, 0.03)


def settings(model: str = "sep697") -> list[mm.Recipe]:
    return [mm.RECIPES[model].replace(**{"optimizer.learning_rate": rate}) for rate in RATES]


@pytest.mark.slow
def test_a_sweep_is_the_studies_that_one_by_one_would_be(tmp_path, run_main):
    options = {"runs": 2, "data": "digits", "epochs": 1, "trainer": "native", "progress": False}
    studies = mm.sweep("sep697", settings(), out=tmp_path / "sweep", **options)
    assert [len(study) for study in studies] == [2, 2]
    for recipe, study in zip(settings(), studies, strict=True):
        alone = mm.run_trials("sep697", recipe, out=tmp_path / "alone", **options)
        assert study.name == alone.name
        assert [*map(without_times, study.trials)] == [*map(without_times, alone.trials)]
    # The same on the command line, which finds them done; another rate is one more study.
    command = "--model sep697 --dataset digits --epochs 1 --trainer native --runs 2 --recipe sep697"
    swept = "optimizer.learning_rate=0.01,0.03,0.05"
    done = run_main(trials.main, *command.split(), "--sweep", swept, "--out", tmp_path / "sweep")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 of the 2 trials are in") == 2
    assert len(ledger.find(tmp_path / "sweep")) == 3
    assert done.stdout.count("2 finished trials") == 3


def test_two_recipes_of_one_study_are_refused(tmp_path):
    with pytest.raises(mm.UserError, match="expected recipes that differ from one another, found two of sep697-"):
        mm.sweep("sep697", [*settings(), settings()[0]], runs=1, data="digits", out=tmp_path, progress=False)
    for none in ([], "sep697", mm.RECIPES["sep697"]):
        with pytest.raises(mm.UserError, match="expected a list of one or more"):
            mm.sweep("sep697", none, runs=1, data="digits", out=tmp_path, progress=False)
    assert not list(Path(tmp_path).iterdir())


def test_a_sweep_needs_a_number_of_runs(run_main):
    for further in ([], ["--runs", "2", "--until", "0.99"]):
        done = run_main(trials.main, "--model", "sep997", "--sweep", "batch_size=64,128", *further)
        assert done.returncode == 2
        assert "expected --runs N and no --until with --sweep" in done.stderr


def test_the_values_of_a_field():
    rate = "optimizer.learning_rate"
    assert assignments(f"{rate}=0.01,0.03") == [(rate, 0.01), (rate, 0.03)]
    scale = "augmentation.scale"
    assert assignments(f"{scale}=(0.9,1.1),[0.8, 1.2]") == [(scale, (0.9, 1.1)), (scale, [0.8, 1.2])]
    assert assignments("schedule=None,Plateau") == [("schedule", None), ("schedule", "Plateau")]
    for wrong in ("batch_size", "=1,2", "batch_size=", "batch_size=1,,2"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected FIELD=VALUE,VALUE"):
            assignments(wrong)
