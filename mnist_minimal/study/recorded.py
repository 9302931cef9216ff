"""What a study has recorded of a saved model, found by the place of the file: OUT/<study>/<seed>.h5."""

from pathlib import Path

from mnist_minimal.study import ledger
from mnist_minimal.study.study import Study


def recorded_dataset(weights: Path) -> str | None:
    """The data set on which a saved model was trained; None where no study beside it has a row of it.

    Raises:
        UserError: if there is a table of trials where the study's would be, and it is damaged.
    """
    weights = weights.absolute()
    study = Study(weights.parent.parent, weights.parent.name)
    if not ledger.is_ledger(study.csv):
        return None
    rows = ledger.done(ledger.read(study.csv))
    return next((trial.dataset for trial in rows if study.weights(trial.seed) == weights), None)
