"""What the weights of pyramid3762's published run say of how it was trained.

    python -m experiments.pyramid_weights model_weights_99.52.pth --trials results/pyramid3762/*.h5 runs/*/0.h5

The file is mnist/weight/model_weights_99.52.pth of https://github.com/woolly-of-cv/pytorch-examples. It takes two
minutes and prints Markdown: how many test images the network is right on that is built here, with these weights; the
batches that went into the moving statistics; the largest bias in front of a batch normalisation; the sizes of the
weights beside those of trials, which the momentum makes; and the moving statistics beside those of the recipe's
augmentation and of others.

The last is the squared distance of the published moving means and variances from the mean over 400 training batches, in
units of the sd of a moving mean of such batches by Keras' momentum of .9, on average over a layer's channels: about 1
where the augmentation is as published, and about .1 if the momentum of the statistics was .99.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from experiments.tone_first import tone_first
from mnist_minimal.analysis.tables import markdown
from mnist_minimal.cli.options import add_arguments, expanded_path, from_arguments
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.data import sets
from mnist_minimal.data.augmentation import augment, draw_changes
from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES
from mnist_minimal.saving.saved_model import load
from mnist_minimal.training.evaluation import evaluate

BATCHES, BATCH_SIZE, MOMENTUM = 400, 32, 0.9
PLACES = [(stage, position) for stage in (1, 2, 3) for position in (1, 2, 3)]


STORAGES = {"FloatStorage": np.float32, "LongStorage": np.int64}


class TorchReader(pickle.Unpickler):
    """Reads the arrays that torch.save has written, and calls nothing that a file names."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        index = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        super().__init__(archive.open(index))
        self.archive, self.root = archive, index.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function of PyTorch."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        raise pickle.UnpicklingError(f"expected arrays, found {module}.{name}")

    def persistent_load(self, pid: tuple[Any, ...]) -> np.ndarray:
        """The numbers of a tensor, (n,)."""
        _, dtype, key, *_ = pid
        return np.frombuffer(self.archive.read(f"{self.root}data/{key}"), dtype)

    @staticmethod
    def tensor(numbers: np.ndarray, offset: int, size: tuple[int, ...], *_: Any) -> np.ndarray:
        """A tensor, whose numbers lie one after the other."""
        return numbers[offset : offset + int(np.prod(size))].reshape(size)


def published_model(arrays: dict[str, np.ndarray]) -> keras.Model:
    """pyramid3762 with the arrays that the source has saved, by PyTorch's names."""
    model = MODELS["pyramid3762"]()
    names: dict[str, tuple[str, ...]] = {"logits": ("flat.weight", "flat.bias")}
    for stage, position in PLACES:
        conv, norm = f"block{stage}.conv{position}", f"block{stage}.n{position}"
        names[f"conv{stage}_{position}"] = (f"{conv}.weight", f"{conv}.bias")
        names[f"norm{stage}_{position}"] = tuple(
            f"{norm}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")
        )
    for layer, parts in names.items():
        # PyTorch's kernels are (channels, inputs, height, width).
        weights = [arrays[part].transpose(2, 3, 1, 0) if arrays[part].ndim == 4 else arrays[part] for part in parts]
        model.get_layer(layer).set_weights(weights)
    return model


def sizes(model: keras.Model) -> list[str]:
    """The root mean squares of a model's kernels, and the mean size of the last batch normalisation's scales."""
    kernels = [layer.get_weights()[0] for layer in model.layers if isinstance(layer, layers.Conv2D)]
    scales = model.get_layer("norm3_3").get_weights()[0]
    return [*(f"{np.sqrt(np.mean(kernel**2)):.2f}" for kernel in kernels), f"{np.abs(scales).mean():.2f}"]


