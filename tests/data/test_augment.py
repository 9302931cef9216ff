"""Augmentation: SciPy's resampling image by image, what is drawn, and the same pixels whatever is asked for at once."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage, stats

from mnist_minimal.analysis.figures import augmentation_grid
from mnist_minimal.augment import main
from mnist_minimal.cli.run import run
from mnist_minimal.data.augmentation import CHANGES, augment, draw_changes
from mnist_minimal.data.random import AUGMENTATION, stream, threefry
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import RECIPES, Augmentation

SIDE = 28

EVERYTHING = Augmentation(
    rotation=20,
    translation=0.1,
    scale=(0.8, 1.3),
    affine_share=0.75,
    crop=2,
    brightness=0.2,
    contrast=0.3,
    tone_share=0.6,
)

SCIPY_MODES = {0.0: "grid-constant", 33.3: "grid-constant", "reflect": "mirror"}


def noise(count: int, seed: int = 0, shape: tuple[int, int, int] = (SIDE, SIDE, 1)) -> np.ndarray:
    """Images without a background, so that whatever happens at a border shows."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def no_changes(count: int = 1) -> np.ndarray:
    changes = np.zeros(count, CHANGES)
    changes["scale"] = changes["contrast"] = 1
    return changes


def backwards(change: np.ndarray, sides: tuple[int, int] = (SIDE, SIDE)) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and offset from (row, column) of the result to the image, by inverting the way there."""
    angle, centre = np.radians(change["angle"]), (np.array(sides) - 1) / 2
    # Rows grow downwards: counter-clockwise, what is below the centre goes to the right of it.
    forwards = change["scale"] * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.linalg.inv(forwards)
    return matrix, centre - matrix @ (centre + change["shift"])


@pytest.mark.parametrize("fill", SCIPY_MODES)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("shape", [(SIDE, SIDE, 1), (12, 19, 3)])
def test_resampling_is_scipys(shape, interpolation, fill):
    """Two hundred images, more than a block, some of which are read from far outside; every channel likewise."""
    images, rng = noise(200, shape=shape), np.random.default_rng(1)
    changes = no_changes(len(images))
    changes["angle"] = rng.uniform(-180, 180, len(images))
    changes["scale"] = rng.uniform(0.3, 2, len(images))
    changes["shift"] = rng.uniform(-20, 20, (len(images), 2))
    found = augment(images, changes, Augmentation(interpolation=interpolation, fill=fill))
    assert found.dtype == np.float32
    assert found.shape == images.shape
    order = {"nearest": 0, "bilinear": 1}[interpolation]
    cval = 0 if fill == "reflect" else fill
    compared = 0
    planes, results = (np.moveaxis(each, -1, 1).reshape(-1, *shape[:2]) for each in (images, found))
    for image, result, change in zip(planes, results, np.repeat(changes, shape[2]), strict=True):
        matrix, offset = backwards(change, shape[:2])
        expected = ndimage.affine_transform(
            image.astype(np.float64), matrix, offset, order=order, mode=SCIPY_MODES[fill], cval=cval
        )
        places = np.tensordot(matrix, np.indices(shape[:2]), 1) + offset[:, None, None]
        # Halfway between two pixels the nearest one is a matter of rounding.
        certain = (abs(places % 1 - 0.5) > 1e-4).all(axis=0) | (interpolation == "bilinear")
        np.testing.assert_allclose(result[certain], expected[certain], atol=0.02)
        compared += certain.sum()
    assert compared > 0.99 * found.size


@pytest.mark.parametrize("fill", [0.0, "reflect"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_turns_of_the_grid_are_exact(interpolation, fill):
    """A quarter turn, counter-clockwise, of an image worked by hand; a half turn; a shift down and to the right."""
    image = np.zeros((3, 3), np.uint8)
    image[:] = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    changes = no_changes(4)
    changes["angle"] = [0, 90, 180, 0]
    changes["shift"][3] = [1, 0] if fill == "reflect" else [1, 1]
    images = np.broadcast_to(image[..., None], (4, 3, 3, 1))
    found = augment(images, changes, Augmentation(interpolation=interpolation, fill=fill))[..., 0]
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_array_equal(found[1], [[3, 6, 9], [2, 5, 8], [1, 4, 7]])
    np.testing.assert_array_equal(found[2], [[9, 8, 7], [6, 5, 4], [3, 2, 1]])
    shifted = [[4, 5, 6], [1, 2, 3], [4, 5, 6]] if fill == "reflect" else [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    np.testing.assert_array_equal(found[3], shifted)


def test_growth_by_two_reads_halfway_between_pixels():
    """One row of an image of four, by hand: the places read are 0.75, 1.25, 1.75 and 2.25."""
    image = np.tile(np.array([0, 100, 200, 40], np.uint8), (4, 1))
    changes = no_changes()
    changes["scale"] = 2
    found = augment(image[None, ..., None], changes, Augmentation())
    np.testing.assert_allclose(found[0, 1, :, 0], [75, 125, 175, 160], atol=1e-4)


def test_no_ranges_change_nothing():
    images = noise(70)
    nothing = Augmentation()
    found = augment(images, draw_changes(nothing, 1, 2, images), nothing)
    np.testing.assert_array_equal(found, images)
    assert found.dtype == np.float32


def test_no_images_are_no_error():
    none = noise(0)
    assert augment(none, draw_changes(EVERYTHING, 1, 2, none), EVERYTHING).shape == (0, SIDE, SIDE, 1)


@pytest.mark.parametrize("fill", SCIPY_MODES)
def test_a_crop_is_a_shift_by_whole_pixels(fill):
    images, augmentation = noise(80), Augmentation(crop=2, fill=fill)
    changes = draw_changes(augmentation, 3, 0, images)
    found = augment(images, changes, augmentation)
    cval = 0 if fill == "reflect" else fill
    for image, result, (row, column) in zip(images[..., 0], found[..., 0], changes["corner"], strict=True):
        expected = ndimage.shift(
            image.astype(np.float32), (2 - row, 2 - column), order=0, mode=SCIPY_MODES[fill], cval=cval
        )
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_what_a_shift_pushed_out_a_crop_does_not_bring_back():
    images, augmentation = noise(1), Augmentation(crop=1, fill=7.0)
    changes = no_changes()
    changes["shift"] = [0, 1]
    changes["corner"] = [1, 2]
    found = augment(images, changes, augmentation)[0, ..., 0]
    np.testing.assert_array_equal(found[:, :-1], images[0, :, :-1, 0])
    np.testing.assert_array_equal(found[:, -1], 7)


def test_contrast_and_brightness_by_hand():
    """x * contrast + brightness, limited to 0 .. 255: once brighter and steeper, once darker and flatter."""
    image = np.zeros((1, 2, 2, 1), np.uint8)
    image[0, :, :, 0] = [[0, 10], [100, 200]]
    changes = no_changes(2)
    changes["contrast"], changes["brightness"] = [1.2, 0.8], [25.5, -51]
    found = augment(np.repeat(image, 2, axis=0), changes, Augmentation(brightness=0.2, contrast=0.2))[..., 0]
    np.testing.assert_allclose(found, [[[25.5, 37.5], [145.5, 255]], [[0, 0], [29, 109]]], rtol=1e-6)


def test_what_is_drawn_is_uniform_in_its_range():
    augmentation = Augmentation(
        rotation=10, translation=0.25, scale=(0.9, 1.3), crop=1, brightness=0.2, contrast=0.3, interpolation="bilinear"
    )
    changes = draw_changes(augmentation, 1, 0, noise(1).repeat(20_000, axis=0))
    samples = {
        "angle": (changes["angle"], -10, 10),
        "scale": (changes["scale"], 0.9, 1.3),
        "down": (changes["shift"][:, 0], -7, 7),
        "right": (changes["shift"][:, 1], -7, 7),
        "contrast": (changes["contrast"], 0.7, 1.3),
        "brightness": (changes["brightness"], -51, 51),
    }
    for name, (sample, low, high) in samples.items():
        assert stats.kstest(sample, stats.uniform(low, high - low).cdf).pvalue > 0.001, name
    rows, columns = changes["corner"].T
    for corner in (rows, columns):
        assert stats.chisquare(np.bincount(corner, minlength=3)).pvalue > 0.001
    together = np.corrcoef([sample for sample, _, _ in samples.values()] + [rows, columns])
    assert abs(together - np.eye(len(together))).max() < 4 / np.sqrt(20_000)


def test_nearest_shifts_by_whole_pixels_as_often_as_torchvision():
    """A tenth of 28 pixels, rounded: 0, 1 and 2 have a probability of 1 / 5.6 to each side, 3 has 0.3 / 5.6."""
    augmentation = Augmentation(translation=0.1, interpolation="nearest")
    shifts = draw_changes(augmentation, 1, 0, noise(1).repeat(20_000, axis=0))["shift"]
    assert set(np.unique(shifts)) == {-3, -2, -1, 0, 1, 2, 3}
    expected = np.array([0.3, 1, 1, 1, 1, 1, 0.3]) / 5.6 * shifts.size
    assert stats.chisquare(np.bincount(shifts.astype(int).ravel() + 3), expected).pvalue > 0.001


def test_shares_are_drawn_apart_and_the_other_images_stay_as_they_are():
    """Half of the images are moved, half are changed in tone, and a quarter is left alone, to the bit."""
    augmentation = Augmentation(rotation=10, affine_share=0.5, brightness=0.2, contrast=0.2, tone_share=0.5)
    images = noise(2000)
    changes = draw_changes(augmentation, 4, 0, images)
    moved, toned = changes["angle"] != 0, changes["contrast"] != 1
    np.testing.assert_array_equal(toned, changes["brightness"] != 0)
    table = [np.count_nonzero(m & t) for m in (moved, ~moved) for t in (toned, ~toned)]
    assert stats.chisquare(table).pvalue > 0.001
    found = augment(images, changes, augmentation)
    same = (found == images).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(same, ~moved & ~toned)


@pytest.mark.parametrize("fill", [0.0, "reflect"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_same_pixels_in_any_chunks_and_any_order(interpolation, fill):
    augmentation = dataclasses.replace(EVERYTHING, interpolation=interpolation, fill=fill)
    images = noise(300)
    changes = draw_changes(augmentation, 5, 1, images)
    whole = augment(images, changes, augmentation)
    order = np.random.default_rng(2).permutation(len(images))
    for size in (1, 7, 64, 300):
        for start in range(0, len(order), size):
            part = order[start : start + size]
            np.testing.assert_array_equal(augment(images[part], changes[part], augmentation), whole[part])


def test_what_is_drawn_follows_from_seed_epoch_and_place_alone():
    images = noise(50)
    first = draw_changes(EVERYTHING, 7, 2, images)
    np.testing.assert_array_equal(draw_changes(EVERYTHING, 7, 2, noise(20, seed=1)), first[:20])
    for other in (draw_changes(EVERYTHING, 7, 3, images), draw_changes(EVERYTHING, 8, 2, images), np.roll(first, 1)):
        assert np.count_nonzero(other["angle"] == first["angle"]) < 20
        assert not (other["angle"] == first["angle"])[first["angle"] != 0].any()


def test_what_is_drawn_does_not_change_with_a_release():
    """The third of each image's ten words, the first of its second pair; and the numbers that this release gave."""
    key = stream(7, AUGMENTATION, 2)
    words = threefry(key, (np.arange(2, dtype=np.uint32), np.ones(2, np.uint32)))[0]
    angles = draw_changes(Augmentation(rotation=180), 7, 2, noise(2))["angle"]
    np.testing.assert_array_equal(angles, words / 2.0**32 * 360 - 180)
    np.testing.assert_allclose(angles, [13.42923481, -8.69317613], atol=1e-8)


