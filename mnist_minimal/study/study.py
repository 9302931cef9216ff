"""Where the files of a study lie."""

from dataclasses import dataclass
from pathlib import Path

from mnist_minimal.models.lookup import file_name


@dataclass(frozen=True)
class Study:
    """All trials of one model on one data set under one protocol, by the names of their files.

    Attributes:
        out: The folder of all results.
        name: The study's name, which all its files begin with.
    """

    out: Path
    name: str

    @classmethod
    def of(cls, out: Path, model: str, dataset: str, protocol: str) -> "Study":
        """The study of a model: its name is the model's, then the data set unless it is MNIST, then `holdout`.

        Args:
            out: The folder of all results.
            model: Name of the model; of a model of the user's own, `module:function`.
            dataset: Name of the data set.
            protocol: "source" or "holdout".
        """
        name = file_name(model) + ("" if dataset == "mnist" else f"-{dataset}")
        return cls(out, f"{name}-holdout" if protocol == "holdout" else name)

    @classmethod
    def at(cls, csv: Path) -> "Study":
        """The study whose table of trials a file is."""
        return cls(csv.parent, csv.stem)

    @property
    def csv(self) -> Path:
        """The table of trials."""
        return self.out / f"{self.name}.csv"

    @property
    def torn(self) -> Path:
        """Where lines of the table go that a crash has cut."""
        return self.out / f"{self.name}.csv.torn"

    @property
    def lock(self) -> Path:
        """Held by the process that owns the study."""
        return self.out / f"{self.name}.csv.lock"

    @property
    def json(self) -> Path:
        """What all trials have in common."""
        return self.out / f"{self.name}.json"

    @property
    def folder(self) -> Path:
        """What belongs to single trials."""
        return self.out / self.name

    @property
    def owner(self) -> Path:
        """Who owns the study, while somebody does."""
        return self.folder / "owner.json"

    def weights(self, seed: int) -> Path:
        """A trial's saved model."""
        return self.folder / f"{seed}.h5"

    def history(self, seed: int) -> Path:
        """A trial's figures by epoch."""
        return self.folder / f"{seed}.csv"

    def checkpoint(self, seed: int) -> Path:
        """What an unfinished trial is resumed from."""
        return self.folder / f"{seed}.checkpoint.npz"
