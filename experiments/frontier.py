"""How small 99 % can be: every trial of every study on MNIST by the parameters of its network, and the frontier.

    python experiments/frontier.py --results results [--search DIR] [--out results/frontier.png]

It takes seconds, draws the picture and prints two Markdown tables with a row for each study, those that come to less
too. The first counts as the sources do: the best epoch's accuracy on the test set that chose it, or the kept model's
where the recipe monitors other images. The second is of the studies whose weights the test set did not choose: the
protocol "holdout", recipes whose course takes no notice of what is monitored, and the finalists of searches, which were
chosen on held-out images. The two are not comparable with each other.
"""

from collections.abc import Sequence
from pathlib import Path

from mnist_minimal import files
from mnist_minimal.analysis import figures
from mnist_minimal.analysis.finalists import finalists, find_finalists
from mnist_minimal.analysis.frontier import Entry, frontier_table, ways_of_counting
from mnist_minimal.analysis.summaries import find_studies
from mnist_minimal.cli.options import add_results, expanded_path, results_folders
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError

SEARCHES = Path("experiments/searches")


def of_searches() -> list[Entry]:
    """The finalists of the published searches."""
    return find_finalists([SEARCHES])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables and draws the picture."""
    parser = command_parser(__doc__)
    add_results(parser)
    parser.add_argument(
        "--search",
        type=expanded_path,
        action="append",
        metavar="DIR",
        help=f"the folder of a search, with its ledger.csv; may be repeated (default: those in {SEARCHES})",
    )
    parser.add_argument("--out", type=expanded_path, default=Path("results/frontier.png"), metavar="FILE.png")
    options = parser.parse_args(arguments)
    files.check_output(options.out, files.PICTURE)
    found = [each for folder in options.search for each in finalists(folder)] if options.search else of_searches()
    folders = results_folders(options)
    countings = ways_of_counting(find_studies(*folders), found)
    if not countings:
        where = " or ".join(map(str, folders))
        raise UserError(f"{where}: expected a study on MNIST, found none; train one, or name its folder by --results")
    for counting in countings:
        print(f"{counting.said}\n\n{frontier_table(counting.entries)}\n")
    print(figures.save_figure(figures.frontiers(countings), options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
