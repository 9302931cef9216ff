"""Keras' own defaults, whatever the user's keras.json or another program of his has set: float32, channels last."""

import functools
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

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
    if "keras" not in sys.modules and not any(isinstance(finder, _KerasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasFinder())


class _KerasFinder(MetaPathFinder):
    """Finds Keras where it is, once, and sees to its settings as soon as it is imported: to import it takes seconds."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_pin(module: ModuleType) -> None:
            execute(module)
            _pin(module)

        spec.loader.exec_module = execute_and_pin  # type: ignore[method-assign]
        return spec


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
