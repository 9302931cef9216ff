"""What seeds decide: random words as functions of (seed, purpose, epoch, step, layer, place), and of nothing else.

Every draw of a trial is a 32-bit word of Threefry-2x32 with 20 rounds (J. Salmon, M. Moraes, R. Dror and D. Shaw,
"Parallel random numbers: as easy as 1, 2, 3", https://doi.org/10.1145/2063384.2063405), a counter-based generator of
additions, rotations and exclusive ors. `core/random.h` has the same in C++, and the functions here take JAX's arrays as
well as NumPy's: the same seed is the same trial wherever it is trained.

    key of an epoch      threefry(seed, (purpose, epoch))
    order of the images  threefry(key, (image, 0)), its first word; images are sorted by it
    augmentation         threefry(key, (image, i)), words 2 i and 2 i + 1 of the image
    dropout              threefry(key, (step, layer)), the key of the layer's counter in that step
    initial weights      threefry(key, (place, attempt)), the epoch being the weight array's number in the model
    folds of a data set  as the order of the images, the seed and the epoch being 0
"""

from typing import Any, TypeVar

import numpy as np

# What random words are drawn for.
ORDER, AUGMENTATION, DROPOUT, INITIAL_WEIGHTS, FOLDS = range(1, 6)

# An array of uint32, of NumPy or of JAX.
Array = TypeVar("Array", bound=Any)

_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
_PARITY = 0x1BD11BDA


def threefry(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two random words for each counter.

    Args:
        key: Two uint32 arrays, of the shape of the counters' or to be broadcast to it.
        counter: Two uint32 arrays.

    Returns:
        Two uint32 arrays.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(_PARITY))
    first, second = counter[0] + keys[0], counter[1] + keys[1]
    for block in range(1, 6):
        for rotation in _ROTATIONS[(block - 1) % 2]:
            first = first + second
            second = first ^ ((second << np.uint32(rotation)) | (second >> np.uint32(32 - rotation)))
        first, second = first + keys[block % 3], second + keys[(block + 1) % 3] + np.uint32(block)
    return first, second


def stream(seed: int, purpose: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The key of what is drawn for a purpose in an epoch.

    Args:
        seed: The trial's seed, 0 <= seed < 2**64.
        purpose: ORDER, AUGMENTATION, DROPOUT, INITIAL_WEIGHTS or FOLDS.
        epoch: The epoch, counted from 0; for INITIAL_WEIGHTS the number of the array of weights in the model.

    Returns:
        Two uint32 arrays of shape (1,).
    """
    words = np.array([seed & 0xFFFFFFFF, seed >> 32, purpose, epoch], np.uint32)
    return threefry((words[:1], words[1:2]), (words[2:3], words[3:]))


def permutation(key: tuple[np.ndarray, np.ndarray], images: int) -> np.ndarray:
    """A random order of images: each has a random word, and they are sorted by it, those of one word by index.

    Args:
        key: As `stream` gives it.
        images: Number of images.

    Returns:
        int64 array of shape (images,), each of 0 .. images-1 once.
    """
    indices = np.arange(images, dtype=np.uint32)
    words, _ = threefry(key, (indices, np.zeros_like(indices)))
    # A word with the index below it sorts as the word does, ties by index, and faster than by a stable argsort.
    return (np.sort(words.astype(np.uint64) << 32 | indices) & 0xFFFFFFFF).astype(np.int64)
