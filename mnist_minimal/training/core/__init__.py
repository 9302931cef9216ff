"""The training core in C++: sixteen samples of a batch side by side, one thread or a few, no TensorFlow while it runs.

`_core` is the compiled extension (binding.cpp); `mnist_minimal.training.chain` translates a Keras model for it. An
installation without a C++ compiler, or by the wheel for any platform, has no extension, and the Keras trainer serves.
"""

import sys
from dataclasses import asdict
from typing import Any

from mnist_minimal.errors import UserError, plain
from mnist_minimal.training.network import Network

# The version of the bits that the core gives, the same for every processor, instruction set, compiler and number of
# threads. It rises with every change after which a trial of the same seed ends otherwise; rows of two versions do not
# mix in a study. 0 are the bits of versions that recorded none.
NUMERICS = 1

FROM_SOURCE = "pip install --force-reinstall --no-deps . in the folder of the source"

IMPORT_ERROR: ImportError | None = None
try:
    # As a dotted name, so that an extension that is not there is a ModuleNotFoundError.
    import mnist_minimal.training.core._core as _core
except ImportError as error:
    _core = None  # type: ignore[assignment]
    IMPORT_ERROR = error


def available() -> bool:
    """Whether the extension was built and can be loaded."""
    return IMPORT_ERROR is None


def require() -> None:
    """Does nothing where the core can run.

    Raises:
        UserError: if the extension was not built or can't be loaded, or MNIST_MINIMAL_SIMD names an instruction set
            that this processor has not.
    """
    instruction_set()


def instruction_sets() -> list[str]:
    """Names of the instruction sets that this processor has, the best first; the last is "baseline".

    Without the extension there is none.
    """
    return _core.instruction_sets() if available() else []


def instruction_set() -> str:
    """Name of the instruction set of a network that is made without one: "avx512", "avx2" or "baseline".

    It is the one that the environment variable MNIST_MINIMAL_SIMD names, or the best that this processor has.

    Raises:
        UserError: if the extension was not built or can't be loaded, or MNIST_MINIMAL_SIMD names a set that this
            processor has not.
    """
    if isinstance(IMPORT_ERROR, ModuleNotFoundError):
        cure = (
            "install mnist_minimal in WSL, since Windows itself has none"
            if sys.platform == "win32"
            else f"install a C++17 compiler, then mnist_minimal again ({FROM_SOURCE})"
        )
        raise UserError(
            f"expected the C++ training core, found that it was not built; {cure}, or train with --trainer keras"
        ) from IMPORT_ERROR
    if IMPORT_ERROR:
        raise UserError(
            f"expected the C++ training core, found that it can't be loaded ({plain(str(IMPORT_ERROR))}); build it "
            f"with this machine's compiler ({FROM_SOURCE}), or train with --trainer keras"
        ) from IMPORT_ERROR
    try:
        return _core.instruction_set()
    except ValueError as error:
        raise UserError(f"{error}; name one of them or unset it") from error


def core_arguments(network: Network) -> dict[str, Any]:
    """The network as arguments of the core's classes."""
    return {**vars(network), "layers": [_core.Layer(**asdict(layer)) for layer in network.layers]}
