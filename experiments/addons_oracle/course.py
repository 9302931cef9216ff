"""The course of sep997's training with TensorFlow Addons' AdamW, as `oracle.py` recorded it, and with our trainers.

`oracle.py` wrote `recorded.npz` in an environment of its own, from `input.npz`. Every trainer here starts from the same
file and has to come to the same arrays.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from experiments.oracles import in_double, without_dropout
from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES, parts
from mnist_minimal.training import core
from mnist_minimal.training.chain import Chain
from mnist_minimal.training.keras_fit import compile_model

Arrays = dict[str, np.ndarray]

FOLDER = Path(__file__).parent


@cache
def arrays(path: Path) -> Arrays:
    """The arrays of one file."""
    with np.load(path) as file:
        return dict(file)


GIVEN = arrays(FOLDER / "input.npz")
WEIGHT_DECAYS = GIVEN["weight_decays"].tolist()
STEPS = [f"step {step}" for step in GIVEN["saved_steps"]]


def recorded_course(weight_decay: float, path: Path = FOLDER / "recorded.npz") -> Arrays:
    """What the oracle wrote for one weight decay, in the form that `TRAINERS` gives."""
    recorded, prefix = arrays(path), f"decay {weight_decay:g}/"
    always = {name: value for name, value in recorded.items() if not name.startswith("decay")}
    return always | {name.removeprefix(prefix): value for name, value in recorded.items() if name.startswith(prefix)}


def given_model(weight_decay: float, double: bool) -> keras.Model:
    """sep997 with the given weights, without dropout, compiled with the optimizer under test."""
    recipe = replace(RECIPES["sep997"], optimizer=parts.AdamW(0.01, weight_decay))
    model = without_dropout(MODELS["sep997"]())
    model.set_weights([GIVEN[f"weights/{weight.path}"] for weight in model.weights])
    model = in_double(model) if double else model
    compile_model(model, recipe)
    return model


def keras_course(weight_decay: float) -> Arrays:
    """`probabilities` before training, `gradients/NAME`, `losses` and `step N/NAME` of this project's Keras trainer.

    In double precision, so that no processor's rounding is in it: what differs is the oracle's own rounding.
    """
    model = given_model(weight_decay, double=True)
    images, labels = GIVEN["images"].astype(np.float64), GIVEN["labels"]
    course = {"probabilities": model.predict_on_batch(images)}

    @tf.function
    def gradients(images: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(images, labels, model(images, training=True))
        return tape.gradient(loss, [weight.value for weight in model.trainable_weights])

    first = GIVEN["batches"][0]
    for weight, gradient in zip(model.trainable_weights, gradients(images[first], labels[first]), strict=True):
        course[f"gradients/{weight.path}"] = gradient.numpy()

    losses = []
    for step, (batch, learning_rate) in enumerate(zip(GIVEN["batches"], GIVEN["learning_rates"], strict=True), start=1):
        model.optimizer.learning_rate = learning_rate
        model.reset_metrics()  # or the loss would be the mean of all steps so far
        loss, _ = model.train_on_batch(images[batch], labels[batch])
        losses.append(loss)
        if f"step {step}" in STEPS:
            course |= {f"step {step}/{weight.path}": weight.numpy() for weight in model.weights}
    return course | {"losses": np.array(losses, np.float32)}


def native_course(weight_decay: float) -> Arrays:
    """The same of the C++ core."""
    model = given_model(weight_decay, double=False)
    chain = Chain(model, model.optimizer)
    images, labels, batches = GIVEN["images"], GIVEN["labels"].astype(np.uint8), GIVEN["batches"].astype(np.int64)
    course = {"probabilities": chain.network.predict(images)}
    chain.network.compute_gradients(images, labels, batches[0])
    course |= {f"gradients/{path}": gradient for path, gradient in chain.gradients().items()}

    losses = []
    for step, (batch, learning_rate) in enumerate(zip(batches, GIVEN["learning_rates"], strict=True), start=1):
        loss, _, _ = chain.network.train(
            images, labels, batch, batch_size=len(batch), seed=0, epoch=0, learning_rates=float(learning_rate)
        )
        losses.append(loss / len(batch))
        if f"step {step}" in STEPS:
            chain.to_keras()
            course |= {f"step {step}/{weight.path}": weight.numpy() for weight in model.weights}
    return course | {"losses": np.array(losses, np.float32)}


TRAINERS: dict[str, Callable[[float], Arrays]] = {"keras": keras_course}
if core.available():
    TRAINERS["native"] = native_course


@cache
def found_course(trainer: str, weight_decay: float) -> Arrays:
    """What one trainer does, done once."""
    return TRAINERS[trainer](weight_decay)


# How far any number of an array may be off. Gradients are measured against the largest of their array; the others are
# probabilities, losses and weights of the order of 1. Each step starts from the errors of all before it, and where a
# gradient is near 0, Adam's m / sqrt(v) divides its error by something as small: so the bounds widen with the steps.
# All of that error is the oracle's, which computed in single precision and is recorded: Keras is in double here, and
# the core has the same bits everywhere. The largest differences are 8e-8, 2e-6, 6e-6, 2e-7, 3e-6, 3e-6 and 3e-6 with
# Keras, and 7e-8, 2e-6, 6e-7 and 4e-7 of any weight with the core, which rounds beta_2 as the oracle does. The recipe's
# decay of 1e-6 takes 4e-5 from a weight of 1 in 40 steps, so it is still seen.
TOLERANCES = {
    "probabilities": 1e-6,
    "gradients": 1e-5,
    "losses": 3e-5,
    "step 1": 1e-6,
    "step 5": 1e-5,
    "step 20": 2e-5,
    "step 40": 2e-5,
}
