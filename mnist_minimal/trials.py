"""Train a model again and again and record every trial: its accuracies in a CSV, the model, the history by epoch.

A job is resumed where it was stopped: the same command skips the seeds that are finished.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mnist_minimal.cli.options import (
    OWN_RESULTS,
    accuracy,
    add_arguments,
    assignment,
    assignments,
    expanded_path,
    from_arguments,
    model_name,
    positive,
    seed,
)
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import interruptible, run
from mnist_minimal.cli.streams import terminal_width
from mnist_minimal.errors import UserError
from mnist_minimal.models import lookup
from mnist_minimal.recipes import PUBLISHED_RECIPES, RECIPES, digits, variation
from mnist_minimal.study import identity, ledger, teaching
from mnist_minimal.study.plan import MAX_SEED, Plan
from mnist_minimal.study.progress import display
from mnist_minimal.study.runner import carry_out
from mnist_minimal.study.study import Study
from mnist_minimal.study.sweep import carry_out_all

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
        help=f"the model, trained by its recipe: {', '.join(PUBLISHED_RECIPES)}, or {lookup.OWN_FORM}",
    )
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="train the model by this recipe (default: its own; that of a published model is in batches of "
        f"{digits.BATCH_SIZE} on the digits)",
    )
    parser.add_argument(
        "--set",
        type=assignment,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="another value in the recipe, such as batch_size=256 or optimizer.learning_rate=0.02; may be repeated; "
        "makes a study of its own",
    )
    parser.add_argument(
        "--sweep",
        type=assignments,
        action="append",
        default=[],
        metavar="FIELD=VALUE,VALUE",
        help="each of these values in turn, as --set sets one, each a study of its own with --runs trials; repeated, "
        "each with each; with --trainer jax side by side",
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
        choices=("auto", "native", "keras", "jax"),
        default="auto",
        help="what trains: native, the C++ core; keras; jax, many trials at once on a GPU, which needs the extra jax "
        "or gpu and whose trials are not promised to the bit; auto: jax for a new study where there is a GPU and many "
        "trials are asked for, else the core where it can run the model (default: %(default)s)",
    )
    parser.add_argument(
        "--teacher",
        type=expanded_path,
        metavar="FILE",
        help="a file of mnist_minimal.teacher, whose probabilities are half of the targets (--set teacher.weight=0.9: "
        "nine tenths)",
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="trials side by side (default: 1; with jax as many as suit the device)",
    )
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="train on the workers of a Dask cluster, one trial a thread, with jax as many as suit a worker's device: "
        "its scheduler's address, such as tcp://host:8786, or the file that `dask scheduler --scheduler-file` writes; "
        "local: --jobs workers here",
    )
    parser.add_argument(
        "--out",
        type=expanded_path,
        default=OWN_RESULTS,
        metavar="DIR",
        help="the folder for what this finds, and from which the same job is resumed (default: %(default)s)",
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    if options.seed + (options.runs or 0) > MAX_SEED + 1:
        parser.error(f"expected seeds up to {MAX_SEED}, found {options.runs} runs from {options.seed}; lower either")
    if options.sweep and (options.runs is None or options.until is not None):
        parser.error("expected --runs N and no --until with --sweep: so many trials of each setting; give --runs")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 where a trial failed, 130 after Ctrl-C."""
    options = parse(arguments)
    from mnist_minimal.data import sets

    settings = [dict([*options.set, *swept]) for swept in itertools.product(*options.sweep)]
    # What is wrong with it is said before a data set is fetched, which may decide on it too.
    teacher = teaching.read(options.teacher) if options.teacher else None
    for values in settings:
        teaching.with_teacher(lookup.recipe(options.model, options.recipe).replace(**values), teacher)
    with interruptible() as interrupted:
        dataset = sets.load(from_arguments(options))
        plans = [_plan(options, values, dataset, teacher) for values in settings]
        said = [dataset.notice] if dataset.notice else []
        published = options.model in PUBLISHED_RECIPES
        if digits.is_digits(dataset.name) and published:
            own = lookup.recipe(options.model, None, dataset.name)
            if any(plan.recipe == own for plan in plans):
                said.append(
                    f"On the digits, which {options.model} learns in batches of {own.batch_size}, expect an accuracy "
                    f"of {digits.EXPECTED} (--recipe {options.model}: by its published recipe as it is)."
                )
        if dataset.notice:
            said.append(f"The rows say dataset={dataset.name} and go to a CSV of their own.")
        if said:
            print(" ".join(said))
        for plan in plans:
            if another := variation.described(options.model, plan.recipe, dataset.name):
                print(f"{options.model} is trained by {another}; the study is {plan.study.name}.")
        try:
            if options.sweep:
                fine = carry_out_all(plans, print, display, interrupted)
            else:
                fine = carry_out(plans[0], print, display, interrupted)
            status = 0 if fine else 1
        except KeyboardInterrupt:
            print("\nStopped; the same command resumes the job.")
            status = 130
        for plan in plans:
            print_summary(plan)
    return status


def _plan(
    options: argparse.Namespace, values: dict[str, Any], dataset: "Dataset", teacher: teaching.TeacherFile | None
) -> Plan:
    """The trials of one setting."""
    recipe = lookup.recipe(options.model, options.recipe, dataset.name).replace(**values)
    recipe = teaching.with_teacher(recipe, teacher)
    return Plan(
        options.out,
        options.model,
        recipe,
        dataset,
        # Where the digits took MNIST's place, other processes need not look for it again.
        from_arguments(options).or_recorded(dataset.name),
        options.runs,
        options.seed,
        min(options.epochs or recipe.max_epochs, recipe.max_epochs),
        options.until,
        options.protocol,
        options.trainer,
        options.jobs,
        teacher=teacher,
        dask=options.dask,
    )


def print_summary(plan: Plan) -> None:
    """Prints what the finished trials of a study came to."""
    from mnist_minimal.analysis.tables import study_table

    study = plan.study
    trials = ledger.read(study.csv)
    done = ledger.done(trials)
    finished = len(ledger.finished(trials))
    failures = len({trial.seed for trial in trials} - {trial.seed for trial in done})
    stopped = f", {len(done) - finished} stopped early by the median stopping rule" if finished < len(done) else ""
    print(
        f"\n{plan.model} on {plan.dataset.name}, protocol {plan.protocol}: {finished} finished "
        f"{'trial' if finished == 1 else 'trials'}{stopped}, {failures} failed ({study.csv})"
    )
    print(f"Protocol {plan.protocol}: {PROTOCOLS[plan.protocol]}.")
    caps, whole = sorted({trial.max_epochs for trial in done}), identity.recipe_epochs(study)
    if caps and whole and caps[0] < whole:
        print(f"The epochs were capped at {caps[0]}; the recipe has up to {whole}.")
    if finished:
        print(study_table(trials, until=plan.until, width=terminal_width()))
        draw(study)


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
