"""Draw what trials recorded: distributions of accuracies, training curves, and Keras' diagram of a model."""

from collections.abc import Sequence
from pathlib import Path

from mnist_minimal.analysis.figures import draw_study, model_diagram
from mnist_minimal.cli.options import OWN_RESULTS, expanded_path, model_name
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError
from mnist_minimal.models.lookup import file_name
from mnist_minimal.study import ledger
from mnist_minimal.study.study import Study


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    parser = command_parser(__doc__, "plots")
    parser.add_argument(
        "csv",
        nargs="*",
        type=expanded_path,
        metavar="STUDY.csv",
        help=f"CSVs of studies (default: all of {OWN_RESULTS})",
    )
    parser.add_argument(
        "--out", type=expanded_path, metavar="DIR", help="folder for the pictures (default: beside each CSV)"
    )
    parser.add_argument(
        "--diagram",
        action="append",
        default=[],
        type=model_name,
        metavar="MODEL",
        help="also draw Keras' diagram of this model (imports Keras, needs Graphviz); alone, draw nothing else",
    )
    options = parser.parse_args(arguments)
    studies = options.csv
    if not studies and not options.diagram:
        studies = ledger.find(OWN_RESULTS)
        if not studies:
            raise UserError(
                f"found no CSV of trials in {OWN_RESULTS}, expected one; name one, or run mnist_minimal.trials first"
            )
    for csv in studies:
        if csv.suffix != ".csv":
            raise UserError(
                f"{csv}: expected the CSV of a study, found a name without .csv; name the file OUT/STUDY.csv"
            )
    if options.out and options.out.exists() and not options.out.is_dir():
        raise UserError(f"{options.out}: expected a folder for the pictures, found a file; name another with --out")
    if studies:
        from mnist_minimal.analysis.summaries import read_study
    for csv in studies:
        for picture in draw_study(read_study(Study.at(csv)), options.out or csv.parent):
            print(picture)
    for model in options.diagram:
        picture = (options.out or Path()) / f"{file_name(model)}-diagram.png"
        model_diagram(model, picture)
        print(picture)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
