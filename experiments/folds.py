"""How far an accuracy on MNIST depends on which images are the test set: all 70,000 in ten folds.

    python -m experiments.folds --train --out runs      trains what is missing, in the order of the plan; resumes
    python -m experiments.folds --results runs          prints the tables of what is there, as Markdown

The published trials are in experiments/ten_folds. It takes about 6 CPU hours of an AMD EPYC (AVX2) beside other work:
59 s a trial of sep997, 307 s one of sep697, 140 s one of 691a, 129 s one of sep997-fast, 92 s one of sep697-fast. The
plan is of 2026-11-27, before its trials; the finalists came into it on 2026-11-28, before theirs.

- What: each fold in turn is the test set, 7,000 images, and the other 63,000 are the training set
  (`mnist_minimal.data.sets.folded` says which images are which); seeds 0 to 2 of both networks by their published
  recipes, by the core. Under the protocol holdout 5,250 of the 63,000 decide on the learning rate, the end and the
  epoch, so that no image of a fold has a say in what is tested on it. sep697's median stopping begins with the 31st
  trial of a study, so here it stops none.
- The finalists: 691a, the network of `experiments.fast_recipes` that no catalogue has, and the recipes sep997-fast and
  sep697-fast. They train for a number of epochs that is given and keep the last weights or their mean, so that no image
  is held out, and all 63,000 are trained on.
- Order: seed 0 of all ten folds of sep997, then of sep697 and of each finalist, then seed 1, so that at any hour as
  many seeds as possible have been tested on all 70,000 images.
- Stopping: at three trials a fold, whatever comes out; every trial that was started is counted.
- Measure: of a seed the accuracy over all 70,000 images, each judged by the trial of its own fold; its mean and sd over
  the seeds. Then the mean over the seeds for each fold.
- Where the variance of the folds' means comes from. Two things make them differ even if all folds were alike: seeds,
  by the variance between the trials of one fold (pooled) over the number of trials; and the choice of 7,000 images, by
  p (1 - p) / 7,000, the binomial variance of one network. That is the most which the choice can give, since the images
  on which the seeds of a fold disagree count in both. What is beyond the two is the folds' own, with the chi-squared
  test of the ratio, one-sided, which takes the two as known.
- Power: with ten folds that test shows (p < .05) a variance of 3.1 times what is expected in four of five such studies.

The writers of a fold's test set are in its training set, too, and the images are more than MNIST's 60,000: the accuracy
is one on known writers, and need not be that on MNIST's own test set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.ten_networks import Planned, failures, train_or_print_studies
from mnist_minimal.analysis.comparison import probability
from mnist_minimal.analysis.statistics import binomial_sd, summarize
from mnist_minimal.analysis.tables import markdown, sd_cell
from mnist_minimal.cli.run import run
from mnist_minimal.data.choice import Fold
from mnist_minimal.study import ledger
from mnist_minimal.trial import Trial

FOLDS, TRIALS = 10, 3
# By recipe. Of the finalists' images none decides on anything.
PROTOCOLS = {
    "sep997": "holdout",
    "sep697": "holdout",
    "search:c691_676483b3": "source",
    "sep997-fast": "source",
    "sep697-fast": "source",
}


def studies(recipe: str, n: int = TRIALS) -> list[Planned]:
    """The studies of a recipe's folds, `n` trials each."""
    return [Planned(recipe, n, PROTOCOLS[recipe], Fold(number, FOLDS)) for number in range(1, FOLDS + 1)]


PLAN = tuple(study for n in range(1, TRIALS + 1) for recipe in PROTOCOLS for study in studies(recipe, n))


@dataclass(frozen=True)
class Variance:
    """The variance of the means of folds, and what of it is to be expected if all folds are alike.

    Attributes:
        of_means: That of the folds' mean accuracies (folds - 1 in the denominator).
        of_seeds: What the trials of single folds give it: their variance, pooled, over the number of trials.
        of_images: What the choice of images gives it at most: the binomial variance.
        p_value: The chance of `of_means`, or more, if the other two are all that there is.
    """

    of_means: float
    of_seeds: float
    of_images: float
    p_value: float

    @property
    def beyond(self) -> float:
        """What of `of_means` is beyond the other two; less than 0 where it is less than they would give."""
        return self.of_means - self.of_seeds - self.of_images


