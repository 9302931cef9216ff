"""The published training recipes, as data.

A recipe says how a model is trained: optimizer, schedule, stopping, batches. It holds no Keras object, so that it can
be written beside the results as JSON and read without Keras; `mnist_minimal.training` turns it into what it describes.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class AdamW:
    """`mnist_minimal.optimizers.AdamW`, whose `weight_decay` is not multiplied by the learning rate."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Plateau:
    """`keras.callbacks.ReduceLROnPlateau` on the validation loss.

    After `patience` epochs without a validation loss lower by more than `min_delta`, the learning rate is multiplied by
    `factor`, but never falls under `min_learning_rate`.
    """

    factor: float
    patience: int
    min_delta: float
    min_learning_rate: float


@dataclass(frozen=True)
class EarlyStopping:
    """`keras.callbacks.EarlyStopping` on the validation accuracy; the weights of the best epoch are restored."""

    patience: int


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    Attributes:
        model: Name of the model in `mnist_minimal.models.MODELS`.
        source: Where the recipe was published.
        assumed: What the source leaves unsaid and this recipe fills in, one sentence each.
        batch_size: Images per step.
        drop_remainder: Whether a last, smaller batch of an epoch is left out.
        max_epochs: Epochs after which training ends if nothing else ended it.
        optimizer: The optimizer at its first learning rate.
        plateau: The learning rate's schedule.
        early_stopping: When training ends.
    """

    model: str
    source: str
    assumed: tuple[str, ...]
    batch_size: int
    drop_remainder: bool
    max_epochs: int
    optimizer: AdamW
    plateau: Plateau
    early_stopping: EarlyStopping

    def as_dict(self) -> dict[str, Any]:
        """The recipe as nested dictionaries and lists of JSON's types."""
        return {**asdict(self), "assumed": list(self.assumed)}


RECIPES = {
    "sep997": Recipe(
        model="sep997",
        source="https://github.com/JoshWarn/Parameter-Efficient-MNIST, 997_99.05.py",
        assumed=(),
        batch_size=128,
        drop_remainder=True,
        max_epochs=200,
        optimizer=AdamW(learning_rate=0.01, weight_decay=1e-6),
        plateau=Plateau(factor=0.1, patience=8, min_delta=1e-16, min_learning_rate=1e-8),
        early_stopping=EarlyStopping(patience=25),
    ),
    # The source also stops, from the 31st trial on, those that are in the worse half at epoch 100. That rule is about a
    # whole study and no part of how one model is trained: here every trial goes to its own end.
    "sep697": Recipe(
        model="sep697",
        source="https://github.com/JoshWarn/Parameter-Efficient-MNIST, nn_training_framework.py",
        assumed=(),
        batch_size=256,
        drop_remainder=True,
        max_epochs=2000,
        optimizer=AdamW(learning_rate=0.01, weight_decay=1e-6),
        plateau=Plateau(factor=0.25, patience=50, min_delta=1e-16, min_learning_rate=2.5e-5),
        early_stopping=EarlyStopping(patience=150),
    ),
}
