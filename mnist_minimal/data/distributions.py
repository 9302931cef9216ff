"""Random numbers of continuous distributions, float64 (size,), the same bits on every processor.

Each is a function of the key and of its place in the array.
"""

from typing import TypeAlias

import numpy as np

from mnist_minimal.data import elementary
from mnist_minimal.data.random import threefry

# As `data.random.stream` gives it.
Key: TypeAlias = tuple[np.ndarray, np.ndarray]


def uniform(low: float, high: float, size: int, key: Key) -> np.ndarray:
    """Uniform between two bounds."""
    share, _ = _shares(key, np.arange(size, dtype=np.uint32))
    return low + (high - low) * share


def normal(mean: float, deviation: float, size: int, key: Key) -> np.ndarray:
    """Normal."""
    return mean + deviation * _standard_normal(key, np.arange(size, dtype=np.uint32))


def truncated_normal(mean: float, deviation: float, size: int, key: Key) -> np.ndarray:
    """Normal, drawn again where it is more than two standard deviations away from the mean."""
    standard = np.full(size, np.inf)
    attempt = 0
    while (places := np.flatnonzero(np.abs(standard) > 2)).size:
        standard[places] = _standard_normal(key, places.astype(np.uint32), attempt)
        attempt += 1
    return mean + deviation * standard


def _standard_normal(key: Key, places: np.ndarray, attempt: int = 0) -> np.ndarray:
    """G. Box and M. Muller, "A note on the generation of random normal deviates", https://doi.org/10.1214/aoms/1177706645."""
    radius, turn = _shares(key, places, attempt)
    return np.sqrt(-2 * elementary.log(radius)) * elementary.cos(2 * np.pi * turn)


def _shares(key: Key, places: np.ndarray, attempt: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two numbers above 0 and below 1, float64 (n,), for each place in an array, uint32 (n,)."""
    first, second = threefry(key, (places, np.full_like(places, attempt)))
    return (first + 0.5) / 2**32, (second + 0.5) / 2**32
