"""What a study has recorded of a saved model, found by the place of the file: OUT/<study>/<seed>.h5."""

from pathlib import Path

from mnist_minimal.errors import UserError
from mnist_minimal.study import ledger
from mnist_minimal.study.study import Study
from mnist_minimal.trial import Trial


def recorded_dataset(weights: Path) -> str | None:
    """The data set on which a saved model was trained; None where no study beside it has a row of it.

    Raises:
        UserError: if there is a table of trials where the study's would be, and it is damaged.
    """
    trial = _recorded(weights)
    return trial.dataset if trial else None


def check_kept(weights: Path) -> None:
    """Makes sure that a file which is not there is no model of a recorded trial: those can be had again.

    Raises:
        UserError: if it is one, saying how; or as of `recorded_dataset`.
    """
    if not weights.exists() and (trial := _recorded(weights)):
        study = Study(weights.parent.parent, weights.parent.name)
        raise UserError(
            f"{weights}: the model of this trial was not kept; python -m mnist_minimal.verify {study.csv} "
            f"--seeds {trial.seed} --keep {study.folder} trains it again"
        )


def _recorded(weights: Path) -> Trial | None:
    """The trial whose saved model has this place."""
    weights = weights.absolute()
    study = Study(weights.parent.parent, weights.parent.name)
    if not ledger.is_ledger(study.csv):
        return None
    rows = ledger.done(ledger.read(study.csv))
    return next((trial for trial in rows if study.weights(trial.seed) == weights), None)
