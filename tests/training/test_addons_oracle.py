"""Training, step by step, against what the source's libraries did: TensorFlow 2.15 with TensorFlow Addons' AdamW."""

import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from experiments.addons_oracle.course import (
    GIVEN,
    TOLERANCES,
    TRAINERS,
    WEIGHT_DECAYS,
    Arrays,
    found_course,
    keras_course,
    recorded_course,
)
from mnist_minimal.training.optimizers import AdamW
from tests.conftest import REPOSITORY

ORACLE_PYTHON = "MNIST_MINIMAL_ORACLE_PYTHON"


def assert_agree(found: Arrays, expected: Arrays, part: str, oracles: int = 1) -> None:
    """Compares the arrays of one part of two courses: those whose names are, or start with, one of TOLERANCES.

    Args:
        found: One course.
        expected: The other.
        part: The part's name.
        oracles: How many of the two the oracle computed: each by its own processor, with errors of its own.
    """
    names = {name for name in expected if name.split("/")[0] == part}
    assert names
    assert names == {name for name in found if name.split("/")[0] == part}
    for name in sorted(names):
        scale = np.abs(expected[name]).max() if part == "gradients" else 1
        np.testing.assert_allclose(
            found[name].astype(np.float64),
            expected[name].astype(np.float64),
            rtol=0,
            atol=oracles * TOLERANCES[part] * scale,
            strict=True,
            err_msg=name,
        )


@pytest.mark.parametrize("part", TOLERANCES)
@pytest.mark.parametrize(
    ("trainer", "weight_decay"),
    [
        # The quick tier has the core.
        pytest.param(trainer, decay, marks=pytest.mark.slow if trainer == "keras" else ())
        for trainer in TRAINERS
        for decay in WEIGHT_DECAYS
    ],
)
def test_trainer_does_what_the_source_did(trainer: str, weight_decay: float, part: str) -> None:
    assert_agree(found_course(trainer, weight_decay), recorded_course(weight_decay), part)


@pytest.mark.slow
def test_decay_of_the_recipe_is_seen() -> None:
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_agree(keras_course(weight_decay=0), recorded_course(1e-6), "step 40")


def optimizer_course(optimizer: keras.optimizers.Optimizer) -> np.ndarray:
    """The small problem's weights after every step, in double precision, (steps, weights)."""
    weights = keras.Variable(GIVEN["small/weights"], dtype="float64")
    course = []
    for gradients, learning_rate in zip(GIVEN["small/gradients"], GIVEN["small/learning_rates"], strict=True):
        optimizer.learning_rate = learning_rate
        optimizer.apply([keras.ops.convert_to_tensor(gradients, dtype="float64")], [weights])
        course.append(weights.numpy())
    return np.array(course)


def assert_small_agree(found: np.ndarray, expected: np.ndarray, rtol: float = 1e-6, atol: float = 2e-6) -> None:
    """Compares weights of the small problem: by default those in double precision with those recorded in single."""
    np.testing.assert_allclose(found.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=atol, strict=True)


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
    subprocess.run([python, REPOSITORY / "experiments/addons_oracle/oracle.py", "--record", again], check=True)
    for weight_decay in WEIGHT_DECAYS:
        found, expected = recorded_course(weight_decay, again), recorded_course(weight_decay)
        assert found.keys() == expected.keys()
        for part in TOLERANCES:
            assert_agree(found, expected, part, oracles=2)
        # Each may be off by what single precision may do, with eps = 2**-24, on a processor of its own. Decay and step
        # each round a weight, by at most its eps-th part: 60 times. 1 - beta_2**t, about 0.001 t, is known to 2 eps
        # where the power is off by two units in the last place (processors have different powers); the step has its
        # root, and a weight moves by at most twice 1.0e-6 in the 30 steps.
        assert_small_agree(found["small"], expected["small"], rtol=2 * 60 * 2.0**-24, atol=2 * 2 * 1.0e-6)
