"""Are MNIST's own test images easier than its training images? By networks that have seen neither, those of ten folds.

    python -m experiments.origins --data mnist.npz

It takes 2 CPU s a trial and prints a Markdown table. A fold of `experiments.folds` is tested on images of both of
MNIST's files, as they come, and most writers of either are known to its networks, so that what differs is the images.
The halves of the test file stand apart: they are of other writers, and MNIST's authors call the first one cleaner and
easier. An image's figure is the share of the seeds that get it right. The standard error is that of the mean over
images, the interval of a difference Welch's; the networks are taken as they are. The question came up when the folds
had been trained, and no plan has it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.folds import FOLDS, PROTOCOLS, studies
from experiments.spread import correct
from mnist_minimal.analysis.statistics import difference_of_means
from mnist_minimal.analysis.tables import markdown
from mnist_minimal.cli.options import add_arguments, expanded_path, from_arguments
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.data import sets
from mnist_minimal.data.choice import Fold
from mnist_minimal.study import ledger

TRAINING, FIRST_HALF, LAST_HALF = range(3)
ORIGINS = {
    "training file": (TRAINING,),
    "test file": (FIRST_HALF, LAST_HALF),
    "its first half": (FIRST_HALF,),
    "its last half": (LAST_HALF,),
}


def with_origins(dataset: sets.Dataset) -> sets.Dataset:
    """A data set whose images have in place of their labels where they are from."""
    count = len(dataset.y_test)
    halves = np.where(np.arange(count) < count // 2, FIRST_HALF, LAST_HALF)
    return replace(dataset, y_train=np.full_like(dataset.y_train, TRAINING), y_test=halves)


def right_by_origin(recipe: str, results: Path, dataset: sets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Of the images of all folds that a recipe has trials of: which share of the seeds is right, and their origins.

    Returns:
        float64 (images,) in [0, 1] and int64 (images,).
    """
    shares: list[np.ndarray] = []
    origins: list[np.ndarray] = []
    for number, planned in enumerate(studies(recipe), start=1):
        path = planned.study(results).csv
        if not ledger.finished(ledger.read(path)):
            continue
        fold = Fold(number, FOLDS)
        shares.append(correct(path, sets.folded(dataset, fold)).mean(axis=0))
        origins.append(sets.folded(with_origins(dataset), fold).y_test)
    return np.concatenate([np.zeros(0), *shares]), np.concatenate([np.zeros(0, int), *origins])


def rows(recipe: str, shares: np.ndarray, origins: np.ndarray) -> list[list[str]]:
    """The rows of a recipe: each origin's images, their accuracy and how far it is from the training file's."""
    of_training = shares[origins == TRAINING]
    found = []
    for name, codes in ORIGINS.items():
        of_origin = shares[np.isin(origins, codes)]
        mean, error = of_origin.mean(), stats.sem(of_origin)
        cells = [f"`{recipe}`", name, f"{len(of_origin):,}", f"{mean:.5f}", f"{error:.5f}"]
        if codes == (TRAINING,):
            found.append([*cells, "-"])
            continue
        apart = difference_of_means(of_origin.tolist(), of_training.tolist()).difference
        found.append([*cells, f"{apart.value:+.5f} ({apart.low:+.5f} to {apart.high:+.5f})"])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table of the recipes that have trials; returns 0."""
    parser = command_parser(__doc__)
    folder = Path("experiments/ten_folds")
    parser.add_argument("--results", type=expanded_path, default=folder, metavar="DIR", help=f"default: {folder}")
    add_arguments(parser)
    parser.set_defaults(dataset="mnist")
    options = parser.parse_args(arguments)
    dataset = sets.load(from_arguments(options))
    table = [["recipe", "images of the", "images", "accuracy", "standard error", "minus the training file's (95 %)"]]
    for recipe in PROTOCOLS:
        shares, origins = right_by_origin(recipe, options.results, dataset)
        table += rows(recipe, shares, origins) if len(shares) else []
    print(markdown(table))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
