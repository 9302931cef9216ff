"""What has to be stored to run each network, and what it is right on when that is rounded to 16 and to 8 bits.

    python -m experiments.rounding --results results [--data mnist.npz]

It prints a Markdown table with a row for each study on MNIST: the trainable parameters, by which networks are ranked;
the numbers that have to be stored, batch normalisations folded in (`models.storage`); their bytes in 32, 16 and 8 bits;
the accuracy on the test set of the median trial's kept model at each width, by Keras; and of all models that the study
keeps (best, median and quartiles) the lowest and the highest difference that 8 bits make. Only what is stored is
rounded; the network computes in float32. In 8 bits each array, a layer's kernel or its biases, has one scale. Nothing
is trained again after rounding.

It takes 4 CPU minutes for `results/`, of which the larger networks take most.

Expected of the models that `results/` keeps, 3 or 4 a study: in 16 bits at most one image of 10,000 more or less in a
median model, in 8 bits at most six fewer in any model; but of gap13914's six models five fall to .12 to .36 in 8 bits,
as the variance of a channel is 0 there and its scale 316.
"""

import sys
from collections.abc import Sequence

from experiments.publish import kept_models
from mnist_minimal import load
from mnist_minimal.analysis.summaries import StudySummary, find_studies
from mnist_minimal.analysis.tables import markdown
from mnist_minimal.cli.options import add_arguments, add_results, from_arguments, results_folders
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.data import sets
from mnist_minimal.errors import UserError
from mnist_minimal.models.storage import WIDTHS, Storage, stored, with_numbers
from mnist_minimal.study.recorded import check_kept
from mnist_minimal.training.evaluation import evaluate
from mnist_minimal.trial import Trial


def measured(summary: StudySummary, trial: Trial, dataset: sets.Dataset) -> tuple[Storage, list[float]]:
    """What is stored of a trial's kept model, and the accuracy on the test set at each of WIDTHS.

    Raises:
        UserError: if the model is not there, or is not the one that its trial recorded.
    """
    weights = summary.paths.weights(trial.seed)
    check_kept(weights)
    model = load(weights)
    storage = stored(model)
    found = [evaluate(with_numbers(model, storage.rounded(bits)), dataset.x_test, dataset.y_test) for bits in WIDTHS]
    # Another order of the sums may round one image in 10,000 to the other side.
    if abs(found[0].correct - (trial.test_correct or 0)) > 1:
        raise UserError(
            f"{weights}: expected a model with {trial.test_correct} images right, found {found[0].correct}; give the "
            "data set of this study"
        )
    return storage, [each.accuracy for each in found]


def row(summary: StudySummary, dataset: sets.Dataset) -> list[str]:
    """The row of a study."""
    kept = kept_models(summary.trials)
    of_seed = {trial.seed: measured(summary, trial, dataset) for trial in summary.trials if trial.seed in kept}
    # Of a single trial the median is its best.
    median = next((seed for seed, name in kept.items() if name == "median"), next(iter(kept)))
    storage, accuracies = of_seed[median]
    changes = [found[-1] - found[0] for _, found in of_seed.values()]
    return [
        f"`{summary.name}`",
        f"{summary.params:,}",
        f"{storage.numbers:,}",
        *(f"{storage.bytes(bits):,}" for bits in WIDTHS),
        *(f"{accuracy:.4f}" for accuracy in accuracies),
        f"{min(changes):+.4f} to {max(changes):+.4f} ({len(changes)})",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = command_parser(__doc__)
    add_results(parser)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    dataset = sets.load(from_arguments(options))
    if dataset.notice:
        print(dataset.notice, file=sys.stderr)
    head = ["study", "parameters", "stored numbers", *(f"bytes, {bits} bits" for bits in WIDTHS)]
    head += [*(f"median model, {bits} bits" for bits in WIDTHS), "8 minus 32 bits, all kept (n)"]
    studies = [each for each in find_studies(*results_folders(options)) if each.dataset == dataset.name]
    if not studies:
        raise UserError(f"expected studies on {dataset.name}, found none; give their data set with --data or --dataset")
    print(markdown([head, *(row(each, dataset) for each in studies)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
