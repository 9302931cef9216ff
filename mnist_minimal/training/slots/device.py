"""The device on which JAX trains: its name, its memory, and how many trials at once suit it.

`devices.csv` has whole trials an hour by device and number at once, and `crossing.csv` how many trials a job needs for
a GPU to be done sooner than the core on all processor cores; both say how each row was come by.
"""

import contextlib
import csv
import importlib
import importlib.util
import math
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from mnist_minimal.errors import UserError, one_line

# Not empty once the device has failed in this process.
_GIVEN_UP: set[str] = set()

# Of the memory that JAX may have: the data set, compiled programs and what is copied need some, too.
SHARE = 0.8

# With fewer trials at once an epoch takes hardly less time on a GPU, whose kernels have to be started, and one more
# compilation takes longer.
FEWEST_ON_A_GPU = 8


class DeviceError(UserError):
    """JAX's device fails, or is not large enough."""


class MemoryUsedUpError(DeviceError):
    """The device has not memory enough for so much at once."""


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Has what JAX raises where its device fails be an error of the user.

    Raises:
        MemoryUsedUpError: if there was not memory enough.
        DeviceError: if anything else failed there.
    """
    try:
        yield
    # JAX's own errors are of a class that has had several names.
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise MemoryUsedUpError(
                f"expected memory enough on {name()}, found too little ({one_line(error)}); end other programs there, "
                "or train with --trainer native and another --out"
            ) from error
        if type(error).__name__ not in ("JaxRuntimeError", "XlaRuntimeError"):
            raise
        raise DeviceError(
            f"expected to train on {name()}, found that JAX fails there ({one_line(error)}); repair it, or train with "
            "--trainer native and another --out"
        ) from error


def installed() -> bool:
    """Whether JAX is installed; it is not imported."""
    return importlib.util.find_spec("jax") is not None


def require() -> None:
    """Imports JAX.

    Raises:
        UserError: if it is not installed, naming the extra that has it, or can't be imported.
    """
    _jax()


def name() -> str:
    """The kind of the device on which JAX trains, such as "NVIDIA H200" or "cpu"."""
    return str(_device().device_kind)


def is_gpu() -> bool:
    """Whether that is a GPU."""
    return _device().platform == "gpu"


def description(places: int) -> str:
    """JAX's version, device and most trials at once: "jax 0.4.36 on NVIDIA H200, up to 256 at once"."""
    return f"jax {_jax().__version__} on {name()}, up to {places} at once"


def keep_tensorflow_off() -> None:
    """Leaves a GPU to JAX where TensorFlow is Keras' backend in this process.

    To be called before TensorFlow has made anything, a model's weights included: after that it changes nothing.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow

    # A RuntimeError says that the GPU is in use already.
    with contextlib.suppress(RuntimeError):
        tensorflow.config.set_visible_devices([], "GPU")


def places(bytes_a_trial: int, asked: int | None) -> int:
    """How many trials to train at once: as many as are fastest by the table, have room, and are asked for; at least 1.

    Args:
        bytes_a_trial: Memory of the device that one of them takes.
        asked: How many are asked for; None for no end.
    """
    rows = _of_device(table("devices.csv"))
    fastest = int(max(rows, key=lambda row: float(row["trials_an_hour"]))["places"])
    memory = (_device().memory_stats() or {}).get("bytes_limit")
    room = fastest if memory is None else int(SHARE * memory) // bytes_a_trial
    return max(1, min(fastest, room, fastest if asked is None else asked))


def fewest() -> int:
    """The least number of trials at once for which a program is compiled, where there are places for more."""
    return FEWEST_ON_A_GPU if is_gpu() else 1


def sizes(places: int, fewest: int) -> list[int]:
    """The numbers of places for which a program is compiled, ascending: all of them, and halves of halves.

    Args:
        places: How many trials are trained at once, at most.
        fewest: The least number, where `places` are more.
    """
    found = [places]
    while found[-1] > fewest:
        found.append(math.ceil(found[-1] / 2))
    return found[::-1]


def halved(places: int, where: str, error: Exception) -> int:
    """How many trials to train at once where there was too little memory for so many.

    Args:
        places: So many.
        where: What they were trained on.
        error: What was raised then.

    Raises:
        DeviceError: if it was only one.
    """
    if places <= 1:
        raise DeviceError(
            f"expected memory for one trial on {where}, found too little ({one_line(error.__cause__ or error)}); end "
            "other programs there, or train with --trainer native and another --out"
        ) from error
    return places // 2


def worth_while(asked: int | None) -> bool:
    """Whether there is a GPU on which so many trials, None for no end, are done sooner than by the core."""
    fewest = min(int(row["trials"]) for row in table("crossing.csv"))
    if _GIVEN_UP or not installed() or (asked is not None and asked < fewest):
        return False
    try:
        return is_gpu() and (asked is None or asked >= int(_of_device(table("crossing.csv"))[0]["trials"]))
    # JAX finds no device that it can use.
    except (UserError, RuntimeError):
        return False


def give_up() -> None:
    """Has no trials be worth while on the device in this process any more, since it fails."""
    _GIVEN_UP.add(name())


def check() -> None:
    """Makes sure that JAX is installed and that its device computes.

    Raises:
        UserError: if not.
    """
    jax = _jax()
    try:
        jax.block_until_ready(jax.numpy.ones(1) + 1)
    except RuntimeError as error:
        raise UserError(f"expected a device on which JAX computes, found {one_line(error)}; repair it") from error


@cache
def table(file: str) -> list[dict[str, str]]:
    """The rows of one of the tables."""
    text = resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _of_device(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of this device; of a GPU that nobody has measured, those of the others."""
    own = [row for row in rows if row["device"] == name()]
    return own or [row for row in rows if (row["device"] != "cpu") == is_gpu()] or rows


def _device() -> Any:
    return _jax().devices()[0]


def _jax() -> Any:
    if not installed():
        raise UserError("expected JAX, found that it is not installed; pip install mnist-minimal[jax]")
    try:
        return importlib.import_module("jax")
    except ImportError as error:
        raise UserError(
            f"expected JAX, found that it can't be imported ({error}); pip install -U jax jaxlib"
        ) from error
