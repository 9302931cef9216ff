"""What the sources published about their models, and what they had set themselves: figures quoted, none of them ours.

The sources are those that `mnist_minimal.recipes` cites. Standard library only.
"""

import csv
from dataclasses import dataclass
from importlib import resources
from typing import Literal


@dataclass(frozen=True)
class Publication:
    """One published accuracy of a model on MNIST's test set.

    Attributes:
        model: Name of the model in `mnist_minimal.models.MODELS`.
        accuracy: The accuracy, in [0, 1].
        of: What it is the accuracy of: the mean of several runs, the best of several, or the only run known.
        measure: The column of ours that it compares with, one of `study.ledger.MEASURES`: "saved" for the last
            epoch's, "best" for that of the epoch which is best on the test set, "test" for that of the kept weights
            where other images were monitored.
        epoch: The epoch, counted from 1, where it is known.
        n: Number of runs.
        about: Whether that number is a rough one.
        sd: Their standard deviation, of a mean.
        lowest, highest: The range of the runs, of a mean.
    """

    model: str
    accuracy: float
    of: Literal["mean", "best", "run"]
    measure: Literal["saved", "best", "test"]
    epoch: int | None = None
    n: int = 1
    about: bool = False
    sd: float | None = None
    lowest: float | None = None
    highest: float | None = None

    @property
    def text(self) -> str:
        """What was published, in words, such as "best epoch (17th) of one run: 0.9946"."""
        epoch = {"saved": "last epoch", "best": "best epoch", "test": "last epoch"}[self.measure]
        if self.epoch and self.measure == "best":
            epoch += f" ({self.epoch}th)"
        if self.of == "mean":
            return f"mean of {self.n} runs, {epoch}: {self.accuracy:.5f}, sd {self.sd:.5f}"
        runs = f"best of {'about ' if self.about else ''}{self.n} runs" if self.of == "best" else "one run"
        return f"{runs}, {epoch}: {self.accuracy:.4f}"


@dataclass(frozen=True)
class Objectives:
    """What a source wanted its model to be, or tested it for.

    Attributes:
        accuracy: The accuracy to reach on the test set, in [0, 1].
        measure: Where it counts: in the last epoch ("saved", or "test" where other images are monitored) or in any
            ("best").
        within_epochs: Epochs allowed.
        max_parameters: The most trainable parameters allowed, or None where the source wanted as few as possible.
        has: Kinds of layers that must be there, by Keras' names of their classes.
        lacks: Kinds of layers that must not.
    """

    accuracy: float
    measure: Literal["saved", "best", "test"]
    within_epochs: int
    max_parameters: int | None = None
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


# The first of a model is the one to compare with.
PUBLISHED = (
    Publication("conv18242", 0.9946, of="run", measure="best", epoch=17),
    Publication("conv18242", 0.9945, of="run", measure="saved", epoch=20),
    Publication("gap13914", 0.9943, of="run", measure="best", epoch=15),
    Publication("gap13914", 0.9934, of="run", measure="saved", epoch=20),
    Publication("antman9954", 0.9940, of="run", measure="best", epoch=18),
    Publication("antman9954", 0.9925, of="run", measure="saved", epoch=19),
    Publication("small8624", 0.9944, of="run", measure="best", epoch=14),
    Publication("small7384", 0.9940, of="run", measure="best", epoch=14),
    Publication("small7344", 0.9899, of="run", measure="best", epoch=9),
    # The better of two runs of which something is known; the other's last epochs are not printed.
    Publication("pyramid3762", 0.9952, of="best", measure="saved", epoch=15, n=2),
    Publication("shared1936", 0.9910, of="run", measure="test", epoch=75),
    # The 223 accuracies are those of the source's 997_saved_acc.txt.
    Publication("sep997", 0.98761, of="mean", measure="saved", n=223, sd=0.00105, lowest=0.9842, highest=0.9906),
    Publication("sep997", 0.9906, of="best", measure="saved", n=223),
    Publication("sep697", 0.9903, of="best", measure="best", n=700, about=True),
)


def published_accuracies(model: str) -> list[float]:
    """Every single accuracy that was published of a model, in [0, 1]; [] where only a few figures were.

    They are known of sep997 alone: the last epochs of 223 runs, in `997_saved_acc.txt` of
    https://github.com/JoshWarn/Parameter-Efficient-MNIST, where they are called saved accuracies.
    """
    table = resources.files("mnist_minimal.analysis").joinpath(f"{model}_saved_accuracies.csv")
    if model not in {each.model for each in PUBLISHED} or not table.is_file():
        return []
    return [float(row["saved_accuracy"]) for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())]


OBJECTIVES = {
    # The limit and the layers are those of the source's own test, the accuracy is its README's; the version of the test
    # that can be read asks for 0.95.
    "conv18242": Objectives(
        0.994,
        "saved",
        within_epochs=20,
        max_parameters=25000,
        has=("BatchNormalization", "Dropout"),
        lacks=("GlobalAveragePooling2D",),
    ),
    "gap13914": Objectives(0.994, "best", within_epochs=19, max_parameters=20000, has=("GlobalAveragePooling2D",)),
    "antman9954": Objectives(0.994, "best", within_epochs=19, max_parameters=20000, lacks=("Dense",)),
    "small8624": Objectives(0.994, "best", within_epochs=15, max_parameters=10000, lacks=("Dense",)),
    "small7384": Objectives(0.994, "best", within_epochs=15, max_parameters=8000, lacks=("Dense",)),
    "small7344": Objectives(0.994, "best", within_epochs=15, max_parameters=10000, lacks=("Dense", "Dropout")),
    "pyramid3762": Objectives(0.994, "best", within_epochs=15, max_parameters=8000, lacks=("Dense",)),
    "shared1936": Objectives(0.99, "test", within_epochs=75),
    "sep997": Objectives(0.99, "best", within_epochs=200),
    "sep697": Objectives(0.99, "best", within_epochs=2000),
}

# What a source prints after the convolutions and the pool where `models.counting` comes to something else.
RECEPTIVE_FIELDS = {"gap13914": (3, 5, 7, 7, 14, 16, 18)}
