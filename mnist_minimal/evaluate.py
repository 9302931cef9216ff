"""Accuracy, loss and confusion matrix of saved models on the test set.

Of a trial's model this is what tables call the kept model: the weights in the file. The last epoch's accuracy, which
the CSV has as saved_accuracy, is that of other weights where the recipe keeps the best epoch's.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mnist_minimal.analysis.tables import confusion_table
from mnist_minimal.cli.options import add_arguments, from_arguments, model_name
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError
from mnist_minimal.models.counting import trainable_parameters
from mnist_minimal.models.lookup import OWN_FORM, builder
from mnist_minimal.study.recorded import check_kept, recorded_dataset
from mnist_minimal.training.evaluation import evaluate


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = command_parser(__doc__, "evaluate")
    parser.add_argument(
        "files", nargs="+", type=os.path.expanduser, metavar="FILE", help="a saved model: .h5, .keras or .weights.h5"
    )
    parser.add_argument(
        "--model",
        type=model_name,
        metavar="MODEL",
        help=f"what the files hold (default: any of the published models): one of them, or {OWN_FORM}",
    )
    parser.add_argument(
        "--pixels",
        metavar="HOW",
        help="what the model's author did to pixels of 0 to 255: 255 (nothing), 1 (divided by 255), -1..1, -.5...5, "
        "mean/sd, 255-x, 1-x, normalize, normalize-rows, binary or transposed (default: what fits the training images; "
        "write --pixels=-1..1)",
    )
    add_arguments(parser, auto="what the study of the file was trained on, else MNIST")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 where a file holds no model."""
    options = parse(arguments)
    from mnist_minimal.data import sets
    from mnist_minimal.saving.pixels import classifier
    from mnist_minimal.saving.saved_model import load_described
    from mnist_minimal.training.conventions import CONVENTIONS

    if options.pixels not in (None, *CONVENTIONS):
        raise UserError(f"--pixels: found {options.pixels!r}; expected one of {', '.join(CONVENTIONS)}")
    builders = {options.model: builder(options.model, to_train=False)} if options.model else None
    recorded = [recorded_dataset(Path(file)) for file in options.files]
    choices = [from_arguments(options).or_recorded(dataset) for dataset in recorded]
    datasets = {choice: sets.load(choice) for choice in dict.fromkeys(choices)}
    for notice in dict.fromkeys(dataset.notice for dataset in datasets.values() if dataset.notice):
        print(notice, file=sys.stderr)
    status = 0
    for file, choice, trained_on in zip(options.files, choices, recorded, strict=True):
        dataset = datasets[choice]
        try:
            check_kept(Path(file))
            loaded = load_described(file, builders)
            model, decision = classifier(loaded, dataset.x_train, dataset.y_train, options.pixels)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 1
            continue
        found = evaluate(model, dataset.x_test, dataset.y_test)
        parameters = trainable_parameters(model)
        which = "the kept model of a trial, " if trained_on else ""
        print(f"{file}: {model.name}, {parameters:,} parameters, {which}on the test set of {dataset.name}")
        if decision:
            print(f"pixels: {decision}")
        print(f"accuracy {found.accuracy} ({found.correct} of {found.size})")
        print(f"loss {found.loss:.6f}")
        print(confusion_table(found.confusion), end="\n\n")
    return status


if __name__ == "__main__":
    raise SystemExit(run(main))
