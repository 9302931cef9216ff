"""What people do to pixels of 0 to 255 before a network sees them: one list, by the names of the option --pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import layers


@dataclass(frozen=True)
class Convention:
    """One way to prepare pixels.

    Attributes:
        words: What comes of it.
        layers: New layers of Keras that do it to raw pixels, float32 (batch, 28, 28, 1) in [0, 255].
        pixelwise: Whether each pixel depends on itself alone, so that the images may have any shape.
    """

    words: str
    layers: Callable[[], list[keras.Layer]]
    pixelwise: bool = True


def _rescaling(scale: float, offset: float = 0.0) -> keras.Layer:
    return layers.Rescaling(scale, offset, dtype="float32")


CONVENTIONS = {
    "255": Convention("pixels from 0 to 255", lambda: []),
    "1": Convention("pixels divided by 255", lambda: [_rescaling(1 / 255)]),
    "-1..1": Convention("pixels from -1 to 1", lambda: [_rescaling(1 / 127.5, -1.0)]),
    "-.5...5": Convention("pixels from -.5 to .5", lambda: [_rescaling(1 / 255, -0.5)]),
    "mean/sd": Convention(
        "pixels divided by 255, minus their mean .1307, divided by their deviation .3081",
        lambda: [_rescaling(1 / 255 / 0.3081, -0.1307 / 0.3081)],
    ),
    "255-x": Convention("255 minus the pixels", lambda: [_rescaling(-1.0, 255.0)]),
    "1-x": Convention("1 minus the pixels divided by 255", lambda: [_rescaling(-1 / 255, 1.0)]),
    "normalize": Convention(
        "columns of pixels of length 1, as by keras.utils.normalize(x, axis=1)",
        lambda: [layers.UnitNormalization(axis=1, dtype="float32")],
        pixelwise=False,
    ),
    "normalize-rows": Convention(
        "rows of pixels of length 1, as by keras.utils.normalize(x)",
        lambda: [layers.UnitNormalization(axis=2, dtype="float32")],
        pixelwise=False,
    ),
    "binary": Convention(
        "pixels above 127 as 1, others as 0",
        lambda: [_rescaling(1.0, -127.0), layers.ReLU(max_value=1.0, dtype="float32")],
    ),
    "transposed": Convention(
        "rows and columns exchanged, divided by 255",
        lambda: [layers.Permute((2, 1, 3), dtype="float32"), _rescaling(1 / 255)],
        pixelwise=False,
    ),
}

# A model was made for another convention than one that is usual, or given, if its loss there is less than this share of
# the loss here, and less by this many nats: right for 39 of 39 public files whose sources say what they did, on 22 of
# which it was chosen.
SHARE, NATS = 0.75, 0.01
