"""Which trainer trains a model: Keras, or the C++ core."""

import os
from collections.abc import Callable
from functools import partial

import keras

from mnist_minimal.errors import UserError
from mnist_minimal.training import Fit, core, keras_fit, native_fit


def choose(trainer: str, model: keras.Model, recorded: str | None = None) -> tuple[str, str]:
    """The trainer for a model.

    Args:
        trainer: "keras", "native", or "auto": Keras where its backend sees a GPU, else the core where it was built and
            can run the model, else Keras.
        model: A built model.

    Returns:
        "keras" or "native", and why "auto" did not take the core, a sentence, or "".

    Raises:
        UserError: if the core is asked for and was not built or can't run the model.
    """
    if trainer == "keras":
        return "keras", ""
    if trainer == "auto" and keras_fit.sees_gpu():
        return "keras", "Training with Keras on the GPU."
    try:
        core.require()
        refused = native_fit.unsupported(model)
        if refused:
            raise UserError(refused)
    except UserError as error:
        if trainer == "native":
            raise
        return "keras", f"Training with Keras, not with the C++ core: {error}."
    return "native", ""


def fit_function(trainer: str, jobs: int) -> Callable[..., Fit]:
    """The `fit` of a trainer, sharing the processors with the other trials of its job.

    Args:
        trainer: "keras" or "native".
        jobs: Trials that run side by side.
    """
    if trainer == "keras":
        return keras_fit.fit
    return partial(native_fit.fit, threads=max(1, processors() // jobs))


def backend(trainer: str) -> str:
    """What a trainer runs on, such as "c++ avx2" or "tensorflow on cpu, keras 3.15.1"."""
    return f"c++ {core.instruction_set()}" if trainer == "native" else keras_fit.backend_description()


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
