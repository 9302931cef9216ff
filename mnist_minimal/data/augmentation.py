"""The augmentation of training images as a recipe says.

What happens to an image is a function of the seed, the epoch and the image's place in the training set alone, so that a
trial has the same pixels with either trainer, in batches or chunks of any size, and after a stop. The Keras trainer
takes its images from here; the core augments by itself (`core/augmentation.cpp`, `core/kernels/augmentation.h`), with
the same operations in the same order, and gets the same bits.
"""

import numpy as np

from mnist_minimal.data.elementary import cos, sin
from mnist_minimal.data.random import AUGMENTATION, stream, threefry
from mnist_minimal.recipes import Augmentation

# What is drawn for an image; `draw_changes` says in which units.
CHANGES = np.dtype(
    [
        ("angle", np.float64),
        ("scale", np.float64),
        ("shift", np.float64, 2),
        ("corner", np.int64, 2),
        ("contrast", np.float64),
        ("brightness", np.float64),
    ]
)

# Random words that are drawn for each image.
WORDS = 10

# Images that are resampled at once: of MNIST's, what they need lies in a processor's cache of the second level.
BLOCK = 64

# Places in a block are float32, which counts no further one by one.
MAX_PLACES = 2**24

# Mirrored places are brought within these bounds first, so that all that follows is exact.
MAX_PLACE = 2.0**20


