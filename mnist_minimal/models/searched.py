"""The networks of the search: a few numbers each, from which a Keras model is built, and the recipes found with them.

A candidate is data. The search writes it as JSON under a name that is made of its content, and every command takes it
as `search:NAME`, or as `search:FOLDER/NAME` with the folder of the search. Keras is imported only to build one.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from mnist_minimal import files
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import Recipe
from mnist_minimal.recipes.fields import Range, checked
from mnist_minimal.recipes.parts import Count, Part, Share

if TYPE_CHECKING:
    import keras

IMAGE, CLASSES = 28, 10

Padding: TypeAlias = Literal["same", "valid"]
Sharing: TypeAlias = Literal["none", "depthwise", "later depthwise", "block"]

# What the name of a candidate as a model begins with, and where its file is looked for; the folder in that of a search.
PREFIX = "search:"
CANDIDATES = "candidates"
FOLDERS = (f"runs/*/{CANDIDATES}", f"results/*/{CANDIDATES}")


def map_sizes(
    stem_size: int, stem_padding: Padding, block_size: int, block_padding: Padding, blocks: int, second_pool: int
) -> list[int]:
    """Rows of the images after the first pool, and after each block with its pool; below 1 where none are left."""
    size = (IMAGE if stem_padding == "same" else IMAGE - stem_size + 1) // 2
    found = [size]
    for block in range(1, blocks + 1):
        size -= block_size - 1 if block_padding == "valid" else 0
        size //= 2 if block == second_pool else 1
        found.append(size)
    return found


def kernels(sharing: Sharing, blocks: int) -> list[tuple[str, str]]:
    """The names of each block's depthwise and pointwise convolution; those of one name are one."""
    found = []
    for block in range(1, blocks + 1):
        one_depthwise = sharing == "depthwise" or (sharing != "none" and block > 1)
        one_pointwise = sharing == "block" and block > 1
        found.append(
            (
                "depthwise" if one_depthwise else f"depthwise{block}",
                "pointwise" if one_pointwise else f"pointwise{block}",
            )
        )
    return found


def parameters(stem_size: int, block_size: int, sharing: Sharing, channels: Sequence[int]) -> int:
    """Number of trainable parameters of a network with these channels after the first convolution and each block."""
    sizes: dict[str, int] = {}
    names = kernels(sharing, len(channels) - 1)
    for (depthwise, pointwise), before, after in zip(names, channels[:-1], channels[1:], strict=True):
        sizes |= {depthwise: block_size**2 * before, pointwise: (before + 1) * after}
    return (stem_size**2 + 1) * channels[0] + sum(sizes.values()) + (channels[-1] + 1) * CLASSES


@dataclass(frozen=True)
class SearchedNetwork(Part):
    """A convolution, a pool, separable convolutions, the global average and a dense layer.

    A separable convolution, a block, is a depthwise kernel without bias and a pointwise convolution with one. A
    LeakyReLU follows the first convolution and every block, then, after the pools, dropout, whose rate is the recipe's.

    Attributes:
        stem_channels: Channels of the first convolution.
        stem_size: Rows and columns of its kernel.
        stem_padding: Its padding.
        pool: What the pools of 2x2 take of their windows.
        channels: Channels after each block, at least one block.
        block_size: Rows and columns of the depthwise kernels.
        block_padding: Their padding.
        second_pool: After which block, counted from 1, there is a second pool; 0 where there is none.
        sharing: What the blocks share: "none"; "depthwise", all blocks one depthwise kernel; "later depthwise", all but
            the first one; "block", all but the first are one block that is applied again.
        slope: Of LeakyReLU.
    """

    stem_channels: Count
    stem_size: Annotated[int, Range(1, IMAGE)]
    stem_padding: Padding
    pool: Literal["max", "average"]
    channels: tuple[Count, ...]
    block_size: Annotated[int, Range(1, IMAGE)]
    block_padding: Padding
    second_pool: Annotated[int, Range(0)]
    sharing: Sharing
    slope: Share

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channels or self.second_pool > len(self.channels):
            raise UserError(
                f"expected at least one block and a second pool after one of them, found channels {self.channels} and "
                f"second_pool {self.second_pool}; change them"
            )
        if min(self.map_sizes()) < 1:
            raise UserError(
                f"expected kernels and pools that fit their images, found images of {self.map_sizes()} rows after the "
                "first pool and after each block; take fewer blocks, smaller kernels or the padding same"
            )
        equal = {
            "none": (),
            "depthwise": (self.stem_channels, *self.channels[:-1]),
            "later depthwise": self.channels[:-1],
            "block": self.channels,
        }[self.sharing]
        if len(set(equal)) > 1:
            raise UserError(
                f"expected equal channels where blocks share {self.sharing!r}, found {equal}; make them equal"
            )

    def map_sizes(self) -> list[int]:
        """Rows of the images after the first pool, and after each block with its pool; below 1 where none are left."""
        return map_sizes(
            self.stem_size, self.stem_padding, self.block_size, self.block_padding, len(self.channels), self.second_pool
        )

    def kernels(self) -> list[tuple[str, str]]:
        """The names of each block's depthwise and pointwise convolution; those of one name are one."""
        return kernels(self.sharing, len(self.channels))

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return parameters(self.stem_size, self.block_size, self.sharing, (self.stem_channels, *self.channels))

    def build(self) -> "keras.Model":
        """A built, uncompiled model from raw pixels, float32 (batch, 28, 28, 1) in [0, 255], to class probabilities.

        All kernels start Glorot-uniform, all biases at zero, as Keras' defaults are.
        """
        import keras
        from keras import layers

        from mnist_minimal.models.defaults import keras_defaults

        pooling = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[self.pool]

        def regularized(x: Any, position: int, pool: str = "") -> Any:
            x = layers.LeakyReLU(self.slope, name=f"leaky{position}")(x)
            x = pooling(2, name=pool)(x) if pool else x
            # The rate is set by the recipe; a layer that is made with a rate of 0 could not be switched on.
            return layers.Dropout(0.1, name=f"dropout{position}")(x)

        with keras_defaults():
            pixels = keras.Input((IMAGE, IMAGE, 1), name="pixels")
            x = layers.Rescaling(1 / 255, name="rescaling")(pixels)
            x = layers.Conv2D(self.stem_channels, self.stem_size, padding=self.stem_padding, name="conv1")(x)
            x = regularized(x, 1, "pool1")
            made: dict[str, Any] = {}
            for block, ((depthwise, pointwise), channels) in enumerate(
                zip(self.kernels(), self.channels, strict=True), start=1
            ):
                if depthwise not in made:
                    made[depthwise] = layers.DepthwiseConv2D(
                        self.block_size, padding=self.block_padding, use_bias=False, name=depthwise
                    )
                if pointwise not in made:
                    made[pointwise] = layers.Conv2D(channels, 1, name=pointwise)
                x = made[pointwise](made[depthwise](x))
                x = regularized(x, block + 1, "pool2" if block == self.second_pool else "")
            x = layers.GlobalAveragePooling2D(name="average")(x)
            probabilities = layers.Dense(CLASSES, activation="softmax", name="classes")(x)
            return keras.Model(pixels, probabilities, name=f"searched{self.parameters}")

    @property
    def text(self) -> str:
        """The network in a line, such as "conv 9 3x3 same, average pool, blocks 9 9 9 12 3x3 valid, one depthwise"."""
        shared = {
            "none": "",
            "depthwise": ", one depthwise kernel",
            "later depthwise": ", one depthwise kernel after the first block",
            "block": ", one block after the first",
        }[self.sharing]
        pool = f", second pool after block {self.second_pool}" if self.second_pool else ""
        return (
            f"conv {self.stem_channels} {self.stem_size}x{self.stem_size} {self.stem_padding}, {self.pool} pool, "
            f"blocks {' '.join(map(str, self.channels))} {self.block_size}x{self.block_size} {self.block_padding}"
            f"{shared}{pool}"
        )


