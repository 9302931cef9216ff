"""The search's own teachers, one for each held-out part of the training images, which has not seen that part.

A teacher that had seen the images that judge a candidate would tell it of them, so none from elsewhere will do.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from mnist_minimal.files import reject_symlink
from mnist_minimal.recipes import Adam, Augmentation, ByStep, Recipe
from mnist_minimal.searching.evaluation import ONE_THREAD_EACH, fold_splits, require_core
from mnist_minimal.study import teaching
from mnist_minimal.version import version

if TYPE_CHECKING:
    import numpy as np

    from mnist_minimal.data.sets import Dataset

# How often it is looked whether the search is interrupted while another process trains a teacher.
SECONDS_BETWEEN_LOOKS = 0.5

# What teaches: a published network, trained to the end of a course, on which no held-out image has a say.
MODEL, SEED = "gap13914", 0
RECIPE = Recipe(
    batch_size=64,
    max_epochs=20,
    optimizer=Adam(0.01),
    schedule=ByStep("cosine"),
    augmentation=Augmentation(rotation=6, translation=0.04, scale=(0.92, 1.08), affine_share=0.5),
)


class Teachers:
    """Teachers in a folder, each trained when it is first asked for.

    The one of all training images is in a file that `trials --teacher` takes; so are the others, which it refuses to
    students that hold images out, as if they had seen all.

    Args:
        folder: The folder.
        dataset: The training images.
    """

    def __init__(self, folder: Path, dataset: "Dataset") -> None:
        self.folder, self.dataset = folder, dataset
        self.known: dict[int | None, np.ndarray] = {}
        self.lock = threading.Lock()

    def probabilities(self, fold: int | None, look: Callable[[], None] = lambda: None) -> "np.ndarray":
        """float32 (n, classes), what the teacher gives the training images that has not seen those of a fold.

        Args:
            fold: The fold; None for the teacher that has seen all.
            look: Called after every epoch of a teacher and while one is waited for; what it raises ends that.

        Raises:
            UserError: if its file can't be read or written.
        """
        with self.lock:
            if fold not in self.known:
                self.folder.mkdir(parents=True, exist_ok=True)
                path = self.path(fold)
                with locked(path.with_suffix(".lock"), look):
                    if not path.exists():
                        teaching.write(path, *self._trained(fold, look))
                self.known[fold] = teaching.read(path).probabilities
            return self.known[fold]

    def path(self, fold: int | None) -> Path:
        """The file of a teacher."""
        return self.folder / ("all.npz" if fold is None else f"without{fold}.npz")

    def _trained(self, fold: int | None, look: Callable[[], None]) -> "tuple[dict[str, Any], np.ndarray]":
        import keras

        from mnist_minimal.data.sets import checksums
        from mnist_minimal.models.lookup import builder
        from mnist_minimal.training import initial_weights
        from mnist_minimal.training.chain import Chain
        from mnist_minimal.training.evaluation import from_probabilities
        from mnist_minimal.training.seeding import seeded
        from mnist_minimal.training.trainers import fit_function

        require_core()
        look()
        splits, kept = fold_splits(self.dataset, fold)
        with seeded(SEED):
            model = builder(MODEL)()
        initial_weights.draw(model, SEED)
        callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: look())
        fit_function("native", ONE_THREAD_EACH)(model, RECIPE, splits, SEED, callbacks=[callback])
        # By the core, too, whose bits are the same on every machine.
        found = Chain(model, model.optimizer).network.predict(self.dataset.x_train, threads=1)
        seen = from_probabilities(found[kept], self.dataset.y_train[kept])
        facts = {
            "trials": {f"{MODEL} of the search, {'all images' if fold is None else f'without part {fold}'}": [SEED]},
            **{"protocol": "source", "dataset": self.dataset.name},
            "data": {name: sum_ for name, sum_ in checksums(self.dataset).items() if name.endswith("_train")},
            **{"images": len(found), "trained": len(found), "chosen_by_test_set": False},
            **{"accuracy": seen.accuracy, "loss": seen.loss, "held_out_accuracy": None, "held_out_loss": None},
            "version": version(),
        }
        return facts, found


@contextmanager
def locked(path: Path, look: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a file for the block; `look` is called while it is waited for, and what it raises ends that."""
    lock = FileLock(reject_symlink(path))
    while not lock.is_locked:
        look()
        try:
            lock.acquire(timeout=SECONDS_BETWEEN_LOOKS)
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()
