"""The trials of sep997 in results/ beside those that the source's author published.

    python experiments/sep997_published.py --published 997_saved_acc.txt

It takes about five seconds, prints Markdown and draws results/sep997-published.png. The trials themselves are those of
the main job, about a minute of one processor's time each:

    python -m mnist_minimal.trials --model sep997 --runs 223 --jobs 2

The published accuracies are the 223 saved ones in `997_saved_acc.txt` of
https://github.com/JoshWarn/Parameter-Efficient-MNIST, as a file with one accuracy in [0, 1] a line or with a column
saved_accuracy; without --published, `sep997_published_saved_accuracy.csv` in the folder that MNIST_MINIMAL_REFERENCE
names. Their figures: n = 223, mean 0.98761, sd 0.00105, 0.9842 to 0.9906.

Expected, with n = 223 of ours: mean 0.98761, sd 0.00102, best 0.9903; ours minus the published mean +0.00000 (95 %
interval -0.00019 to +0.00019, Welch, p = 0.99); Kolmogorov-Smirnov distance 0.076 (p = 0.40); a trial of ours above a
published one with probability 0.49 (0.44 to 0.55); ratio of the sds 0.98 (0.85 to 1.14).
"""

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mnist_minimal import files
from mnist_minimal.analysis import figures
from mnist_minimal.analysis.comparison import compare_pairs, interval, probability
from mnist_minimal.analysis.samples import Sample, read_sample
from mnist_minimal.analysis.statistics import (
    TARGET,
    binomial_sd,
    chance_of_best_at_most,
    expected_best,
    hedges_g,
    kolmogorov_smirnov,
    ratio_of_sds,
)
from mnist_minimal.analysis.tables import markdown, sample_table
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError

TEST_SIZE = 10_000


def bests(ours: Sample, published: Sample) -> str:
    """The expected best of k trials of both samples, and how ours compares with as many of the published ones."""
    samples, n = (ours, published), len(ours.accuracies)
    sizes = [k for k in (1, 2, 5, 10, 20, 50, 100) if k < len(published.accuracies)] + [len(published.accuracies)]
    found = [expected_best(sample.accuracies) for sample in samples]
    rows = [["expected best of k trials (95 % interval)", *(str(k) for k in sizes)]]
    for sample, best in zip(samples, found, strict=True):
        cells = []
        for k in sizes:
            if k > len(sample.accuracies):
                cells.append("-")
            elif k > len(sample.accuracies) // 5:
                cells.append(f"{best.mean[k - 1]:.5f}")
            else:
                cells.append(f"{best.mean[k - 1]:.5f} ({best.low[k - 1]:.5f} to {best.high[k - 1]:.5f})")
        rows.append([sample.name, *cells])
    our_best = max(ours.accuracies)
    share = chance_of_best_at_most(published.accuracies, n, our_best)
    return (
        f"{markdown(rows)}\n\nThe estimate is the mean over all sets of k trials; an interval is given up to k = n/5, "
        f"beyond which too little is known of the highest accuracies. Our best of {n} is {our_best:.4f}; of the "
        f"published ones, {n} drawn at random have a best of {found[1].mean[n - 1]:.5f} on average, and one of "
        f"{our_best:.4f} or less with probability {share:.2f}."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison and draws it."""
    parser = command_parser(__doc__)
    parser.add_argument("study", nargs="?", type=Path, default=Path("results/sep997.csv"), metavar="STUDY.csv")
    parser.add_argument("--published", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, default=Path("results/sep997-published.png"), metavar="FILE.png")
    options = parser.parse_args(arguments)
    files.check_output(options.out, files.PICTURE)
    reference = os.environ.get("MNIST_MINIMAL_REFERENCE")
    if options.published is None and not reference:
        raise UserError("expected --published FILE or MNIST_MINIMAL_REFERENCE, found neither; the docstring says more")
    published_path = options.published or Path(str(reference)) / "sep997_published_saved_accuracy.csv"
    ours = read_sample(options.study, "saved", "ours")
    published = read_sample(published_path, "saved", "published")
    pair = ours.accuracies, published.accuracies

    print(sample_table([ours, published], "last epoch"))
    print(f"\n{compare_pairs([ours, published])[0]}")
    distance = kolmogorov_smirnov(*pair)
    print(
        f"\nKolmogorov-Smirnov: largest distance {distance.distance:.3f}, p {probability(distance.p_value)} by "
        "permutation."
    )
    print(f"Hedges' g {interval(hedges_g(*pair), '.2f')}.")
    print(f"Our sd over the published one {interval(ratio_of_sds(*pair), '.2f')} (bootstrap).")
    mean = sum(ours.accuracies) / len(ours.accuracies)
    print(
        f"One network of accuracy {mean:.4f} measured on {TEST_SIZE:,} fresh images again and again would have an sd "
        f"of {binomial_sd(mean, TEST_SIZE):.5f}. That is how well the test set measures one network, and no part of "
        "the spread between trials, which all meet the same images; experiments/spread.py splits that spread."
    )
    print(f"\n{bests(ours, published)}")

    accuracies = {"published": published.accuracies, "ours": ours.accuracies}
    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplot_mosaic([["histogram", "best"], ["ecdf", "best"]])
    figures.histogram(accuracies, TEST_SIZE, axes["histogram"])
    figures.ecdf(accuracies, TARGET, axes["ecdf"])
    figures.best_of_k(accuracies, axes["best"])
    axes["histogram"].sharex(axes["ecdf"])
    figures.entitle(figure, f"sep997, last epoch: {figures.finding(accuracies)}")
    print(f"\n{figures.save_figure(figure, options.out)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
