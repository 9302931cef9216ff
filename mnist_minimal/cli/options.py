"""The options for data and model that several commands have."""

import argparse
import ast
import json
import os
from pathlib import Path
from typing import Any

from mnist_minimal.data.choice import DATASETS, ENVIRONMENT_VARIABLE, KERAS_DATASETS, Choice, Fold
from mnist_minimal.errors import UserError
from mnist_minimal.models.lookup import OWN, OWN_FORM
from mnist_minimal.recipes import PUBLISHED_RECIPES


def add_arguments(
    parser: argparse.ArgumentParser, auto: str = "MNIST where it can be had, else scikit-learn's digits"
) -> None:
    """Adds the options of `Choice` to a command; `auto` says what the command makes of `--dataset auto`."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        choices=DATASETS,
        default="auto",
        help=f"auto: {auto} (default: %(default)s); {', '.join(KERAS_DATASETS)}: from Keras' cache or download",
    )
    group.add_argument(
        "--data",
        metavar="PATH",
        help="an .npz in Keras' layout, with images of any size, or a folder with one or with the four idx files in it "
        f"(default: ${ENVIRONMENT_VARIABLE})",
    )
    group.add_argument(
        "--dataset-name",
        metavar="NAME",
        help="use images that are not MNIST under this name, which the results carry",
    )
    group.add_argument(
        "--fold",
        type=fold,
        metavar="K/N",
        help="divide all images, training and test set together, at random but always alike into N folds; the K-th is "
        "the test set, the others are the training set; the results carry its name, such as mnist-fold3of10",
    )


def from_arguments(arguments: argparse.Namespace) -> Choice:
    """The choice that the parsed options of `add_arguments` make."""
    return Choice(arguments.dataset, arguments.data, arguments.dataset_name, arguments.fold)


def fold(text: str) -> Fold:
    """K/N as an argument of a command."""
    try:
        return Fold.parse(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# Where the commands that read look: what one's own trials found, and in a checkout what the project publishes.
OWN_RESULTS, PUBLISHED_RESULTS = Path("runs"), Path("results")


def add_results(parser: argparse.ArgumentParser) -> None:
    """Adds the option of the commands that read studies."""
    parser.add_argument(
        "--results",
        type=expanded_path,
        action="append",
        metavar="DIR",
        help=f"a folder of studies; may be repeated (default: {OWN_RESULTS}, into which mnist_minimal.trials writes, "
        f"and {PUBLISHED_RESULTS}, which the project publishes)",
    )


def results_folders(arguments: argparse.Namespace) -> list[Path]:
    """The folders that the parsed option of `add_results` means; at least one, which need not be there."""
    there = [folder for folder in (OWN_RESULTS, PUBLISHED_RESULTS) if folder.is_dir()]
    return arguments.results or there or [OWN_RESULTS]


def expanded_path(text: str) -> Path:
    """A file or folder as an argument of a command; a `~` that no shell expands, as in `--out=~/x`, is the home."""
    return Path(os.path.expanduser(text))


def model_name(text: str) -> str:
    """A model's name as an argument of a command; only its form is looked at where it is the user's own."""
    if text in PUBLISHED_RECIPES or OWN.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError(
        f"expected one of the models {', '.join(PUBLISHED_RECIPES)}, or {OWN_FORM}, found {text!r}"
    )


def assignment(text: str) -> tuple[str, Any]:
    """FIELD=VALUE as an argument of a command; the value as JSON or Python writes it, or else the text itself."""
    field, equals, value = text.partition("=")
    if not (field and equals):
        raise argparse.ArgumentTypeError(f"expected FIELD=VALUE, such as batch_size=256, found {text!r}")
    if value.lower() == "none":
        return field, None
    for read in (json.loads, ast.literal_eval):
        try:
            return field, read(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return field, value


def assignments(text: str) -> list[tuple[str, Any]]:
    """FIELD=VALUE,VALUE as an argument of a command; a comma within brackets separates no values."""
    field, equals, values = text.partition("=")
    parts, depth = [""], 0
    for character in values:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    if not (field and equals and all(parts)):
        raise argparse.ArgumentTypeError(
            f"expected FIELD=VALUE,VALUE, such as optimizer.learning_rate=0.01,0.03, found {text!r}"
        )
    return [assignment(f"{field}={part}") for part in parts]


def positive(text: str) -> int:
    """A whole number of at least 1 as an argument of a command."""
    # Of decimal digits Python knows those of all scripts.
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A trial's seed as an argument of a command."""
    if not (text.isascii() and text.isdecimal()) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 4294967295, found {text!r}")
    return int(text)


def accuracy(text: str) -> float:
    """An accuracy in (0, 1] as an argument of a command."""
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not 0 < found <= 1:
        raise argparse.ArgumentTypeError(f"expected an accuracy above 0 and at most 1, such as 0.99, found {text!r}")
    return found
