"""Which images the accuracies of a study are of: only some recipes and protocols monitor the test set."""

from collections.abc import Mapping
from typing import Any

from mnist_minimal.errors import UserError
from mnist_minimal.recipes import RECIPES, Plateau
from mnist_minimal.study import identity
from mnist_minimal.study.study import Study
from mnist_minimal.trial import Trial


def validation_share(study: Study, model: str) -> float | None:
    """The share of the training set that a study's recipe monitors, 0 where it monitors the test set.

    The study's JSON says so; where that is missing or damaged the published recipe of the model does. None where there
    is neither.
    """
    try:
        share = identity.read(study)["recipe"]["validation_share"]
        if isinstance(share, float | int) and 0 <= share < 1:
            return share
    except (OSError, UserError, KeyError, TypeError):
        pass
    return RECIPES[model].validation_share if model in RECIPES else None


def chooses_by_monitored(study: Study, model: str) -> bool:
    """Whether what a trial of a study keeps may depend on the images that it monitors.

    It does not where the learning rate follows a course, nothing stops a trial early, and no callback of the user's own
    looks on: the last weights are kept then, or the mean of the last ones. The study's JSON says so; where that is
    missing or damaged the published recipe of the model does. True where there is neither.
    """
    try:
        return _looks_on(identity.read(study))
    except (OSError, UserError, AttributeError, KeyError, TypeError):
        return model not in RECIPES or _looks_on({"recipe": RECIPES[model].as_dict()})


def _looks_on(facts: Mapping[str, Any]) -> bool:
    """Whether anything follows the monitored images, of what a study's JSON says."""
    recipe = facts["recipe"]
    followers = (recipe["early_stopping"], recipe["median_stopping"], recipe["callbacks"], facts.get("callbacks"))
    return any(followers) or (recipe["schedule"] or {}).get("kind") == Plateau.__name__


def monitors_test_set(study: Study, trial: Trial) -> bool:
    """Whether a trial's saved and best accuracies are known to be of the test set."""
    return trial.protocol == "source" and validation_share(study, trial.model) == 0


def images(study: Study, trial: Trial, measure: str) -> int | None:
    """How many images one accuracy of a trial is of; None where that is not known.

    Args:
        study: Where its files lie.
        trial: A trial of it.
        measure: One of `ledger.MEASURES`.
    """
    from mnist_minimal.data.choice import recorded_fold
    from mnist_minimal.data.sets import IMAGES, held_out

    if measure == "test" or monitors_test_set(study, trial):
        return trial.test_size
    share = validation_share(study, trial.model)
    whole, _ = recorded_fold(trial.dataset)
    if share is None or whole not in IMAGES:
        return None
    return held_out(IMAGES[whole] - trial.test_size, trial.protocol, share)
