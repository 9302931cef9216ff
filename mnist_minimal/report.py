"""Write what the studies in a folder found as one page of HTML that needs nothing else, with a digit to draw."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mnist_minimal.cli.options import add_arguments, expanded_path, from_arguments
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.page.report import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    parser = command_parser(__doc__, "report")
    parser.add_argument(
        "--results",
        type=expanded_path,
        default=Path("results"),
        metavar="DIR",
        help="folder of the studies (default: results)",
    )
    parser.add_argument(
        "--out", type=expanded_path, metavar="PAGE", help="the page (default: report.html in that folder)"
    )
    add_arguments(parser, auto="what the study shown was tested on")
    options = parser.parse_args(arguments)
    from mnist_minimal.analysis.published import PUBLISHED

    out = options.out or options.results / "report.html"
    for line in write_report(options.results, out, from_arguments(options), PUBLISHED):
        print(f"left out: {line}", file=sys.stderr)
    print(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
