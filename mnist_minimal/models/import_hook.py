"""Something done around the import of one module, whenever that comes: to import Keras or TensorFlow takes seconds."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def around_import(name: str, context: Callable[[], AbstractContextManager[None]]) -> None:
    """Imports a module, when it is imported, in a context.

    Where it has been imported already, or this was asked for it before, nothing is changed.

    Args:
        name: The module's name.
        context: Makes the context.
    """
    asked = any(isinstance(finder, _Finder) and finder.name == name for finder in sys.meta_path)
    if name not in sys.modules and not asked:
        sys.meta_path.insert(0, _Finder(name, context))


class _Finder(MetaPathFinder):
    """Finds one module where it is, once, and executes it in a context."""

    def __init__(self, name: str, context: Callable[[], AbstractContextManager[None]]) -> None:
        self.name, self.context = name, context

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_in_context(module: ModuleType) -> None:
            with self.context():
                execute(module)

        spec.loader.exec_module = execute_in_context  # type: ignore[method-assign]
        return spec
