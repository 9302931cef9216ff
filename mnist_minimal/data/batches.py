"""The order in which an epoch visits the training images: a function of seed and epoch alone.

Both trainers take their batches from here, so that they can be compared step by step, and a trial that goes on after a
stop sees the batches it would have seen.
"""

import numpy as np

from mnist_minimal.data.random import ORDER, permutation, stream


def epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    """A random permutation of the training images.

    Args:
        seed: The trial's seed, 0 <= seed < 2**64.
        epoch: The epoch, counted from 0.
        images: Number of training images.

    Returns:
        int64 array of shape (images,), each of 0 .. images-1 once.
    """
    return permutation(stream(seed, ORDER, epoch), images)


def epoch_batches(seed: int, epoch: int, images: int, batch_size: int, drop_remainder: bool) -> list[np.ndarray]:
    """The epoch's batches, in order, as indices into the training images.

    Args:
        seed: The trial's seed, 0 <= seed < 2**64.
        epoch: The epoch, counted from 0.
        images: Number of training images.
        batch_size: Images per batch.
        drop_remainder: Whether to leave out a last batch that is smaller than the others. The only batch of a training
            set smaller than `batch_size` stays.

    Returns:
        int64 arrays of `batch_size` indices, the last one perhaps shorter.
    """
    order = epoch_order(seed, epoch, images)
    starts = _starts(images, batch_size, drop_remainder)
    return [order[start : start + batch_size] for start in starts]


def batches_per_epoch(images: int, batch_size: int, drop_remainder: bool) -> int:
    """How many batches `epoch_batches` gives."""
    return len(_starts(images, batch_size, drop_remainder))


def _starts(images: int, batch_size: int, drop_remainder: bool) -> range:
    end = images - images % batch_size if drop_remainder and images >= batch_size else images
    return range(0, end, batch_size)
