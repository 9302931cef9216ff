"""Search for small networks and the recipes to train them by; the same command resumes what was stopped.

Candidates are judged by training images that their trainings hold out, another twelfth for each seed: all of them
briefly from one seed, the best longer and from more. At the end some finalists are trained on all training images from
fresh seeds, and the test set judges them, once; nothing is searched in that folder after that. With --trainer jax a GPU
screens the candidates; the finals are by the C++ core all the same, so that anyone can verify them.
"""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mnist_minimal.cli.options import (
    OWN_RESULTS,
    PUBLISHED_RESULTS,
    accuracy,
    add_arguments,
    expanded_path,
    from_arguments,
    positive,
    seed,
)
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import interruptible, run
from mnist_minimal.cli.streams import terminal_width
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset
    from mnist_minimal.searching.cluster import OnCluster
    from mnist_minimal.searching.running import Plan, Search
    from mnist_minimal.searching.slots import InSlots

SAMPLERS = ("tpe", "random")

# Settings of a network side by side, unless asked otherwise: those of one seed each, as at the lowest rung, fill the
# fewest places for which a program is compiled on a GPU (`training.slots.device.FEWEST_ON_A_GPU`).
SETTINGS = 8


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = command_parser(__doc__, "search")
    parser.add_argument(
        "--max-params", required=True, type=positive, metavar="N", help="the most trainable parameters of a network"
    )
    parser.add_argument(
        "--budget",
        required=True,
        metavar="TIME|PASSES",
        help="what may be spent, the finals included: a time such as 2h or 30m, or image passes such as 5e9, with "
        "which and one job the same search comes to the same candidates; what was begun is judged to its end",
    )
    parser.add_argument(
        "--target",
        type=accuracy,
        default=0.99,
        metavar="ACCURACY",
        help="once a candidate reaches this on its held-out images, only smaller ones are proposed (default: 0.99)",
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        default=36,
        metavar="N",
        help="epochs of a recipe, as at the highest rung; a ninth and a third of them below (default: 36)",
    )
    parser.add_argument(
        "--finalists", type=positive, default=3, metavar="N", help="candidates that the test set judges (default: 3)"
    )
    parser.add_argument(
        "--runs", type=positive, default=5, metavar="N", help="fresh seeds of each finalist (default: 5)"
    )
    parser.add_argument(
        "--sampler", choices=SAMPLERS, default="tpe", help="Optuna's sampler of this name (default: tpe)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="the sampler's seed (default: 0)")
    parser.add_argument(
        "--teach",
        action="store_true",
        help="recipes may have a teacher; the search trains one for each held-out part, minutes each, whose image "
        "passes do not count",
    )
    parser.add_argument(
        "--trainer",
        choices=("native", "jax"),
        default="native",
        help="what trains the candidates: native, the C++ core; jax, seeds and settings of one network side by side on "
        "a GPU, which needs the extra jax or gpu and is not promised to the bit (default: %(default)s)",
    )
    parser.add_argument(
        "--settings",
        type=positive,
        metavar="N",
        help="with --trainer jax: how many candidates of each network, which differ in the numbers of their recipes "
        f"alone, are trained side by side (default: {SETTINGS})",
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="candidates side by side, with --trainer jax the finals' trainings alone (default: 1; with --dask as many "
        "as its workers have threads when the search begins; of more, some wait for workers that join later)",
    )
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="train on the workers of a Dask cluster: its scheduler's address or file, as for trials; local: --jobs "
        "workers here",
    )
    parser.add_argument(
        "--out",
        type=expanded_path,
        default=OWN_RESULTS / "search",
        metavar="DIR",
        help="the folder of the search, which other processes may share (default: %(default)s)",
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    if options.trainer == "jax":
        if options.dask is not None:
            parser.error(
                "expected no --dask with --trainer jax, which trains on the device of this machine; leave out one"
            )
        options.settings = options.settings or SETTINGS
    elif options.settings is not None:
        parser.error(f"expected --trainer jax with --settings {options.settings}, found {options.trainer}; give it")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 130 after Ctrl-C."""
    options = parse(arguments)
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError("the search needs Optuna, found none; pip install 'mnist_minimal[search]'") from error
    from mnist_minimal.data import sets
    from mnist_minimal.searching.budget import Budget
    from mnist_minimal.searching.display import display
    from mnist_minimal.searching.evaluation import without_test_set
    from mnist_minimal.searching.rungs import rungs
    from mnist_minimal.searching.running import Plan, Search
    from mnist_minimal.searching.space import Space
    from mnist_minimal.searching.storage import Storage
    from mnist_minimal.searching.teachers import Teachers
    from mnist_minimal.training.slots import device

    if options.trainer == "jax":
        # Before anything is put on a GPU.
        device.require()
        device.keep_tensorflow_off()
        device.check()
    space, budget = Space(options.max_params, options.epochs, options.teach), Budget.parse(options.budget)
    levels = rungs(options.epochs)
    with interruptible() as interrupted:
        dataset = sets.load(from_arguments(options))
        if dataset.notice:
            print(dataset.notice)
        check_images(dataset)
        storage = Storage(options.out)
        teachers = Teachers(options.out / "teachers", without_test_set(dataset)) if options.teach else None
        with elsewhere(options, dataset) as evaluate, storage.closing():
            plan = Plan(
                space,
                options.target,
                budget,
                dataset,
                jobs=options.jobs or (evaluate.places if evaluate else 1),
                **{
                    name: getattr(options, name)
                    for name in ("sampler", "seed", "finalists", "runs", "trainer", "settings")
                },
            )
            shown, status = display(levels), 0
            search = Search(plan, storage, shown, interrupted, teachers, evaluate, side_by_side(plan))
            try:
                # Last, so that what is refused before it leaves the terminal as it is.
                with shown:
                    search.run()
            except KeyboardInterrupt:
                status = 130
                print("\nStopped; the same command resumes the search.")
            report(search, from_arguments(options))
    return status


def side_by_side(plan: "Plan") -> "InSlots | None":
    """What evaluates candidates on JAX's device; None where it is not to."""
    if plan.settings is None:
        return None
    from mnist_minimal.searching.rungs import fold_of
    from mnist_minimal.searching.slots import InSlots
    from mnist_minimal.training.slots import device

    places = max(rung.seeds for rung in plan.rungs)
    print(f"The candidates are trained on {device.name()}, {plan.settings} of each network side by side.")
    return InSlots(plan.dataset, [fold_of(place) for place in range(places)], plan.settings, print)


@contextmanager
def elsewhere(options: argparse.Namespace, dataset: "Dataset") -> "Iterator[OnCluster | None]":
    """What evaluates candidates on the Dask cluster that the options name; None where they name none."""
    if options.dask is None:
        yield None
        return
    from mnist_minimal.engines.dask import connected
    from mnist_minimal.searching.cluster import OnCluster

    with connected(options.dask, options.jobs) as client:
        # Where the digits took MNIST's place, other processes need not look for it again.
        found = OnCluster(client, dataset, from_arguments(options).or_recorded(dataset.name), print)
        print(
            f"The candidates go to the Dask cluster at {client.scheduler.address}, whose workers have {found.places} "
            f"threads now; {client.dashboard_link} shows what they do."
        )
        with found:
            yield found


def check_images(dataset: "Dataset") -> None:
    """Makes sure that the networks of the search are for such images.

    Raises:
        UserError: if they are not.
    """
    from mnist_minimal.models.searched import CLASSES, IMAGE

    if dataset.shape != (IMAGE, IMAGE, 1) or dataset.classes > CLASSES:
        raise UserError(
            f"expected images of {IMAGE}x{IMAGE} pixels in one channel and at most {CLASSES} classes, which the "
            f"networks of the search take, found {dataset.shape} and {dataset.classes}; give other data"
        )


def report(search: "Search", choice: Choice) -> None:
    """Writes the tables and pictures of a search, and prints what was found.

    Args:
        search: The search.
        choice: How the user chose its images.
    """
    from matplotlib import pyplot

    from mnist_minimal.analysis.figures import save_figure
    from mnist_minimal.analysis.tables import markdown
    from mnist_minimal.files import read_json
    from mnist_minimal.models.searched import CANDIDATES, Candidate, model_name
    from mnist_minimal.searching import figures, ledger
    from mnist_minimal.searching.display import count, figure_line
    from mnist_minimal.searching.importance import LEAST_TRIALS, importances

    study, plan, out = search.study, search.plan, search.storage.out

    def command(name: str) -> str:
        candidate = Candidate.from_dict(read_json(out / CANDIDATES / f"{name}.json"))
        teacher = ["--teacher", str(out / "teachers/all.npz")] if candidate.recipe.teacher else []
        dataset = [] if choice.dataset == "auto" else ["--dataset", choice.dataset]
        data = ["--data", choice.path] if choice.path else []
        named = ["--dataset-name", choice.name] if choice.name else []
        fold = ["--fold", str(choice.fold)] if choice.fold else []
        options = ["--model", model_name(candidate, out), "--runs", "50", *dataset, *data, *named, *fold, *teacher]
        return shlex.join(["python", "-m", "mnist_minimal.trials", *options])

    rows = ledger.rows(study, plan.rungs)
    judged, finalists = ledger.judged(study, plan.rungs), ledger.finalists(study)
    published = figures.published([PUBLISHED_RESULTS]) if plan.dataset.name == "mnist" else []
    written = [ledger.write(out / "ledger.csv", rows, ledger.Row)]
    print(
        f"\n{count(len({row.number for row in rows}), 'candidate')}, {len(judged)} of them judged at the highest rung "
        f"({plan.rungs[-1].epochs} epochs, {plan.rungs[-1].seeds} seeds); {sum(row.passes for row in rows):,} image "
        "passes."
    )
    if judged:
        best = ledger.frontier(judged)
        written.append(ledger.write(out / "frontier.csv", [*best, *finalists, *published], ledger.Figure))
        figure = pyplot.figure(figsize=(9, 5.5), layout="constrained")
        figures.draw_frontier(judged, finalists, published, plan.target, figure.add_subplot())
        written.append(save_figure(figure, out / "frontier.png"))
        print("\nThe frontier, by held-out images:")
        print("\n".join(f"  {each.params} parameters: {figure_line(each)}" for each in best))
    if found := importances(study):
        figure = pyplot.figure(figsize=(7, 6), layout="constrained")
        figures.draw_importances(found, figure.add_subplot())
        written.append(save_figure(figure, out / "importances.png"))
        table = [("choice", "importance"), *((name, f"{value:.3f}") for name, value in found.items())]
        print(
            "\nImportance of each choice for the accuracy at the lowest rung, by Optuna's PED-ANOVA (over all limits "
            "of parameters; the limit falls during a search):"
        )
        print(markdown(table, terminal_width()))
    else:
        print(f"The importance of the choices is known from {LEAST_TRIALS} candidates on.")
    if finalists:
        tested = sum(each.seeds or 0 for each in finalists)
        print(
            f"\nThe test set was looked at {count(tested, 'time')}: once by each training of "
            f"{count(len(finalists), 'finalist')}, on all training images, from seeds that no candidate was judged by."
        )
        for each in finalists:
            reached = "reaches" if (each.median or 0) >= plan.target else "does not reach"
            print(f"  {each.params} parameters: {figure_line(each)}; the median {reached} {plan.target:g}")
            print(f"    {command(each.name)}")
    elif not search.closed:
        print("\nThe test set was not looked at; the finalists are not chosen yet.")
    print("\n" + "\n".join(map(str, written)))


if __name__ == "__main__":
    raise SystemExit(run(main))
