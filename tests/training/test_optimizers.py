"""The decoupled AdamW, against its formula worked by hand in Python's own floats."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_minimal.training.optimizers import AdamW


def by_hand(
    weight: float,
    gradients: list[float],
    learning_rates: list[float],
    weight_decay: float,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
) -> list[float]:
    """One weight after every step."""
    course, m, v = [], 0.0, 0.0
    for t, (g, learning_rate) in enumerate(zip(gradients, learning_rates, strict=True), start=1):
        weight -= weight_decay * weight
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        weight -= learning_rate * math.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (math.sqrt(v) + epsilon)
        course.append(weight)
    return course


def course(
    optimizer: keras.optimizers.Optimizer, weight: float, gradients: list[float], learning_rates: list[float]
) -> list[float]:
    """One weight after every step of an optimizer, in double precision but for the rates, which Keras has in single."""
    variable = keras.Variable(weight, dtype="float64")
    values = []
    for gradient, learning_rate in zip(gradients, learning_rates, strict=True):
        optimizer.learning_rate = learning_rate
        optimizer.apply([keras.ops.convert_to_tensor(gradient, dtype="float64")], [variable])
        values.append(float(variable.numpy()))
    return values


GRADIENTS = [1.0, 0.5, -2.0, 0.0, 1e-3, 1e-3, -1e-7, 3.0]
LEARNING_RATES = [float(np.float32(rate)) for rate in [0.01] * 4 + [0.001] * 4]


@pytest.mark.parametrize("weight_decay", [0.0, 1e-6, 1e-2, 0.5])
@pytest.mark.parametrize("weight", [1.5, -0.25])
def test_steps_are_those_worked_by_hand(weight: float, weight_decay: float) -> None:
    found = course(AdamW(0.01, weight_decay), weight, GRADIENTS, LEARNING_RATES)
    # Keras rounds its options to single precision: 1 - beta_2**t, about 0.001 t, is off by up to 3e-8, so its root by
    # 1.5e-5 / t of itself, and the steps t of 0.01 and 0.001 together by 3.3e-7; a decay of 0.5 is exact.
    np.testing.assert_allclose(found, by_hand(weight, GRADIENTS, LEARNING_RATES, weight_decay), rtol=0, atol=4e-7)


def test_first_step_is_the_decay_and_the_learning_rate() -> None:
    # After one step m / sqrt(v) with its corrections is the gradient's sign, so 2 - 0.1 * 2 - 0.01 is left.
    assert course(AdamW(0.01, 0.1, epsilon=1e-12), 2.0, [5.0], [0.01]) == pytest.approx([1.79], abs=2e-7)


def test_betas_and_epsilon_are_adams() -> None:
    found = course(AdamW(0.01, 1e-2, beta_1=0.8, beta_2=0.9, epsilon=1e-2), 1.5, GRADIENTS, LEARNING_RATES)
    expected = by_hand(1.5, GRADIENTS, LEARNING_RATES, 1e-2, beta_1=0.8, beta_2=0.9, epsilon=1e-2)
    # As above, of 1 - beta_2 = 0.1: each of the eight steps is off by up to 2e-9.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-8)


def test_decay_without_gradient_does_not_know_the_learning_rate() -> None:
    for learning_rate in (1e-2, 1e-8):
        found = course(AdamW(learning_rate, 0.25), 16.0, [0.0] * 3, [learning_rate] * 3)
        assert found == [12.0, 9.0, 6.75]  # exact in binary


def dense_model(weight_decay: float) -> keras.Model:
    """A compiled Dense layer with kernel and bias 1."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, bias_initializer="ones")])
    model.layers[0].kernel.assign(np.ones((3, 2), np.float32))
    model.compile(AdamW(0.01, weight_decay), loss="mse", jit_compile=False)
    return model


def test_biases_decay_too() -> None:
    model = dense_model(weight_decay=0.5)
    inputs, targets = np.zeros((4, 3), np.float32), np.ones((4, 2), np.float32)
    model.train_on_batch(inputs, targets)  # the outputs are right already, so every gradient is 0
    kernel, bias = model.get_weights()
    assert kernel == pytest.approx(0.5)
    assert bias == pytest.approx(0.5)


def test_configuration_goes_through_keras_and_comes_back() -> None:
    written = keras.saving.serialize_keras_object(AdamW(0.02, 1e-3, beta_1=0.8, epsilon=1e-5, name="adamw_of_a_test"))
    assert written["registered_name"] == "mnist_minimal>AdamW"
    read = keras.saving.deserialize_keras_object(written)
    assert type(read) is AdamW
    assert read.get_config() == written["config"]
    assert read.get_config()["weight_decay"] == 1e-3
    assert course(read, 1.5, [1.0], [0.02]) == course(AdamW(0.02, 1e-3, beta_1=0.8, epsilon=1e-5), 1.5, [1.0], [0.02])


def test_compiled_model_goes_on_from_a_file_with_the_same_bits(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    batches = generator.normal(size=(6, 4, 5)).astype(np.float32)  # 6 steps, 4 samples, 3 inputs and 2 targets each
    model = dense_model(weight_decay=0.1)
    for batch in batches[:3]:
        model.train_on_batch(batch[:, :3], batch[:, 3:])
    model.optimizer.learning_rate = 0.001
    model.save(tmp_path / "model.keras")

    read = keras.saving.load_model(tmp_path / "model.keras")
    for trained in (model, read):
        for batch in batches[3:]:
            trained.train_on_batch(batch[:, :3], batch[:, 3:])
    assert float(read.optimizer.learning_rate.numpy()) == pytest.approx(0.001)
    for value, expected in zip(read.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("weight_decay", [-1e-6, 1.0, 1.5, math.nan, math.inf])
def test_weight_decay_outside_its_range_is_refused(weight_decay: float) -> None:
    with pytest.raises(ValueError, match=r"weight_decay in \[0, 1\)"):
        AdamW(0.01, weight_decay)
