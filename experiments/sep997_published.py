"""The trials of sep997 in results/ beside those that the source's author published.

    python experiments/sep997_published.py [results/sep997.csv]

It takes a few seconds. The trials themselves are those of the main job, about a minute of one processor's time each:

    python -m mnist_minimal.trials --model sep997 --runs 50 --jobs 2

The published figures are of the 223 saved accuracies in `997_saved_acc.txt` of
https://github.com/JoshWarn/Parameter-Efficient-MNIST. The difference of the means has a 95 % interval by Welch's
method; each sample's n, mean and sd are all it needs.
"""

import sys
from pathlib import Path

from scipy import stats

from mnist_minimal import ledger
from mnist_minimal.statistics import summarize

PUBLISHED = {"n": 223, "mean": 0.98761, "sd": 0.00105, "lowest": 0.9842, "highest": 0.9906}


def main() -> None:
    """Prints the table and the difference of the means."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "results/sep997.csv")
    saved = [trial.saved_accuracy or 0.0 for trial in ledger.finished(ledger.read(path))]
    ours = summarize(saved)
    print("| saved accuracy | n | mean | sd | lowest | highest |\n|---|---|---|---|---|---|")
    print(f"| published | {' | '.join(str(value) for value in PUBLISHED.values())} |")
    print(f"| ours | {ours.n} | {ours.mean:.5f} | {ours.sd:.5f} | {min(saved):.4f} | {ours.best:.4f} |")
    test = stats.ttest_ind_from_stats(
        ours.mean, ours.sd, ours.n, PUBLISHED["mean"], PUBLISHED["sd"], PUBLISHED["n"], equal_var=False
    )
    # Welch and Satterthwaite's degrees of freedom, and the standard error that they belong to.
    of_ours, of_theirs = ours.sd**2 / ours.n, PUBLISHED["sd"] ** 2 / PUBLISHED["n"]
    error = (of_ours + of_theirs) ** 0.5
    freedom = error**4 / (of_ours**2 / (ours.n - 1) + of_theirs**2 / (PUBLISHED["n"] - 1))
    difference, margin = ours.mean - PUBLISHED["mean"], stats.t.ppf(0.975, freedom) * error
    print(
        f"\nOurs less the published mean: {difference:+.5f}, 95 % interval {difference - margin:+.5f} to "
        f"{difference + margin:+.5f}, p = {test.pvalue:.2f} (Welch)."
    )


if __name__ == "__main__":
    main()