def distances(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The squared distances of a model's moving statistics from those of batches, (layers, 2): means, variances.

    Args:
        model: The model.
        images: BATCHES times BATCH_SIZE training images, float32, augmented.
    """
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    before = keras.Model(model.input, [layer.input for layer in norms])
    compute = tf.function(lambda batch: before(batch, training=True))
    # Computing them moves the moving statistics.
    weights = model.get_weights()
    found: list[list[np.ndarray]] = [[] for _ in norms]
    for batch in images.reshape(BATCHES, BATCH_SIZE, *images.shape[1:]):
        for rows, values in zip(found, compute(batch), strict=True):
            channels = values.numpy().reshape(-1, values.shape[-1])
            # PyTorch's moving variance is that with n - 1 in the denominator.
            rows.append(np.stack([channels.mean(axis=0), channels.var(axis=0, ddof=1)]))
    model.set_weights(weights)
    # Of independent batches the moving mean has this share of their variance.
    share = (1 - MOMENTUM) / (1 + MOMENTUM) + 1 / BATCHES
    rows = []
    for layer, batches in zip(norms, map(np.stack, found), strict=True):
        moving = np.stack(layer.get_weights()[2:])
        rows.append(((moving - batches.mean(axis=0)) ** 2 / (share * batches.var(axis=0, ddof=1))).mean(axis=1))
    return np.stack(rows)


def statistics_table(model: keras.Model, images: np.ndarray) -> str:
    """The distances by augmentation, as Markdown.

    Args:
        model: The published model.
        images: uint8 (n, 28, 28, 1), n at least BATCHES times BATCH_SIZE.
    """
    recipe = RECIPES["pyramid3762"].augmentation
    assert recipe
    ways = {
        "the recipe": (recipe, augment),
        "black outside": (replace(recipe, fill=0.0), augment),
        "tone before geometry": (recipe, tone_first),
        "nearest pixel": (replace(recipe, interpolation="nearest"), augment),
        "no tone": (replace(recipe, tone_share=0.0), augment),
        "no geometry": (replace(recipe, affine_share=0.0), augment),
        "tone in every image": (replace(recipe, tone_share=1.0), augment),
        "geometry in every image": (replace(recipe, affine_share=1.0), augment),
    }
    chosen = images[np.random.default_rng(0).permutation(len(images))[: BATCHES * BATCH_SIZE]]
    table = [["augmentation", "first layer: mean", "variance", "all layers: mean", "variance"]]
    for name, (augmentation, change) in ways.items():
        found = distances(model, change(chosen, draw_changes(augmentation, 0, 0, chosen), augmentation))
        table.append([name, *(f"{value:.1f}" for value in (*found[0], *found.mean(axis=0)))])
    return markdown(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what the weights say."""
    parser = command_parser(__doc__)
    parser.add_argument("weights", type=expanded_path, metavar="FILE.pth")
    parser.add_argument(
        "--trials", nargs="*", type=expanded_path, default=[], metavar="FILE.h5", help="trials beside it"
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    dataset = sets.load(from_arguments(options))
    with zipfile.ZipFile(options.weights) as archive:
        arrays = TorchReader(archive).load()
    model = published_model(arrays)
    found = evaluate(model, dataset.x_test, dataset.y_test)
    print(f"{found.correct} of {found.size} test images are right, the loss is {found.loss:.6f}.")
    batches = {int(array) for name, array in arrays.items() if name.endswith("num_batches_tracked")}
    bias = max(np.abs(arrays[f"block{stage}.conv{position}.bias"]).max() for stage, position in PLACES)
    print(f"Batches in the moving statistics: {batches}. The largest bias before a batch normalisation: {bias:.1g}.\n")
    head = ["root mean square of", *(layer.name for layer in model.layers if isinstance(layer, layers.Conv2D))]
    beside = [[str(path), *sizes(load(path))] for path in options.trials]
    print(markdown([[*head, "scales of norm3_3"], ["published", *sizes(model)], *beside]))
    print(f"\n{statistics_table(model, dataset.x_train)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
