"""The training core in C++: sixteen samples of a batch side by side, one thread or a few, no TensorFlow while it runs.

`_core` is the compiled extension (binding.cpp); `mnist_minimal.training.chain` translates a Keras model for it. An
installation without a C++ compiler has no extension, and the Keras trainer serves.
"""

from mnist_minimal.errors import UserError, plain

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


def instruction_set() -> str:
    """Name of the instruction set in use: "avx512", "avx2" or "baseline".

    Raises:
        UserError: if the extension was not built or can't be loaded, or MNIST_MINIMAL_SIMD names a set that this
            processor has not.
    """
    if isinstance(IMPORT_ERROR, ModuleNotFoundError):
        raise UserError(
            "expected the C++ training core, found that it was not built; install a C++17 compiler and mnist_minimal "
            "again, or train with --trainer keras"
        ) from IMPORT_ERROR
    if IMPORT_ERROR:
        raise UserError(
            f"expected the C++ training core, found that it can't be loaded ({plain(str(IMPORT_ERROR))}); build it "
            "with this machine's compiler (pip install --force-reinstall --no-deps . in the folder of the source), or "
            "train with --trainer keras"
        ) from IMPORT_ERROR
    try:
        return _core.instruction_set()
    except ValueError as error:
        raise UserError(f"{error}; name one of them or unset it") from error
