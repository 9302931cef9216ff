"""One trial: a new model, trained, saved, tested, and what is known of it as a row."""

from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_minimal.data.choice import Choice
from mnist_minimal.files import reject_symlink
from mnist_minimal.models.defaults import pin_keras_defaults
from mnist_minimal.models.dropout import set_dropout
from mnist_minimal.models.lookup import builder
from mnist_minimal.models.silence import silence_tensorflow
from mnist_minimal.study import numerics
from mnist_minimal.study.history import HistoryFile
from mnist_minimal.study.job import Job
from mnist_minimal.study.policies import milestone
from mnist_minimal.study.teaching import with_targets
from mnist_minimal.trial import FAILED, FINISHED, STOPPED, EpochReport, Owner, Train, Trial
from mnist_minimal.version import version

if TYPE_CHECKING:
    import keras

    from mnist_minimal.data.sets import Dataset, Splits
    from mnist_minimal.training.checkpoint import Checkpoint


def make_train(job: Job, dataset: "Dataset | None" = None) -> Train:
    """The function that trains one seed of the job; reads the data set where neither this nor the job has it.

    Raises:
        UserError: if the core gives other bits in this process than the study has.
    """
    from mnist_minimal.data import sets
    from mnist_minimal.training import trainers

    numerics.check(job.study, job.facts["numerics"], trainers.numerics(job.trainer))

    found = dataset or (sets.load(job.source) if isinstance(job.source, Choice) else job.source)
    splits = with_targets(sets.split(found, job.protocol, job.recipe.validation_share), job.recipe, job.teacher)
    return partial(train_trial, job, splits)


def make_train_in_own_process(job: Job) -> Train:
    """`make_train` as the first thing that a process does which this package has started: Keras begins as it comes."""
    pin_keras_defaults()
    silence_tensorflow()
    return make_train(job)


def train_trial(job: Job, splits: "Splits", seed: int, owner: Owner) -> Trial:
    """Trains a new model from a seed, saves it and its history, and counts the test images it gets right.

    Args:
        job: What to train.
        splits: The images.
        seed: Seed of the initial weights, the order of the images and the dropout; 0 <= seed < 2**32.
        owner: Gets a report of every epoch, and asked at the epoch of the recipe's stopping rule.

    Returns:
        The trial, finished or stopped.

    Raises:
        UserError: if a file of the trial can't be written: the next trial could not write its own either.
    """
    import keras

    from mnist_minimal.saving.saved_model import save
    from mnist_minimal.training import initial_weights
    from mnist_minimal.training.checkpoint import Checkpoint
    from mnist_minimal.training.seeding import seeded
    from mnist_minimal.training.trainers import backend, evaluate_function, fit_function

    if job.trainer == "keras":
        # Keras keeps what earlier models compiled; without this a long job grows.
        keras.utils.clear_session()
    fit, evaluate = fit_function(job.trainer, job.places or 1), evaluate_function(job.trainer, job.places or 1)
    with seeded(seed):
        model = (job.build or builder(job.model))()
    initial_weights.draw(model, seed)
    set_dropout(model, job.recipe.dropout)
    further = job.callbacks(seed) if job.callbacks else []
    checkpoint = Checkpoint(
        # What callbacks of the user's own remember is in no checkpoint: such a trial starts again.
        None if job.recipe.callbacks or further else reject_symlink(job.study.checkpoint(seed)),
        identity={**job.facts, "seed": seed, "backend": backend(job.trainer), "version": version()},
        shapes=[weights.shape for weights in model.get_weights()],
        history=HistoryFile(job.study.history(seed)),
    )
    fitted = fit(
        model,
        job.recipe,
        splits,
        seed,
        max_epochs=job.max_epochs,
        callbacks=[*further, _reporting(job, model, checkpoint, seed, len(splits.y_val), owner)],
        checkpoint=checkpoint,
    )
    weights = job.study.weights(seed)
    save(model, weights)
    return row(
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


def _reporting(
    job: Job, model: "keras.Model", checkpoint: "Checkpoint", seed: int, images: int, owner: Owner
) -> "keras.callbacks.Callback":
    """A callback that tells the owner of every epoch, and asks it once whether the trial is to stop."""
    import keras

    rule, resumed = job.recipe.median_stopping, checkpoint.epochs

    def report(accuracies: Sequence[float]) -> EpochReport:
        return epoch_report(job, seed, accuracies, resumed, images)

    def begin(logs: dict[str, float] | None = None) -> None:
        if resumed:
            owner.report(report(checkpoint.history.figures["val_accuracy"]))

    def end_epoch(epoch: int, logs: dict[str, float]) -> None:
        now = report([*checkpoint.history.figures.get("val_accuracy", []), logs["val_accuracy"]])
        # A trial that its recipe ends in this very epoch is at its end, as is one at the cap.
        if rule and now.epoch == rule.epoch < job.max_epochs and not model.stop_training:
            checkpoint.reason = owner.ask(now)
            model.stop_training = bool(checkpoint.reason)
        else:
            owner.report(now)

    return keras.callbacks.LambdaCallback(on_train_begin=begin, on_epoch_end=end_epoch)


def epoch_report(job: Job, seed: int, accuracies: Sequence[float], resumed: int, images: int) -> EpochReport:
    """What a trial reports after an epoch.

    Args:
        job: Its job.
        seed: Its seed.
        accuracies: The monitored accuracies of all its epochs, in [0, 1].
        resumed: The number of epochs with which it was resumed, or 0.
        images: Number of monitored images.
    """
    rule, epoch = job.recipe.median_stopping, len(accuracies)
    held_out = job.protocol == "holdout" or job.recipe.validation_share
    return EpochReport(
        seed,
        epoch,
        trained=epoch - resumed,
        max_epochs=job.max_epochs,
        accuracy=accuracies[-1],
        best_accuracy=max(accuracies),
        milestone=milestone(accuracies[: rule.epoch], rule, images) if rule and epoch >= rule.epoch else None,
        monitored=f"{'held-out images' if held_out else 'test set'} (monitored)",
    )


def failed_trial(job: Job, seed: int, reason: str) -> Trial:
    """The row of a trial that did not come to its end."""
    return row(
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


def row(job: Job, seed: int, **figures: Any) -> Trial:
    """The row of a trial, with its own figures."""
    return Trial(
        model=job.model,
        params=job.params,
        dataset=job.dataset,
        protocol=job.protocol,
        trainer=job.trainer,
        seed=seed,
        test_size=job.test_size,
        finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=version(),
        max_epochs=job.max_epochs,
        **figures,
    )
