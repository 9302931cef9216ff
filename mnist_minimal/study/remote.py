"""A trial on another machine: trained in a temporary folder there, and its files sent to the owner of the study."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from mnist_minimal.data.choice import Choice
from mnist_minimal.engines.dask import Remote
from mnist_minimal.engines.dask_worker import RemoteTrain
from mnist_minimal.study.images import find_images, packed
from mnist_minimal.study.job import Job
from mnist_minimal.study.parcel import Parcel, study_in, temporary_folder
from mnist_minimal.study.remote_slots import RemoteSlots
from mnist_minimal.study.worker import make_train
from mnist_minimal.trial import Owner, StoppedError

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset


def remote(job: Job, dataset: "Dataset") -> Remote:
    """How the trials of a job are trained elsewhere: the images are read there where they are the same, or sent."""
    # The arrays would go with the job otherwise.
    sent = job if isinstance(job.source, Choice) else replace(job, source=Choice().or_recorded(job.dataset))
    return Remote(
        make_train=partial(make_remote_train, sent),
        shared=partial(packed, dataset),
        pack=partial(Parcel.of, job.study),
        unpack=lambda seed, parcel: parcel.write(job.study, seed),
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
    import joblib

    from mnist_minimal.training import core
    from mnist_minimal.training.keras_fit import set_memory_growth
    from mnist_minimal.training.slots import device

    # As where the job comes from: before anything is put on a GPU.
    if job.trainer == "jax":
        device.keep_tensorflow_off()
    set_memory_growth()
    if job.trainer == "native":
        core.require()
    assert isinstance(job.source, Choice)
    dataset = find_images(job.source, job.facts["data"], images)
    if job.trainer == "jax":
        return RemoteSlots(job, dataset)
    # A trial takes one thread: the cluster decides how many there are.
    here = replace(job, places=joblib.cpu_count())
    make_train(here, dataset)
    return RemoteThreads(here, dataset)


@dataclass(frozen=True)
class RemoteThreads:
    """Trains a seed in each thread of a worker; with Keras, whose state is one for the whole process, one at a time.

    Attributes:
        job: The job, as it is here.
        dataset: Its images.
    """

    job: Job
    dataset: "Dataset"

    def places(self, threads: int) -> int:
        """How many seeds are trained at once."""
        return 1 if self.job.trainer == "keras" else threads

    def __call__(self, seed: int, parcel: Parcel, owner: Owner) -> Parcel:
        """Trains one."""
        with temporary_folder() as folder:
            study = study_in(folder, self.job)
            parcel.write(study, seed)
            try:
                trial = make_train(replace(self.job, study=study), self.dataset)(seed, owner)
            except StoppedError:
                trial = None
            return Parcel.of(study, seed, trial)

    def notice(self) -> str:
        """Nothing."""
        return ""

    def close(self) -> None:
        """Nothing is left of it."""