def test_each_field_has_words_of_its_own():
    """Ten fields from ten words: with all shares 1, no two fields of an image come from the same number."""
    augmentation = Augmentation(rotation=1, translation=1 / SIDE, scale=(0, 2), brightness=1 / 255, contrast=1)
    changes = draw_changes(augmentation, 7, 2, noise(50))
    either_side = [changes["angle"], changes["scale"] - 1, *changes["shift"].T, changes["contrast"] - 1]
    together = np.array([*either_side, changes["brightness"]])
    assert len(np.unique(together.round(6))) == together.size


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_what_is_scaled_to_nothing_leaves_the_fill(interpolation):
    changes = no_changes(3)
    changes["scale"], changes["angle"] = 0, [0, 30, 90]
    with np.errstate(all="ignore"):
        found = augment(noise(3), changes, Augmentation(interpolation=interpolation, fill=7.0))
    np.testing.assert_array_equal(found, 7)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_a_row_is_mirrored_into_itself(interpolation):
    """An image one pixel high is the same at every height; what is to the right of it comes back."""
    image, changes = np.array([10, 20, 30, 40], np.uint8).reshape(1, 1, 4, 1), no_changes()
    changes["shift"] = [0.3, -2]
    found = augment(image, changes, Augmentation(interpolation=interpolation, fill="reflect"))
    np.testing.assert_array_equal(found.ravel(), [30, 40, 30, 20])