def draw_changes(augmentation: Augmentation, seed: int, epoch: int, images: np.ndarray) -> np.ndarray:
    """Draws what happens to each training image in an epoch.

    The random numbers are those of `data.random` for augmentation, 32-bit words times 2**-32. Those of an image depend
    on its place alone, not on how many follow.

    Args:
        augmentation: The ranges.
        seed: The trial's seed, 0 <= seed < 2**64.
        epoch: The epoch, counted from 0.
        images: The training images, (n, height, width, channels); only their shape matters.

    Returns:
        Array (n,) with the fields of CHANGES: `angle`, degrees, counter-clockwise; `scale`, the factor by which what is
        shown grows; `shift`, pixels down and to the right; `corner`, row and column in the padded image at which its
        window begins; `contrast`, a factor on pixels; `brightness`, what is added to them.
    """
    count, sides = len(images), np.array(images.shape[1:3], np.float64)
    place = np.arange(count, dtype=np.uint32)[:, np.newaxis]
    pairs = threefry(stream(seed, AUGMENTATION, epoch), (place, np.arange(WORDS // 2, dtype=np.uint32)))
    uniform = np.stack(pairs, axis=-1).reshape(count, WORDS) * 2.0**-32
    either_side = 2 * uniform - 1
    moved, toned = uniform[:, 0] < augmentation.affine_share, uniform[:, 1] < augmentation.tone_share
    smallest, largest = augmentation.scale
    shift = sides * augmentation.translation * either_side[:, 4:6]
    if augmentation.interpolation == "nearest":
        shift = np.rint(shift)
    changes = np.empty(count, CHANGES)
    changes["angle"] = np.where(moved, augmentation.rotation * either_side[:, 2], 0)
    changes["scale"] = np.where(moved, smallest + (largest - smallest) * uniform[:, 3], 1)
    changes["shift"] = np.where(moved[:, np.newaxis], shift, 0)
    changes["corner"] = (2 * augmentation.crop + 1) * uniform[:, 6:8]
    changes["contrast"] = np.where(toned, 1 + augmentation.contrast * either_side[:, 8], 1)
    # The sum makes 0 of -0, so that no pixel becomes -0, of which np.clip and a comparison make different things.
    changes["brightness"] = np.where(toned, 255 * augmentation.brightness * either_side[:, 9], 0) + 0.0
    return changes


def augment(images: np.ndarray, changes: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Applies to images what was drawn for them, the same to all channels of an image.

    In this order:

    1. The image is turned and scaled about its centre, (side - 1) / 2 along each axis, and then shifted: one map, read
       backwards at each pixel of the result, one resampling. What is read between pixels is the nearest one, or the
       four around in proportion. Pixels at the border are mixed with `fill`, which lies all around, as OpenCV, Keras
       and torchvision on tensors do (SciPy's mode "grid-constant"), or with the mirrored image where `fill` is
       "reflect" (OpenCV's BORDER_REFLECT_101, SciPy's "mirror").
    2. The result is padded by `crop` pixels on every side, and a window of its own size is cut out.
    3. x becomes x * contrast + brightness, limited to 0 .. 255, as albumentations' `RandomBrightnessContrast` does by
       default: contrast about black, not about the image's mean.

    Nothing is rounded to whole values on the way, which the libraries do that keep images as uint8.

    Args:
        images: uint8 (n, height, width, channels).
        changes: What `draw_changes` drew for these images, (n,).
        augmentation: What it was drawn from.

    Returns:
        float32 (n, height, width, channels) in [0, 255].
    """
    channels = [_augmented(images[..., channel], changes, augmentation) for channel in range(images.shape[-1])]
    return channels[0][..., np.newaxis] if len(channels) == 1 else np.stack(channels, axis=-1)


def _augmented(images: np.ndarray, changes: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """One channel of the images, (n, height, width)."""
    changed = images.astype(np.float32)
    moved = (changes["angle"] != 0) | (changes["scale"] != 1) | (changes["shift"] != 0).any(axis=1)
    height, width = images.shape[1:]
    block_size = max(1, min(BLOCK, len(images), MAX_PLACES // ((height + 3) * (width + 3))))
    resampler = Resampler(block_size, height, width, augmentation)
    for block in _blocks(np.flatnonzero(moved), block_size):
        changed[block] = resampler.resample(images[block], changes[block])
    for block in _blocks(np.arange(len(images)), block_size):
        pixels = changed[block[0] : block[-1] + 1]
        if augmentation.crop:
            pixels[:] = cropped(pixels, changes["corner"][block], augmentation)
        if augmentation.contrast or augmentation.brightness:
            pixels *= _per_image(changes["contrast"][block])
            pixels += _per_image(changes["brightness"][block])
            np.clip(pixels, 0, 255, out=pixels)
    return changed


def cropped(images: np.ndarray, corners: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Pads images (n, height, width) and cuts out of each the window that begins at its corner (n, 2)."""
    padding = [(0, 0), (augmentation.crop,) * 2, (augmentation.crop,) * 2]
    if augmentation.fill == "reflect":
        padded = np.pad(images, padding, mode="reflect")
    else:
        padded = np.pad(images, padding, constant_values=augmentation.fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:], axis=(1, 2))
    return windows[np.arange(len(images)), corners[:, 0], corners[:, 1]]


class Resampler:
    """Turns, scales and shifts blocks of images, all pixels of a block at once, in arrays that are made only once.

    Args:
        count: Images of the largest block.
        height, width: Of an image, in pixels.
        augmentation: Interpolation and fill.
    """

    def __init__(self, count: int, height: int, width: int, augmentation: Augmentation) -> None:
        self.sides, self.augmentation = (height, width), augmentation
        # One pixel of frame before the image and two behind it: a place outside is moved onto the frame, and has there,
        # as everywhere, a neighbour below and to the right.
        self.width = width + 3
        fill = 0.0 if augmentation.fill == "reflect" else augmentation.fill
        self.framed = np.full((count, height + 3, self.width), fill, np.float32)
        # Where pixel (0, 0) of each image lies among all of `framed`: whole numbers below MAX_PLACES.
        self.origin = _per_image(np.arange(count) * (height + 3) * self.width + self.width + 1)
        self.floats = [np.empty((count, height, width), np.float32) for _ in range(6)]
        self.indices = np.empty((count, height, width), np.intp)

    def resample(self, images: np.ndarray, changes: np.ndarray) -> np.ndarray:
        """Resamples uint8 images (n, height, width); what it returns, float32, lasts until the next call."""
        count = len(images)
        self.framed[:count, 1:-2, 1:-2] = images
        indices = self.indices[:count]
        rows, columns, row, column, right, below = (array[:count] for array in self.floats)
        self._set_places(changes, rows, columns)
        for places, whole, side in ((rows, row, self.sides[0]), (columns, column, self.sides[1])):
            self._bring_inside(places, side, spare=whole)
            if self.augmentation.interpolation == "nearest":
                places += 0.5
            np.floor(places, out=whole)
            places -= whole
        row *= self.width
        row += column
        row += self.origin[:count]
        np.copyto(indices, row, casting="unsafe")
        # No index is out of range; the mode spares a check that would cost a copy of the result.
        pixels = self.framed.reshape(-1)
        if self.augmentation.interpolation == "nearest":
            return np.take(pixels, indices, out=row, mode="clip")
        # `rows` and `columns` now hold how far a place lies below and beside that pixel; `row` and `column` are free.
        upper, lower = row, column
        np.take(pixels, indices, out=upper, mode="clip")
        np.take(pixels[1:], indices, out=right, mode="clip")
        np.take(pixels[self.width :], indices, out=lower, mode="clip")
        np.take(pixels[self.width + 1 :], indices, out=below, mode="clip")
        _mix(upper, right, columns)
        _mix(lower, below, columns)
        return _mix(upper, lower, rows)

    def _set_places(self, changes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
        """Sets where in the image each pixel of the result is read: the inverse of turn, scale and shift."""
        angle = changes["angle"] * (np.pi / 180)
        cosine, sine = ((turn(angle) / changes["scale"])[:, np.newaxis] for turn in (cos, sin))
        centres = [(side - 1) / 2 for side in self.sides]
        # How far the rows and columns of the result lie from where the centre came to lie.
        down, across = (
            np.arange(side) - centre - changes["shift"][:, [axis]]
            for axis, (side, centre) in enumerate(zip(self.sides, centres, strict=True))
        )
        np.add(_by_row(centres[0] + cosine * down), _by_column(sine * across), out=rows)
        np.add(_by_row(centres[1] - sine * down), _by_column(cosine * across), out=columns)

    def _bring_inside(self, places: np.ndarray, side: int, spare: np.ndarray) -> None:
        """Moves places outside the image onto its frame, or to where they are mirrored."""
        # A scale of 0 gives places that are no numbers: fmin, unlike clip, moves these too to a bound.
        if self.augmentation.fill != "reflect":
            np.fmax(np.fmin(places, side, out=places), -1, out=places)
            return
        np.fmax(np.fmin(places, MAX_PLACE, out=places), -MAX_PLACE, out=places)
        # Mirrored at both ends, the image repeats itself; the repetition around 0 is symmetrical.
        period = max(2 * (side - 1), 1)
        np.multiply(places, 1 / period, out=spare)
        np.rint(spare, out=spare)
        spare *= period
        places -= spare
        np.abs(places, out=places)
        np.fmin(places, side - 1, out=places)


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Goes from the first by a share of the way to the second, in place of the first; the second is lost."""
    second -= first
    second *= share
    first += second
    return first


def _blocks(indices: np.ndarray, size: int) -> list[np.ndarray]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _per_image(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, np.newaxis, np.newaxis]


def _by_row(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, :, np.newaxis]


def _by_column(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, np.newaxis, :]
