"""Keras' own defaults, whatever the user's keras.json or another program of his has set: float32, channels last."""

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from mnist_minimal.models.import_hook import around_import

if TYPE_CHECKING:
    import keras

# The settings are one for the whole process: no other thread may find or leave them changed in between.
_LOCK = threading.RLock()


@contextmanager
def keras_defaults() -> Iterator[None]:
    """Has Keras make layers and variables of float32 and with channels last in the block, and puts back what was set.

    A dtype policy that a program chose, as mixed precision, is left as it is.
    """
    from keras import config

    with _LOCK:
        layout, number, policy = config.image_data_format(), config.floatx(), config.dtype_policy()
        config.set_image_data_format("channels_last")
        config.set_floatx("float32")
        if policy.name == number:
            config.set_dtype_policy("float32")
        try:
            yield
        finally:
            config.set_image_data_format(layout)
            config.set_floatx(number)
            config.set_dtype_policy(policy)


def with_keras_defaults(builder: "Callable[[], keras.Model]") -> "Callable[[], keras.Model]":
    """A builder whose model is the same under any settings."""

    @functools.wraps(builder)
    def build() -> "keras.Model":
        with keras_defaults():
            return builder()

    return build


def pin_keras_defaults() -> None:
    """Has Keras begin with its own defaults when this process imports it, and train as long as it is asked to.

    It is for processes that are this package's own, as those of its commands: of what they inherit, keras.json and the
    variables KERAS_MAX_EPOCHS and KERAS_MAX_STEPS_PER_EPOCH would change every figure or none could be trained. The
    backend stays the user's choice, and a module of the user's may set what it likes after that. Where Keras has been
    imported already, nothing is changed.
    """
    around_import("keras", _pinned)


@contextmanager
def _pinned() -> Iterator[None]:
    yield
    _pin(sys.modules["keras"])


def _pin(keras: ModuleType) -> None:
    # A file of the user's of this name has none.
    config = getattr(keras, "config", None)
    if config is None:
        return
    config.set_floatx("float32")
    config.set_dtype_policy("float32")
    config.set_epsilon(1e-7)
    config.set_image_data_format("channels_last")
    config.set_max_epochs(None)
    config.set_max_steps_per_epoch(None)
