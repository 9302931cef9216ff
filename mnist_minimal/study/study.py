"""Where the files of a study lie."""

from dataclasses import dataclass
from pathlib import Path

from mnist_minimal.models.lookup import file_name
from mnist_minimal.recipes import Recipe
from mnist_minimal.recipes.variation import changes, short_hash


@dataclass(frozen=True)
class Study:
    """All trials of one model by one recipe on one data set under one protocol, by the names of their files.

    Attributes:
        out: The folder of all results.
        name: The study's name, which all its files begin with.
    """

    out: Path
    name: str

    @classmethod
    def of(cls, out: Path, model: str, dataset: str, protocol: str, recipe: Recipe | None = None) -> "Study":
        """The study of a model, whose name says all that it is by: `sep997-sep697-5a4612-digits-holdout`.

        That is the model, the recipe unless it is the model's own (without the model's name where it begins with it), a
        short hash of what was set in it where something was, the data set unless it is MNIST, and `holdout` under that
        protocol.

        Args:
            out: The folder of all results.
            model: Name of the model; of a model of the user's own, `module:function`.
            dataset: Name of the data set.
            protocol: "source" or "holdout".
            recipe: How it is trained; None for the model's own recipe.
        """
        parts = [file_name(model)]
        if recipe is not None:
            if recipe.known_as not in ("", model):
                parts.append(file_name(recipe.known_as).removeprefix(f"{parts[0]}-"))
            if changed := changes(model, recipe, dataset):
                parts.append(short_hash(changed))
        if dataset != "mnist":
            parts.append(dataset)
        if protocol == "holdout":
            parts.append(protocol)
        return cls(out, "-".join(parts))

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

    @property
    def slots(self) -> Path:
        """What the unfinished trials are resumed from that were trained together."""
        return self.folder / "slots.checkpoint.npz"
