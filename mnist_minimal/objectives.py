"""Check saved results against what the sources wanted of their models, and set them beside the published figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal import ledger
from mnist_minimal.command_line import command_parser, run
from mnist_minimal.compare import markdown
from mnist_minimal.errors import UserError
from mnist_minimal.ledger import STOPPED, Trial
from mnist_minimal.plots import read_history
from mnist_minimal.published import OBJECTIVES, PARAMETERS, PUBLISHED, Objectives
from mnist_minimal.recipes import RECIPES
from mnist_minimal.study import Study
from mnist_minimal.summary import trainable_parameters

if TYPE_CHECKING:
    import keras

MEASURE_NAMES = {"saved": "last epoch", "best": "best epoch", "test": "last epoch, test set"}


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
        stopped: Number of trials that the recipe's rule stopped early, to be named beside the finished ones.
    """
    n, reached = len(accuracies), sum(accuracy >= objectives.accuracy for accuracy in accuracies)
    wanted = f"{objectives.accuracy:.4g} in {'any of' if objectives.measure == 'best' else 'the last of'} "
    wanted += f"{objectives.within_epochs} epochs"
    if not reached:
        missing = objectives.accuracy - max(accuracies)
        found = f"the best run has {max(accuracies):.4f}, {missing:.4f} less"
        return Check(False, f"{wanted}: reached by none of {n}{censored(stopped)}; {found}")
    lucky = ", one lucky run" if reached == 1 < n else ", the only run" if n == 1 else ""
    return Check(True, f"{wanted}: reached by {reached} of {n}{censored(stopped)}{lucky}")


def studied(model: str, results: Path) -> tuple[Study, list[Trial], int]:
    """The study of a published recipe in a folder of results, its finished trials, and how many its rule stopped."""
    study = Study(results, model, "mnist", "source")
    trials = ledger.read(study.csv)
    return study, ledger.finished(trials), sum(trial.status == STOPPED for trial in trials)


def censored(stopped: int) -> str:
    """What to add to a number of finished trials where others were stopped early, or ""."""
    return f" (and {stopped} stopped early)" if stopped else ""


def check(model: str, results: Path) -> list[Check]:
    """Checks one model on its saved results: the best trial's saved model, and the accuracies of all.

    Args:
        model: Name of the model.
        results: Folder of the results.

    Raises:
        UserError: if a saved model or a history can't be read.
    """
    from mnist_minimal.saving import load

    objectives = OBJECTIVES[model]
    study, trials, stopped = studied(model, results)
    if not trials:
        return [Check(False, f"{study.csv}: no finished trial; run mnist_minimal.trials --model {model}")]
    best = max(trials, key=lambda trial: (trial.test_correct or 0, -trial.seed))
    accuracies = [within(trial, objectives, study.history(trial.seed)) for trial in trials]
    checks = [*check_model(load(study.weights(best.seed)), objectives), check_accuracy(accuracies, objectives, stopped)]
    cap, whole = min(trial.max_epochs for trial in trials), RECIPES[model].max_epochs
    if cap < whole:
        checks.append(Check(False, f"trials of the whole recipe, {whole} epochs: cut at {cap}"))
    return checks


def comparison(models: Sequence[str], results: Path) -> str:
    """The published accuracies beside those of the saved results, as a Markdown table, one row a model.

    Each compares the accuracy that was published: the last epoch's, the best epoch's on the test set, or the kept
    weights'.
    """
    from mnist_minimal.statistics import summarize

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
    for model in models:
        found = [publication for publication in PUBLISHED if publication.model == model]
        objectives = OBJECTIVES[model]
        study, trials, stopped = studied(model, results)
        parameters = (f"{PARAMETERS[model]:,}", f"{trials[0].params:,}" if trials else "-")
        name = (f"`{model}`", *parameters, "; ".join(publication.text for publication in found))
        target = f"{objectives.accuracy:.4g}, {MEASURE_NAMES[objectives.measure]}"
        if not trials:
            rows.append((*name, MEASURE_NAMES[found[0].measure], "0", "-", "-", "-", target, "-"))
            continue
        ours = summarize(ledger.accuracies(trials, found[0].measure))
        counted = [within(trial, objectives, study.history(trial.seed)) for trial in trials]
        reached = summarize(counted, objectives.accuracy)
        rows.append(
            (
                *name,
                MEASURE_NAMES[found[0].measure],
                f"{ours.n}{censored(stopped)}",
                f"{ours.mean:.5f}",
                f"{ours.sd:.5f}" if ours.n > 1 else "-",
                f"{ours.best:.4f}",
                target,
                f"{reached.reached} of {reached.n} ({reached.reached_low:.0%} to {reached.reached_high:.0%})",
            )
        )
    return markdown(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 where something falls short."""
    parser = command_parser(__doc__, "objectives")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"any of {', '.join(OBJECTIVES)}")
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of the results (default: results)"
    )
    options = parser.parse_args(arguments)
    unknown = [model for model in options.models if model not in OBJECTIVES]
    if unknown:
        raise UserError(f"expected models out of {', '.join(OBJECTIVES)}, found {unknown[0]!r}")
    if options.all == bool(options.models):
        raise UserError("expected the names of models, or --all; found " + ("both" if options.all else "neither"))
    models = list(OBJECTIVES) if options.all else options.models
    short = 0
    for model in models:
        print(f"{model}:")
        for found in check(model, options.results):
            print(f"  {'met  ' if found.met else 'SHORT'}  {found.words}")
            short += not found.met
    print(f"\n{comparison(models, options.results)}\n")
    print(f"{short} of the objectives fall short." if short else "All objectives are met.")
    return 1 if short else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
