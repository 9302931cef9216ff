"""Images of a test set on the page: those that a model takes for others, how often, and examples for the board."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXAMPLES_TAKEN_FOR_OTHERS = 5

# Of a network that is often wrong, a page of all its errors would be long and heavy.
MAX_SHOWN = 200

# A larger map would not fit a screen.
MAX_MAPPED_CLASSES = 12


@dataclass(frozen=True)
class Digit:
    """One image of a test set and what a model makes of it.

    Attributes:
        index: Its place in the test set, from 0.
        pixels: uint8 (height, width), or (height, width, channels) of images in colour.
        label: Its class.
        predicted: The class that the model finds most probable.
        probability: The probability, in [0, 1], that the model gives to that class.
    """

    index: int
    pixels: np.ndarray
    label: int
    predicted: int
    probability: float

    @property
    def right(self) -> bool:
        """Whether the model takes it for what it is."""
        return self.label == self.predicted

    @property
    def note(self) -> str:
        """What it is and what it is taken for, in words."""
        return f"a {self.label}" + ("" if self.right else f", taken for a {self.predicted}")

    @property
    def grey(self) -> bool:
        """Whether it has one channel."""
        return self.pixels.ndim == 2

    @property
    def png(self) -> str:
        """It as a PNG, base64: of grey images black ink on nothing, as thick as the pixel is bright."""
        from PIL import Image

        buffer = io.BytesIO()
        if self.grey:
            # The datasets' images are bright on black; the page shows ink on a paper of its own colour.
            ink = Image.fromarray(self.pixels)
            image = Image.merge("LA", (Image.new("L", ink.size), ink))
        else:
            image = Image.fromarray(self.pixels)
        image.save(buffer, format="PNG", optimize=True)
        return base64.b64encode(buffer.getvalue()).decode()


def read(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> list[Digit]:
    """A test set as digits, in its order.

    Args:
        images: uint8 (n, height, width, channels).
        labels: Integers (n,) in 0 .. classes - 1.
        probabilities: The model's, float (n, classes).
    """
    classes = probabilities.argmax(axis=1)
    pixels = images[..., 0] if images.shape[-1] == 1 else images
    return [
        Digit(index, image, int(label), int(predicted), float(probabilities[index, predicted]))
        for index, (image, label, predicted) in enumerate(zip(pixels, labels, classes, strict=True))
    ]


def examples(digits: Sequence[Digit]) -> list[dict[str, str]]:
    """The first digit of each class that the model gets right, and the first few that it does not, for board.js.

    Returns:
        Of each, `note`, what it is in words, and `pixels`, base64 of the 784 bytes, rows first.
    """
    first = {digit.label: digit for digit in reversed(digits) if digit.right}
    wrong = [digit for digit in digits if not digit.right][:EXAMPLES_TAKEN_FOR_OTHERS]
    return [
        {"note": digit.note, "pixels": base64.b64encode(digit.pixels.tobytes()).decode()}
        for digit in [*(first[label] for label in sorted(first)), *wrong]
    ]


def confusion(digits: Sequence[Digit]) -> list[list[int]]:
    """How many images there are by label (row) and class that the model finds most probable (column).

    [] where there are more than MAX_MAPPED_CLASSES classes.
    """
    classes = 1 + max(max(digit.label, digit.predicted) for digit in digits)
    if classes > MAX_MAPPED_CLASSES:
        return []
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, ([digit.label for digit in digits], [digit.predicted for digit in digits]), 1)
    return [[int(count) for count in row] for row in counts]


def commonest(digits: Sequence[Digit], most: int = 3) -> list[tuple[int, int, int]]:
    """The commonest mistakes as (label, predicted, how often), the most frequent first."""
    counts: dict[tuple[int, int], int] = {}
    for digit in digits:
        if not digit.right:
            counts[digit.label, digit.predicted] = counts.get((digit.label, digit.predicted), 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(*pair, count) for pair, count in ranked[:most]]
