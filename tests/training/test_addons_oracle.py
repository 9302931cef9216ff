"""Training, step by step, against what the source's own libraries did: TensorFlow 2.15 with TensorFlow Addons' AdamW.

`experiments/addons_oracle/oracle.py` wrote `recorded.npz` in an environment of its own, from `input.npz`. Every trainer
here starts from the same file and has to come to the same arrays.
"""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES, parts
from mnist_minimal.training import core
from mnist_minimal.training.chain import Chain
from mnist_minimal.training.keras_fit import compile_model
from mnist_minimal.training.optimizers import AdamW
from tests.conftest import REPOSITORY

Arrays = dict[str, np.ndarray]

EXPERIMENT = REPOSITORY / "experiments" / "addons_oracle"
ORACLE_PYTHON = "MNIST_MINIMAL_ORACLE_PYTHON"


@cache
def arrays(path: Path) -> Arrays:
    """The arrays of one file."""
    with np.load(path) as file:
        return dict(file)


GIVEN = arrays(EXPERIMENT / "input.npz")
WEIGHT_DECAYS = GIVEN["weight_decays"].tolist()
STEPS = [f"step {step}" for step in GIVEN["saved_steps"]]


def recorded_course(weight_decay: float, path: Path = EXPERIMENT / "recorded.npz") -> Arrays:
    """What the oracle wrote for one weight decay, in the form that `TRAINERS` gives."""
    recorded, prefix = arrays(path), f"decay {weight_decay:g}/"
    always = {name: value for name, value in recorded.items() if not name.startswith("decay")}
    return always | {name.removeprefix(prefix): value for name, value in recorded.items() if name.startswith(prefix)}


def without_dropout(layer: keras.Layer) -> keras.Layer:
    """A new layer of the same configuration, whose rate is 0 if it is a Dropout layer."""
    rate = {"rate": 0} if isinstance(layer, keras.layers.Dropout) else {}
    return type(layer).from_config({**layer.get_config(), **rate})


def given_model(weight_decay: float) -> keras.Model:
    """sep997 with the given weights, without dropout, compiled with the optimizer under test."""
    recipe = replace(RECIPES["sep997"], optimizer=parts.AdamW(0.01, weight_decay))
    model = keras.models.clone_model(MODELS["sep997"](), clone_function=without_dropout)
    model.set_weights([GIVEN[f"weights/{weight.path}"] for weight in model.weights])
    compile_model(model, recipe)
    return model


