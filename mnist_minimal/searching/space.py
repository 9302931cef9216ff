"""The space that is searched: a unit cube of fixed coordinates, every point of which is a candidate within the limit.

A coordinate chooses among what is left to choose from: the channels of a layer are a share of the parameters that the
layers before have left, so that no point has to be rejected, and samplers find the same coordinates in every candidate.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from mnist_minimal.errors import UserError
from mnist_minimal.models.searched import Candidate, SearchedNetwork, Sharing, map_sizes, parameters
from mnist_minimal.recipes import SGD, Adam, AdamW, Augmentation, Averaging, ByStep, Recipe, Teacher

# Rises with every change after which a point is another candidate; a search is resumed by the version that began it.
SPACE_VERSION = 2

Point = Mapping[str, float]
Choice = TypeVar("Choice")

STEM_SIZES, BLOCK_SIZES, MAX_BLOCKS = (3, 5, 7), (3, 5), 6
BATCH_SIZES = (32, 64, 128, 256)

# The strongest augmentation: degrees, share of the side, share of the size.
ROTATION, TRANSLATION, SCALE = 12.0, 0.08, 0.16

MAX_DROPOUT, MAX_SLOPE, MAX_WARM_UP, MAX_FLOOR = 0.1, 0.4, 0.2, 0.3
# Of all steps those whose weights are averaged, at most.
MAX_AVERAGED = 0.6
RATES, DECAYS, MOMENTUM = (0.002, 0.1), (1e-7, 1e-4), 0.9
# SGD's rates are so many times those of Adam.
SGD_FACTOR = 10

NETWORK = (
    *("stem_size", "stem_padding", "pool", "block_size", "block_padding", "blocks", "second_pool", "sharing"),
    *("stem_channels", *(f"channels_{block}" for block in range(1, MAX_BLOCKS)), "last_channels", "slope"),
)
RECIPE = (
    *("batch", "optimizer", "learning_rate", "weight_decay", "course", "warm_up", "floor"),
    *("dropout", "augmented_share", "augmentation_strength", "teacher", "averaging"),
)
COORDINATES = NETWORK + RECIPE

# What a compiled program depends on (`training.slots.numbers.structure`): the values of the former coordinates, and
# whether each of the latter switches something on, which it does a little above the middle, as what it gives is
# rounded.
FIXED = (*NETWORK, "batch", "optimizer")
SWITCHES = ("dropout", "augmented_share", "teacher", "averaging")
ON = 0.505

# Parameters of the smallest network.
SMALLEST = parameters(min(STEM_SIZES), min(BLOCK_SIZES), "none", (1, 1))


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes:
        max_params: The most trainable parameters of a network.
        epochs: Epochs of the recipes.
        taught: Whether recipes may have a teacher.
    """

    max_params: int
    epochs: int
    taught: bool = False

    def __post_init__(self) -> None:
        if self.max_params < SMALLEST:
            raise UserError(
                f"expected a limit of at least {SMALLEST} parameters, which the smallest network of the "
                f"search has, found {self.max_params}; raise --max-params"
            )

    def decode(self, point: Point, limit: int | None = None) -> Candidate:
        """The candidate of a point.

        Args:
            point: A number in [0, 1] for each of COORDINATES.
            limit: The most parameters, at least SMALLEST; None for those of the space.
        """
        network = decode_network(point, self.max_params if limit is None else limit)
        return Candidate(network, decode_recipe(point, self.epochs, self.taught))


def beside(first: Point, name: str, coordinate: float) -> float:
    """The coordinate of a candidate that differs from another in numbers alone: they share a compiled program.

    Args:
        first: The other's point.
        name: The coordinate's name.
        coordinate: What was proposed for it; mirrored at the middle where it would switch off what the other has.
    """
    if name in FIXED or (name in SWITCHES and first[name] < ON):
        return first[name]
    return max(coordinate, 1 - coordinate, ON) if name in SWITCHES else coordinate


def decode_network(point: Point, limit: int) -> SearchedNetwork:
    """The network of a point: first its form, as far as the smallest channels fit it, then the channels."""
    form: dict[str, Any] = {
        "stem_size": min(STEM_SIZES),
        **{"stem_padding": "same", "block_size": min(BLOCK_SIZES), "block_padding": "same"},
        **{"blocks": 1, "second_pool": 0},
    }

    def fits(**values: Any) -> bool:
        """Whether these values leave room for one channel in each layer, in images and parameters."""
        wanted = form | values
        smallest = parameters(wanted["stem_size"], wanted["block_size"], "none", (1 + wanted["blocks"]) * (1,))
        return smallest <= limit and min(map_sizes(**wanted)) >= 1

    def choose(name: str, choices: Sequence[Any]) -> None:
        form[name] = pick(point[name], [one for one in choices if fits(**{name: one})])

    choose("stem_size", STEM_SIZES)
    choose("stem_padding", ("same", "valid"))
    choose("block_size", BLOCK_SIZES)
    choose("block_padding", ("same", "valid"))
    choose("blocks", range(1, MAX_BLOCKS + 1))
    blocks = form.pop("blocks")
    # Half of the coordinate is for none.
    places = [place for place in range(1, blocks) if fits(blocks=blocks, second_pool=place)]
    if places and point["second_pool"] >= 0.5:
        form["second_pool"] = pick(2 * point["second_pool"] - 1, places)
    # Where there are too few blocks, sharing is the same as none.
    shared: tuple[Sharing, ...] = ("none", "depthwise", "later depthwise", "block")
    sharing = pick(point["sharing"], shared[: {1: 1, 2: 2}.get(blocks, 4)])
    coordinates, make = _channels(sharing, blocks)
    stem, *channels = make(
        spend(
            [point[name] for name in coordinates],
            lambda widths: parameters(form["stem_size"], form["block_size"], sharing, make(widths)),
            limit,
        )
    )
    return SearchedNetwork(
        **form,
        pool=pick(point["pool"], ("max", "average")),
        stem_channels=stem,
        channels=tuple(channels),
        sharing=sharing,
        slope=round(MAX_SLOPE * point["slope"], 2),
    )


