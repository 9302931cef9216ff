"""Exponential, logarithm, sine and cosine against Python's decimal arithmetic, to the unit in the last place."""

import hashlib
import math
from decimal import Decimal, getcontext, localcontext
from fractions import Fraction

import numpy as np
import pytest

from mnist_minimal.data import elementary

DIGITS = 60
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")


@pytest.fixture(autouse=True)
def many_digits():
    with localcontext() as context:
        context.prec = DIGITS
        yield


def largest_error(function, exact, arguments):
    """In units of the last place of the exact value."""
    errors = []
    for argument, value in zip(arguments, function(np.asarray(arguments)), strict=True):
        expected = exact(Decimal(float(argument)))
        errors.append(abs(Decimal(float(value)) - expected) / Decimal(math.ulp(float(expected))))
    return float(max(errors))


def exact_cosine(x):
    return exact_sine(x + PI / 2)


def exact_sine(x):
    """By the series, of the angle less whole turns; 60 digits leave 30 and more of the smallest sine here."""
    x -= 2 * PI * (x / (2 * PI)).to_integral_value()
    term = total = x
    n = 1
    while abs(term) > Decimal(10) ** -(getcontext().prec):
        n += 2
        term *= -x * x / (n * (n - 1))
        total += term
    return total


def angles():
    random = np.random.default_rng(0)
    return np.concatenate(
        [
            random.uniform(-1, 1, 1000),
            random.uniform(-100, 100, 1000),
            random.uniform(-(2**20), 2**20, 1000),
            # The worst for the reduction: all but multiples of a right angle.
            np.arange(1, 500) * (np.pi / 2),
            np.ldexp(1.0, -np.arange(60)),
        ]
    )


def test_the_sine_is_within_a_unit_of_the_last_place():
    assert largest_error(elementary.sin, exact_sine, angles()) < 1


def test_the_cosine_is_within_a_unit_of_the_last_place():
    assert largest_error(elementary.cos, exact_cosine, angles()) < 1


def test_the_exponential_is_within_a_unit_of_the_last_place():
    random = np.random.default_rng(0)
    arguments = np.concatenate(
        [random.uniform(-1, 1, 2000), random.uniform(-708, 709, 2000), -np.ldexp(1.0, -np.arange(60)), [-708, 709]]
    )
    assert largest_error(elementary.exp, Decimal.exp, arguments) < 1


def test_the_logarithm_is_within_a_unit_of_the_last_place():
    random = np.random.default_rng(0)
    near_one = np.ldexp(1.0, -np.arange(2, 53))
    arguments = np.concatenate(
        [random.uniform(2**-32, 1, 2000), random.uniform(0.7, 1.5, 1000), 1 - near_one, 1 + near_one, [5e-324, 1.7e308]]
    )
    assert largest_error(elementary.log, Decimal.ln, arguments) < 1


@pytest.mark.parametrize("base", [0.1, 0.97, 1.0001, -0.5])
def test_a_whole_power_is_off_by_half_a_unit_for_each_factor_at_most(base):
    for exponent in (0, 1, 2, 3, 10, 63, 200):
        exact = Fraction(base) ** exponent
        assert abs(Fraction(elementary.power(base, exponent)) - exact) <= abs(exact) * exponent * Fraction(2) ** -53


def test_exact_values():
    assert elementary.exp(0.0) == 1
    assert elementary.log(1.0) == 0
    assert elementary.cos(0.0) == 1
    assert elementary.sin(0.0) == 0


def test_a_number_gives_a_number_and_an_array_one_of_its_shape():
    for function in (elementary.exp, elementary.log, elementary.sin, elementary.cos):
        one, many = function(0.5), function(np.full((2, 3), 0.5))
        assert isinstance(one, float)
        assert many.shape == (2, 3)
        assert (many == one).all()


@pytest.mark.parametrize(
    ("function", "digest"),
    [
        (elementary.exp, "e2b7c485a69e3fdf"),
        (elementary.log, "1cabab71bd526ebd"),
        (elementary.sin, "17ff6b391983307b"),
        (elementary.cos, "2db438872f8a1438"),
    ],
)
def test_bits_are_those_of_every_processor(function, digest):
    # A processor or a NumPy that gives other bits would make every trial another.
    values = function(np.arange(1, 5000) / 61)
    assert hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()[:16] == digest
