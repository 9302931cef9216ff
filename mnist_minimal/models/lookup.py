"""The user's choice of model: a published one by its name, or a function of a module of the user's own.

A name is a published one, as `sep997`, or `module:function`, as `mypackage.nets:tiny`: a function without arguments
that returns a built Keras model, in a module whose RECIPES, where it has them, say how; or `search:NAME`, or
`search:FOLDER/NAME`, a candidate that a search has written. Keras is imported only to build one.
"""

import dataclasses
import importlib
import math
import os
import re
import sys
import traceback
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mnist_minimal.errors import UserError
from mnist_minimal.models import searched
from mnist_minimal.recipes import PUBLISHED_RECIPES, RECIPES, Recipe
from mnist_minimal.recipes.digits import for_dataset

if TYPE_CHECKING:
    import keras

Builder = Callable[[], "keras.Model"]
# A function of a module, or a candidate with the folder of its search.
OWN = re.compile(rf"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*|{searched.PREFIX}[^\x00-\x1f\x7f]+/[^\W\d]\w*")
TO_TRAIN = "from pixels (batch, height, width, channels) to class probabilities (batch, classes)"
OWN_FORM = "one of your own as module:function, such as mypackage.nets:tiny"


def file_name(name: str) -> str:
    """A model's name as part of the names of files: `mypackage.nets.tiny` for `mypackage.nets:tiny`.

    Of a candidate of a search it is without the folder: `search.c691_1f0c93ab`.
    """
    if name.startswith(searched.PREFIX):
        name = searched.PREFIX + name.rpartition("/")[2].removeprefix(searched.PREFIX)
    return name.replace(":", ".")


def recipe(name: str, other: str | None = None, dataset: str = "mnist") -> Recipe:
    """How a model is trained.

    Args:
        name: The model's name.
        other: Name in RECIPES of another recipe by which it is trained; None for the model's own, which is the
            published one or that in its module.
        dataset: Name of the data set; on the digits a published model's own recipe is that of `recipes.digits`.

    Raises:
        UserError: if there is no recipe.
    """
    if other:
        return RECIPES[other]
    if name in PUBLISHED_RECIPES:
        return for_dataset(RECIPES[name], dataset)
    _check_form(name)
    if name.startswith(searched.PREFIX):
        return dataclasses.replace(searched.read(name).recipe, model=name)
    module, function = _module(name), name.partition(":")[2]
    recipes = getattr(module, "RECIPES", {})
    found = recipes.get(function) if isinstance(recipes, dict) else None
    if not isinstance(found, Recipe):
        raise UserError(
            f"{name}: expected a mnist_minimal.recipes.Recipe as RECIPES[{function!r}] in {module.__name__}, found "
            f"{'none' if found is None else type(found).__name__}; add it there, or give a published one with --recipe"
        )
    return dataclasses.replace(found, model=name, name="", origin=None)


def builder(name: str, to_train: bool = True) -> Builder:
    """The function that builds a model; that of a model of the user's own checks what it has built.

    Args:
        name: The model's name.
        to_train: Whether the model is to be trained here, which takes one from pixels (batch, height, width, channels)
            to class probabilities (batch, classes); for reading a file any built model will do.

    Raises:
        UserError: if there is no such model or function; when called, if what it builds is no such model.
    """
    from mnist_minimal.models import MODELS

    if name in MODELS:
        return MODELS[name]
    _check_form(name)
    if name.startswith(searched.PREFIX):
        return searched.read(name).network.build
    module, attribute = _module(name), name.partition(":")[2]
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(
            f"{name}: expected a function {attribute} in {module.__file__}, found "
            f"{'none' if function is None else type(function).__name__}"
        )
    return partial(_built, name, function, to_train)


