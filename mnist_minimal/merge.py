"""Join studies that several machines have trained apart: rows, histories, models and JSON, in a new folder.

Studies of one name are one study afterwards; what was trained by another recipe, on other images, by another network,
trainer or version of the bits is refused, by what differs. A seed that several folders have must have the same row in
each, but for times, version and instruction set. The folders are left as they are.
"""

import argparse
from collections.abc import Sequence

from mnist_minimal.cli.options import expanded_path
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.study import ledger


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = command_parser(__doc__, "merge")
    parser.add_argument("folders", nargs="+", type=expanded_path, metavar="DIR", help="folders of studies")
    parser.add_argument(
        "--out", required=True, type=expanded_path, metavar="DIR", help="the joined folder, a new or empty one"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    options = parse(arguments)
    from mnist_minimal.study.merging import merge

    for joined in merge(options.folders, options.out):
        done = len(ledger.done(joined.trials))
        parts = ", ".join(f"{folder} ({count})" for folder, count in joined.parts.items())
        twice = f", {joined.twice} of them the same in more than one" if joined.twice else ""
        print(f"{joined.study.csv}: {done} trials, {joined.models} with a model, of {parts}{twice}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
