"""What was published about a model, as the report compares with it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Publication:
    """One published accuracy of a model on MNIST's test set.

    Attributes:
        model: Name of the model in `mnist_minimal.models.MODELS`.
        params: Number of its trainable parameters.
        accuracy: The accuracy, in [0, 1].
        of: What it is the accuracy of: the mean of several runs, the best of several, or the only run.
        epoch: Which epoch of a run was counted: its last, or its best on the test set.
        text: What was published, in words.
        n: Number of runs.
        sd: Their standard deviation, of a mean.
        lowest, highest: The range of the runs, of a mean.
    """

    model: str
    params: int
    accuracy: float
    of: Literal["mean", "best", "run"]
    epoch: Literal["last", "best"]
    text: str
    n: int = 1
    sd: float | None = None
    lowest: float | None = None
    highest: float | None = None


# https://github.com/JoshWarn/Parameter-Efficient-MNIST; the 223 accuracies are those of its 997_saved_acc.txt.
PUBLISHED = (
    Publication(
        "sep997",
        997,
        accuracy=0.98761,
        of="mean",
        epoch="last",
        text="mean of 223 runs, last epoch: 0.98761, sd 0.00105",
        n=223,
        sd=0.00105,
        lowest=0.9842,
        highest=0.9906,
    ),
    Publication("sep997", 997, accuracy=0.9906, of="best", epoch="last", text="best of 223 runs: 0.9906", n=223),
    Publication("sep697", 697, accuracy=0.9903, of="best", epoch="best", text="best of about 700 runs: 0.9903", n=700),
)
