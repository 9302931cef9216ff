"""Which data set a user chose; apart from `sets`, so that `--help` needs no NumPy."""

import re
from dataclasses import dataclass, replace

from mnist_minimal.errors import UserError

ENVIRONMENT_VARIABLE = "MNIST_MINIMAL_DATA"

# Keras' own sets of images beside MNIST, as `--dataset` names them and `keras.datasets` does.
KERAS_DATASETS = ("fashion_mnist", "cifar10", "cifar100")
DATASETS = ("auto", "mnist", "digits", *KERAS_DATASETS)


@dataclass(frozen=True)
class Fold:
    """One of the parts into which all images of a data set are divided: the test set, and the others the training set.

    Attributes:
        number: Which one, from 1.
        folds: How many there are, 2 or more.
    """

    number: int
    folds: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.folds or self.folds < 2:
            raise UserError(f"expected a fold K/N with K from 1 to N and N at least 2, such as 3/10, found {self}")

    @classmethod
    def parse(cls, text: str) -> "Fold":
        """The fold that a text as "3/10" names.

        Raises:
            UserError: if it names none.
        """
        match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
        if not match:
            raise UserError(f"expected a fold K/N, such as 3/10, found {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.folds}"

    def name_of(self, dataset: str) -> str:
        """What results call this fold of a data set: "mnist-fold3of10"."""
        return f"{dataset}-fold{self.number}of{self.folds}"


def recorded_fold(dataset: str) -> tuple[str, Fold | None]:
    """The name of the whole data set, and the fold or None, of a name as results have it: `Fold.name_of` undone."""
    match = re.fullmatch("(.+)-fold([0-9]{1,9})of([0-9]{1,9})", dataset)
    return (match[1], Fold(int(match[2]), int(match[3]))) if match else (dataset, None)


@dataclass(frozen=True)
class Choice:
    """The user's choice of data set: the options `--dataset`, `--data`, `--dataset-name` and `--fold`.

    Attributes:
        dataset: One of DATASETS; or the name of other images that a study recorded, which `sets.load` does not have.
        path: An .npz in the layout of `keras.datasets.mnist`, or a folder with one or with the four idx files in it,
            gzipped or not; `~` is the user's home. Where it is None, the environment variable MNIST_MINIMAL_DATA takes
            its place, unless the data set comes with a package.
        name: A name for images that are not MNIST, or None.
        fold: Which fold of all images is the test set; None where training and test set are as they were published.
    """

    dataset: str = "auto"
    path: str | None = None
    name: str | None = None
    fold: Fold | None = None

    def or_recorded(self, dataset: str | None) -> "Choice":
        """The choice of data for a trained model: where "auto" leaves it open, what the model was trained on.

        Of the images that it was trained on it is the same fold unless another is chosen: of the others' test set it
        may have seen most.

        Args:
            dataset: The column `dataset` of the model's trial; None where nothing is known, and MNIST is meant.
        """
        whole, fold = recorded_fold(dataset or "mnist")
        if self.dataset == "auto" and self.path is None and self.name is None:
            return Choice(whole, fold=self.fold or fold)
        # A file without a name is MNIST's.
        chosen = self.name or ("mnist" if self.dataset == "auto" else self.dataset)
        return replace(self, fold=self.fold or (fold if chosen == whole else None))