def test_the_picture_shows_ten_digits_and_what_becomes_of_them():
    images, labels = noise(40), np.arange(40) % 10
    figure = augmentation_grid(images, labels, EVERYTHING, seed=3, epochs=range(4, 6))
    axes = np.array(figure.axes).reshape(10, 3)
    assert [ax.get_title() for ax in axes[0]] == ["as it is", "epoch 5", "epoch 6"]
    np.testing.assert_array_equal(axes[7, 0].images[0].get_array(), images[7, ..., 0])
    expected = augment(images, draw_changes(EVERYTHING, 3, 5, images), EVERYTHING)
    np.testing.assert_array_equal(axes[7, 2].images[0].get_array(), expected[7, ..., 0])


def test_the_command_draws_a_recipe(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(RECIPES, "sep997", dataclasses.replace(RECIPES["sep997"], augmentation=EVERYTHING))
    path = tmp_path / "digits.png"
    assert main(["sep997", "--dataset", "digits", "--seed", "3", "--epoch", "2", "--out", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{path}\n"
    with pytest.raises(UserError, match=r"found sep697, .* those that do: .*gap13914"):
        main(["sep697", "--dataset", "digits"])


@pytest.mark.parametrize("wrong", [["--seed", "-1"], ["--epoch", "0"]])
def test_the_command_refuses_a_seed_or_an_epoch_that_cannot_be(monkeypatch, capsys, wrong):
    monkeypatch.setitem(RECIPES, "sep997", dataclasses.replace(RECIPES["sep997"], augmentation=EVERYTHING))
    assert run(main, ["sep997", "--dataset", "digits", *wrong]) == 2
    assert wrong[1] in capsys.readouterr().err
