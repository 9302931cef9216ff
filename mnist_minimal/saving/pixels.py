"""How the author of a model scaled the pixels outside of it, found by the log loss, and put in front of the model.

A file says what a network computes and not what it was fed: most people divide by 255 before. The accuracy can't tell,
since many networks get most digits right at a wrong scale too; the log loss can.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.saving.identify import all_layers, by_computation, published
from mnist_minimal.saving.saved_model import LOGITS, SIGMOIDS, LoadedModel
from mnist_minimal.saving.translation import LayerSpec, translate
from mnist_minimal.saving.wiring import OPERATIONS, trace
from mnist_minimal.training.conventions import CONVENTIONS, NATS, SHARE
from mnist_minimal.training.evaluation import evaluate
from mnist_minimal.training.seeding import seeded

Shape = tuple[int, int, int]
MNIST_SHAPE = (28, 28, 1)

USUAL = "1"

# Their loss is often a little below that of USUAL by chance; they are taken only where nothing else gives digits.
LAST_RESORTS = ("binary", "transposed")

# Below this accuracy at every convention a model is none of MNIST's ten classes: 9 of 109 public files. Of images of
# another size or other classes it is not known what is much: a model is none of them that has not this many times the
# accuracy of chance.
LEAST_ACCURACY, TIMES_CHANCE = 0.85, 1.5

IMAGES = 1000


@dataclass(frozen=True)
class Measured:
    """What a model makes of some images at one convention.

    Attributes:
        pixels: The convention's name.
        accuracy: The share of images it gets right.
        loss: Its mean log loss in nats.
        turned: Whether it is the model with the kernels turned.
    """

    pixels: str
    accuracy: float
    loss: float
    turned: bool = False

    def __str__(self) -> str:
        turned = ", kernels turned by 180 degrees" if self.turned else ""
        return f"{CONVENTIONS[self.pixels].words}{turned} (accuracy {self.accuracy:.4f}, log loss {self.loss:.4f})"


@dataclass(frozen=True)
class Decision:
    """The convention that a model is taken to be made for.

    Attributes:
        taken: It, with its figures.
        next_best: The one of the least loss of all others.
        images: Number of images that decided.
        model: From pixels 0 .. 255, (height, width, channels), to class probabilities; see `adapt`.
    """

    taken: Measured
    next_best: Measured
    images: int
    model: keras.Model

    def __str__(self) -> str:
        return f"{self.taken} on {self.images:,} training images; next best: {self.next_best}"


def decide(loaded: LoadedModel, images: np.ndarray, labels: np.ndarray) -> Decision:
    """Tries every convention and takes the one that the model was trained with.

    It is to divide by 255 unless another gives a loss below `conventions.SHARE` of that one's, by `conventions.NATS` or
    more, at no lower accuracy.

    Args:
        loaded: The model.
        images: uint8 (n, height, width, channels), of which the first IMAGES are used: of the training set, never of
            the test set.
        labels: Integers (n,), classes counted from 0.

    Raises:
        UserError: if the model's input is no such image or its output not their classes; if it gets fewer right at
            every convention than `least_accuracy`, so that no figure of it is that of a classifier of these images.
    """
    shape: Shape = images.shape[1:]
    classes = 1 + int(labels.max())
    least = least_accuracy(shape, classes)
    images, labels = images[:IMAGES], labels[:IMAGES]
    measured = []
    for turned, model in ((False, loaded.model), (True, loaded.turned)):
        if model is None:
            continue
        core = _from_scaled(model, loaded.outputs, shape)
        if core.output_shape[-1] < classes:
            raise UserError(f"found a model of {core.output_shape[-1]} classes; expected one of at least {classes}")
        for name, convention in CONVENTIONS.items():
            if name == "transposed" and shape[0] != shape[1]:
                continue
            scaled: Any = images.astype(np.float32)
            for layer in convention.layers():
                scaled = layer(scaled)
            found = evaluate(core, keras.ops.convert_to_numpy(scaled), labels)
            measured.append(Measured(name, found.accuracy, found.loss, turned))
    taken = choose(measured, least)
    next_best = min((other for other in measured if other is not taken), key=lambda other: other.loss)
    if taken.accuracy < least:
        best = max(measured, key=lambda other: other.accuracy)
        raise UserError(
            f"found a model that gets {best.accuracy:.4f} of {len(labels):,} training images right at best, "
            f"with {best}; expected {least:g} or more of a classifier of these images: it is for other classes, "
            "another set or untrained"
        )
    return Decision(taken, next_best, len(labels), adapt(loaded, taken.pixels, taken.turned, shape))


def least_accuracy(shape: Shape, classes: int) -> float:
    """Below which accuracy a model is none of the classes of such images."""
    if (shape, classes) == (MNIST_SHAPE, 10):
        return LEAST_ACCURACY
    return TIMES_CHANCE / classes


def classifier(
    loaded: LoadedModel, images: np.ndarray, labels: np.ndarray, convention: str | None = None
) -> tuple[keras.Model, Decision | None]:
    """The model from raw pixels to class probabilities, whatever its author's convention.

    Args:
        loaded: The model.
        images: As of `decide`; only their size is looked at where the convention is given or known.
        labels: As of `decide`.
        convention: One of CONVENTIONS, or None to find it.

    Returns:
        The model, and how the convention was decided, which the user must be told, or None.

    Raises:
        UserError: as `decide` and `adapt`.
    """
    if convention is not None:
        return adapt(loaded, convention, shape=images.shape[1:]), None
    if loaded.raw_pixels:
        return adapt(loaded, "255", shape=images.shape[1:]), None
    decision = decide(loaded, images, labels)
    return decision.model, decision


def choose(measured: list[Measured], least: float = LEAST_ACCURACY) -> Measured:
    """The convention to take, of the figures of all."""
    usual = min((one for one in measured if one.pixels == USUAL), key=lambda one: one.loss)
    better = [
        one
        for one in measured
        if one.pixels not in (USUAL, *LAST_RESORTS)
        and one.loss < SHARE * usual.loss
        and one.loss <= usual.loss - NATS
        and one.accuracy >= usual.accuracy
    ]
    taken = min(better, key=lambda one: one.loss) if better else usual
    if taken.accuracy >= least:
        return taken
    return max([taken, *(one for one in measured if one.accuracy >= least)], key=lambda one: one.accuracy)


def adapt(loaded: LoadedModel, pixels: str, turned: bool = False, shape: Shape = MNIST_SHAPE) -> keras.Model:
    """A model from raw pixels to class probabilities, in one chain with the layers of the file.

    Args:
        loaded: The model; one that is known to take raw pixels and give probabilities is returned as it is.
        pixels: What its author did to the pixels, one of CONVENTIONS.
        turned: Whether to take the one with the kernels turned.
        shape: (height, width, channels) of an image.

    Returns:
        Built, from (batch, height, width, channels) in 0 .. 255 to (batch, classes): the convention, a change of shape,
        the file's layers, and a softmax of logits, or a division of sigmoids by their sum. Where that is a published
        model, that one.

    Raises:
        UserError: if the model's input is no such image or its output no classes.
    """
    model = loaded.turned if turned and loaded.turned is not None else loaded.model
    as_it_is = loaded.raw_pixels and pixels == "255" and loaded.outputs not in (LOGITS, SIGMOIDS)
    if as_it_is and tuple(model.input_shape[1:]) == shape:
        return model
    raw = keras.Input(shape, dtype="float32", name="raw_pixels")
    scaled = raw
    for layer in CONVENTIONS[pixels].layers():
        # A name that Keras gives may be that of a layer of the file.
        layer.name = f"pixels_{layer.name}"
        scaled = layer(scaled)
    adapted = keras.Model(raw, _probabilities(_applied(model, _shaped(scaled, model)), loaded.outputs), name=model.name)
    return _published(adapted) if shape == MNIST_SHAPE else adapted


def _from_scaled(model: keras.Model, outputs: str, shape: Shape) -> keras.Model:
    """A model from images that are scaled as it wants them to class probabilities."""
    scaled = keras.Input(shape, dtype="float32")
    return keras.Model(scaled, _probabilities(model(_shaped(scaled, model)), outputs))


def _shaped(image: Any, model: keras.Model) -> Any:
    """An image in the shape of a model's input; several channels of a model are the one of an image so many times."""
    shape, output = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
    height, width, channels = given = tuple(image.shape[1:])
    if len(output) != 1 or output[0] < 2:
        raise UserError(f"found a model with the output {output}; expected probabilities of two classes or more")
    if shape == given:
        return image
    if shape == (channels, height, width) and channels > 1:
        return layers.Permute((3, 1, 2), name="pixels_permute")(image)
    if shape == (math.prod(given),):
        return layers.Flatten(name="pixels_flatten")(image)
    if None not in shape and math.prod(shape) == math.prod(given):
        return layers.Reshape(shape, name="pixels_reshape")(image)
    if len(shape) == 3 and shape[:2] == (height, width) and channels == 1:
        return layers.Concatenate()([image] * shape[2])
    if len(shape) == 3 and shape[1:] == (height, width) and channels == 1:
        return layers.Permute((3, 1, 2))(layers.Concatenate()([image] * shape[0]))
    raise UserError(
        f"found a model with the input {shape}; expected one for images of {height} by {width} pixels"
        f"{f' and {channels} channels' if channels > 1 else ''}"
    )


