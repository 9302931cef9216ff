"""The history of a trial, a CSV of its figures by epoch."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal import files
from mnist_minimal.errors import UserError, one_line, plain

if TYPE_CHECKING:
    import pandas


def read_history(path: Path) -> "pandas.DataFrame":
    """A trial's figures by epoch.

    Returns:
        The columns epoch (counted from 1), loss, accuracy, val_loss, val_accuracy and learning_rate.

    Raises:
        UserError: if the file can't be read as that.
    """
    import pandas

    expected = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]
    restore = "restore the file, or remove the trial's row and train it again"
    try:
        history = pandas.read_csv(io.StringIO(files.read_text(path)))
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected the history of a trial, found no such file; {restore}") from error
    except ValueError as error:
        raise UserError(
            f"{path}: expected the history of a trial, found none ({one_line(error)}); {restore}"
        ) from error
    if not set(expected) <= set(history.columns) or not len(history):
        raise UserError(
            f"{path}: expected the columns {', '.join(expected)} and an epoch or more, found "
            f"{plain(', '.join(map(str, history.columns)), 300)} and {len(history)}; {restore}"
        )
    try:
        figures = history[expected].astype(float)
    except ValueError as error:
        raise UserError(f"{path}: expected numbers alone, found others ({one_line(error)}); {restore}") from error
    # The loss of a trial that went astray may be anything.
    for column, highest in {"accuracy": 1.0, "val_accuracy": 1.0, "learning_rate": 1e6}.items():
        wrong = figures[column][~figures[column].between(0, highest)]
        if len(wrong):
            raise UserError(
                f"{path}: expected every {column} from 0 to {highest:g}, found {wrong.iloc[0]:g}; {restore}"
            )
    if figures["epoch"].tolist() != list(range(len(figures))):
        raise UserError(f"{path}: expected epochs counted from 0, found others; {restore}")
    history["epoch"] += 1
    return history
