"""One trial: a new model, trained, saved, tested, and what is known of it as a row."""

import contextlib
import csv
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.files import atomic_write, not_written, reject_symlink
from mnist_minimal.models.lookup import builder
from mnist_minimal.recipes import Recipe
from mnist_minimal.study.study import Study
from mnist_minimal.trial import FAILED, FINISHED, STOPPED, EpochReport, Trial
from mnist_minimal.version import version

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset, Splits
from mnist_minimal.trial import Report, Train

# The seed of first weights is one for the whole process: trials in other threads must not draw between.
BUILDING = threading.Lock()


@dataclass(frozen=True)
class Job:
    """What all trials of a job have in common; it can be sent to another process.

    Attributes:
        study: The study; it names the model.
        recipe: How the model is trained.
        choice: The data set.
        trainer: "keras" or "native".
        max_epochs: The cap on the epochs.
        jobs: Trials that run side by side.
        params: Number of trainable parameters of the model.
        test_size: Number of test images.
    """

    study: Study
    recipe: Recipe
    choice: Choice
    trainer: str
    max_epochs: int
    jobs: int
    params: int
    test_size: int


def make_train(job: Job, dataset: "Dataset | None" = None) -> Train:
    """The function that trains one seed of the job; reads the data set where it is not given."""
    from mnist_minimal.data import sets

    splits = sets.split(dataset or sets.load(job.choice), job.study.protocol, job.recipe.validation_share)
    return partial(train_trial, job, splits)


def train_trial(job: Job, splits: "Splits", seed: int, report: Report) -> Trial:
    """Trains a new model from a seed, saves it and its history, and counts the test images it gets right.

    Args:
        job: What to train.
        splits: The images.
        seed: Seed of the first weights, the order of the images and the dropout; 0 <= seed < 2**32.
        report: Called after each epoch; training ends where it gives a reason.

    Returns:
        The trial, finished or stopped.

    Raises:
        UserError: if a file of the trial can't be written: the next trial could not write its own either.
    """
    import keras

    from mnist_minimal.saving.saved_model import save
    from mnist_minimal.training.checkpoint import Checkpoint
    from mnist_minimal.training.evaluation import evaluate
    from mnist_minimal.training.trainers import backend, fit_function

    if job.trainer == "keras":
        # Keras keeps what earlier models compiled; without this a long job grows.
        keras.utils.clear_session()
    with BUILDING:
        keras.utils.set_random_seed(seed)
        model = builder(job.study.model)()
    checkpoint = Checkpoint(
        reject_symlink(job.study.checkpoint(seed)),
        identity={
            "recipe": job.recipe.as_dict(),
            "dataset": job.study.dataset,
            "protocol": job.study.protocol,
            "seed": seed,
            "trainer": job.trainer,
            "backend": backend(job.trainer),
            "version": version(),
        },
        shapes=[weights.shape for weights in model.get_weights()],
    )
    history = job.study.history(seed)
    if checkpoint.epochs:
        write_history(history, checkpoint.history)
    logger = keras.callbacks.CSVLogger(str(reject_symlink(history)), append=checkpoint.epochs > 0)
    best = max(checkpoint.history.get("val_accuracy", [0.0]))

    def report_epoch(epoch: int, logs: dict[str, float]) -> None:
        nonlocal best
        best = max(best, logs["val_accuracy"])
        reason = report(EpochReport(seed, epoch + 1, job.max_epochs, logs["val_accuracy"], best))
        # A trial that its recipe ends in this very epoch is at its end.
        if reason and not model.stop_training:
            checkpoint.reason = reason
            model.stop_training = True

    try:
        fitted = fit_function(job.trainer, job.jobs)(
            model,
            job.recipe,
            splits,
            seed,
            max_epochs=job.max_epochs,
            callbacks=[logger, keras.callbacks.LambdaCallback(on_epoch_end=report_epoch)],
            checkpoint=checkpoint,
        )
    except OSError as error:
        # The logger would try again when it is deleted, and complain.
        with contextlib.suppress(OSError):
            if logger.csv_file:
                logger.csv_file.close()
        raise UserError(not_written(Path(error.filename or history), error)) from error
    weights = job.study.weights(seed)
    save(model, weights)
    return _row(
        job,
        seed,
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        saved_accuracy=fitted.saved_accuracy,
        best_accuracy=fitted.best_accuracy,
        test_correct=evaluate(model, splits.x_test, splits.y_test).correct,
        train_seconds=round(fitted.train_seconds, 2),
        cpu_seconds=round(fitted.cpu_seconds, 2),
        weights=weights.relative_to(job.study.out).as_posix(),
        backend=backend(job.trainer),
        reason=checkpoint.reason,
        status=STOPPED if checkpoint.reason else FINISHED,
    )


def write_history(path: Path, figures: dict[str, list[float]]) -> None:
    """Writes the epochs that a checkpoint knows of as Keras' CSVLogger does: a kill may come between the two files."""
    names = sorted(figures)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *names])
        for epoch, values in enumerate(zip(*(figures[name] for name in names), strict=True)):
            writer.writerow([epoch, *values])


def failed_trial(job: Job, seed: int, reason: str) -> Trial:
    """The row of a trial that did not come to its end."""
    return _row(
        job,
        seed,
        epochs=None,
        best_epoch=None,
        saved_accuracy=None,
        best_accuracy=None,
        test_correct=None,
        train_seconds=None,
        cpu_seconds=None,
        weights="",
        backend="",
        reason=reason,
        status=FAILED,
    )


def _row(job: Job, seed: int, **figures: Any) -> Trial:
    return Trial(
        model=job.study.model,
        params=job.params,
        dataset=job.study.dataset,
        protocol=job.study.protocol,
        trainer=job.trainer,
        seed=seed,
        test_size=job.test_size,
        finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=version(),
        max_epochs=job.max_epochs,
        **figures,
    )
