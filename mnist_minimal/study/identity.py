"""What all trials of a study have in common, in its JSON: recipe, cap on the epochs, data, layers, trainer, its bits.

Trials that differ in one of these would not belong to one distribution, so that a study is resumed only where all are
as they were. The versions are those that it was begun with; they are recorded and may change.
"""

import json
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from typing import Any

from mnist_minimal.errors import UserError
from mnist_minimal.files import atomic_write, read_json, reject_symlink
from mnist_minimal.study.study import Study
from mnist_minimal.version import version

PACKAGES = ("tensorflow", "keras", "numpy")


def read(study: Study) -> dict[str, Any]:
    """What a study was begun with; {} where it has no JSON.

    Raises:
        UserError: if the file can't be read or says something else.
    """
    try:
        facts = read_json(study.json)
    except FileNotFoundError:
        return {}
    if not isinstance(facts, dict):
        raise UserError(
            f"{study.json}: found a {type(facts).__name__}, expected the study's recipe; restore the file or use "
            "another --out"
        )
    recipe = facts.get("recipe")
    if isinstance(recipe, dict):
        if "worse_half" in recipe:  # The rule's name in versions up to 0.1.0.
            rule = recipe.pop("worse_half")
            recipe["median_stopping"] = rule and {**rule, "kind": "MedianStopping"}
        # What no recipe of those versions had.
        facts["recipe"] = {"name": "", "dropout": None, "teacher": None, "callbacks": [], **recipe}
    return facts


def check(study: Study, facts: dict[str, Any]) -> None:
    """Refuses a study that was begun otherwise; what its JSON does not tell is taken to be alike.

    Args:
        study: The study.
        facts: What is wanted now, by name, of JSON's types.

    Raises:
        UserError: naming the first fact that differs, what it was and what it would be.
    """
    if found := difference(study, facts):
        raise UserError(
            f"{study.json}: this study was begun with {found}; give the same options, or another folder with --out"
        )


def difference(study: Study, facts: dict[str, Any]) -> str:
    """The first fact in which a study was begun otherwise, in words: "max_epochs 2, and now it would be 1"; or "".

    Args:
        study: The study; what its JSON does not tell is taken to be alike.
        facts: What is wanted now, by name, of JSON's types.
    """
    begun = read(study)
    for name, wanted in facts.items():
        if name in begun and (different := first_difference(name, begun[name], wanted)):
            return "{} {}, and now it would be {}".format(*different)
    return ""


def first_difference(name: str, begun: Any, wanted: Any) -> tuple[str, Any, Any] | None:
    """The first value in which a fact of one study differs from another's: its name, and the two; None where none does.

    What a recipe says in words is left out, which may be put better without a trial being any other.

    Args:
        name: The fact's name.
        begun: The fact in one.
        wanted: The fact in the other.
    """
    begun, wanted = _without_prose(begun), _without_prose(wanted)
    if begun == wanted:
        return None
    if isinstance(begun, dict) and isinstance(wanted, dict):
        for key in [*wanted, *begun]:
            if begun.get(key) != wanted.get(key):
                return first_difference(f"{name}.{key}", begun.get(key), wanted.get(key))
    return name, begun, wanted


def record(study: Study, facts: dict[str, Any]) -> None:
    """Begins a study's JSON with these facts, or adds those that it lacks, as one of an earlier version does.

    Raises:
        UserError: if one of them differs; or if the file can't be written.
    """
    check(study, facts)
    begun = read(study)
    if facts.keys() <= begun.keys():
        return
    versions = begun.get("versions", {}) if begun else _versions()
    _write(study, {"study": study.name, **facts, **begun, "versions": versions})


def _write(study: Study, content: dict[str, Any]) -> None:
    with atomic_write(reject_symlink(study.json)) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def add_versions(study: Study, versions: dict[str, Any]) -> None:
    """Adds to what a study's trials were begun with, of which nothing is compared, what it does not tell yet.

    Args:
        study: The study, whose JSON is there.
        versions: By name, of JSON's types.

    Raises:
        UserError: if the file can't be written.
    """
    begun = read(study)
    found = begun.get("versions", {})
    if versions.keys() <= found.keys():
        return
    _write(study, {**begun, "versions": {**versions, **found}})


def recipe(study: Study) -> dict[str, Any] | None:
    """The recipe that a study was begun with, as `Recipe.as_dict` gives it; None where its JSON does not tell."""
    try:
        found = read(study)["recipe"]
    except (UserError, KeyError):
        return None
    return found if isinstance(found, dict) else None


def recipe_epochs(study: Study) -> int | None:
    """The number of epochs in the recipe that a study was begun with; None where its JSON does not tell."""
    epochs = (recipe(study) or {}).get("max_epochs")
    return epochs if isinstance(epochs, int) else None


def by_own_recipe(study: Study, model: str) -> bool:
    """Whether a study is of its model's own recipe, with nothing set in it; where no JSON tells, that is assumed."""
    found = recipe(study)
    return found is None or (not read(study).get("set") and (found.get("name") or found.get("model", model)) == model)


def _without_prose(fact: Any) -> Any:
    if isinstance(fact, dict):
        return {key: value for key, value in fact.items() if key not in ("source", "assumed")}
    return fact


def _versions() -> dict[str, str]:
    versions = {"mnist_minimal": version(), "python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            versions[package] = package_version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
