"""Saved results against what the sources wanted of their models, and beside the published figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal.analysis.published import OBJECTIVES, PUBLISHED, Objectives
from mnist_minimal.analysis.tables import MEASURE_NAMES, markdown, sd_cell, share_cell, share_count, trial_count
from mnist_minimal.models.counting import trainable_parameters
from mnist_minimal.models.parameters import PARAMETERS
from mnist_minimal.recipes import RECIPES
from mnist_minimal.study import ledger
from mnist_minimal.study.history import read_history
from mnist_minimal.study.recorded import check_kept
from mnist_minimal.study.study import Study
from mnist_minimal.trial import STOPPED, Trial

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        met: Whether it is as it should be.
        words: What was expected and what was found, in one line.
    """

    met: bool
    words: str


def check_model(model: "keras.Model", objectives: Objectives) -> list[Check]:
    """Checks what a model is made of: its parameters, the layers that must be there and those that must not."""
    parameters = trainable_parameters(model)
    kinds = {type(layer).__name__ for layer in model.layers}
    checks = []
    if objectives.max_parameters is not None:
        excess = parameters - objectives.max_parameters
        words = f"at most {objectives.max_parameters:,} parameters: {parameters:,}"
        checks.append(Check(excess <= 0, words + (f", {excess:,} too many" if excess > 0 else "")))
    checks += [
        Check(kind in kinds, f"a layer {kind}: {'there' if kind in kinds else 'missing'}") for kind in objectives.has
    ]
    checks += [
        Check(kind not in kinds, f"no layer {kind}: {'found one' if kind in kinds else 'none'}")
        for kind in objectives.lacks
    ]
    return checks


def within(trial: Trial, objectives: Objectives, history: Path) -> float:
    """The accuracy of a trial that counts for the objectives: the measure's, within the epochs allowed.

    Args:
        trial: A finished trial.
        objectives: What counts.
        history: The trial's figures by epoch; read where its best epoch came too late.

    Raises:
        UserError: if the history is needed and can't be read.
    """
    (accuracy,) = ledger.accuracies([trial], objectives.measure)
    if objectives.measure == "best" and (trial.best_epoch or 0) > objectives.within_epochs:
        best = float(read_history(history)["val_accuracy"][: objectives.within_epochs].max())
        return round(best * trial.test_size) / trial.test_size  # The history has Keras' float32.
    return accuracy


def check_accuracy(accuracies: Sequence[float], objectives: Objectives, stopped: int = 0) -> Check:
    """Checks whether the accuracy wanted was reached, and says how often.

    Args:
        accuracies: Of all finished trials as `within` gives them, in [0, 1], at least one.
        objectives: What was wanted.
        stopped: Number of trials that the recipe's rule stopped early.
    """
    from mnist_minimal.analysis.statistics import share_reaching

    share = share_reaching(accuracies, objectives.accuracy, stopped)
    wanted = f"{objectives.accuracy:.4g} in {'any of' if objectives.measure == 'best' else 'the last of'} "
    wanted += f"{objectives.within_epochs} epochs"
    found = f"reached by {share_count(share)}" + (f" ({stopped:,} stopped early)" if stopped else "")
    if not share.reached:
        missing = objectives.accuracy - max(accuracies)
        best = f"the best run has {max(accuracies):.4f}, {missing:.4f} less"
        return Check(False, f"{wanted}: {found}; {best}")
    lucky = ", the only run" if share.trials == 1 else ", one lucky run" if share.reached == 1 and not stopped else ""
    return Check(True, f"{wanted}: {found}{lucky}")


def studied(model: str, results: Path) -> tuple[Study, list[Trial], int]:
    """The study of a published recipe in a folder of results, its finished trials, and how many its rule stopped."""
    study = Study.of(results, model, "mnist", "source")
    trials = ledger.read(study.csv)
    return study, ledger.finished(trials), sum(trial.status == STOPPED for trial in trials)


def folders_with(model: str, folders: Sequence[Path]) -> list[Path]:
    """The folders of results in which the study of a published recipe has finished trials; else the last of them."""
    return [folder for folder in folders if studied(model, folder)[1]] or [folders[-1]]


def check(model: str, results: Path) -> list[Check]:
    """Checks one model on its saved results: the best trial's saved model, and the accuracies of all.

    Args:
        model: Name of the model.
        results: Folder of the results.

    Raises:
        UserError: if a saved model or a history can't be read.
    """
    from mnist_minimal.saving.saved_model import load

    objectives = OBJECTIVES[model]
    study, trials, stopped = studied(model, results)
    if not trials:
        return [Check(False, f"{study.csv}: no finished trial; run mnist_minimal.trials --model {model}")]
    best = max(trials, key=lambda trial: (trial.test_correct or 0, -trial.seed))
    accuracies = [within(trial, objectives, study.history(trial.seed)) for trial in trials]
    check_kept(study.weights(best.seed))
    checks = [*check_model(load(study.weights(best.seed)), objectives), check_accuracy(accuracies, objectives, stopped)]
    cap, whole = min(trial.max_epochs for trial in trials), RECIPES[model].max_epochs
    if cap < whole:
        checks.append(Check(False, f"trials of the whole recipe, {whole} epochs: cut at {cap}"))
    return checks


def comparison(models: Sequence[str], folders: Sequence[Path], width: int | None = None) -> str:
    """The published accuracies beside those of the saved results, as a Markdown table, one row a study.

    Each compares the accuracy that was published: the last epoch's, the best epoch's on the test set, or the kept
    model's. A table wider than `width` is broken as `tables.markdown` does it.
    """
    from mnist_minimal.analysis.statistics import share_reaching, summarize

    rows = [
        (
            "model",
            "parameters",
            "ours",
            "published",
            "compared",
            "n",
            "mean",
            "sd",
            "best run",
            "target",
            "reached (95 %)",
        ),
    ]
    there = {model: folders_with(model, folders) for model in models}
    for model, folder in [(each, folder) for each in models for folder in there[each]]:
        found = [publication for publication in PUBLISHED if publication.model == model]
        objectives = OBJECTIVES[model]
        study, trials, stopped = studied(model, folder)
        parameters = (f"{PARAMETERS[model]:,}", f"{trials[0].params:,}" if trials else "-")
        where = "" if len(there[model]) == 1 else f" in {folder}"
        name = (f"`{model}`{where}", *parameters, "; ".join(publication.text for publication in found))
        target = f"{objectives.accuracy:.4g}, {MEASURE_NAMES[objectives.measure]}"
        if not trials:
            rows.append((*name, MEASURE_NAMES[found[0].measure], "0", "-", "-", "-", target, "-"))
            continue
        ours = summarize(ledger.accuracies(trials, found[0].measure))
        counted = [within(trial, objectives, study.history(trial.seed)) for trial in trials]
        rows.append(
            (
                *name,
                MEASURE_NAMES[found[0].measure],
                trial_count(ours.n, stopped),
                f"{ours.mean:.5f}",
                sd_cell(ours),
                f"{ours.best:.4f}",
                target,
                share_cell(share_reaching(counted, objectives.accuracy, stopped)),
            )
        )
    return markdown(rows, width)
