"""Train a model again and again and record every trial: its accuracies in a CSV, the model, the history by epoch.

A job is resumed where it was stopped: the same command skips the seeds that are finished.
"""

import argparse
import itertools
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal.cli.options import accuracy, add_arguments, expanded_path, from_arguments, model_name, positive, seed
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import interruptible, run
from mnist_minimal.cli.streams import terminal_width
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.models import lookup
from mnist_minimal.recipes import RECIPES, Recipe, digits
from mnist_minimal.study import identity, ledger
from mnist_minimal.study.job import data_facts, make_job
from mnist_minimal.study.ledger import Ledger
from mnist_minimal.study.ownership import owned
from mnist_minimal.study.policies import FailuresInARow, Interruption, Until
from mnist_minimal.study.progress import display
from mnist_minimal.study.runner import engine_of, missing, rules_of, run_trials
from mnist_minimal.study.study import Study
from mnist_minimal.trial import FAILED

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset


PROTOCOLS = {
    "source": "monitored are the images that the source, where the model was published, monitors: mostly the test set",
    "holdout": "monitored are images held out of the training set",
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = command_parser(__doc__, "trials")
    parser.add_argument(
        "--model",
        required=True,
        type=model_name,
        metavar="MODEL",
        help=f"the model, trained by its recipe: {', '.join(RECIPES)}, or {lookup.OWN_FORM}",
    )
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="train a model of your own by this published recipe (default: the one in its module), or a published one "
        "on the digits (default: in batches of 16)",
    )
    parser.add_argument(
        "--runs", type=positive, metavar="N", help="how many trials (default: go on until Ctrl-C, or --until)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="BASE", help="the first trial's seed (default: 0)")
    parser.add_argument("--epochs", type=positive, metavar="N", help="a cap on the epochs of each trial")
    parser.add_argument(
        "--until",
        type=accuracy,
        metavar="ACCURACY",
        help="stop at the first trial whose best epoch reaches this; --runs is then the cap",
    )
    parser.add_argument(
        "--protocol",
        choices=("source", "holdout"),
        default="source",
        help="the protocol: which images decide on the learning rate, the end of a trial and its best epoch; source: "
        f"{PROTOCOLS['source']}; holdout: {PROTOCOLS['holdout']} (default: %(default)s)",
    )
    parser.add_argument(
        "--trainer",
        choices=("auto", "native", "keras"),
        default="auto",
        help="what trains: the C++ core, Keras, or auto, the core where it can run the model (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="trials side by side (default: 1)")
    parser.add_argument(
        "--out",
        type=expanded_path,
        default=Path("results"),
        metavar="DIR",
        help="the folder of results (default: %(default)s)",
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    if options.seed + (options.runs or 0) > 2**32:
        parser.error(f"expected seeds up to 4294967295, found {options.runs} runs from {options.seed}; lower either")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 where a trial failed, 130 after Ctrl-C."""
    options = parse(arguments)
    from mnist_minimal.data import sets

    recipe = lookup.recipe(options.model, options.recipe)
    options.epochs = min(options.epochs or recipe.max_epochs, recipe.max_epochs)
    with interruptible() as interrupted:
        dataset = sets.load(from_arguments(options))
        said = [dataset.notice] if dataset.notice else []
        if dataset.name == "digits" and options.model in RECIPES and options.recipe is None:
            recipe = digits.for_digits(recipe)
            said.append(
                f"On the digits, which {options.model} learns in batches of {recipe.batch_size}, expect an accuracy of "
                f"{digits.EXPECTED} (--recipe {options.model}: by its published recipe as it is)."
            )
        if dataset.notice:
            said.append(f"The rows say dataset={dataset.name} and go to a CSV of their own.")
        if said:
            print(" ".join(said))
        study = Study.of(options.out, options.model, dataset.name, options.protocol)
        with owned(study):
            identity.check(study, data_facts(recipe, options.epochs, dataset))
            table, status = Ledger(study), 0
            try:
                status = run_job(options, table, recipe, dataset, interrupted)
            except KeyboardInterrupt:
                print("\nStopped; the same command resumes the job.")
                status = 130
            print_summary(options, table, dataset)
    return status


def run_job(
    options: argparse.Namespace, table: Ledger, recipe: Recipe, dataset: "Dataset", interrupted: threading.Event
) -> int:
    """Runs what of the job is not done; returns 0, or 1 where a seed of it failed and is not done since."""
    before, seeds = table.trials(), seeds_of(options)
    done = [trial for trial in ledger.done(before) if trial.seed in seeds]
    until = [Until(options.until)] if options.until is not None else []
    for policy, trial in itertools.product(until, done):
        if policy.trial_ended(trial):
            print(f"Seed {trial.seed} has reached {options.until} before, with {trial.best_accuracy}.")
            return 0
    left = missing(table, seeds)
    first = next(left, None)
    if first is None:
        return 0
    job, notice = make_job(
        table.study,
        options.model,
        recipe,
        dataset,
        # Where the digits took MNIST's place, other processes need not look for it again.
        Choice("digits") if dataset.name == "digits" else from_arguments(options),
        protocol=options.protocol,
        trainer=options.trainer,
        max_epochs=options.epochs,
        places=options.jobs,
        before=before,
    )
    if notice:
        print(notice)
    shown = display(options.runs, len(done), options.jobs)
    policies = [
        shown,
        Interruption(interrupted),
        *until,
        *rules_of(job, dataset, before),
        FailuresInARow(trial.seed for trial in before if trial.status == FAILED),
    ]
    try:
        run_trials(engine_of(job, dataset), table, itertools.chain([first], left), policies)
    finally:
        shown.close()
    after = table.trials()
    return 1 if any(trial.seed in seeds and not table.has_done(trial.seed) for trial in after) else 0


def seeds_of(options: argparse.Namespace) -> range:
    """The seeds of a job; one without end goes on to the last that there is."""
    return range(options.seed, 2**32 if options.runs is None else options.seed + options.runs)


def print_summary(options: argparse.Namespace, table: Ledger, dataset: "Dataset") -> None:
    """Prints what the finished trials of a study came to."""
    from mnist_minimal.analysis.tables import study_table

    trials = table.trials()
    done = ledger.done(trials)
    finished = len(ledger.finished(trials))
    failures = len({trial.seed for trial in trials} - {trial.seed for trial in done})
    stopped = f", {len(done) - finished} stopped early by the median stopping rule" if finished < len(done) else ""
    print(
        f"\n{options.model} on {dataset.name}, protocol {options.protocol}: {finished} finished "
        f"{'trial' if finished == 1 else 'trials'}{stopped}, {failures} failed ({table.study.csv})"
    )
    print(f"Protocol {options.protocol}: {PROTOCOLS[options.protocol]}.")
    caps, whole = sorted({trial.max_epochs for trial in done}), identity.recipe_epochs(table.study)
    if caps and whole and caps[0] < whole:
        print(f"The epochs were capped at {caps[0]}; the recipe has up to {whole}.")
    if finished:
        print(study_table(trials, until=options.until, width=terminal_width()))
        draw(table.study)


def draw(study: Study) -> None:
    """Draws the distribution of a study's accuracies beside its CSV, and says where, and how to see more."""
    from mnist_minimal.analysis.figures import draw_distribution
    from mnist_minimal.analysis.summaries import read_study

    try:
        picture = draw_distribution(read_study(study), study.out / f"{study.name}.png")
    except UserError as error:
        # What was asked for is done; a picture can be drawn at any time.
        print(f"no picture was drawn: {error}", file=sys.stderr)
        return
    print(f"\n{picture} shows their distribution; the training curves too: python -m mnist_minimal.plots {study.csv}")


if __name__ == "__main__":
    raise SystemExit(run(main))
