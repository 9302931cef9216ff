"""The sources' objectives, checked on results made for the purpose."""

import dataclasses
import shutil

import pytest

from mnist_minimal.analysis.listing import said
from mnist_minimal.analysis.objectives import check, check_accuracy, check_model, comparison, within
from mnist_minimal.analysis.published import OBJECTIVES, PUBLISHED
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.models.parameters import PARAMETERS
from mnist_minimal.objectives import main
from mnist_minimal.recipes import RECIPES
from mnist_minimal.saving.saved_model import save
from mnist_minimal.trial import Trial
from tests.study.test_ledger import append_row


def trial(model, seed, saved=0.99, best=0.992, best_epoch=10, **changes):
    row = Trial(
        model=model,
        params=PARAMETERS[model],
        dataset="mnist",
        protocol="source",
        trainer="native",
        seed=seed,
        epochs=RECIPES[model].max_epochs,
        best_epoch=best_epoch,
        saved_accuracy=saved,
        best_accuracy=best,
        test_correct=round(10000 * saved),
        test_size=10000,
        train_seconds=1.0,
        cpu_seconds=1.0,
        finished_at="2026-11-21T00:00:00+00:00",
        version="0",
        weights=f"{model}/{seed}.h5",
        max_epochs=RECIPES[model].max_epochs,
        backend="c++ avx2",
    )
    return dataclasses.replace(row, **changes)


@pytest.fixture
def study(tmp_path):
    """Writes trials of one model, with a saved model for each."""

    def write(model, *trials):
        (tmp_path / model).mkdir()
        for row in trials:
            append_row(tmp_path / f"{model}.csv", row)
            save(MODELS[model](), tmp_path / model / f"{row.seed}.h5")
        return tmp_path

    return write


def test_every_model_has_what_its_source_published_and_wanted():
    assert MODELS.keys() == OBJECTIVES.keys() == PARAMETERS.keys() == {found.model for found in PUBLISHED}
    for found in PUBLISHED:
        assert 0.98 < found.accuracy < 1
        assert (found.of == "mean") == (found.sd is not None)
        assert f"{found.accuracy:.4f}"[:6] in found.text


def test_the_models_are_what_their_sources_wanted():
    for name, builder in MODELS.items():
        assert [found.words for found in check_model(builder(), OBJECTIVES[name]) if not found.met] == []


def test_what_a_model_lacks_is_named_with_by_how_much():
    objectives = dataclasses.replace(
        OBJECTIVES["conv18242"], max_parameters=990, has=("BatchNormalization",), lacks=("Dense", "Flatten")
    )
    assert [(found.met, found.words) for found in check_model(MODELS["sep997"](), objectives)] == [
        (False, "at most 990 parameters: 997, 7 too many"),
        (False, "a layer BatchNormalization: missing"),
        (False, "no layer Dense: found one"),
        (True, "no layer Flatten: none"),
    ]


def test_how_often_an_accuracy_is_reached():
    objectives = OBJECTIVES["small8624"]
    assert check_accuracy([0.99, 0.9941, 0.993], objectives).words == (
        "0.994 in any of 15 epochs: reached by 1 of 3, one lucky run"
    )
    assert check_accuracy([0.9941], objectives).words.endswith("reached by 1 of 1, the only run")
    assert check_accuracy([0.9941, 0.994, 0.9], objectives).words.endswith("reached by 2 of 3")
    short = check_accuracy([0.9935, 0.9925], objectives)
    assert not short.met
    assert short.words.endswith("reached by 0 of 2; the best run has 0.9935, 0.0005 less")


def test_an_accuracy_after_the_epochs_allowed_does_not_count(tmp_path):
    # gap13914 trains for 20 epochs; its source allows 19.
    history = tmp_path / "0.csv"
    lines = [f"{epoch},0.9,0.1,0.99{epoch:02},0.1,0.018" for epoch in range(20)]
    history.write_text("\n".join(["epoch,accuracy,loss,val_accuracy,val_loss,learning_rate", *lines]) + "\n")
    late = trial("gap13914", 0, best=0.9919, best_epoch=20)
    assert within(late, OBJECTIVES["gap13914"], history) == 0.9918
    early = trial("gap13914", 0, best=0.9919, best_epoch=19)
    assert within(early, OBJECTIVES["gap13914"], tmp_path / "none.csv") == 0.9919
    with pytest.raises(UserError, match="found no such file, expected the history"):
        within(late, OBJECTIVES["gap13914"], tmp_path / "none.csv")


def test_the_last_epoch_counts_where_the_source_says_so():
    found = trial("conv18242", 0, saved=0.9939, best=0.9946)
    assert within(found, OBJECTIVES["conv18242"], None) == 0.9939
    # shared1936 monitors images of the training set: the test set's count is another.
    found = trial("shared1936", 0, saved=0.9939, best=0.9946, test_correct=9901)
    assert within(found, OBJECTIVES["shared1936"], None) == 0.9901


