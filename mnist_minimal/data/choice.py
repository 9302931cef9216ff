"""Which data set a user chose; apart from `sets`, so that `--help` needs no NumPy."""

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