def keras_course(weight_decay: float) -> Arrays:
    """`probabilities` before training, `gradients/NAME`, `losses` and `step N/NAME` of this project's Keras trainer."""
    model = given_model(weight_decay)
    images, labels = GIVEN["images"].astype(np.float32), GIVEN["labels"]
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
    model = given_model(weight_decay)
    chain = Chain(model, model.optimizer)
    images, labels, batches = GIVEN["images"], GIVEN["labels"].astype(np.uint8), GIVEN["batches"].astype(np.int64)
    course = {"probabilities": chain.network.predict(images)}
    chain.network.compute_gradients(images, labels, batches[0])
    course |= {f"gradients/{path}": gradient for path, gradient in chain.gradients().items()}

    losses = []
    for step, (batch, learning_rate) in enumerate(zip(batches, GIVEN["learning_rates"], strict=True), start=1):
        loss, _, _ = chain.network.train(
            images, labels, batch, batch_size=len(batch), seed=0, epoch=0, learning_rate=float(learning_rate)
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
# Between Keras 3.15 on TensorFlow 2.21 and the oracle, on one CPU, the largest differences were 3e-8, 0, 6e-6, 1.2e-7,
# 2.7e-6, 2.6e-6 and 2.4e-6, in the order below. With TensorFlow's other convolutions (TF_ENABLE_ONEDNN_OPTS=1) the
# first two were 8e-8 and 2.3e-6 and the rest the same. The recipe's decay of 1e-6 takes 4e-5 from a weight of 1 in 40
# steps, so it is still seen.
TOLERANCES = {
    "probabilities": 1e-6,
    "gradients": 1e-5,
    "losses": 3e-5,
    "step 1": 1e-6,
    "step 5": 1e-5,
    "step 20": 2e-5,
    "step 40": 2e-5,
}


def assert_agree(found: Arrays, expected: Arrays, part: str) -> None:
    """Compares the arrays of one part of two courses: those whose names are, or start with, one of TOLERANCES."""
    names = {name for name in expected if name.split("/")[0] == part}
    assert names
    assert names == {name for name in found if name.split("/")[0] == part}
    for name in sorted(names):
        scale = np.abs(expected[name]).max() if part == "gradients" else 1
        np.testing.assert_allclose(
            found[name], expected[name], rtol=0, atol=TOLERANCES[part] * scale, strict=True, err_msg=name
        )


@pytest.mark.parametrize("part", TOLERANCES)
@pytest.mark.parametrize("weight_decay", WEIGHT_DECAYS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_trainer_does_what_the_source_did(trainer: str, weight_decay: float, part: str) -> None:
    assert_agree(found_course(trainer, weight_decay), recorded_course(weight_decay), part)


def test_decay_of_the_recipe_is_seen() -> None:
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_agree(keras_course(weight_decay=0), recorded_course(1e-6), "step 40")


def optimizer_course(optimizer: keras.optimizers.Optimizer) -> np.ndarray:
    """The small problem's weights after every step, float32 (steps, weights)."""
    weights = keras.Variable(GIVEN["small/weights"])
    course = []
    for gradients, learning_rate in zip(GIVEN["small/gradients"], GIVEN["small/learning_rates"], strict=True):
        optimizer.learning_rate = learning_rate
        optimizer.apply([keras.ops.convert_to_tensor(gradients)], [weights])
        course.append(weights.numpy())
    return np.array(course)


def assert_small_agree(found: np.ndarray, expected: np.ndarray) -> None:
    """Compares weights of the small problem, which differed by no more than 1.0e-6 (Keras 3.15, TensorFlow 2.21)."""
    # float32 knows 1 - beta_2**t, about 0.001 t, to 6e-8. Its root is in the step of 0.01, so step t may be off by
    # 3e-7 / t, and 30 steps by 1e-6: that is where two right implementations differ.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6, strict=True)


@pytest.mark.parametrize("weight_decay", WEIGHT_DECAYS)
def test_optimizer_alone_does_what_the_source_did(weight_decay: float) -> None:
    assert_small_agree(optimizer_course(AdamW(0.01, weight_decay)), recorded_course(weight_decay)["small"])


@pytest.mark.parametrize("weight_decay", WEIGHT_DECAYS)
def test_adamw_of_keras_agrees_only_until_the_learning_rate_falls(weight_decay: float) -> None:
    expected = recorded_course(weight_decay)["small"]
    plateau = int(np.argmin(GIVEN["small/learning_rates"]))  # the first step with the lower rate
    for given_decay in (weight_decay, weight_decay / 0.01):  # Keras multiplies it by the learning rate, 0.01 at first
        found = optimizer_course(keras.optimizers.AdamW(0.01, weight_decay=given_decay))
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_small_agree(found, expected)
    assert_small_agree(found[:plateau], expected[:plateau])


@pytest.mark.slow
def test_oracle_still_says_what_was_recorded(tmp_path: Path) -> None:
    python = os.environ.get(ORACLE_PYTHON)
    if not python:
        pytest.skip(f"{ORACLE_PYTHON} names no interpreter of the environment in addons_oracle/requirements.txt")
    again = tmp_path / "recorded.npz"
    subprocess.run([python, EXPERIMENT / "oracle.py", "--record", again], check=True)
    for weight_decay in WEIGHT_DECAYS:
        found, expected = recorded_course(weight_decay, again), recorded_course(weight_decay)
        assert found.keys() == expected.keys()
        for part in TOLERANCES:
            assert_agree(found, expected, part)
        assert_small_agree(found["small"], expected["small"])
