"""Evaluations of candidates on the workers of a Dask cluster."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from mnist_minimal.data.choice import Choice
from mnist_minimal.engines.dask import scheduler_lost
from mnist_minimal.engines.dask_worker import SharedMissingError
from mnist_minimal.errors import UserError
from mnist_minimal.searching.evaluation import Score, evaluate, without_test_set
from mnist_minimal.study.images import find_images, packed
from mnist_minimal.version import version

if TYPE_CHECKING:
    import numpy as np
    from distributed import Client

    from mnist_minimal.data.sets import Dataset

# How often an evaluation looks whether the search is interrupted.
SECONDS_BETWEEN_LOOKS = 0.5


class UnfitError(Exception):
    """A worker can't evaluate for this search: its address, and why."""


class OnCluster:
    """`evaluate` on the workers of a Dask cluster, which runs again elsewhere what a lost worker had.

    Args:
        client: Of the cluster.
        dataset: The images.
        choice: Where a worker finds them, if it has them; else they are sent there.
        say: Gets what the user must know, in sentences.
    """

    def __init__(self, client: "Client", dataset: "Dataset", choice: Choice, say: Callable[[str], None]) -> None:
        from mnist_minimal.data import sets

        self.client, self.dataset, self.choice, self.say = client, dataset, choice, say
        self.checksums = sets.checksums(dataset)
        self.unfit: set[str] = set()
        self.lock = threading.Lock()

    @property
    def places(self) -> int:
        """How many evaluations run side by side with the workers that there are now; 1 where there is none yet."""
        return max(1, sum(self.client.nthreads().values()))

    def __call__(
        self,
        candidate: Mapping[str, Any],
        seed: int,
        fold: int | None,
        epochs: int,
        probabilities: "np.ndarray | None",
        look: Callable[[], None],
    ) -> Score:
        """As `evaluate`; `look` is called twice a second, and what it raises ends the evaluation.

        Raises:
            UserError: if the scheduler is lost, or no worker can evaluate.
        """
        sent = None
        while True:
            arguments = (version(), self.choice, self.checksums, sent, candidate, seed, fold, epochs, probabilities)
            try:
                return self._result(arguments, look)
            except SharedMissingError:
                sent = packed(self.dataset)
            except UnfitError as error:
                address, why = error.args
                with self.lock:
                    if address not in self.unfit:
                        self.unfit.add(address)
                        self.say(f"Worker {address} takes no part: {why}")

    def _result(self, arguments: tuple[Any, ...], look: Callable[[], None]) -> Score:
        """What a worker gives or raises, but a worker that is known to be unfit."""
        fit = sorted(self.client.nthreads().keys() - self.unfit)
        if self.unfit and not fit:
            raise UserError(
                f"expected a worker that can evaluate candidates, found {len(self.unfit)} that can't, as said above; "
                "install this version of mnist_minimal there, and the same command resumes the search"
            )
        future = self.client.submit(
            _evaluated, *arguments, workers=fit if self.unfit else None, allow_other_workers=False, pure=False
        )
        try:
            while True:
                look()
                if self.client.status != "running":
                    raise scheduler_lost(None)
                try:
                    score: Score = future.result(timeout=SECONDS_BETWEEN_LOOKS)
                except TimeoutError:
                    continue
                except CancelledError as error:
                    raise scheduler_lost(error) from error
                return score
        finally:
            if self.client.status == "running":
                future.cancel()


_IMAGES: "dict[str, Dataset]" = {}


def _evaluated(
    wanted: str,
    choice: Choice,
    checksums: Mapping[str, str],
    sent: bytes | None,
    candidate: Mapping[str, Any],
    seed: int,
    fold: int | None,
    epochs: int,
    probabilities: "np.ndarray | None",
) -> Score:
    """`evaluate` on a worker, which keeps the images."""
    from distributed import get_worker

    address = get_worker().address
    if version() != wanted:
        raise UnfitError(address, f"it has mnist_minimal {version()}, expected {wanted}")
    key = str(sorted(checksums.items()))
    if key not in _IMAGES:
        _IMAGES[key] = find_images(choice, checksums, sent)
    try:
        dataset = _IMAGES[key] if fold is None else without_test_set(_IMAGES[key])
        return evaluate(candidate, seed, fold, epochs, dataset, probabilities)
    except UserError as error:
        raise UnfitError(address, str(error)) from error
