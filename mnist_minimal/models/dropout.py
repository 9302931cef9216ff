"""The rate of a model's dropout layers, where a recipe sets one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mnist_minimal.errors import UserError

if TYPE_CHECKING:
    import keras


def set_dropout(model: "keras.Model", rate: float | None) -> None:
    """Gives all dropout layers of a model one rate, and leaves all else, the weights included, as it is.

    Args:
        model: A built model that is not compiled yet.
        rate: Probability in [0, 1) with which an activation is dropped; None changes nothing.

    Raises:
        UserError: if the model has no dropout layer, or one that it has can't be switched on.
    """
    import keras

    if rate is None:
        return
    found = [layer for layer in _layers(model) if isinstance(layer, keras.layers.Dropout)]
    # A layer that was made with a rate of 0 has nothing to draw from.
    if not found or (rate > 0 and any(layer.rate == 0 for layer in found)):
        raise UserError(
            f"dropout: expected a model whose dropout layers can have the rate {rate:g}, found {model.name} with "
            f"{'one whose rate is 0' if found else 'none'}; set the recipe's dropout to None"
        )
    for layer in found:
        layer.rate = rate


def _layers(model: "keras.Model") -> "Iterator[keras.layers.Layer]":
    """The layers of a model and of the models within it."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)
