"""The augmentation of `mnist_minimal.data.augmentation` for the batches of K trials, on the device.

The random words are the same. What is a question of more or less than a bound, whether an image is changed and where a
crop begins, is answered in whole numbers, so that rounding has no part in it; all else is equal up to rounding, but for
a pixel read just between two others with the interpolation "nearest".
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnist_minimal.data.augmentation import MAX_PLACE
from mnist_minimal.data.random import threefry
from mnist_minimal.recipes import Augmentation
from mnist_minimal.training.network import Shape
from mnist_minimal.training.slots.numbers import Numbers

# Pairs of random words that are drawn for each image.
PAIRS = 5


class Ranges(NamedTuple):
    """The numbers of an augmentation that may differ between trials, arrays (K,) of NumPy or, in a program, of JAX.

    Attributes:
        rotation, translation, min_scale, max_scale, brightness, contrast: As `recipes.Augmentation` has them.
        last_moved, last_toned: The largest random word, uint32, with which an image is moved and toned.
        moves, tones: Whether any image is moved or toned, bool; where none is toned, none is limited to 0 .. 255.
    """

    rotation: Any
    translation: Any
    min_scale: Any
    max_scale: Any
    brightness: Any
    contrast: Any
    last_moved: Any
    last_toned: Any
    moves: Any
    tones: Any


class Changes(NamedTuple):
    """What was drawn for each image, (K, images) each.

    Attributes:
        cosine, sine: Of the angle, divided by the scale.
        down, right: The shift, in pixels.
        top, left: Where in the padded image its window begins, int32.
        contrast, brightness: A factor on pixels and what is added to them.
    """

    cosine: jax.Array
    sine: jax.Array
    down: jax.Array
    right: jax.Array
    top: jax.Array
    left: jax.Array
    contrast: jax.Array
    brightness: jax.Array


def ranges(numbers: Numbers) -> Ranges:
    """Those of each place, still on the host."""

    def last(shares: np.ndarray) -> np.ndarray:
        # A word is drawn where word * 2**-32 < share.
        return np.maximum(np.ceil(shares * 2.0**32) - 1, 0).astype(np.uint32)

    return Ranges(
        *(numbers.rotation, numbers.translation, numbers.min_scale, numbers.max_scale),
        *(numbers.brightness, numbers.contrast),
        last_moved=last(numbers.affine_share),
        last_toned=last(numbers.tone_share),
        moves=numbers.affine_share > 0,
        tones=(numbers.brightness != 0) | (numbers.contrast != 0),
    )


def draw(
    augmentation: Augmentation, ranges: Ranges, key: tuple[jax.Array, jax.Array], images: jax.Array, shape: Shape
) -> Changes:
    """Draws what happens to the images of a batch, as `data.augmentation.draw_changes` does.

    Args:
        augmentation: What all trials share: interpolation and crop.
        ranges: The numbers, which also say in which precision the changes are.
        key: Each trial's `data.random` key of augmentation in its epoch, uint32 (K,) each.
        images: Places in the training set, uint32 (K, images).
        shape: Of an image.
    """
    dtype = ranges.rotation.dtype
    numbers = Ranges(*(values[:, None] for values in ranges))
    drawn_from = key[0][:, None], key[1][:, None]
    # A loop, whose results lie in memory: in the loops that use them they would be computed for each pixel.
    pairs = lax.map(lambda i: threefry(drawn_from, (images, jnp.full_like(images, i))), lax.iota(jnp.uint32, PAIRS))
    words = [word[i] for i in range(PAIRS) for word in pairs]
    either_side = [_either_side(word, dtype) for word in words]
    moved = (words[0] <= numbers.last_moved) & numbers.moves
    toned = (words[1] <= numbers.last_toned) & numbers.tones
    angle = jnp.where(moved, numbers.rotation * either_side[2], 0) * (np.pi / 180)
    scale = numbers.min_scale + (numbers.max_scale - numbers.min_scale) * (words[3].astype(dtype) * 2.0**-32)
    scale = jnp.where(moved, scale, 1)
    shifts = [side * numbers.translation * part for side, part in zip(shape, either_side[4:6], strict=False)]
    if augmentation.interpolation == "nearest":
        shifts = [jnp.rint(shift) for shift in shifts]
    down, right = (jnp.where(moved, shift, 0) for shift in shifts)
    top, left = (_below(word, 2 * augmentation.crop + 1) for word in words[6:8])
    contrast = jnp.where(toned, 1 + numbers.contrast * either_side[8], 1)
    brightness = jnp.where(toned, 255 * numbers.brightness * either_side[9], 0)
    return Changes(jnp.cos(angle) / scale, jnp.sin(angle) / scale, down, right, top, left, contrast, brightness)


def _either_side(word: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Uniform in [-1, 1): the word times 2**-31, less 1, rounded once."""
    return lax.bitcast_convert_type(word ^ np.uint32(1 << 31), jnp.int32).astype(dtype) * 2.0**-31


