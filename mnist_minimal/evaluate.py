"""Accuracy, loss and confusion matrix of saved models on the test set, or on images and labels in two idx files.

Of a trial's model this is what tables call the kept model: the weights in the file. The last epoch's accuracy, which
the CSV has as saved_accuracy, is that of other weights where the recipe keeps the best epoch's.
"""

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal.analysis.tables import confusion_table
from mnist_minimal.cli.options import add_arguments, expanded_path, from_arguments, model_name, positive
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.data.choice import Choice, recorded_fold
from mnist_minimal.errors import UserError
from mnist_minimal.models.counting import trainable_parameters
from mnist_minimal.models.lookup import OWN_FORM, builder
from mnist_minimal.study.recorded import check_kept, recorded_dataset
from mnist_minimal.training.evaluation import evaluate

if TYPE_CHECKING:
    import numpy as np

    from mnist_minimal.data.sets import Dataset


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
    further = parser.add_argument_group("further images, in place of the test set")
    further.add_argument(
        "--images", type=expanded_path, metavar="FILE", help="an idx file of images, gzipped or not, such as QMNIST's"
    )
    further.add_argument(
        "--labels",
        type=expanded_path,
        metavar="FILE",
        help="their labels, an idx file of bytes or QMNIST's of eight integers an image, the first of which is the "
        "class",
    )
    further.add_argument(
        "--from",
        dest="start",
        type=positive,
        metavar="N",
        help="leave out the first N images (10000: of QMNIST's 60,000 test images MNIST's own)",
    )
    options = parser.parse_args(arguments)
    if (options.images is None) != (options.labels is None) or (options.start and not options.images):
        parser.error("expected --images and --labels together, and --from N with both; give the two files")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 where a file holds no model of these images."""
    options = parse(arguments)
    from mnist_minimal.analysis.statistics import summarize
    from mnist_minimal.data import sets
    from mnist_minimal.data.reading import read_labelled
    from mnist_minimal.saving.pixels import classifier
    from mnist_minimal.saving.saved_model import load_described
    from mnist_minimal.training.conventions import CONVENTIONS

    if options.pixels not in (None, *CONVENTIONS):
        raise UserError(f"--pixels: found {options.pixels!r}; expected one of {', '.join(CONVENTIONS)}")
    builders = {options.model: builder(options.model, to_train=False)} if options.model else None
    recorded = [recorded_dataset(Path(file)) for file in options.files]
    choices = [from_arguments(options).or_recorded(dataset) for dataset in recorded]
    further = read_labelled(options.images, options.labels, options.start or 0) if options.images else None

    @functools.cache
    def data(choice: Choice) -> "Dataset":
        dataset = sets.load(choice)
        if dataset.notice:
            print(dataset.notice, file=sys.stderr)
        return dataset

    if further is None:
        # What can't be had is said before any model is judged.
        for choice in choices:
            data(choice)
    status = 0
    accuracies: dict[str, list[float]] = {}
    for file, choice, trained_on in zip(options.files, choices, recorded, strict=True):
        try:
            check_kept(Path(file))
            loaded = load_described(file, builders)
            if further is None:
                images, labels = data(choice).x_test, data(choice).y_test
                where = f"the test set of {data(choice).name}"
            else:
                images, labels = further
                where = f"{len(images):,} images of {options.images}"
            # Of images that are to judge no more than the size is looked at, and of the data where it decides nothing
            # nothing at all: whoever has further images need not have MNIST.
            decided = further is not None and (options.pixels or loaded.raw_pixels)
            training = (images, labels) if decided else (data(choice).x_train, data(choice).y_train)
            check_size(images, training[0], where)
            model, decision = classifier(loaded, *training, options.pixels)
            check_classes(labels, model.output_shape[-1], where)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 1
            continue
        if further is None and (line := seen(data(choice).name, trained_on)):
            print(f"{file}: {line}", file=sys.stderr)
        found = evaluate(model, images, labels)
        parameters = trainable_parameters(model)
        which = "the kept model of a trial, " if trained_on else ""
        print(f"{file}: {model.name}, {parameters:,} parameters, {which}on {where}")
        if decision:
            print(f"pixels: {decision}")
        print(f"accuracy {found.accuracy} ({found.correct} of {found.size})")
        print(f"loss {found.loss:.6f}")
        print(confusion_table(found.confusion), end="\n\n")
        accuracies.setdefault(f"{model.name} on {where}", []).append(found.accuracy)
    for what, of_models in accuracies.items():
        if len(of_models) > 1:
            summary = summarize(of_models)
            print(f"{what}: mean accuracy {summary.mean:.5f}, sd {summary.sd:.5f}, n = {summary.n}")
    return status


def seen(tested_on: str, trained_on: str | None) -> str:
    """What to say of a model that is tested on a fold of the images it was trained on, or may have been; else "".

    Args:
        tested_on: Name of the data set whose test set judges the model.
        trained_on: That of the one it was trained on; None where nothing is known.
    """
    whole, fold = recorded_fold(tested_on)
    if fold is None or trained_on == tested_on:
        return ""
    expected = f"expected a model that has seen none of the test images of {tested_on}"
    if trained_on is None:
        return f"{expected}, found none that is recorded in a study; make sure of it"
    if recorded_fold(trained_on)[0] != whole:
        return ""
    return (
        f"{expected}, found one that was trained on {trained_on}, which has most of them; judge it without --fold, or "
        f"train one with --fold {fold}"
    )


def check_size(images: "np.ndarray", training: "np.ndarray", where: str) -> None:
    """Refuses images of another size than those by which it is decided how pixels were scaled."""
    from mnist_minimal.data.reading import size_text

    sizes = [size_text(array.shape[1:]) for array in (images, training)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{where}: found {sizes[0]}, and training images of {sizes[1]} by which to decide how the pixels of this "
            "model were scaled; give images of that size with --data or --dataset, or --pixels"
        )


def check_classes(labels: "np.ndarray", classes: int, where: str) -> None:
    """Refuses labels that a model has no class for."""
    if labels.max() >= classes:
        raise UserError(
            f"{where}: found the label {labels.max()}, expected 0 to {classes - 1}, as the model has {classes} "
            "classes; give a model of these classes"
        )


if __name__ == "__main__":
    raise SystemExit(run(main))
