"""How few parameters does a network need to get 99 % on MNIST, and how often does training get it there?"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_minimal.api.files import load as load
    from mnist_minimal.api.files import load_data as load_data
    from mnist_minimal.api.files import score as score
    from mnist_minimal.api.study import Comparison as Comparison
    from mnist_minimal.api.study import Study as Study
    from mnist_minimal.api.study import read_trials as read_trials
    from mnist_minimal.api.train import Fitted as Fitted
    from mnist_minimal.api.train import fit as fit
    from mnist_minimal.api.train import run_trials as run_trials
    from mnist_minimal.api.train import sweep as sweep
    from mnist_minimal.errors import UserError as UserError
    from mnist_minimal.models.catalogue import MODELS as MODELS
    from mnist_minimal.recipes import RECIPES as RECIPES
    from mnist_minimal.recipes import Recipe as Recipe

    __version__: str


def _put_working_folder_last() -> None:
    """Lets a `random.py` beside the user's data take the place of nothing in `python -m mnist_minimal.COMMAND`.

    Python puts the working folder before its own modules then, and what a command needs is imported with it. A checkout
    that is worked in stays the first, since it has this package.
    """
    command = any(word.removeprefix("-m").partition(".")[0] == __name__ for word in sys.orig_argv)
    # While `python -m` looks for the module that it is to run, it has this in place of the file's name.
    searching = sys.argv[:1] == ["-m"] and not getattr(sys.flags, "safe_path", sys.flags.isolated)
    if command and searching and not os.path.isdir(__name__):
        sys.path.append(sys.path.pop(0))


_put_working_folder_last()


# Where each name of the public API comes from. Nothing is imported before it is asked for: every command's --help, and
# `import mnist_minimal`, do without Keras, NumPy and pandas.
_PUBLIC = {
    **dict.fromkeys(("Fitted", "fit", "run_trials", "sweep"), "api.train"),
    **dict.fromkeys(("Comparison", "Study", "read_trials"), "api.study"),
    **dict.fromkeys(("load", "load_data", "score"), "api.files"),
    "MODELS": "models",
    **dict.fromkeys(("RECIPES", "Recipe"), "recipes"),
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from mnist_minimal.version import version

        return version()
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC, "__version__"])


__all__ = [*_PUBLIC, "__version__"]
