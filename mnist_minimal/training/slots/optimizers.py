"""One step of an optimizer for K trials, each with its own numbers: the formulas of the core's (core/optimizer.cpp)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

# Keras' defaults, in single precision as the core has them.
BETA_1, BETA_2, EPSILON = (float(np.float32(value)) for value in (0.9, 0.999, 1e-7))


def adam_step(
    parameters: jax.Array,
    gradients: jax.Array,
    first: jax.Array,
    second: jax.Array,
    steps: jax.Array,
    rate: jax.Array,
    decay: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A step of Adam, before which every parameter loses a share of itself.

    Args:
        parameters: (K, P).
        gradients: (K, P).
        first: The first moments, (K, P).
        second: The second moments, (K, P).
        steps: How many steps each trial has taken, this one included, int32 (K,).
        rate: The learning rates, (K,).
        decay: The shares, (K,); no learning rate multiplies them.

    Returns:
        Parameters and moments after the step.
    """
    count = steps.astype(parameters.dtype)
    # 1 - beta**steps, which the difference of numbers close to one another would round off.
    rest_1, rest_2 = (-jnp.expm1(count * math.log(beta)) for beta in (BETA_1, BETA_2))
    unbiased = rate * jnp.sqrt(rest_2) / rest_1
    parameters = parameters - decay[:, None] * parameters
    first = first + (1 - BETA_1) * (gradients - first)
    second = second + (1 - BETA_2) * (gradients * gradients - second)
    return parameters - unbiased[:, None] * first / (jnp.sqrt(second) + EPSILON), first, second


def momentum_step(
    parameters: jax.Array, gradients: jax.Array, velocity: jax.Array, rate: jax.Array, momentum: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A step of gradient descent with a momentum.

    Args:
        parameters: (K, P).
        gradients: (K, P).
        velocity: (K, P).
        rate: The learning rates, (K,).
        momentum: (K,).

    Returns:
        Parameters and velocity after the step.
    """
    velocity = momentum[:, None] * velocity - rate[:, None] * gradients
    return parameters + velocity, velocity
