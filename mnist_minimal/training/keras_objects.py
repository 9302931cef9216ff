"""Optimizers, learning rate schedules and callbacks of Keras', from the data that a recipe has of them."""

from types import ModuleType
from typing import Any, TypeVar

import keras

from mnist_minimal.errors import UserError, one_line, plain
from mnist_minimal.recipes import KerasObject
from mnist_minimal.recipes.fields import nearest

Made = TypeVar("Made")


def keras_object(data: KerasObject, module: ModuleType, base: type[Made], **arguments: Any) -> Made:
    """A new object of one of Keras' classes.

    Args:
        data: Its class and its arguments.
        module: The module of Keras that has the class, where it is not one that the user has registered.
        base: What it has to be.
        **arguments: Arguments that take the place of those in `data`.

    Raises:
        UserError: if there is no such class, or it does not take the arguments.
    """
    found = keras.saving.get_registered_object(data.class_name) or getattr(module, data.class_name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        # A base class is there to be inherited from.
        there = [name for name, each in vars(module).items() if isinstance(each, type) and issubclass(each, base)]
        near = nearest(data.class_name, there)
        raise UserError(
            f"expected a class of {module.__name__.replace('._tf_keras', '')}, or one registered with "
            f"keras.saving.register_keras_serializable as package>Name, found {plain(data.class_name, 60)!r}; "
            f"{f'the nearest is {near}' if near else 'there are ' + ', '.join(sorted(there))}"
        )
    config = {**data.config, **arguments}
    rate = config.get("learning_rate")
    if isinstance(rate, dict) and isinstance(rate.get("class_name"), str):
        schedules = keras.optimizers.schedules
        of_schedule = KerasObject(rate["class_name"], rate.get("config", {}))
        config["learning_rate"] = keras_object(of_schedule, schedules, schedules.LearningRateSchedule)
    make = getattr(found, "from_config", None)
    try:
        return found(**config) if make is None else make(config)
    except (TypeError, ValueError, LookupError) as error:
        raise UserError(
            f"{data.class_name}: expected arguments that Keras takes, found others: {one_line(error)}"
        ) from error
