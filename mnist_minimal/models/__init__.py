"""The published networks: a builder function each, by name in MODELS; the user's own by `module:function`; counting.

It imports Keras when a model is first asked for, and reads no file but a module that the user names.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

    MODELS: dict[str, Callable[[], keras.Model]]


def __getattr__(name: str) -> Any:
    """Imports MODELS, and Keras with it, when it is first asked for: the command's `--help` is to be quick."""
    if name == "MODELS":
        from mnist_minimal.models.catalogue import MODELS

        return MODELS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
