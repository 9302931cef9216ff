"""A study: all trials of one model on one data set under one protocol, and where they lie on disk."""

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnist_minimal.errors import UserError
from mnist_minimal.files import atomic_write, read_json, reject_symlink
from mnist_minimal.models.lookup import file_name
from mnist_minimal.recipes import Recipe
from mnist_minimal.version import version as this_version

PACKAGES = ("tensorflow", "keras", "numpy")


@dataclass(frozen=True)
class Study:
    """The names of a study's files.

    Attributes:
        out: The folder of all results.
        model: Name of the model; of a model of the user's own, `module:function`.
        dataset: Name of the data set.
        protocol: "source" or "holdout".
    """

    out: Path
    model: str
    dataset: str
    protocol: str

    @property
    def name(self) -> str:
        """The model's name, then the data set unless it is MNIST, then `holdout` if that is the protocol."""
        dataset = "" if self.dataset == "mnist" else f"-{self.dataset}"
        return f"{file_name(self.model)}{dataset}{'-holdout' if self.protocol == 'holdout' else ''}"

    @property
    def csv(self) -> Path:
        """The table of trials."""
        return self.out / f"{self.name}.csv"

    @property
    def lock(self) -> Path:
        """Held by who writes to the files of the whole study; the ledger's lock on the CSV."""
        return self.csv.with_name(f"{self.csv.name}.lock")

    @property
    def json(self) -> Path:
        """The recipe and the versions that the study was begun with."""
        return self.out / f"{self.name}.json"

    @property
    def folder(self) -> Path:
        """What belongs to single trials."""
        return self.out / self.name

    def weights(self, seed: int) -> Path:
        """A trial's saved model."""
        return self.folder / f"{seed}.h5"

    def history(self, seed: int) -> Path:
        """A trial's figures by epoch."""
        return self.folder / f"{seed}.csv"

    def checkpoint(self, seed: int) -> Path:
        """Where a trial that is not finished goes on from."""
        return self.folder / f"{seed}.checkpoint.npz"

    def claim(self, seed: int) -> Path:
        """The lock that a runner holds while it trains this seed."""
        return self.folder / f"{seed}.lock"


def open_study(study: Study, recipe: Recipe, max_epochs: int) -> None:
    """Makes the study's folder and writes its JSON, or checks that the study there was begun with the same recipe.

    Raises:
        UserError: if the folder can't be written to, or holds trials of another recipe or cap on the epochs: their
            accuracies would not belong to one distribution.
    """
    wanted = {"recipe": recipe.as_dict(), "max_epochs": max_epochs}
    try:
        reject_symlink(study.folder).mkdir(parents=True, exist_ok=True)
        reject_symlink(study.json)
        with FileLock(study.lock):
            if not study.json.exists():
                content = json.dumps({"study": study.name, **wanted, "versions": _versions()}, indent=2)
                with atomic_write(study.json) as temporary:
                    temporary.write_text(content + "\n", encoding="utf-8")
                return
        begun = read_json(study.json)
    except OSError as error:
        where = error.filename or study.out
        raise UserError(
            f"{where}: can't be written or read ({error.strerror}); choose another folder with --out"
        ) from error
    if not isinstance(begun, dict):
        raise UserError(
            f"{study.json}: expected the study's recipe, found a {type(begun).__name__}; restore the file or use "
            "another --out"
        )
    for key, value in wanted.items():
        found = begun.get(key)
        if _without_prose(found) != _without_prose(value):
            difference = _difference(key, _without_prose(found), _without_prose(value))
            raise UserError(
                f"{study.json}: this study was begun with {difference}; "
                "give the same options, or another folder with --out"
            )


def recipe_epochs(csv: Path) -> int | None:
    """The number of epochs in the recipe that a study was begun with; None where its JSON does not tell.

    Args:
        csv: The study's CSV, beside which the JSON lies.
    """
    try:
        epochs = read_json(csv.with_suffix(".json"))["recipe"]["max_epochs"]
    except (OSError, UserError, KeyError, TypeError):
        return None
    return epochs if isinstance(epochs, int) else None


def _without_prose(recipe: Any) -> Any:
    """A recipe without what it says in words, which may be put better without a trial being any other."""
    if isinstance(recipe, dict):
        return {key: value for key, value in recipe.items() if key not in ("source", "assumed")}
    return recipe


def _difference(key: str, begun: Any, wanted: Any) -> str:
    """In words, the first value in which what the study was begun with differs from what is wanted now."""
    if isinstance(begun, dict) and isinstance(wanted, dict):
        for name in wanted:
            if begun.get(name) != wanted[name]:
                return _difference(f"{key}.{name}", begun.get(name), wanted[name])
    return f"{key} {begun}, and now it would be {wanted}"


def _versions() -> dict[str, str]:
    versions = {"mnist_minimal": this_version(), "python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
