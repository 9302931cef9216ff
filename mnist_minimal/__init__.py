"""How few parameters does a network need to get 99 % on MNIST, and how often does training get it there?"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

    __version__: str


def __getattr__(name: str) -> str:
    """Asks for the version when it is wanted: a checkout has to ask git."""
    if name == "__version__":
        from mnist_minimal.version import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(
    path: "str | Path",
    builders: "Mapping[str, Callable[[], keras.Model]] | None" = None,
    custom_objects: "Mapping[str, Any] | None" = None,
) -> "keras.Model":
    """The model in a file that any version of Keras saved; see `saving.saved_model.load_described`."""
    # Imported here, so that `import mnist_minimal` and every command's --help do without TensorFlow.
    from mnist_minimal.saving.saved_model import load

    return load(path, builders, custom_objects)
