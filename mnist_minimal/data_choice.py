"""The user's choice of data set, as options of a command; apart from `data`, so that `--help` needs no NumPy."""

import argparse
from dataclasses import dataclass

ENVIRONMENT_VARIABLE = "MNIST_MINIMAL_DATA"

DATASETS = ("auto", "mnist", "digits")


@dataclass(frozen=True)
class Choice:
    """The user's choice of data set: the options `--dataset`, `--data` and `--dataset-name`.

    Attributes:
        dataset: "auto", "mnist" or "digits".
        path: An .npz in the layout of `keras.datasets.mnist`, or a folder of the four idx files, gzipped or not. Where
            it is None, the environment variable MNIST_MINIMAL_DATA takes its place.
        name: A name for images that are not MNIST, or None.
    """

    dataset: str = "auto"
    path: str | None = None
    name: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `Choice` to a command."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        choices=DATASETS,
        default="auto",
        help="auto: MNIST where it can be had, else scikit-learn's digits (default: %(default)s)",
    )
    group.add_argument(
        "--data",
        metavar="PATH",
        help=f"an .npz in Keras' layout or a folder of the four idx files (default: ${ENVIRONMENT_VARIABLE})",
    )
    group.add_argument(
        "--dataset-name",
        metavar="NAME",
        help="use images that are not MNIST (Fashion-MNIST, say) under this name, which the results then carry",
    )


def from_arguments(arguments: argparse.Namespace) -> Choice:
    """The choice that the parsed options of `add_arguments` make."""
    return Choice(arguments.dataset, arguments.data, arguments.dataset_name)
