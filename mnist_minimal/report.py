"""Write what the studies in a folder found as one page of HTML that needs nothing else, with a digit to draw."""

import sys
from collections.abc import Sequence

from mnist_minimal.cli.options import (
    OWN_RESULTS,
    add_arguments,
    add_results,
    expanded_path,
    from_arguments,
    results_folders,
)
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.page.report import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    parser = command_parser(__doc__, "report")
    add_results(parser)
    parser.add_argument(
        "--out",
        type=expanded_path,
        metavar="PAGE",
        help=f"the page (default: report.html in the folder of --results, or in {OWN_RESULTS})",
    )
    add_arguments(parser, auto="what the study shown was tested on")
    options = parser.parse_args(arguments)
    from mnist_minimal.analysis.published import PUBLISHED

    out = options.out or (options.results[0] if options.results else OWN_RESULTS) / "report.html"
    for line in write_report(results_folders(options), out, from_arguments(options), PUBLISHED):
        print(f"left out: {line}", file=sys.stderr)
    print(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