def _below(word: jax.Array, count: int) -> jax.Array:
    """The whole part of word * 2**-32 * count, count <= 2**16, int32."""
    low = ((word & 0xFFFF) * np.uint32(count)) >> 16
    return (((word >> 16) * np.uint32(count) + low) >> 16).astype(jnp.int32)


def augment(
    pixels: jax.Array,
    images: jax.Array,
    changes: Changes,
    augmentation: Augmentation,
    ranges: Ranges,
) -> jax.Array:
    """Reads images of the training set as they were changed, as `data.augmentation.augment` does.

    Each pixel of the result is looked for in the cropped image, from there in the image that was turned, scaled and
    shifted, and from there in the training set: nothing of an image but the result lies in memory.

    Args:
        pixels: The training set, uint8 (n, channels, height, width).
        images: Places in it, int32 (K, images).
        changes: What was drawn for them.
        augmentation: What all trials share: interpolation, crop and fill.
        ranges: What was drawn from; a trial without contrast and brightness has its pixels not limited to 0 .. 255.

    Returns:
        (K, channels, height, width, images) in [0, 255]: float32, in whatever precision it was computed.
    """
    _, channels, height, width = pixels.shape
    dtype = changes.cosine.dtype
    mirrored = augmentation.fill == "reflect"
    fill = np.float32(0 if mirrored else augmentation.fill).astype(dtype)
    # Beside an activation without its channels: (K, 1, 1, images).
    of_image = Changes(*(values[:, None, None, :] for values in changes))
    row, inside_rows = _cropped(of_image.top, augmentation, height, axis=1)
    column, inside_columns = _cropped(of_image.left, augmentation, width, axis=2)
    centre_row, centre_column = (height - 1) / 2, (width - 1) / 2
    down, across = row - centre_row - of_image.down, column - centre_column - of_image.right
    rows = _inside(centre_row + of_image.cosine * down + of_image.sine * across, height, mirrored)
    columns = _inside(centre_column - of_image.sine * down + of_image.cosine * across, width, mirrored)

    flat = pixels.reshape(-1)
    first = images[:, None, None, None, :] * (channels * height * width)
    first = first + (lax.iota(jnp.int32, channels) * (height * width))[:, None, None, None]

    def read(row: jax.Array, column: jax.Array) -> jax.Array:
        there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        place = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
        found = flat.at[first + place[:, None]].get(mode="promise_in_bounds").astype(dtype)
        return jnp.where(there[:, None], found, fill)

    if augmentation.interpolation == "nearest":
        found = read(_whole(rows + 0.5), _whole(columns + 0.5))
    else:
        top, left = _whole(rows), _whole(columns)
        below, beside = ((rows - top)[:, None], (columns - left)[:, None])
        upper = _mixed(read(top, left), read(top, left + 1), beside)
        lower = _mixed(read(top + 1, left), read(top + 1, left + 1), beside)
        found = _mixed(upper, lower, below)
    if augmentation.crop and not mirrored:
        found = jnp.where((inside_rows & inside_columns)[:, None], found, fill)
    toned = jnp.clip(found * of_image.contrast[:, None] + of_image.brightness[:, None], 0, 255)
    return jnp.where(ranges.tones[:, None, None, None, None], toned, found).astype(jnp.float32)


def _cropped(
    corner: jax.Array, augmentation: Augmentation, side: int, axis: int
) -> tuple[jax.Array, jax.Array | np.ndarray]:
    """Where in the image before the crop its rows (axis 1) or columns (axis 2) lie, and whether they lie in it."""
    shape = [1, 1, 1, 1]
    shape[axis] = side
    place = lax.iota(jnp.int32, side).reshape(shape)
    if not augmentation.crop:
        return place, np.ones(shape, bool)
    place = place + corner - augmentation.crop
    inside = (place >= 0) & (place < side)
    if augmentation.fill == "reflect":
        period = max(2 * (side - 1), 1)
        place = place % period
        place = jnp.minimum(place, period - place) if side > 1 else jnp.zeros_like(place)
    return place, inside


def _inside(places: jax.Array, side: int, mirrored: bool) -> jax.Array:
    """Moves places outside the image next to it, or to where they are mirrored."""
    # A scale of 0 gives places that are no numbers: fmin, unlike clip, moves these too to a bound.
    if not mirrored:
        return jnp.fmax(jnp.fmin(places, side), -1)
    places = jnp.fmax(jnp.fmin(places, MAX_PLACE), -MAX_PLACE)
    period = max(2 * (side - 1), 1)
    places = jnp.abs(places - jnp.rint(places * (1 / period)) * period)
    return jnp.fmin(places, side - 1)


def _whole(places: jax.Array) -> jax.Array:
    return jnp.floor(places).astype(jnp.int32)


def _mixed(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    return first + (second - first) * share
