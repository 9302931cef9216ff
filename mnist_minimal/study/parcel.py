"""What of a trial goes from one machine to another, and the folder where it is unpacked."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from mnist_minimal.errors import UserError
from mnist_minimal.files import atomic_write, not_written, reject_symlink
from mnist_minimal.study.job import Job
from mnist_minimal.study.study import Study
from mnist_minimal.trial import Trial


@dataclass(frozen=True)
class Parcel:
    """What of a trial goes from one machine to another.

    Attributes:
        history, checkpoint, weights: The contents of its files; None where there is none.
        trial: The row, or None where it has not come to its end.
    """

    history: bytes | None = None
    checkpoint: bytes | None = None
    weights: bytes | None = None
    trial: Trial | None = None

    @classmethod
    def of(cls, study: Study, seed: int, trial: Trial | None = None) -> "Parcel":
        """What there is of a trial in a folder; the checkpoint of one that has ended is of no use."""
        # An empty one only tells that there is no row yet.
        checkpoint = None if trial else _content(study.checkpoint(seed)) or None
        history = _content(study.history(seed)) if trial or checkpoint else None
        return cls(history, checkpoint, _content(study.weights(seed)) if trial else None, trial)

    def write(self, study: Study, seed: int) -> None:
        """Writes the files into a folder; the checkpoint last, which tells what must be in the history.

        Raises:
            UserError: if one can't be written.
        """
        if self.weights is not None:
            checkpoint = reject_symlink(study.checkpoint(seed))
            try:
                # Until the row is on disk, it tells that the model without one is no row that somebody has removed.
                checkpoint.touch()
            except OSError as error:
                raise UserError(not_written(checkpoint, error)) from error
        for path, content in (
            (study.history(seed), self.history),
            (study.weights(seed), self.weights),
            (study.checkpoint(seed), self.checkpoint),
        ):
            if content is not None:
                with atomic_write(reject_symlink(path)) as temporary:
                    temporary.write_bytes(content)


def remove(study: Study, seed: int) -> None:
    """Removes a trial's files from a folder."""
    for path in (study.history(seed), study.weights(seed), study.checkpoint(seed)):
        path.unlink(missing_ok=True)


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder for what is sent soon."""
    return tempfile.TemporaryDirectory(prefix="mnist_minimal-", ignore_cleanup_errors=True)


def study_in(folder: str, job: Job) -> Study:
    """The study of a job, in another folder."""
    study = Study(Path(folder), job.study.name)
    study.folder.mkdir()
    return study


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