def named(model: str | Builder) -> tuple[str, Builder | None]:
    """A model's name, and what builds it where the name does not say how.

    Args:
        model: A model's name; or a function without arguments that returns one, of a module or of a notebook's cell.

    Raises:
        UserError: if it is neither, or a function without a name of its own.
    """
    if isinstance(model, str):
        return model, None
    if not callable(model) or hasattr(model, "get_weights"):
        raise UserError(
            f"found a {type(model).__name__} for the model, expected a name, or a function without arguments that "
            "returns a new, built model for every trial: def my_model(): ..."
        )
    function, module = getattr(model, "__name__", ""), getattr(model, "__module__", "")
    from mnist_minimal.models import MODELS

    if MODELS.get(function) is model:
        return function, None
    if module != "__main__" and getattr(sys.modules.get(module), function, None) is model:
        own = f"{module}:{function}"
        if OWN.fullmatch(own):
            return own, None
    if not function.isidentifier() or function in MODELS:
        found = f"the name {function}" if function else f"a {type(model).__name__} without a name"
        taken = ", which is a published model's" if function in MODELS else ""
        raise UserError(
            f"found {found} for the model{taken}, expected a function with a name of its own, since the results carry "
            "it: def my_model(): ..."
        )
    return function, partial(_built, function, model, True)


def _check_form(name: str) -> None:
    if not OWN.fullmatch(name):
        raise UserError(f"expected one of the models {', '.join(PUBLISHED_RECIPES)}, or {OWN_FORM}, found {name!r}")


def _module(name: str) -> ModuleType:
    """The module of a user's own model."""
    module, folder = name.partition(":")[0], os.getcwd()
    # As in a script of the user's own: the modules of the working folder come first.
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"{name}: expected a module {module}, found no {error.name}; run the command in the folder that it is "
                "in, or put that folder into PYTHONPATH"
            ) from error
        raise UserError(f"{name}: the module can't be imported ({_told(error)}); fix it") from error
    finally:
        # For what it imports later, they come last: they must take the place of nothing else.
        sys.path.remove(folder)
        if not {"", folder} & set(sys.path):
            sys.path.append(folder)


def _built(name: str, function: Callable[[], Any], to_train: bool) -> "keras.Model":
    """What a user's function builds, if it is a model that can be trained or read here."""
    expected = f"{name}: expected a built keras.Model"
    if to_train:
        expected += f" {TO_TRAIN}"
    try:
        model = function()
    except (Exception, SystemExit) as error:
        raise UserError(f"{expected}, found that the function fails ({_told(error)}); fix it") from error
    return _checked(expected, model, to_train)


def checked(name: str, model: Any) -> "keras.Model":
    """A model of the user's own, if it can be trained here.

    Raises:
        UserError: if it is no built model from pixels (batch, height, width, channels) to class probabilities.
    """
    return _checked(f"{name}: expected a built keras.Model {TO_TRAIN}", model, to_train=True)


def _checked(expected: str, model: Any, to_train: bool) -> "keras.Model":
    import keras
    import numpy as np

    if not isinstance(model, keras.Model):
        raise UserError(f"{expected}, found {type(model).__name__}; let the function return the model")
    shapes: tuple[Any, Any] = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if None in shapes:
        raise UserError(f"{expected}, found one without shapes; build a functional or sequential model with an Input")
    if not to_train:
        return model
    if not _is_of_images(*shapes):
        raise UserError(f"{expected}, found one from {shapes[0]} to {shapes[1]}; change its input or its last layer")
    shape = shapes[0][1:]
    pixels = np.linspace(0, 255, 2 * math.prod(shape), dtype=np.float32).reshape(2, *shape)
    try:
        probabilities = keras.ops.convert_to_numpy(model(pixels, training=False))
    except Exception as error:
        raise UserError(f"{expected}, found one that fails on images ({_told(error)}); fix it") from error
    if not (probabilities >= 0).all() or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise UserError(f"{expected}, found outputs that are not positive with a sum of 1; end it with a softmax")
    return model


def _is_of_images(taken: Any, given: Any) -> bool:
    """Whether a model's shapes are those of a classifier of images, of a size that is known."""
    sizes = [shape[1:] for shape in (taken, given) if isinstance(shape, tuple) and shape[:1] == (None,)]
    return [len(size) for size in sizes] == [3, 1] and None not in sizes[0] and (sizes[1][0] or 0) >= 2


def _told(error: BaseException) -> str:
    """An exception in one line, with the place in the user's code."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}; {os.path.basename(place.filename)}, line {place.lineno}"
