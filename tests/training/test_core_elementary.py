"""The core's own exponential and logarithm, as probabilities and losses show them, against double precision."""

import numpy as np
import pytest

from mnist_minimal.training import core
from mnist_minimal.training.network import Layer, Network

pytestmark = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")

# Half the distance of 1 and the float32 above it.
ROUNDING = 2.0**-24


def network_of_logits(classes: int, instruction_set: str) -> "core._core.Network":
    """A network whose logits are its pixels."""
    shape = (1, 1, classes)
    network = Network(shape, 1.0, 0.0, (Layer("elementwise", shape, shape),), 0, 0)
    optimizer = core._core.Optimizer.momentum(momentum=0.0)
    return core._core.Network(**core.core_arguments(network), optimizer=optimizer, instruction_set=instruction_set)


@pytest.mark.parametrize("instruction_set", core.instruction_sets())
def test_probabilities_of_two_logits_are_exponentials(instruction_set):
    """e**-x / (1 + e**-x): 1.1 units in the last place of the exponential, half a one of sum and of quotient."""
    x = np.concatenate([np.linspace(0, 87, 20001), np.geomspace(1e-8, 1, 2001)]).astype(np.float32)
    logits = np.stack([np.zeros_like(x), -x], axis=1).reshape(-1, 1, 1, 2)
    found = network_of_logits(2, instruction_set).predict(logits)[:, 1]
    small = np.exp(-x.astype(np.float64))
    expected = small / (1 + small)
    assert (np.abs(found - expected) / expected).max() < 2 * (1.1 + 0.5 + 0.5) * ROUNDING + 1e-12


@pytest.mark.parametrize("instruction_set", core.instruction_sets())
def test_losses_of_equal_logits_are_logarithms(instruction_set):
    """Of n equal logits the sum of exponentials is n, exactly, and the loss its logarithm."""
    for classes in [*range(2, 40), 100, 200]:
        network = network_of_logits(classes, instruction_set)
        logits = np.full((1, 1, 1, classes), 0.75, np.float32)
        loss, _, _ = network.evaluate(logits, np.zeros(1, np.uint8))
        assert abs(loss - np.log(classes)) / np.log(classes) < 2 * 1.1 * ROUNDING


@pytest.mark.parametrize("instruction_set", core.instruction_sets())
def test_a_class_far_below_the_largest_has_probability_0(instruction_set):
    logits = np.array([0, -87.5, -1e4], np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(network_of_logits(3, instruction_set).predict(logits), [[1, 0, 0]])
