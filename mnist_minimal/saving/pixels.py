"""How the author of a model scaled the pixels outside of it, found by the log loss, and put in front of the model.

A file says what a network computes and not what it was fed: most people divide by 255 before. The accuracy can't tell,
since many networks get most digits right at a wrong scale too; the log loss can.
"""

import json
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
from mnist_minimal.training.evaluation import CLASSES, evaluate
from mnist_minimal.training.seeding import seeded

USUAL = "1"

# Their loss is often a little below that of USUAL by chance; they are taken only where nothing else gives digits.
LAST_RESORTS = ("binary", "transposed")

# Below this accuracy at every convention a model is none of these digits: 9 of 109 public files.
LEAST_ACCURACY = 0.85

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
        model: From pixels 0 .. 255, (28, 28, 1), to class probabilities; see `adapt`.
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
        images: uint8 (n, 28, 28, 1), of which the first IMAGES are used: of the training set, never of the test set.
        labels: Integers (n,) in 0 .. 9.

    Raises:
        UserError: if the model's input is no image of 28 by 28 or its output no ten classes; if it gets less than
            LEAST_ACCURACY right at every convention, so that no figure of it is that of a classifier of digits.
    """
    images, labels = images[:IMAGES], labels[:IMAGES]
    measured = []
    for turned, model in ((False, loaded.model), (True, loaded.turned)):
        if model is None:
            continue
        core = _from_scaled(model, loaded.outputs)
        for name, convention in CONVENTIONS.items():
            scaled: Any = images.astype(np.float32)
            for layer in convention.layers():
                scaled = layer(scaled)
            found = evaluate(core, keras.ops.convert_to_numpy(scaled), labels)
            measured.append(Measured(name, found.accuracy, found.loss, turned))
    taken = choose(measured)
    next_best = min((other for other in measured if other is not taken), key=lambda other: other.loss)
    if taken.accuracy < LEAST_ACCURACY:
        best = max(measured, key=lambda other: other.accuracy)
        raise UserError(
            f"found a model that gets {best.accuracy:.4f} of {len(labels):,} training images right at best, "
            f"with {best}; expected {LEAST_ACCURACY} or more of a classifier of these digits: it is for other classes, "
            "another set or untrained"
        )
    return Decision(taken, next_best, len(labels), adapt(loaded, taken.pixels, taken.turned))


def classifier(
    loaded: LoadedModel, images: np.ndarray, labels: np.ndarray, convention: str | None = None
) -> tuple[keras.Model, Decision | None]:
    """The model from raw pixels to class probabilities, whatever its author's convention.

    Args:
        loaded: The model.
        images: As of `decide`; looked at only where the convention is neither given nor known.
        labels: Likewise.
        convention: One of CONVENTIONS, or None to find it.

    Returns:
        The model, and how the convention was decided, which the user must be told, or None.

    Raises:
        UserError: as `decide` and `adapt`.
    """
    if convention is not None:
        return adapt(loaded, convention), None
    if loaded.raw_pixels:
        return adapt(loaded, "255"), None
    decision = decide(loaded, images, labels)
    return decision.model, decision


def choose(measured: list[Measured]) -> Measured:
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
    if taken.accuracy >= LEAST_ACCURACY:
        return taken
    return max([taken, *(one for one in measured if one.accuracy >= LEAST_ACCURACY)], key=lambda one: one.accuracy)


def adapt(loaded: LoadedModel, pixels: str, turned: bool = False) -> keras.Model:
    """A model from raw pixels to class probabilities, in one chain with the layers of the file.

    Args:
        loaded: The model; one that is known to take raw pixels and give probabilities is returned as it is.
        pixels: What its author did to the pixels, one of CONVENTIONS.
        turned: Whether to take the one with the kernels turned.

    Returns:
        Built, from (batch, 28, 28, 1) in 0 .. 255 to (batch, 10): the convention, a change of shape, the file's layers,
        and a softmax of logits, or a division of sigmoids by their sum. Where that is a published model, that one.

    Raises:
        UserError: if the model's input is no image of 28 by 28 or its output no ten classes.
    """
    model = loaded.turned if turned and loaded.turned is not None else loaded.model
    if loaded.raw_pixels and pixels == "255" and loaded.outputs not in (LOGITS, SIGMOIDS):
        return model
    raw = keras.Input((28, 28, 1), dtype="float32", name="raw_pixels")
    scaled = raw
    for layer in CONVENTIONS[pixels].layers():
        scaled = layer(scaled)
    adapted = keras.Model(raw, _probabilities(_applied(model, _shaped(scaled, model)), loaded.outputs), name=model.name)
    return _published(adapted)


def _from_scaled(model: keras.Model, outputs: str) -> keras.Model:
    """A model from images (28, 28, 1) that are scaled as it wants them to class probabilities."""
    scaled = keras.Input((28, 28, 1), dtype="float32")
    return keras.Model(scaled, _probabilities(model(_shaped(scaled, model)), outputs))


def _shaped(image: Any, model: keras.Model) -> Any:
    """An image (28, 28, 1) in the shape of a model's input; several channels are the image so many times."""
    shape, output = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
    if output != (CLASSES,):
        raise UserError(f"found a model with the output {output}; expected probabilities of {CLASSES} classes")
    if shape == (28, 28, 1):
        return image
    if shape == (28 * 28,):
        return layers.Flatten()(image)
    if np.prod(shape) == 28 * 28:
        return layers.Reshape(shape)(image)
    if len(shape) == 3 and shape[:2] == (28, 28):
        return layers.Concatenate()([image] * shape[2])
    if len(shape) == 3 and shape[1:] == (28, 28):
        return layers.Permute((3, 1, 2))(layers.Concatenate()([image] * shape[0]))
    raise UserError(f"found a model with the input {shape}; expected one for images of 28 by 28 pixels")


def _probabilities(result: Any, outputs: str) -> Any:
    """A model's outputs as probabilities that sum to 1."""
    if outputs == LOGITS:
        return layers.Softmax()(result)
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
