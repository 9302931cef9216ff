"""Which images the accuracies of a study are of: only some recipes and protocols monitor the test set."""

from mnist_minimal.errors import UserError
from mnist_minimal.recipes import RECIPES
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
