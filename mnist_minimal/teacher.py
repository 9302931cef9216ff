"""Make a teacher: the mean of the probabilities that trained models give the training images, for `trials --teacher`.

A student that is monitored by held-out images takes a teacher of trials under --protocol holdout alone.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from mnist_minimal.analysis.samples import find
from mnist_minimal.cli.options import (
    add_arguments,
    add_results,
    expanded_path,
    from_arguments,
    model_name,
    results_folders,
    seed,
)
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.files import check_output
from mnist_minimal.models.lookup import OWN_FORM, builder
from mnist_minimal.study import ledger, teaching
from mnist_minimal.study.study import Study


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = command_parser(__doc__, "teacher")
    parser.add_argument(
        "studies", nargs="+", type=os.path.expanduser, metavar="STUDY", help="a study's name, or its CSV"
    )
    parser.add_argument("--out", required=True, type=expanded_path, metavar="FILE.npz", help="the file to write")
    parser.add_argument(
        "--seeds", type=seeds, metavar="SEED,SEED", help="these trials of every study, as 3,17 (default: all finished)"
    )
    parser.add_argument(
        "--model", type=model_name, metavar="MODEL", help=f"what builds models whose files take code: {OWN_FORM}"
    )
    add_results(parser)
    add_arguments(parser, auto="what the first study was trained on")
    return parser.parse_args(arguments)


def seeds(text: str) -> list[int]:
    """Seeds as an argument of the command: 3,17."""
    return sorted({seed(part.strip()) for part in text.split(",")})


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    options = parse(arguments)
    from mnist_minimal.data import sets

    path = check_output(options.out, ".npz")
    studies = [Study.at(find(name, results_folders(options))) for name in options.studies]
    recorded = next((trial.dataset for trial in ledger.read(studies[0].csv)), None)
    dataset = sets.load(from_arguments(options).or_recorded(recorded))
    builders = {options.model: builder(options.model, to_train=False)} if options.model else None
    facts, probabilities = teaching.make(studies, options.seeds, dataset, builders)
    made = teaching.write(path, facts, probabilities)
    models = sum(map(len, facts["trials"].values()))
    print(f"{path}: the mean of {models} {'model' if models == 1 else 'models'}, {made.trials}")
    print(f"Trained by protocol {facts['protocol']} on the first {facts['trained']:,} of {facts['images']:,} images.")
    print(f"On these: {figures(facts, '')}")
    if facts["held_out_accuracy"] is not None:
        print(f"On the {facts['images'] - facts['trained']:,} others: {figures(facts, 'held_out_')}")
    if facts["chosen_by_test_set"]:
        print("The test set had a part in how they were trained.")
    print(f"SHA-256 {made.sha256}")
    return 0


def figures(facts: dict[str, Any], prefix: str) -> str:
    """Accuracy and cross-entropy in words."""
    return f"accuracy {facts[f'{prefix}accuracy']:.5f}, cross-entropy {facts[f'{prefix}loss']:.5f}"


if __name__ == "__main__":
    raise SystemExit(run(main))