@dataclass(frozen=True)
class Candidate(Part):
    """A network and how it is trained.

    Attributes:
        network: The network.
        recipe: The recipe.
    """

    network: SearchedNetwork
    recipe: Recipe

    @property
    def name(self) -> str:
        """A name that is made of the content, such as "c691_1f0c93ab": the parameters, and a short hash."""
        digest = hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()
        return f"c{self.network.parameters}_{digest[:8]}"

    def as_dict(self) -> dict[str, Any]:
        """The candidate as nested dictionaries and lists of JSON's types."""
        network = dataclasses.asdict(self.network)
        return {"network": network | {"channels": list(self.network.channels)}, "recipe": self.recipe.as_dict()}

    @classmethod
    def from_dict(cls, values: Any) -> "Candidate":
        """The candidate that `as_dict` gave.

        Raises:
            UserError: if it is none.
        """
        candidate: Candidate = checked(values, cls, "candidate")
        return candidate


def write(candidate: Candidate, folder: Path) -> Path:
    """Writes a candidate as JSON into a folder, under its name, and gives the file.

    Raises:
        UserError: if it can't be written.
    """
    path = folder / f"{candidate.name}.json"
    with files.output(path) as temporary:
        temporary.write_text(json.dumps(candidate.as_dict(), indent=1))
    return path


def read(model: str) -> Candidate:
    """A candidate that a search has written.

    Args:
        model: Its name as a model: `search:FOLDER/NAME` with the folder of its search, or `search:NAME`, which is
            looked for under FOLDERS in the working folder.

    Raises:
        UserError: if there is none of this name, or its file says something else than its name.
    """
    folder, slash, name = model.removeprefix(PREFIX).rpartition("/")
    if slash:
        folders = [f"{folder}/{CANDIDATES}"]
        found = [path for path in (Path(folders[0], f"{name}.json"),) if path.is_file()]
    else:
        folders = list(FOLDERS)
        found = sorted(path for each in folders for path in Path().glob(f"{each}/{name}.json"))
    if not found:
        raise UserError(
            f"{model}: expected a file {name}.json in {' or '.join(folders)}, found none; run the command in the "
            f"folder where the search ran, or give the folder of the search, as {PREFIX}FOLDER/{name}"
        )
    candidate = Candidate.from_dict(files.read_json(found[0]))
    if candidate.name != name:
        raise UserError(
            f"{found[0]}: expected the candidate {name}, found {candidate.name}, since the file was edited; give it "
            "that name"
        )
    return candidate


def model_name(candidate: Candidate, out: Path) -> str:
    """The name as a model, in the working folder, of a candidate of the search in a folder."""
    folder = Path(os.path.relpath(out))
    found_by_name = len(folder.parts) == 2 and folder.parts[0] in ("runs", "results")
    return f"{PREFIX}{candidate.name}" if found_by_name else f"{PREFIX}{out}/{candidate.name}"
