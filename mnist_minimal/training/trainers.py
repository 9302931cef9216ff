"""Which trainer trains a model: Keras, or the C++ core."""

from collections.abc import Callable
from functools import partial

import joblib
import keras
import numpy as np

from mnist_minimal.errors import UserError
from mnist_minimal.recipes import Recipe
from mnist_minimal.training import Fit, core, evaluation, keras_fit, native_fit
from mnist_minimal.training.core import known_answer
from mnist_minimal.training.evaluation import Evaluation


def choose(
    trainer: str, model: keras.Model, recorded: str | None = None, recipe: Recipe | None = None
) -> tuple[str, str]:
    """The trainer for a model.

    Args:
        trainer: "keras", "native", or "auto": the trainer of the study's earlier trials, else the core where it can be
            loaded and can run the model, else Keras. A GPU makes no difference: one trial of such a small network
            waits there for kernels to start, and takes longer than in the core.
        model: A built model.
        recorded: The trainer of the study's earlier trials, "keras" or "native"; None where there are none.
        recipe: How the model is trained; None where any trainer can do it.

    Returns:
        "keras" or "native", and why "auto" did not take the core, a sentence, or "".

    Raises:
        UserError: if the core is asked for, by name or by the study, and can't be loaded or can't run the model or the
            recipe; if MNIST_MINIMAL_SIMD names an instruction set that this processor has not.
    """
    if trainer == "keras":
        return "keras", ""
    if core.available():
        core.require()  # A wrong MNIST_MINIMAL_SIMD is no reason to train with Keras, which takes 40 times as long.
    if trainer == "auto" and recorded == "keras":
        return "keras", "Training with Keras, as the study's earlier trials were."
    try:
        core.require()
        refused = native_fit.unsupported(model) or (recipe and native_fit.unsupported_recipe(recipe))
        if refused:
            raise UserError(refused)
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
    reason = known_answer.difference()
    return f"unverified: {reason}" if reason else core.NUMERICS


def backend(trainer: str) -> str:
    """What a trainer runs on, such as "c++ avx2" or "tensorflow on cpu, keras 3.15.1"."""
    return f"c++ {core.instruction_set()}" if trainer == "native" else keras_fit.backend_description()