def test_results_that_meet_the_objectives(study, capsys):
    results = study("small7384", trial("small7384", 0, best=0.9941), trial("small7384", 1, best=0.9951))
    assert all(found.met for found in check("small7384", results))
    assert main(["small7384", "--results", str(results)]) == 0
    printed = capsys.readouterr().out
    assert "at most 8,000 parameters: 7,384" in printed
    assert "reached by 2 of 2" in printed
    assert printed.endswith("All objectives are met.\n")


def test_results_that_fall_short(study, capsys):
    results = study("small7384", trial("small7384", 0, best=0.9941, max_epochs=3), trial("small7384", 1, best=0.99))
    assert main(["small7384", "sep997", "--results", str(results)]) == 1
    printed = capsys.readouterr().out
    assert "reached by 1 of 2, one lucky run" in printed
    assert "SHORT  trials of the whole recipe, 15 epochs: cut at 3" in printed
    assert "sep997.csv: no finished trial" in printed
    assert printed.endswith("2 of the objectives fall short.\n")


def test_another_model_in_the_saved_file_is_found_out(study):
    results = study("small7384", trial("small7384", 0, best=0.9941))
    save(MODELS["gap13914"](), results / "small7384" / "0.h5")
    words = [found.words for found in check("small7384", results) if not found.met]
    assert words == ["at most 8,000 parameters: 13,914, 5,914 too many", "no layer Dense: found one"]


def test_trials_that_were_stopped_early_are_shown_beside_the_finished(study):
    stopped = trial("sep697", 1, best=0.97, status="stopped", reason="worse half")
    results = study("sep697", trial("sep697", 0, best=0.9901), stopped)
    (*_, found) = check("sep697", results)
    assert found.words == "0.99 in any of 2000 epochs: reached by 1 to 2 of 2 (1 stopped early)"
    row = comparison(["sep697"], [results])
    assert "| 1 (and 1 stopped early) |" in row
    # Wilson's limits for 1 and for 2 of 2.
    assert "| 1 to 2 of 2 (9% to 100%) |" in row
    assert said("sep697", "best", results) == "n = 1 (and 1 stopped early), best epoch: 0.9901"


def test_stopped_trials_may_have_reached_what_no_other_did():
    found = check_accuracy([0.9935, 0.9925], OBJECTIVES["small8624"], stopped=3)
    assert not found.met
    assert "reached by 0 to 3 of 5 (3 stopped early); the best run has 0.9935, 0.0005 less" in found.words


def test_the_table_by_hand(study):
    accuracies = (0.9930, 0.9940, 0.9941)
    rows = [trial("small8624", seed, best=best) for seed, best in enumerate(accuracies)]
    results = study("small8624", *rows, trial("small8624", 3, best=1.0, status="failed", reason="made up"))
    head, _, line = comparison(["small8624"], [results]).splitlines()
    cells = dict(zip(*([cell.strip() for cell in row.strip("|").split("|")] for row in (head, line)), strict=True))
    assert cells == {
        "model": "`small8624`",
        "parameters": "8,624",
        "ours": "8,624",
        "published": "one run, best epoch (14th): 0.9944",
        "compared": "best epoch",
        "n": "3",
        "mean": "0.99370",
        "sd": "0.00061",
        "best run": "0.9941",
        "target": "0.994, best epoch",
        # Wilson for 2 of 3.
        "reached (95 %)": "2 of 3 (21% to 94%)",
    }


def test_a_model_without_trials_has_a_row(tmp_path):
    assert "| 0 | -" in " ".join(comparison(["sep697"], [tmp_path]).splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sep996"], "found 'sep996'"),
        ([], "found neither"),
        (["--all", "sep997"], "found both"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_the_models_are_listed_with_what_the_results_say(study, capsys, tmp_path_factory):
    from mnist_minimal.models.__main__ import main as listing

    results = study("sep997", trial("sep997", 0, saved=0.9870), trial("sep997", 1, saved=0.9880))
    assert listing(["--results", str(results)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(MODELS)
    found = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:]}
    assert found["sep997"][:4] == [
        "997",
        "89,766",
        "mean of 223 runs, last epoch: 0.98761, sd 0.00105",
        "n = 2, last epoch: mean 0.98750, sd 0.00071, best run 0.9880",
    ]
    assert found["sep697"][3] == "no trial yet"
    assert found["sep697"][4].startswith("https://github.com/JoshWarn/")
    # With the same study in two folders it is said whose trials they are.
    other = tmp_path_factory.mktemp("more") / "other"
    shutil.copytree(results, other)
    assert listing(["--results", str(results), "--results", str(other)]) == 0
    said = "n = 2, last epoch: mean 0.98750, sd 0.00071, best run 0.9880"
    assert f"| {results}: {said}; {other}: {said} " in capsys.readouterr().out


def test_help_imports_no_keras(run_python):
    for command in ("models", "objectives"):
        code = (
            "import sys; from mnist_minimal.cli.main import main\n"
            f"try: main(['{command}', '--help'])\nexcept SystemExit: print({{'numpy', 'keras'}} & set(sys.modules))"
        )
        finished = run_python("-c", code)
        assert finished.stdout.endswith("set()\n"), finished.stdout + finished.stderr
