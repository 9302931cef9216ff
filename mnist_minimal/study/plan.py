"""A plan: the trials that are asked for, on the command line or in Python."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal.data.choice import Choice
from mnist_minimal.models.lookup import Builder
from mnist_minimal.recipes import Recipe
from mnist_minimal.study.study import Study
from mnist_minimal.study.teaching import TeacherFile

if TYPE_CHECKING:
    import keras

    from mnist_minimal.data.sets import Dataset

MAX_SEED = 2**32 - 1

# Where several studies are trained together, a trial is known by SEEDS times its study's number and its seed.
SEEDS = MAX_SEED + 1


@dataclass(frozen=True)
class Plan:
    """The trials that are asked for.

    Attributes:
        out: The folder of all results.
        model: Name of the model.
        recipe: How it is trained.
        dataset: The images.
        choice: Where another process finds them; None where it is to be sent the arrays.
        runs: How many trials, or None where there is no end.
        seed: The first trial's seed.
        max_epochs: The cap on the epochs.
        until: The best accuracy at whose first trial the job stops, or None.
        protocol: "source" or "holdout".
        trainer: "auto", "native", "keras" or "jax".
        jobs: Trials side by side; None for one, and with JAX for as many as suit the device.
        build: Builds the model, where its name does not say how.
        callbacks: Makes a trial's further Keras callbacks from its seed, or None.
        teacher: The file of the recipe's teacher, or None where it has none.
        dask: The scheduler of the Dask cluster that trains them, or "local" for a cluster of `jobs` workers on this
            machine; None where this process does.
    """

    out: Path
    model: str
    recipe: Recipe
    dataset: "Dataset"
    choice: Choice | None
    runs: int | None
    seed: int
    max_epochs: int
    until: float | None
    protocol: str
    trainer: str
    jobs: int | None
    build: Builder | None = None
    callbacks: "Callable[[int], Sequence[keras.callbacks.Callback]] | None" = None
    teacher: TeacherFile | None = None
    dask: str | None = None

    @property
    def study(self) -> Study:
        """Where its trials are recorded."""
        return Study.of(self.out, self.model, self.dataset.name, self.protocol, self.recipe)

    @property
    def seeds(self) -> range:
        """The seeds; those of a plan without end go on to the last that there is."""
        return range(self.seed, MAX_SEED + 1 if self.runs is None else self.seed + self.runs)
