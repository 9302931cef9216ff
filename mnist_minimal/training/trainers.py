"""Which trainer trains a model: Keras, the C++ core, or JAX, which trains many at once."""

from collections.abc import Callable
from functools import partial

import joblib
import keras
import numpy as np

from mnist_minimal.errors import UserError
from mnist_minimal.recipes import SOAP, KerasObject, Recipe
from mnist_minimal.training import Fit, core, evaluation, keras_fit, native_fit
from mnist_minimal.training.core import known_answer
from mnist_minimal.training.evaluation import Evaluation
from mnist_minimal.training.slots import device

# What `numerics` gives of trials that JAX trains.
NOT_TO_THE_BIT = "rounded as JAX, its device and the number of trials at once have it, and not promised to the bit"


def choose(
    trainer: str,
    model: keras.Model,
    recorded: str | None = None,
    recipe: Recipe | None = None,
    trials: int | None = 1,
) -> tuple[str, str]:
    """The trainer for a model.

    Args:
        trainer: "keras", "native", "jax", or "auto": the trainer of the study's earlier trials; of a study without any,
            JAX where there is a GPU and so many trials are asked for that they are done sooner there; else the core
            where it can be loaded and can run the model, else Keras. Few trials of such a small network wait on a GPU
            for kernels to start, and take longer than in the core.
        model: A built model.
        recorded: The trainer of the study's earlier trials, "keras", "native" or "jax"; None where there are none.
        recipe: How the model is trained; None where any trainer can do it.
        trials: How many are asked for; None for no end.

    Returns:
        "keras", "native" or "jax", and what the user must know of what "auto" took, sentences, or "".

    Raises:
        UserError: if the core or JAX is asked for, by name or by the study, and can't be loaded or can't run the model
            or the recipe; if MNIST_MINIMAL_SIMD names an instruction set that this processor has not.
    """
    if trainer == "keras":
        return "keras", ""
    if trainer == "jax" or (trainer == "auto" and recorded == "jax"):
        try:
            check_jax(model, recipe)
        except UserError as error:
            if trainer == "jax":
                raise
            raise UserError(f"the study was trained with JAX, which can't run here: {error}") from error
        return "jax", ""
    # The device is asked last: JAX takes most of a GPU's memory, of which Keras would be left little.
    if trainer == "auto" and recorded is None and not _unsupported(model, recipe) and device.worth_while(trials):
        try:
            check_jax(model, recipe)
            return (
                "jax",
                f"Training with JAX on {device.name()}, where so many trials are done sooner than by the core.",
            )
        except UserError as error:
            chosen, notice = _core_or_keras(trainer, model, recorded, recipe)
            return chosen, f"Training without JAX: {error}.{' ' if notice else ''}{notice}"
    return _core_or_keras(trainer, model, recorded, recipe)


def check_jax(model: keras.Model, recipe: Recipe | None) -> None:
    """Makes sure that JAX can train a model by a recipe; the core need not be built for that.

    Raises:
        UserError: if it can't, is not installed, or has no device that computes.
    """
    if reason := _unsupported(model, recipe):
        raise UserError(reason)
    if recipe and isinstance(recipe.optimizer, KerasObject | SOAP):
        optimizer = recipe.optimizer
        found = f"{optimizer.class_name} of Keras'" if isinstance(optimizer, KerasObject) else "SOAP"
        raise UserError(
            f"expected one of the optimizers AdamW, Adam and SGD, found {found}; train with --trainer native or "
            "--trainer keras"
        )
    device.check()


def _unsupported(model: keras.Model, recipe: Recipe | None) -> str | None:
    """Why the core's list of layers or its optimizers will not do, as one line; None where they do."""
    return native_fit.unsupported(model) or (native_fit.unsupported_recipe(recipe) if recipe else None)


def _core_or_keras(trainer: str, model: keras.Model, recorded: str | None, recipe: Recipe | None) -> tuple[str, str]:
    if core.available():
        core.require()  # A wrong MNIST_MINIMAL_SIMD is no reason to train with Keras, which takes 40 times as long.
    if trainer == "auto" and recorded == "keras":
        return "keras", "Training with Keras, as the study's earlier trials were."
    try:
        core.require()
        if reason := _unsupported(model, recipe):
            raise UserError(reason)
    except UserError as error:
        if trainer == "native":
            raise
        if recorded == "native":
            # In this study no other trainer may go on, whatever the core advises.
            reason = str(error).replace("train with --trainer keras", "use another --out")
            raise UserError(f"the study was trained with the C++ core, which can't run here: {reason}") from error
        return "keras", f"Training with Keras, not with the C++ core: {error}."
    return "native", ""


def fit_function(trainer: str, jobs: int) -> Callable[..., Fit]:
    """The `fit` of a trainer, sharing the processors with the other trials of its job.

    With "keras" this also prepares the process, so it is to be called before the first model is built there: see
    `keras_fit.set_memory_growth`.

    Args:
        trainer: "keras" or "native".
        jobs: Trials that run side by side.
    """
    if trainer == "keras":
        keras_fit.set_memory_growth()
        return keras_fit.fit
    return partial(native_fit.fit, threads=_threads(jobs))


def evaluate_function(trainer: str, jobs: int) -> Callable[[keras.Model, np.ndarray, np.ndarray], Evaluation]:
    """What evaluates a model that a trainer has trained, by that trainer's own arithmetic: model, images, labels.

    Args:
        trainer: "keras" or "native".
        jobs: Trials that run side by side.
    """
    return evaluation.evaluate if trainer == "keras" else partial(native_fit.evaluate, threads=_threads(jobs))


def _threads(jobs: int) -> int:
    """Threads of the core for each trial of a job."""
    # Counted within the process' affinity and its container's share of the processors.
    return max(1, joblib.cpu_count() // jobs)


def numerics(trainer: str) -> int | str | None:
    """The version of the bits that a trainer gives, `core.NUMERICS`; why it can't be verified; None for Keras.

    Returns:
        Of the core that fails its known-answer test, "unverified: " and the reason.
    """
    if trainer == "keras":
        return None
    if trainer == "jax":
        return NOT_TO_THE_BIT
    reason = known_answer.difference()
    return f"unverified: {reason}" if reason else core.NUMERICS


def backend(trainer: str) -> str:
    """What a trainer runs on, such as "c++ avx2" or "tensorflow on cpu, keras 3.15.1"."""
    return f"c++ {core.instruction_set()}" if trainer == "native" else keras_fit.backend_description()
