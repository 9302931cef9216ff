"""How small 99 % can be: every trial of every study on MNIST by the parameters of its network, and the frontier.

    python experiments/frontier.py --results results [--search experiments/search700] [--out results/frontier.png]

It takes seconds, draws the picture and prints two Markdown tables with a row for each study, those that come to less
too. The first counts as the sources do: the best epoch's accuracy on the test set that chose it, or the kept model's
where the recipe monitors other images. The second is of the studies that met the test set once, with weights that it
did not choose: the protocol "holdout", and the finalists of searches, which were chosen on held-out images. The two
are not comparable with each other.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mnist_minimal import files
from mnist_minimal.analysis import figures
from mnist_minimal.analysis.frontier import (
    BEST,
    MEAN,
    Entry,
    as_sources_count,
    chosen_without_test_set,
    fewest_parameters,
    frontier_table,
    published_runs,
)
from mnist_minimal.analysis.summaries import find_studies
from mnist_minimal.cli.options import add_results, expanded_path, results_folders
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError

SEARCH = Path("experiments/search700")

SOURCES, BLIND = "As the sources count: best epoch on the test set", "Test set met once: nothing chosen by it"


def finalists(folder: Path) -> list[Entry]:
    """The finalists of a search, by the trainings in its ledger that the test set judged.

    Raises:
        UserError: if the folder has no ledger of a search.
    """
    path = folder / "ledger.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["rung"] == "final"]
        found: dict[str, tuple[int, list[float]]] = {}
        for row in rows:
            found.setdefault(row["name"], (int(row["params"]), []))[1].append(float(row["accuracy"]))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: expected the ledger of a search, found none ({error}); name its folder") from error
    return [
        Entry(name, name.partition("_")[0], params, tuple(accuracies), "network")
        for name, (params, accuracies) in found.items()
    ]


def heading(counted: str, entries: Sequence[Entry]) -> str:
    """What a panel shows, and what it says of 99 %."""
    fewest = [fewest_parameters(entries, accuracy) for accuracy in (MEAN, BEST)]
    on_average, once = ("none" if each is None else f"{each:,}" for each in fewest)
    return f"{counted}\nFewest parameters with 99 %: {on_average} on average, {once} in a best run"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables and draws the picture."""
    parser = command_parser(__doc__)
    add_results(parser)
    parser.add_argument(
        "--search",
        type=expanded_path,
        action="append",
        metavar="DIR",
        help=f"the folder of a search, with its ledger.csv; may be repeated (default: {SEARCH} where it is there)",
    )
    parser.add_argument("--out", type=expanded_path, default=Path("results/frontier.png"), metavar="FILE.png")
    options = parser.parse_args(arguments)
    files.check_output(options.out, files.PICTURE)
    summaries = find_studies(*results_folders(options))
    searches = options.search or [folder for folder in (SEARCH,) if folder.is_dir()]
    of_sources = as_sources_count(summaries)
    blind = [*chosen_without_test_set(summaries), *(entry for folder in searches for entry in finalists(folder))]
    panels = [(counted, entries) for counted, entries in ((SOURCES, of_sources), (BLIND, blind)) if entries]
    for counted, entries in panels:
        print(f"{counted}\n\n{frontier_table(entries)}\n")
    figure = Figure(figsize=(7, 4.8 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for (counted, entries), ax in zip(panels, axes, strict=True):
        published = published_runs() if counted == SOURCES else []
        figures.parameters_against_accuracy(entries, published, ax=ax)
        ax.set_title(heading(counted, entries), loc="left", pad=54, fontsize=11, fontweight="bold")
    limits = [ax.get_xlim() for ax in axes]
    for ax in axes:
        ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    print(figures.save_figure(figure, options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
