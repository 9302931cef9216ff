"""What of a recipe is not as it was published, and the short name that follows from it."""

import hashlib
import json
from typing import Any

from mnist_minimal.recipes.catalogue import RECIPES
from mnist_minimal.recipes.digits import for_dataset
from mnist_minimal.recipes.parts import Recipe, completed

HASH_DIGITS = 6

PROSE = ("model", "name", "source", "assumed")


def changes(model: str, recipe: Recipe, dataset: str) -> dict[str, Any]:
    """What was set in a recipe, in JSON's types by field, as `{"optimizer.learning_rate": 0.02}`; {} where nothing was.

    A published recipe's name tells what it is compared with; one of one's own, which has none, is compared with that of
    the published model which it is to train, else with the recipe on which `replace` was called. On the digits a
    published model's own is that of `recipes.digits`.
    """
    origin = RECIPES.get(recipe.known_as or model, recipe.origin or recipe)
    if origin is RECIPES.get(model):
        origin = for_dataset(origin, dataset)
    before, now = ({k: v for k, v in each.as_dict().items() if k not in PROSE} for each in (origin, recipe))
    return _differences(completed(before, "Recipe"), completed(now, "Recipe"), "")


def short_hash(changed: dict[str, Any]) -> str:
    """The first six hexadecimal digits of the SHA-256 of what `changes` gives, as JSON, keys sorted, without spaces."""
    text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def described(model: str, recipe: Recipe, dataset: str) -> str:
    """What is not the model's own, in words: "the recipe of sep697 with batch_size 128"; "" where nothing is."""
    set_ = [f"{field} {json.dumps(value)}" for field, value in changes(model, recipe, dataset).items()]
    other = recipe.known_as not in ("", model)
    if not other and not set_:
        return ""
    whose = f"the recipe {recipe.name or f'of {recipe.model}'}" if other else "its recipe"
    return f"{whose}{' with ' if set_ else ''}{', '.join(set_)}"


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in now.items():
        old = before[name]
        if isinstance(old, dict) and isinstance(value, dict) and _kind(old) == _kind(value):
            kind = str(value.get("kind"))
            whole = completed(old, kind), completed(value, kind)
            if whole[0].keys() == whole[1].keys():
                found |= _differences(*whole, f"{prefix}{name}.")
                continue
        if old != value:
            found[f"{prefix}{name}"] = value
    return found


def _kind(part: dict[str, Any]) -> Any:
    return part.get("kind"), part.get("class_name")
