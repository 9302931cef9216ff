"""How much of the spread between the trials of a study is the test set's own.

    python experiments/spread.py results/sep997.csv --data mnist.npz

It classifies the test set with the saved model of every finished trial, which takes about 1.5 CPU seconds each, and
prints Markdown. Of a published study four models are kept; `python -m mnist_minimal.verify results/sep997.csv --keep
results/sep997` makes the others. All trials meet the same images; still the test set has a share in their spread, since
it is finite: of two networks that are equally good on endlessly many images, one gets some images right here that the
other gets wrong. `analysis.statistics.spread` says how the share is found. Under the protocol "source" the kept weights
are those of the epoch that was best on these images, and that choice is in the figures too.

Expected for sep997, n = 223: sd between the trials 0.00093; of it the test set's 0.00073, the networks' 0.00058. The
test set's share of the variance is 61 % (51 % to 75 %). The best trial on half the images is 0.00314 above the mean
there and 0.00067 on the other half.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_minimal import load
from mnist_minimal.analysis.statistics import binomial_sd, spread
from mnist_minimal.analysis.tables import markdown
from mnist_minimal.cli.options import add_arguments, from_arguments
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.data import sets
from mnist_minimal.errors import UserError
from mnist_minimal.study import ledger
from mnist_minimal.study.study import Study
from mnist_minimal.training.evaluation import probabilities


def correct(path: Path, dataset: sets.Dataset) -> np.ndarray:
    """Which test images the saved model of each finished trial classifies rightly.

    Returns:
        bool (trials, images).

    Raises:
        UserError: if a model is not the one that its trial recorded.
    """
    rows = []
    for trial in ledger.finished(ledger.read(path)):
        # Not where the column `weights` says: a row may come from anywhere, and lead anywhere.
        weights = Study.at(path).weights(trial.seed)
        rows.append(probabilities(load(weights), dataset.x_test).argmax(axis=1) == dataset.y_test)
        # Two trainers may round one image in 10,000 to the other side.
        if abs(int(rows[-1].sum()) - (trial.test_correct or 0)) > 1:
            raise UserError(
                f"{weights}: expected a model with {trial.test_correct} images right, found {rows[-1].sum()}; give the "
                "data set of this study"
            )
    return np.array(rows)


def report(path: Path, dataset: sets.Dataset) -> list[str]:
    """The rows of one study, and a sentence of what they mean."""
    count = len(ledger.finished(ledger.read(path)))
    if count < 2:
        raise UserError(f"{path}: expected two finished trials or more, found {count}")
    images = correct(path, dataset)
    found, accuracy = spread(images), float(images.mean())
    wrong = (~images).sum(axis=0)
    table = markdown(
        [
            [f"{path.stem}, accuracy of the kept weights, n = {len(images)}", "sd"],
            ["between the trials, on these test images", f"{found.between:.5f}"],
            ["- of it, the test set's: which images a trial happens to get right", f"{found.of_images:.5f}"],
            ["- of it, the networks': what would remain on endlessly many images", f"{found.of_networks:.5f}"],
            [
                "of one network, measured on fresh test sets of this size (binomial)",
                f"{binomial_sd(accuracy, images.shape[1]):.5f}",
            ],
        ]
    )
    low, high = share_interval(images)
    here, there = lead_of_best(images)
    return [
        table,
        f"The test set has {share(images):.0%} of the variance between the trials (95 % interval {low:.0%} to "
        f"{high:.0%}, bootstrap). Of {images.shape[1]:,} images {np.count_nonzero(wrong == 0):,} are right in all "
        f"trials, {np.count_nonzero(wrong == len(images))} wrong in all, and "
        f"{np.count_nonzero((wrong > 0) & (wrong < len(images)))} depend on the trial.",
        f"The best trial on a random half of the images is {here:.5f} above the trials' mean there, and {there:.5f} on "
        "the other half, which did not choose it (mean of 1,000 halvings).",
    ]


def lead_of_best(images: np.ndarray) -> tuple[float, float]:
    """How far the trial that is best on half the images is above the trials' mean, on that half and on the other."""
    rng, leads = np.random.default_rng(0), []
    for _ in range(1000):
        halves = np.array_split(rng.permutation(images.shape[1]), 2)
        here, there = (images[:, half].mean(axis=1) for half in halves)
        leads.append((here.max() - here.mean(), there[here.argmax()] - there.mean()))
    here, there = np.mean(leads, axis=0)
    return float(here), float(there)


def share(images: np.ndarray) -> float:
    """The test set's share of the variance between trials, in [0, 1]; NaN where all have the same accuracy."""
    found = spread(images)
    if found.between == 0:
        return float("nan")
    return min(1.0, (found.of_images / found.between) ** 2)


def share_interval(images: np.ndarray) -> tuple[float, float]:
    """A 95 % interval of `share`, from the percentiles of 1,000 bootstrap samples of trials."""
    rng = np.random.default_rng(0)
    shares = [share(images[rng.integers(len(images), size=len(images))]) for _ in range(1000)]
    low, high = np.nanpercentile(shares, [2.5, 97.5])
    return float(low), float(high)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table of every study."""
    parser = command_parser(__doc__)
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY.csv")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    dataset = sets.load(from_arguments(options))
    if dataset.notice:
        print(dataset.notice, file=sys.stderr)
    for study in options.studies:
        print(*report(study, dataset), sep="\n\n", end="\n\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
