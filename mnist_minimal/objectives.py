"""Check saved results against what the sources wanted of their models, and set them beside the published figures.

A model's source is the publication that it comes from; `python -m mnist_minimal.models` lists them.
"""

from collections.abc import Sequence

from mnist_minimal.analysis.objectives import check, comparison, folders_with
from mnist_minimal.analysis.published import OBJECTIVES
from mnist_minimal.analysis.tables import MEASURES_EXPLAINED
from mnist_minimal.cli.options import add_results, results_folders
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.cli.streams import terminal_width
from mnist_minimal.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 where something falls short."""
    parser = command_parser(__doc__, "objectives")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"any of {', '.join(OBJECTIVES)}")
    parser.add_argument("--all", action="store_true", help="all of them")
    add_results(parser)
    options = parser.parse_args(arguments)
    unknown = [model for model in options.models if model not in OBJECTIVES]
    if unknown:
        raise UserError(f"expected models out of {', '.join(OBJECTIVES)}, found {unknown[0]!r}")
    if options.all == bool(options.models):
        raise UserError("expected the names of models, or --all; found " + ("both" if options.all else "neither"))
    models = list(OBJECTIVES) if options.all else options.models
    folders, short = results_folders(options), 0
    for model in models:
        there = folders_with(model, folders)
        for folder in there:
            print(f"{model}:" if len(there) == 1 else f"{model} in {folder}:")
            for found in check(model, folder):
                print(f"  {'met  ' if found.met else 'SHORT'}  {found.words}")
                short += not found.met
    print(f"\n{comparison(models, folders, terminal_width())}\n\n{MEASURES_EXPLAINED}\n")
    print(f"{short} of the objectives fall short." if short else "All objectives are met.")
    return 1 if short else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
