"""A trial on another machine: trained in a temporary folder there, and its files sent to the owner of the study."""

import io
import os
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal.data.choice import ENVIRONMENT_VARIABLE, Choice
from mnist_minimal.engines.dask import Remote
from mnist_minimal.engines.dask_worker import RemoteTrain, SharedMissingError
from mnist_minimal.errors import UserError
from mnist_minimal.files import atomic_write, reject_symlink
from mnist_minimal.models.defaults import pin_keras_defaults
from mnist_minimal.models.silence import silence_tensorflow
from mnist_minimal.study.job import Job
from mnist_minimal.study.study import Study
from mnist_minimal.study.worker import make_train
from mnist_minimal.trial import Owner, StoppedError, Trial

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


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
        checkpoint = None if trial else _content(study.checkpoint(seed))
        history = _content(study.history(seed)) if trial or checkpoint else None
        return cls(history, checkpoint, _content(study.weights(seed)) if trial else None, trial)

    def write(self, study: Study, seed: int) -> None:
        """Writes the files into a folder; the checkpoint last, which tells what must be in the history.

        Raises:
            UserError: if one can't be written.
        """
        for path, content in (
            (study.history(seed), self.history),
            (study.weights(seed), self.weights),
            (study.checkpoint(seed), self.checkpoint),
        ):
            if content is not None:
                with atomic_write(reject_symlink(path)) as temporary:
                    temporary.write_bytes(content)


def remote(job: Job, dataset: "Dataset") -> Remote:
    """How the trials of a job are trained elsewhere: the images are read there where they are the same, or sent."""
    # The arrays would go with the job otherwise.
    sent = job if isinstance(job.source, Choice) else replace(job, source=Choice(job.dataset))
    return Remote(
        make_train=partial(make_remote_train, sent),
        shared=partial(_packed, dataset),
        pack=partial(Parcel.of, job.study),
        unpack=lambda seed, parcel: parcel.write(job.study, seed),
        one_a_worker=job.trainer == "keras",
    )


def make_remote_train(job: Job, images: bytes | None) -> RemoteTrain:
    """The function that trains one seed of a job on this machine, the first thing of it that is called here.

    Args:
        job: The job.
        images: The data set, as it was sent; None where it is to be read here.

    Raises:
        SharedMissingError: if these images are not here, and none were sent.
        UserError: if the core can't run here or gives other bits than the study has, or the images sent are others.
    """
    pin_keras_defaults()
    silence_tensorflow()
    import joblib

    from mnist_minimal.data import sets
    from mnist_minimal.training import core

    if job.trainer == "native":
        core.require()
    dataset = _read_here(job) if images is None else _unpacked(images, job.dataset)
    if dataset is None or sets.checksums(dataset) != job.facts["data"]:
        if images is None:
            raise SharedMissingError
        raise UserError("expected the images of the study, found others by their SHA-256; look at the network")
    # A trial takes one thread: the cluster decides how many there are.
    here = replace(job, places=joblib.cpu_count())
    make_train(here, dataset)
    return partial(_train, here, dataset)


def _train(job: Job, dataset: "Dataset", seed: int, parcel: Parcel, owner: Owner) -> Parcel:
    with tempfile.TemporaryDirectory(prefix="mnist_minimal-", ignore_cleanup_errors=True) as folder:
        study = Study(Path(folder), job.study.name)
        study.folder.mkdir()
        parcel.write(study, seed)
        try:
            trial = make_train(replace(job, study=study), dataset)(seed, owner)
        except StoppedError:
            trial = None
        return Parcel.of(study, seed, trial)


def _read_here(job: Job) -> "Dataset | None":
    """The data set by the user's choice, where that needs no download; None where it is not here."""
    from mnist_minimal.data import sets

    choice = job.source
    assert isinstance(choice, Choice)
    here = choice.path is not None and Path(choice.path).expanduser().exists()
    if not (here or choice.dataset == "digits" or os.environ.get(ENVIRONMENT_VARIABLE)):
        return None
    try:
        return sets.load(choice if here else replace(choice, path=None))
    except UserError:
        return None


def _packed(dataset: "Dataset") -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.savez_compressed(file, **{name: getattr(dataset, name) for name in ARRAYS})
    return file.getvalue()


def _unpacked(images: bytes, name: str) -> "Dataset":
    import numpy as np

    from mnist_minimal.data.sets import Dataset

    with np.load(io.BytesIO(images)) as arrays:
        return Dataset(name, "sent", "", **{array: arrays[array] for array in ARRAYS})


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
