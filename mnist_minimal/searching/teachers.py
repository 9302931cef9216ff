"""The search's own teachers, one for each held-out part of the training images, which has not seen that part.

A teacher that had seen the images that judge a candidate would tell it of them, so none from elsewhere will do.
"""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mnist_minimal.files import reject_symlink
from mnist_minimal.recipes import Adam, Augmentation, ByStep, Recipe
from mnist_minimal.searching.evaluation import ONE_THREAD_EACH, fold_splits
from mnist_minimal.study import teaching
from mnist_minimal.version import version

if TYPE_CHECKING:
    import numpy as np

    from mnist_minimal.data.sets import Dataset

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

    def probabilities(self, fold: int | None) -> "np.ndarray":
        """float32 (n, classes), what the teacher gives the training images that has not seen those of a fold.

        Args:
            fold: The fold; None for the teacher that has seen all.

        Raises:
            UserError: if its file can't be read or written.
        """
        with self.lock:
            if fold not in self.known:
                self.folder.mkdir(parents=True, exist_ok=True)
                path = self.path(fold)
                with FileLock(reject_symlink(path.with_suffix(".lock"))):
                    if not path.exists():
                        teaching.write(path, *self._trained(fold))
                self.known[fold] = teaching.read(path).probabilities
            return self.known[fold]

    def path(self, fold: int | None) -> Path:
        """The file of a teacher."""
        return self.folder / ("all.npz" if fold is None else f"without{fold}.npz")

    def _trained(self, fold: int | None) -> "tuple[dict[str, Any], np.ndarray]":
        from mnist_minimal.data.sets import checksums
        from mnist_minimal.models.lookup import builder
        from mnist_minimal.training import initial_weights
        from mnist_minimal.training.evaluation import from_probabilities, probabilities
        from mnist_minimal.training.seeding import seeded
        from mnist_minimal.training.trainers import choose, fit_function

        splits, kept = fold_splits(self.dataset, fold)
        with seeded(SEED):
            model = builder(MODEL)()
        initial_weights.draw(model, SEED)
        trainer, _ = choose("auto", model, None, RECIPE)
        fit_function(trainer, ONE_THREAD_EACH)(model, RECIPE, splits, SEED)
        found = probabilities(model, self.dataset.x_train)
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
