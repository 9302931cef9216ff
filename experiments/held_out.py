"""Trials that images held out of the training set judge, a twelfth of it for each seed, and their ledgers.

What chooses between settings may not look at the test set, and one set of 5,000 held-out images, whose standard error
is .0014, can't rank what is close: so trial after trial another twelfth is held out, the same for all settings.
"""

import csv
import dataclasses
import math
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mnist_minimal.analysis.statistics import summarize
from mnist_minimal.analysis.tables import sd_cell
from mnist_minimal.cli.options import add_arguments, expanded_path, from_arguments
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.data.sets import Dataset, Splits, load
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import Recipe
from mnist_minimal.searching.evaluation import FOLDS, fold_splits, require_core, without_test_set
from mnist_minimal.version import version

if TYPE_CHECKING:
    import keras

FIGURES = ("n", "mean", "sd", "loss", "train", "train loss", "CPU s")


@dataclass(frozen=True)
class Judged:
    """What a trained network made of the images.

    Attributes:
        correct, size: How many of the held-out images it got right, and how many there are; 0 right where it diverged.
        loss: Their mean cross-entropy, nats; infinite where it diverged.
        train_accuracy, train_loss: The same of the images that it was trained on, as they are.
        cpu_seconds: Processor time of the training.
        version: Of this package.
    """

    correct: int
    size: int
    loss: float
    train_accuracy: float
    train_loss: float
    cpu_seconds: float
    version: str

    @property
    def accuracy(self) -> float:
        """The share of held-out images that it got right."""
        return self.correct / self.size


AnyRow = TypeVar("AnyRow", bound=Judged)


def fold_of(seed: int) -> int:
    """Which of the FOLDS parts of the training images a seed's trial holds out, from 0."""
    return seed % FOLDS


def judge(
    build: "Callable[[], keras.Model]",
    fit: "Callable[[keras.Model, Recipe, Splits, int], object]",
    recipe: Recipe,
    seed: int,
    dataset: Dataset,
    probabilities: np.ndarray | None = None,
) -> Judged:
    """Trains a network, and has the images judge it that were held out.

    Args:
        build: Makes its Keras model.
        fit: Trains it, as `native_fit.fit` does.
        recipe: By which it is trained.
        seed: Its seed, which says too which part of the training images is held out.
        dataset: The images; the test set is not looked at.
        probabilities: float32 (n, classes), what the recipe's teacher, if it has one, gives the training images.
    """
    from mnist_minimal.models.dropout import set_dropout
    from mnist_minimal.training import DivergedError, initial_weights, native_fit
    from mnist_minimal.training.seeding import seeded
    from mnist_minimal.training.targets import mixed

    splits, kept = fold_splits(dataset, fold_of(seed))
    if recipe.teacher is not None and probabilities is not None:
        splits = dataclasses.replace(splits, targets=mixed(probabilities[kept], splits.y_train, recipe.teacher.weight))
    with seeded(seed):
        model = build()
    initial_weights.draw(model, seed)
    set_dropout(model, recipe.dropout)
    begun = time.thread_time()
    try:
        fit(model, recipe, splits, seed)
        diverged = False
    except DivergedError:
        diverged = True
    cpu_seconds = round(time.thread_time() - begun, 2)
    held_out = native_fit.evaluate(model, splits.x_test, splits.y_test)
    trained = native_fit.evaluate(model, splits.x_train, splits.y_train)
    return Judged(
        correct=0 if diverged else held_out.correct,
        size=held_out.size,
        loss=math.inf if diverged else held_out.loss,
        train_accuracy=trained.accuracy,
        train_loss=trained.loss,
        cpu_seconds=cpu_seconds,
        version=version(),
    )


def read(path: Path, kind: type[AnyRow]) -> list[AnyRow]:
    """The rows of a ledger; none where there is no file.

    Raises:
        UserError: if it is no ledger of this kind, or a row of it is not whole.
    """
    if not path.exists():
        return []
    kinds: dict[str, Any] = {each.name: each.type for each in dataclasses.fields(kind)}
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        if lines.fieldnames != list(kinds):
            raise UserError(f"{path}: expected the columns {', '.join(kinds)}, found others; use another --out")
        try:
            return [kind(**{name: kinds[name](text) for name, text in line.items()}) for line in lines]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: expected whole rows, found another in line {lines.line_num}; remove that line"
            ) from error


def append(path: Path, row: Judged) -> None:
    """Adds a row, and the head before the first; on disk when this returns.

    A row is one write at the file's end, so that processes may add to one file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, [each.name for each in dataclasses.fields(row)], lineterminator="\n")
        if file.tell() == 0:
            lines.writeheader()
        lines.writerow(dataclasses.asdict(row))
        file.flush()
        os.fsync(file.fileno())


def figures(rows: Sequence[Judged]) -> list[str]:
    """The cells of FIGURES: number, held-out accuracy and loss, those of the training images, and time."""
    if not rows:
        return ["0", *["-"] * (len(FIGURES) - 1)]
    found = summarize([row.accuracy for row in rows])

    def mean(name: str) -> float:
        return float(np.mean([getattr(row, name) for row in rows]))

    return [
        str(found.n),
        f"{found.mean:.5f}",
        sd_cell(found),
        f"{mean('loss'):.4f}",
        f"{mean('train_accuracy'):.5f}",
        f"{mean('train_loss'):.4f}",
        f"{mean('cpu_seconds'):.1f}",
    ]


def train_or_print(
    description: str | None,
    option: str,
    choices: Collection[str],
    out: Path,
    train: Callable[[Path, Sequence[str], Dataset], None],
    tables: Callable[[Path, Sequence[str]], str],
    arguments: Sequence[str] | None,
) -> int:
    """The command of an experiment with a ledger: trains what is missing, or prints the tables of what is there.

    Args:
        description: What its help says first.
        option: The option that names some of `choices`, as `--networks`; all of them without it.
        choices: What can be trained by itself.
        out: Where the ledger is unless `--out` names another file.
        train: Adds to a ledger what it has not of those that were named; it gets the images without the test set.
        tables: The text that is printed of a ledger.
        arguments: Of the command line; None for those of the process.

    Returns:
        0.
    """
    parser = command_parser(description)
    parser.add_argument("--train", action="store_true", help="train what is missing, in the order of the plan")
    parser.add_argument(
        option, nargs="+", choices=choices, default=list(choices), dest="chosen", help="which of them (default: all)"
    )
    parser.add_argument("--out", type=expanded_path, default=out, metavar="FILE.csv", help=f"default: {out}")
    add_arguments(parser)
    parser.set_defaults(dataset="mnist")
    options = parser.parse_args(arguments)
    if options.train:
        require_core()
        train(options.out, options.chosen, without_test_set(load(from_arguments(options))))
    else:
        print(tables(options.out, options.chosen))
    return 0
