"""List the published models: parameters, multiply-accumulates, what was published and what the saved results say."""

from collections.abc import Sequence

from mnist_minimal.analysis.listing import listing
from mnist_minimal.cli.options import add_results, results_folders
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.cli.streams import terminal_width


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    parser = command_parser(__doc__, "models")
    add_results(parser)
    options = parser.parse_args(arguments)
    print(listing(results_folders(options), terminal_width()))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
