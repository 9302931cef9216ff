"""How much an accuracy owes to choosing on the test set: the protocols "source" and "holdout" of sep997.

    python experiments/selection.py [--results DIR]

It takes a few seconds, prints Markdown and draws results/selection.png. The trials are those of

    python -m mnist_minimal.trials --model sep997 --runs 50 --jobs 2
    python -m mnist_minimal.trials --model sep997 --runs 20 --jobs 2 --protocol holdout

about a minute of one processor's time each. Under "source", as published, the test set drives the schedule, ends the
training and chooses the epoch. Under "holdout" the last 5,000 images of the training set do, and the test set is met
once. The two studies differ in more than what chooses: "holdout" trains on 55,000 images instead of 60,000, and chooses
by half as many images, so more by chance. Two accuracies of one trial differ in the choice or the images alone.

Expected with n = 223 and 20: best minus last epoch on the test set +0.00066 (95 % 0.00061 to 0.00071); the test
accuracy of epochs chosen on held-out images 0.98745, 0.00082 (0.00029 to 0.00134) below that of epochs chosen on the
test set.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from scipy import stats

from mnist_minimal import files
from mnist_minimal.analysis import figures
from mnist_minimal.analysis.comparison import interval, probability
from mnist_minimal.analysis.samples import Sample
from mnist_minimal.analysis.statistics import difference_of_means, paired_difference
from mnist_minimal.analysis.tables import sample_table
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError
from mnist_minimal.study import ledger
from mnist_minimal.trial import Trial


def finished(path: Path) -> list[Trial]:
    """A study's finished trials, two or more."""
    trials = ledger.finished(ledger.read(path))
    if len(trials) < 2:
        raise UserError(f"{path}: expected two finished trials or more, found {len(trials)}; the docstring says how")
    return trials


def report(source: list[Trial], holdout: list[Trial]) -> list[str]:
    """The table and what it says, a paragraph each."""
    last, best = (ledger.accuracies(source, measure) for measure in ("saved", "best"))
    held_out, test = (ledger.accuracies(holdout, measure) for measure in ("best", "test"))
    samples = [
        Sample("source: last epoch, test set", last),
        Sample("source: best epoch on the test set, test set", best),
        Sample("holdout: best epoch on held-out images, those", held_out),
        Sample("holdout: best epoch on held-out images, test set", test),
    ]
    chosen = max(holdout, key=lambda trial: (trial.best_accuracy or 0, -trial.seed))
    rank = stats.spearmanr(held_out, test)
    return [
        sample_table(samples, "which epoch, on which images"),
        f"On the test set the epoch that it chose is {interval(paired_difference(best, last), '+.5f')} from the last "
        "epoch of the same trial (pairs). Unless the last epoch is in truth the better one, that is the most that the "
        "choice can owe to luck with these images.",
        f"Its mean is {interval(difference_of_means(best, test).difference, '+.5f')} from the test accuracy of the "
        "epochs chosen on held-out images (Welch): the choice on the test set and the 5,000 images more to train on, "
        "together. The last epochs under source, which are not the best of anything, are "
        f"{interval(difference_of_means(last, test).difference, '+.5f')} from it.",
        f"On the held-out images that chose it, a holdout trial's epoch is "
        f"{interval(paired_difference(held_out, test), '+.5f')} from its own test accuracy (pairs); the images are "
        "others, and may be easier or harder.",
        f"Choosing the trial besides: the best of the {len(source)} source trials has {max(best):.4f}, "
        f"{max(best) - sum(best) / len(best):+.5f} from their mean. The holdout trial that is best on held-out images "
        f"has {(chosen.test_correct or 0) / chosen.test_size:.4f} on the test set, where their mean is "
        f"{sum(test) / len(test):.5f} and their best {max(test):.4f}; the ranks on the two sets correlate by "
        f"{rank.statistic:.2f} (Spearman, p {probability(rank.pvalue)}).",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison and draws it."""
    parser = command_parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="folder of both studies")
    parser.add_argument("--out", type=Path, default=Path("results/selection.png"), metavar="FILE.png")
    options = parser.parse_args(arguments)
    files.check_output(options.out, files.PICTURE)
    source, holdout = (finished(options.results / f"{name}.csv") for name in ("sep997", "sep997-holdout"))
    print(*report(source, holdout), sep="\n\n")
    figure = Figure(figsize=(9, 6), layout="constrained")
    figures.selection(source, holdout, figure.subplots())
    print(f"\n{figures.save_figure(figure, options.out)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
