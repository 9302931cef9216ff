"""Digits of a test set on the page: those that a model takes for others, and examples for the drawing board."""

import base64
import io
from dataclasses import dataclass
from html import escape

import numpy as np

EXAMPLES_TAKEN_FOR_OTHERS = 5


@dataclass(frozen=True)
class Digit:
    """One image of a test set and what a model makes of it.

    Attributes:
        index: Its place in the test set, from 0.
        pixels: uint8 (28, 28).
        label: Its class.
        predicted: The class that the model finds most probable.
        probability: The probability, in [0, 1], that the model gives to that class.
    """

    index: int
    pixels: np.ndarray
    label: int
    predicted: int
    probability: float


def read(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> list[Digit]:
    """A test set as digits, in its order.

    Args:
        images: uint8 (n, 28, 28, 1).
        labels: Integers (n,) in 0 .. 9.
        probabilities: The model's, float (n, 10).
    """
    classes = probabilities.argmax(axis=1)
    return [
        Digit(index, image[..., 0], int(label), int(predicted), float(probabilities[index, predicted]))
        for index, (image, label, predicted) in enumerate(zip(images, labels, classes, strict=True))
    ]


def examples(digits: list[Digit]) -> list[dict[str, str]]:
    """The first digit of each class that the model gets right, and the first few that it does not, for board.js.

    Returns:
        Of each, `note`, what it is in words, and `pixels`, base64 of the 784 bytes, rows first.
    """
    right = [digit for digit in digits if digit.label == digit.predicted]
    first = {digit.label: digit for digit in reversed(right)}
    wrong = [digit for digit in digits if digit.label != digit.predicted][:EXAMPLES_TAKEN_FOR_OTHERS]
    return [
        {"note": _note(digit), "pixels": base64.b64encode(digit.pixels.tobytes()).decode()}
        for digit in [*(first[label] for label in sorted(first)), *wrong]
    ]


def gallery(digits: list[Digit]) -> str:
    """Digits that a model takes for others, as HTML: each a picture with both classes under it."""
    figures = (
        f'<figure><img class="ink" width="28" height="28" alt="{escape(_note(digit))}, number {digit.index} of the '
        f'test set" src="data:image/png;base64,{_png(digit.pixels)}"><figcaption>{digit.label} → '
        f"<b>{digit.predicted}</b><br><small>{100 * digit.probability:.0f}&nbsp;%</small></figcaption></figure>"
        for digit in digits
    )
    return f'<div class="gallery">{"".join(figures)}</div>'


def _note(digit: Digit) -> str:
    return f"a {digit.label}" + ("" if digit.label == digit.predicted else f", taken for a {digit.predicted}")


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    # MNIST's digits are white on black; the page shows ink on paper.
    Image.fromarray(255 - pixels).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