def variance_of_folds(accuracies: Sequence[Sequence[float]], size: int) -> Variance | None:
    """Where the variance of the folds' means comes from; None where there are fewer than two folds, or no two trials.

    Args:
        accuracies: The accuracies of the trials of each fold, at least one, in [0, 1].
        size: Number of test images of a fold.
    """
    counts = np.array([len(fold) for fold in accuracies])
    if len(counts) < 2 or counts.max() < 2:
        return None
    means = np.array([np.mean(fold) for fold in accuracies])
    pooled = sum(float(np.var(fold)) * len(fold) for fold in accuracies) / (counts.sum() - len(counts))
    of_means, of_seeds = float(means.var(ddof=1)), float(pooled * np.mean(1 / counts))
    of_images = binomial_sd(float(means.mean()), size) ** 2
    ratio = of_means / (of_seeds + of_images) if of_seeds + of_images else 0.0
    degrees = len(counts) - 1
    return Variance(of_means, of_seeds, of_images, float(stats.chi2.sf(degrees * ratio, degrees)))


def over_all_images(folds: Sequence[Sequence[Trial]]) -> list[float]:
    """The accuracy over the images of all folds, of each seed that is finished in every one."""
    by_seed = [{trial.seed: trial for trial in fold} for fold in folds]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    return [
        sum(fold[seed].test_correct or 0 for fold in by_seed) / sum(fold[seed].test_size for fold in by_seed)
        for seed in seeds
    ]


def row(recipe: str, results: Path) -> list[str]:
    """A row of the table of recipes: the accuracy over all images, and the variance of the folds."""
    rows = [study.rows(results) for study in studies(recipe)]
    folds = [ledger.finished(trials) for trials in rows]
    count, failed = sum(map(len, folds)), sum(map(failures, rows))
    cells = [f"`{recipe}`", str(FOLDS * TRIALS), f"{count}, {failed}"]
    whole = over_all_images(folds)
    if whole:
        found = summarize(whole)
        cells += [str(found.n), f"{found.mean:.5f}", sd_cell(found)]
    else:
        cells += ["0", "-", "-"]
    begun = [ledger.accuracies(fold, "test") for fold in folds if fold]
    if not begun:
        return [*cells, *["-"] * 6]
    means = [float(np.mean(fold)) for fold in begun]
    cells.append(f"{min(means):.5f} to {max(means):.5f}")
    sizes = [trial.test_size for fold in folds for trial in fold]
    variance = variance_of_folds(begun, round(np.mean(sizes)))
    if variance is None:
        return [*cells, *["-"] * 5]
    share = f"{max(0.0, variance.beyond) / variance.of_means:.0%}" if variance.of_means else "-"
    return [
        *cells,
        *(f"{part**0.5:.5f}" for part in (variance.of_means, variance.of_seeds, variance.of_images)),
        share,
        probability(variance.p_value).removeprefix("= "),
    ]


def table(results: Path) -> str:
    """The table of the recipes, and that of the folds, as Markdown."""
    head = ["recipe", "planned", "finished, failed", "seeds over all images (n)", "mean", "sd"]
    head += ["means of the folds", "their sd", "of it seeds", "of it images, at most", "variance beyond", "p"]
    of_recipes = markdown([head, *(row(recipe, results) for recipe in PROTOCOLS)])
    by_fold = [["fold", *(f"`{recipe}`, mean (sd, n)" for recipe in PROTOCOLS)]]
    for number in range(1, FOLDS + 1):
        by_fold.append([str(number), *(fold_cell(studies(recipe)[number - 1], results) for recipe in PROTOCOLS)])
    return f"{of_recipes}\n\n{markdown(by_fold)}"


def fold_cell(study: Planned, results: Path) -> str:
    """What the trials of a fold came to."""
    trials = ledger.finished(study.rows(results))
    if not trials:
        return "-"
    found = summarize(ledger.accuracies(trials, "test"))
    return f"{found.mean:.5f} ({sd_cell(found)}, {found.n})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing of the plan, or prints the tables; returns 0, or the status of trials that failed."""
    return train_or_print_studies(__doc__, PLAN, table, arguments)


if __name__ == "__main__":
    raise SystemExit(run(main))
