"""Which data set a user chose; apart from `sets`, so that `--help` needs no NumPy."""

from dataclasses import dataclass

ENVIRONMENT_VARIABLE = "MNIST_MINIMAL_DATA"

# Keras' own sets of images beside MNIST, as `--dataset` names them and `keras.datasets` does.
KERAS_DATASETS = ("fashion_mnist", "cifar10", "cifar100")
DATASETS = ("auto", "mnist", "digits", *KERAS_DATASETS)


@dataclass(frozen=True)
class Choice:
    """The user's choice of data set: the options `--dataset`, `--data` and `--dataset-name`.

    Attributes:
        dataset: One of DATASETS; or the name of other images that a study recorded, which `sets.load` does not have.
        path: An .npz in the layout of `keras.datasets.mnist`, or a folder with one or with the four idx files in it,
            gzipped or not; `~` is the user's home. Where it is None, the environment variable MNIST_MINIMAL_DATA takes
            its place, unless the data set comes with a package.
        name: A name for images that are not MNIST, or None.
    """

    dataset: str = "auto"
    path: str | None = None
    name: str | None = None

    def or_recorded(self, dataset: str | None) -> "Choice":
        """The choice of data for a trained model: where "auto" leaves it open, what the model was trained on.

        Args:
            dataset: The column `dataset` of the model's trial; None where nothing is known, and MNIST is meant.
        """
        if self.dataset != "auto" or self.path is not None or self.name is not None:
            return self
        return Choice(dataset or "mnist")
