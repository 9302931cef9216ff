"""Whose an error is: of a file of the user's that hides another, of a package of others, or of this one."""

import importlib.machinery
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mnist_minimal import files
from mnist_minimal.errors import UserError
from mnist_minimal.models.lookup import OWN

PACKAGE = Path(__file__).parents[1]

# What changes how libraries behave begins so.
VARIABLES = (
    *("KERAS_", "XLA_", "JAX_", "TORCH_", "PYTORCH_", "CUDA_", "MPL", "MATPLOTLIB", "PYTHON", "LD_PRELOAD"),
    "MNIST_MINIMAL_",
    # Terraform's begin with TF_ too.
    *("TF_ENABLE_", "TF_XLA_", "TF_USE_", "TF_FORCE_", "TF_GPU_", "TF_NUM_", "TF_DETERMINISTIC_"),
)

# What Keras writes where there is no keras.json yet.
KERAS_JSON = {
    "floatx": "float32",
    "epsilon": 1e-07,
    "backend": "tensorflow",
    "image_data_format": "channels_last",
}

# Set by the commands themselves, or of no consequence.
UNSUSPECTED = (
    *("TF_CPP_MIN_LOG_LEVEL", "MPLBACKEND"),
    *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONIOENCODING"),
)


def hiding_file(error: Exception) -> str:
    """A file of the user's that an error comes from since it has the name of a module of others, in words; or ""."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    places = {frame.f_code.co_filename for frame in frames}
    # What fails while it is imported is no module that stays.
    failed = [(frame.f_globals.get("__name__", ""), frame.f_code.co_filename) for frame in frames]
    if isinstance(error, SyntaxError) and error.filename:
        places.add(error.filename)
        failed.append((Path(error.filename).stem, error.filename))
    for name, path in [*_hiding(failed), *_hiding(_modules())]:
        if path in places or path in str(error) or f"module {name!r}" in str(error):
            return f"{path} takes the place of the module {name}; rename it, or run the command in another folder"
    return ""


def package_being_imported(error: Exception) -> str | None:
    """The package of others that an error comes from, if it was raised while that was being imported."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if frame.f_code.co_name == "<module>" and package not in ("__main__", "mnist_minimal"):
            return package
    return error.name if isinstance(error, ImportError) else None


def settings() -> list[str]:
    """What of the user's environment is not as it is by default, as KERAS_BACKEND=jax."""
    return sorted(
        f"{name}={value[:60]}"
        for name, value in os.environ.items()
        if name.startswith(VARIABLES) and name not in UNSUSPECTED
    )


def defect(error: Exception, arguments: Sequence[str]) -> str:
    """What to do about an error that nothing is known of: only where all is as by default it is ours for certain.

    Args:
        error: The error.
        arguments: Those of the command.
    """
    differs = [
        *_own_code(error),
        *(path for _, path in _hiding(_modules())),
        *_own_arguments(arguments),
        *_backend(),
        *_keras_json(),
        *settings(),
    ]
    if not differs:
        return "this is a defect of mnist_minimal: run the command again with --debug and report what it prints"
    return (
        f"what is not as by default: {', '.join(differs[:6])}; try without, and if that is not it, run the command "
        "again with --debug and report what it prints"
    )


def _own_code(error: Exception) -> list[str]:
    """Files of the user's that an error went through."""
    frames = (Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__))
    return list(dict.fromkeys(str(path) for path in frames if path.is_file() and _is_users(path)))


def _own_arguments(arguments: Sequence[str]) -> list[str]:
    """The models, data and files of the user's own that a command was given."""
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, _, value = argument.partition("=") if argument.startswith("--") else (before, "", argument)
        if value and (option == "--data" or OWN.fullmatch(value) or os.path.isfile(os.path.expanduser(value))):
            found.append(value)
    return found


def _keras_json() -> list[str]:
    """The user's settings of Keras, where they are others than it writes itself; its variables are among `settings`."""
    path = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    try:
        differs = files.read_json(path) != KERAS_JSON
    except FileNotFoundError:
        return []
    except UserError:
        differs = True
    return [str(path)] if differs else []


def _backend() -> list[str]:
    """The Keras backend, where it is another than by default; keras.json may say so too."""
    keras = sys.modules.get("keras")
    backend = getattr(getattr(keras, "backend", None), "backend", lambda: "tensorflow")()
    return [f"the Keras backend {backend}"] if backend != "tensorflow" else []


def _modules() -> Iterable[tuple[str, str]]:
    """The modules that are imported, and their files."""
    return [(name, path) for name, module in list(sys.modules.items()) if (path := getattr(module, "__file__", None))]


def _hiding(modules: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Modules that are files of the user's under the name of one of Python or of an installed package."""
    for name, path in modules:
        if "." in name or name == "__main__" or not _is_users(Path(path)):
            continue
        if name in sys.stdlib_module_names or importlib.machinery.PathFinder.find_spec(name, _installed()):
            yield name, path


def _is_users(path: Path) -> bool:
    """Whether a file belongs neither to Python, nor to an installed package, nor to this one."""
    folders = [PACKAGE, *map(Path, _installed()), Path(sys.prefix), Path(sys.base_prefix)]
    return not any(path.is_relative_to(folder) for folder in folders)


def _installed() -> list[str]:
    """The folders of Python's own modules and of installed packages."""
    paths = sysconfig.get_paths()
    return list(dict.fromkeys(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")))
