"""List the published models: parameters, multiply-accumulates, what was published and what the saved results say."""

from collections.abc import Sequence
from pathlib import Path

from mnist_minimal.analysis.listing import listing
from mnist_minimal.cli.options import expanded_path
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.cli.streams import terminal_width


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    parser = command_parser(__doc__, "models")
    parser.add_argument(
        "--results",
        type=expanded_path,
        default=Path("results"),
        metavar="DIR",
        help="folder of the results (default: results)",
    )
    options = parser.parse_args(arguments)
    print(listing(options.results, terminal_width()))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
