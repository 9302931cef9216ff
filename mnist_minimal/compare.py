"""Compare studies: a table, a test of each pair with its effect size, and a picture of the distributions.

A study is named (`sep997`, found in --results), or its CSV is. A file with one accuracy in [0, 1] a line, or with a
column saved_accuracy, best_accuracy or test_accuracy, is compared as a study of which nothing else is known.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mnist_minimal import files
from mnist_minimal.analysis.comparison import compare_pairs, notes
from mnist_minimal.analysis.figures import draw_samples
from mnist_minimal.analysis.samples import differences, named, read_samples
from mnist_minimal.analysis.tables import MEASURE_NAMES, MEASURES_EXPLAINED, sample_table
from mnist_minimal.cli.options import add_results, expanded_path, results_folders
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.cli.streams import terminal_width
from mnist_minimal.errors import UserError
from mnist_minimal.study.ledger import MEASURES


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = command_parser(__doc__, "compare")
    parser.add_argument(
        "studies",
        nargs="+",
        type=os.path.expanduser,
        metavar="STUDY",
        help="a study's name, its CSV, or a file of accuracies",
    )
    add_results(parser)
    parser.add_argument(
        "--measure",
        choices=MEASURES,
        default="saved",
        help="saved: the accuracy on the monitored images after the last epoch, as the sources call it; best: the "
        "highest after any epoch; test: that of the kept model, the weights in the saved file, on the test set "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--mix",
        action="store_true",
        help="compare even where data sets, protocols (which images were monitored), or one model's caps on the epochs "
        "or recipes differ",
    )
    parser.add_argument(
        "--out",
        type=expanded_path,
        metavar="FILE.png",
        help="the picture of the distributions (default: compare-STUDY-STUDY.png in the working folder)",
    )
    return parser.parse_args(arguments)


def picture(studies: Sequence[str]) -> Path:
    """Where the distributions of studies are drawn if nobody says where: a name in the working folder."""
    return Path(f"compare-{'-'.join(Path(study).stem for study in studies)}"[:100] + ".png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    options = parse(arguments)
    out = options.out or picture(options.studies)
    files.check_output(out, files.PICTURE)
    samples = read_samples(options.studies, results_folders(options), options.measure)
    unlike = differences(samples)
    if unlike and not options.mix:
        raise UserError(f"these studies are not alike: {named(unlike)}; compare others, or give --mix")
    print(sample_table(samples, f"accuracy, {MEASURE_NAMES[options.measure]}", terminal_width()))
    for paragraph in [MEASURES_EXPLAINED, *compare_pairs(samples), *notes(samples, unlike)]:
        print(f"\n{paragraph}")
    draw_samples(samples, options.measure, out)
    print(f"\n{out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
