"""One evaluation of a candidate: a function of plain data, which another process or machine can call as well."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_minimal.errors import UserError
from mnist_minimal.models.searched import Candidate

if TYPE_CHECKING:
    import numpy as np

    from mnist_minimal.data.sets import Dataset, Splits

# Into so many parts the training images are cut, of which one is held out.
FOLDS = 12

# Of so many images, at most, the core's pace is taken.
PACED_IMAGES = 6000

# Trials side by side, as trainers count them who share out the processors: evaluations run side by side themselves.
ONE_THREAD_EACH = 2**31


@dataclass(frozen=True)
class Score:
    """What a trained candidate made of images that it was not trained on.

    Attributes:
        correct: How many it got right; 0 where its training diverged.
        size: How many there were.
        loss: Their mean cross-entropy, in nats; infinite where its training diverged.
        passes: Images that its training took, each as often as it took it.
        seconds: Wall-clock time of its training; of one of several side by side on one device, its share of it.
    """

    correct: int
    size: int
    loss: float
    passes: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """The share of correct images, in [0, 1]."""
        return self.correct / self.size


def require_core() -> None:
    """Does nothing where the core can run and gives the bits of its version, by which alone candidates are judged.

    Raises:
        UserError: if it can't, or gives other ones.
    """
    from mnist_minimal.training import core
    from mnist_minimal.training.core import known_answer

    try:
        core.require()
    except UserError as error:
        reason = str(error).removesuffix(", or train with --trainer keras")
        raise UserError(f"the search judges candidates by the C++ core alone: {reason}") from error
    if reason := known_answer.difference():
        raise UserError(
            f"the search judges candidates by the C++ core's bits alone, and {reason}; install mnist_minimal again "
            "without them"
        )


def evaluate(
    candidate: Mapping[str, Any],
    seed: int,
    fold: int | None,
    epochs: int,
    dataset: "Dataset",
    probabilities: "np.ndarray | None" = None,
    after_epoch: Callable[[], None] = lambda: None,
) -> Score:
    """Trains a candidate from a seed, and counts what it gets right of images that it was not trained on.

    Args:
        candidate: The candidate, as `Candidate.as_dict` gives it.
        seed: The trial's seed, 0 <= seed < 2**32.
        fold: Which of the FOLDS parts of the training images, from 0, is held out and judges; None to train on all and
            have the test set judge.
        epochs: Epochs of the training; the recipe's course is that of so many.
        dataset: The images; without a fold alone is its test set looked at.
        probabilities: float32 (n, classes), what the recipe's teacher, if it has one, gives the training images.
        after_epoch: Called after every epoch; what it raises ends the training.

    Raises:
        UserError: if the candidate is none, or the core can't train it here or gives other bits.
    """
    require_core()
    import keras

    from mnist_minimal.models.dropout import set_dropout
    from mnist_minimal.training import DivergedError, initial_weights
    from mnist_minimal.training.seeding import seeded
    from mnist_minimal.training.targets import mixed
    from mnist_minimal.training.trainers import evaluate_function, fit_function

    found = Candidate.from_dict(candidate)
    recipe = dataclasses.replace(found.recipe, max_epochs=epochs)
    splits, kept = fold_splits(dataset, fold)
    if recipe.teacher is not None and probabilities is not None:
        splits = dataclasses.replace(splits, targets=mixed(probabilities[kept], splits.y_train, recipe.teacher.weight))
    with seeded(seed):
        model = found.network.build()
    initial_weights.draw(model, seed)
    set_dropout(model, recipe.dropout)
    trained, begun = 0, time.monotonic()

    def begin_epoch(epoch: int, logs: object) -> None:
        nonlocal trained
        trained = epoch + 1

    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=begin_epoch, on_epoch_end=lambda epoch, logs: after_epoch()
    )
    try:
        fit_function("native", ONE_THREAD_EACH)(model, recipe, splits, seed, callbacks=[callback])
        judged = evaluate_function("native", ONE_THREAD_EACH)(model, splits.x_test, splits.y_test)
        correct, loss = judged.correct, judged.loss
    except DivergedError:
        # Which its last epoch's loss tells.
        correct, loss = 0, float("inf")
    passes = trained * len(splits.x_train)
    return Score(correct, len(splits.x_test), loss, passes, round(time.monotonic() - begun, 2))


def core_pace(candidate: Mapping[str, Any], dataset: "Dataset") -> float:
    """Seconds that the core takes for an image pass of a candidate: those of an epoch of some images.

    Args:
        candidate: As for `evaluate`.
        dataset: The images; its test set is not looked at.
    """
    paced = slice(0, PACED_IMAGES)
    some = dataclasses.replace(dataset, x_train=dataset.x_train[paced], y_train=dataset.y_train[paced])
    score = evaluate(candidate, 0, 0, 1, some)
    return score.seconds / score.passes


def fold_splits(dataset: "Dataset", fold: int | None) -> "tuple[Splits, np.ndarray]":
    """The images to train on and those that judge, as `x_test`, and the places of the former among the training images.

    Keras' callbacks want images to monitor after every epoch; nothing depends on those here, so they are a few of the
    training images.

    Args:
        dataset: The images.
        fold: Which part is held out; None for none, where the test set judges.
    """
    import numpy as np

    from mnist_minimal.data.sets import Splits

    images = len(dataset.x_train)
    start, end = (0, 0) if fold is None else fold_range(fold, images)
    kept = np.r_[0:start, end:images]
    x_train, y_train = dataset.x_train[kept], dataset.y_train[kept]
    x_judge, y_judge = dataset.x_train[start:end], dataset.y_train[start:end]
    if fold is None:
        x_judge, y_judge = dataset.x_test, dataset.y_test
    monitored = slice(0, FOLDS)
    splits = Splits(dataset.name, "holdout", x_train, y_train, x_train[monitored], y_train[monitored], x_judge, y_judge)
    return splits, kept


def fold_range(fold: int, images: int) -> tuple[int, int]:
    """Where a fold of so many training images begins and ends."""
    return fold * images // FOLDS, (fold + 1) * images // FOLDS


def without_test_set(dataset: "Dataset") -> "Dataset":
    """The data set with an empty test set: what is not there nobody can look at."""
    return dataclasses.replace(dataset, x_test=dataset.x_test[:0], y_test=dataset.y_test[:0])
