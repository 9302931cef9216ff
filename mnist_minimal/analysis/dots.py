"""Trials as dots and curves of a size that can be shown: ten thousand are a few hundred dots, a few dozen curves.

Accuracies are counts of images, so that many trials have the same one. Trials of one accuracy are one dot that knows
how many it stands for; nothing is lost by that.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnist_minimal.trial import Trial

if TYPE_CHECKING:
    import pandas

# More would not be told apart on a screen.
MAX_DOTS = 400
MAX_SEEDS = 6
MAX_CURVES = 60
MAX_EPOCHS = 400


@dataclass(frozen=True)
class Dot:
    """Trials of one accuracy.

    Attributes:
        accuracy: Theirs, in [0, 1]; where there are too many different ones, the middle of their bin.
        count: How many they are, 1 or more.
        seeds: The lowest seeds, at most MAX_SEEDS; () where none is known.
    """

    accuracy: float
    count: int
    seeds: tuple[int, ...] = ()


def dots(accuracies: Sequence[float], seeds: Sequence[int] = (), most: int = MAX_DOTS) -> list[Dot]:
    """Accuracies as dots, the lowest first.

    Args:
        accuracies: In [0, 1].
        seeds: Those of the trials, in the same order; () where they have none.
        most: The most dots there may be. Where there are more different accuracies, neighbours share a bin; all bins
            are equally wide.
    """
    found: dict[float, list[int]] = {}
    counts: dict[float, int] = {}
    place = _bins(accuracies, most)
    for index, accuracy in enumerate(accuracies):
        at = place(accuracy)
        counts[at] = counts.get(at, 0) + 1
        if seeds:
            found.setdefault(at, []).append(seeds[index])
    return [Dot(at, counts[at], tuple(sorted(found.get(at, ()))[:MAX_SEEDS])) for at in sorted(counts)]


def _bins(accuracies: Sequence[float], most: int) -> Callable[[float], float]:
    """Where an accuracy's dot stands."""
    if len(set(accuracies)) <= most:
        return lambda accuracy: accuracy
    low, high = min(accuracies), max(accuracies)
    width = (high - low) / most
    return lambda accuracy: low + (min(int((accuracy - low) / width), most - 1) + 0.5) * width


def sampled(trials: Sequence[Trial], always: Iterable[Trial] = (), most: int = MAX_CURVES) -> list[Trial]:
    """Trials to draw the curves of: all of them, or as many as may be, evenly from the worst to the best.

    Args:
        trials: Finished trials.
        always: Those that must be among them.
        most: The most to draw, apart from those.
    """
    ranked = sorted(trials, key=lambda trial: (trial.best_accuracy or 0, -trial.seed))
    if len(ranked) > most:
        ranked = [ranked[round(place * (len(ranked) - 1) / (most - 1))] for place in range(most)]
    return ranked + [trial for trial in always if trial not in ranked]


def thinned(history: "pandas.DataFrame", most: int = MAX_EPOCHS) -> "pandas.DataFrame":
    """A history of at most about so many epochs: every second, third, ... and always the best and the last."""
    step = math.ceil(len(history) / most)
    kept = set(range(0, len(history), step)) | {int(history["val_accuracy"].argmax()), len(history) - 1}
    return history.iloc[sorted(kept)]
