"""What Keras and a builder draw follows from a seed while a model is built; the caller's own draws go on."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

# The random states are one for the whole process: no other thread must draw a model's weights at the same time. The
# builder itself may load another model.
_SEEDED = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds Python's and NumPy's own random numbers for the time of the block, and puts them back as they were.

    Keras draws the seed of every initializer and layer without one from Python's, which `keras.utils.set_random_seed`
    relies on; what a model's builder itself draws follows from the seed likewise.

    Args:
        seed: 0 <= seed < 2**32.
    """
    with _SEEDED:
        of_python, of_numpy = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