def _channels(sharing: Sharing, blocks: int) -> tuple[list[str], Callable[[Sequence[int]], list[int]]]:
    """The coordinates of the channels that a network is free in, and what makes the channels of all layers of them."""
    inner = [f"channels_{block}" for block in range(1, blocks)]
    match sharing:
        case "none":
            return ["stem_channels", *inner, "last_channels"], list
        case "depthwise":
            return ["stem_channels", "last_channels"], lambda w: [*blocks * [w[0]], w[1]]
        case "later depthwise":
            return ["stem_channels", inner[0], "last_channels"], lambda w: [w[0], *(blocks - 1) * [w[1]], w[2]]
        case "block":
            return ["stem_channels", inner[0]], lambda w: [w[0], *blocks * [w[1]]]


def spend(shares: Sequence[float], count: Callable[[Sequence[int]], int], limit: int) -> list[int]:
    """The channels of layers, each by its share of the parameters that those before it have left.

    A share of 0.5 gives a layer as many as all that are left can have alike, a smaller one fewer, down to a third; a
    larger one more, up to three times as many where the others can then have a third each.

    Args:
        shares: A number in [0, 1] for each layer.
        count: Parameters of a network with these channels; rises with each of them.
        limit: The most parameters; those of one channel in each layer are within it.
    """
    widths: list[int] = []
    for place, share in enumerate(shares):
        left = len(shares) - place - 1

        def most(alike: int, others: Sequence[int]) -> int:
            """The most channels that so many layers can have alike, before the others with theirs."""
            return bisect.bisect_right(
                range(1, limit + 1), limit, key=lambda width: count([*widths, *alike * [width], *others])
            )

        even = most(left + 1, [])
        least = max(1, even // 3)
        highest = min(most(1, left * [least]), 3 * even)
        if share < 0.5:
            widths.append(pick(2 * share, range(least, even + 1)))
        else:
            widths.append(pick(2 * share - 1, range(even, highest + 1)))
    return widths


def decode_recipe(point: Point, epochs: int, taught: bool) -> Recipe:
    """The recipe of a point."""
    rate = logarithmic(point["learning_rate"], *RATES)
    optimizers: dict[str, Adam | AdamW | SGD] = {
        "Adam": Adam(rate),
        "AdamW": AdamW(rate, logarithmic(point["weight_decay"], *DECAYS)),
        "SGD": SGD(round(SGD_FACTOR * rate, 6), MOMENTUM),
    }
    share = round(above_half(point["augmented_share"]), 2)
    strength = point["augmentation_strength"]
    weight = round(above_half(point["teacher"]), 2)
    augmentation = Augmentation(
        rotation=round(ROTATION * strength, 1),
        translation=round(TRANSLATION * strength, 3),
        scale=(round(1 - SCALE * strength, 3), round(1 + SCALE * strength, 3)),
        affine_share=share,
    )
    course: Literal["cosine", "linear"] = pick(point["course"], ("cosine", "linear"))
    averaged_from = round(1 - MAX_AVERAGED * above_half(point["averaging"]), 2)
    # Steps of no rate would add nothing to a mean, whose rate is constant.
    floor = point["floor"] if averaged_from < 1 else above_half(point["floor"])
    return Recipe(
        source="found by mnist_minimal.search",
        batch_size=pick(point["batch"], BATCH_SIZES),
        max_epochs=epochs,
        optimizer=optimizers[pick(point["optimizer"], tuple(optimizers))],
        schedule=ByStep(
            course,
            round(MAX_WARM_UP * point["warm_up"], 3),
            floor=round(MAX_FLOOR * floor, 3),
            floor_from=averaged_from,
        ),
        dropout=round(MAX_DROPOUT * above_half(point["dropout"]), 3),
        averaging=Averaging(start=averaged_from) if averaged_from < 1 else None,
        augmentation=augmentation if share and strength else None,
        teacher=Teacher(weight=weight) if taught and weight else None,
    )


def pick(coordinate: float, choices: Sequence[Choice]) -> Choice:
    """One of the choices, each of an equal part of [0, 1]."""
    return choices[min(int(coordinate * len(choices)), len(choices) - 1)]


def above_half(coordinate: float) -> float:
    """0 for the lower half of [0, 1], for which something is left out; then from 0 to 1."""
    return max(0.0, 2 * coordinate - 1)


def logarithmic(coordinate: float, low: float, high: float) -> float:
    """From low to high with equal ratios, to three significant digits."""
    return float(f"{low * (high / low) ** coordinate:.3g}")
