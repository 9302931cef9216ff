"""The figures of a training by epoch; apart from the trainers, so that who reads them needs no Keras."""

from typing import Any

from mnist_minimal.errors import UserError


class History:
    """The figures of a trial by epoch, in memory; `study.history.HistoryFile` keeps them in a file.

    Attributes:
        figures: A list by epoch of `loss`, `accuracy`, `val_loss`, `val_accuracy`, `learning_rate` and what else the
            trainer gives.
    """

    def __init__(self) -> None:
        self.figures: dict[str, list[float]] = {}

    def __len__(self) -> int:
        return max(map(len, self.figures.values()), default=0)

    def append(self, logs: dict[str, float]) -> None:
        """Adds an epoch."""
        for name, value in logs.items():
            self.figures.setdefault(name, []).append(float(value))

    def position(self) -> dict[str, Any]:
        """What a checkpoint has to know to take up the history after this epoch, of JSON's types."""
        return {}

    def resume(self, position: dict[str, Any], epochs: int) -> None:
        """Takes up the epochs that there were at a position.

        Raises:
            UserError: if they can't be had any more, as those in the memory of a process that has ended.
        """
        raise UserError("expected a history on disk beside the checkpoint, found that it was kept in memory alone")