def _probabilities(result: Any, outputs: str) -> Any:
    """A model's outputs as probabilities that sum to 1."""
    if outputs == LOGITS:
        return layers.Softmax(name="probabilities_softmax")(result)
    if outputs == SIGMOIDS:
        total = keras.ops.sum(result, axis=-1, keepdims=True)
        return keras.ops.divide(result, keras.ops.maximum(total, keras.config.epsilon()))
    return result


def _applied(model: keras.Model, tensor: Any) -> Any:
    """What a model makes of a tensor, layer by layer, so that what is made of it is no model in a model."""

    def by(owner: keras.Model) -> Callable[[LayerSpec, list[Any]], Any]:
        def apply(spec: LayerSpec, arguments: list[Any]) -> Any:
            if spec.kind == "operation":
                return OPERATIONS[spec.settings["operation"]](*arguments)
            layer = owner.get_layer(spec.name)
            return layer(*arguments) if spec.net is None else trace(spec.net, arguments[0], by(layer))

        return apply

    return trace(translate(json.loads(model.to_json()), 3), tensor, by(model))


def _published(model: keras.Model) -> keras.Model:
    """The published model that computes the same, with the same weights; or the model."""
    net = translate(json.loads(model.to_json()), 3)
    with seeded(0):
        try:
            name, places = by_computation(net, published(model.count_params()), may_add=False)
        except UserError:
            return model
        known = MODELS[name]()
    for own, place in places.items():
        all_layers(known)[place].set_weights(model.get_layer(own).get_weights())
    return known
