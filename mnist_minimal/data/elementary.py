"""Exponential, logarithm, sine and cosine that give the same bits on every processor and with every version of NumPy.

NumPy's and the C library's own differ in the last bit from one processor or version to another. These are made of
additions, multiplications, divisions and roundings alone, each of which IEEE 754 defines to the last bit: the argument
is reduced with a constant in two or three parts (W. Cody and W. Waite, "Software manual for the elementary functions",
1980), the rest goes through as many terms of a power series as double precision shows, and what the reduction rounds
off is added at last.

All take a float or an array of float64, and give a float64 or an array of the same shape. An error in ulp is one in
units of the distance between two neighbouring float64 at the exact value.
"""

from math import factorial
from typing import Any, TypeAlias

import numpy as np

# A float, or an array of float64.
Real: TypeAlias = Any

# pi / 2 and the logarithm of 2 in parts, of which all but the last have 33 bits: a whole number of up to 20 bits times
# one of these is exact.
_HALF_PI = float.fromhex("0x1.921fb544p+0"), float.fromhex("0x1.0b4611a6p-34"), float.fromhex("0x1.3198a2e037073p-69")
_LOG_2 = float.fromhex("0x1.62e42fefp-1"), float.fromhex("0x1.473de6af278edp-34")
_TWO_BY_PI = float.fromhex("0x1.45f306dc9c883p-1")
_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
_SQRT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")

# Coefficients, the highest first: (sin(x) - x) / x**3 and (cos(x) - 1 + x**2 / 2) / x**4 in powers of x**2,
# (exp(x) - 1 - x) / x**2 in powers of x, and (log((1 + s) / (1 - s)) / s - 2) / s**2 in powers of s**2.
_SINE = [(-1) ** (n + 1) / factorial(2 * n + 3) for n in range(7, -1, -1)]
_COSINE = [(-1) ** n / factorial(2 * n + 4) for n in range(6, -1, -1)]
_EXPONENTIAL = [1 / factorial(n + 2) for n in range(12, -1, -1)]
_LOGARITHM = [2 / (2 * n + 3) for n in range(10, -1, -1)]


def exp(x: Real) -> Real:
    """The exponential of -708 <= x <= 709, with an error below 1 ulp."""
    x = np.asarray(x, np.float64)
    whole = np.rint(x * _LOG2_E)
    high, low = x - whole * _LOG_2[0], whole * _LOG_2[1]
    rest = high - low
    tail = (high - rest) - low
    return np.ldexp(1 + (rest + (rest * rest * _polynomial(_EXPONENTIAL, rest) + tail)), whole.astype(np.int32))


def log(x: Real) -> Real:
    """The natural logarithm of a finite x > 0, with an error below 1 ulp."""
    fraction, exponent = np.frexp(np.asarray(x, np.float64))
    small = fraction < _SQRT_HALF
    # x = (1 + rest) * 2**exponent with 1 + rest from sqrt(1/2) to sqrt(2).
    rest = np.where(small, 2 * fraction, fraction) - 1
    exponent = exponent - small
    # log(1 + rest) = log((1 + s) / (1 - s)) = rest - half + s * (half + s**2 * polynomial), half = rest**2 / 2.
    s, half = rest / (2 + rest), 0.5 * rest * rest
    square = s * s
    correction = s * (half + square * _polynomial(_LOGARITHM, square)) + exponent * _LOG_2[1]
    return exponent * _LOG_2[0] - ((half - correction) - rest)


def sin(x: Real) -> Real:
    """The sine of x in radians, |x| < 2**20, with an error below 1 ulp."""
    return _sine_of_quarter(x, 0)


def cos(x: Real) -> Real:
    """The cosine of x in radians, |x| < 2**20, with an error below 1 ulp."""
    return _sine_of_quarter(x, 1)


def power(base: float, exponent: int) -> float:
    """A float to the power of a whole number >= 0, with a relative error of at most about exponent * 2**-53."""
    result, square = 1.0, base
    while exponent:
        if exponent & 1:
            result *= square
        square *= square
        exponent >>= 1
    return result


def _sine_of_quarter(x: Real, quarters: int) -> Real:
    """The sine of x + quarters * pi / 2."""
    x = np.asarray(x, np.float64)
    whole = np.rint(x * _TWO_BY_PI)
    # x - whole * pi / 2 as the sum of `rest` and of `tail`, which is what `rest` rounds off.
    high, middle = x - whole * _HALF_PI[0], whole * _HALF_PI[1]
    first = high - middle
    low = ((high - first) - middle) - whole * _HALF_PI[2]
    rest = first + low
    tail = (first - rest) + low
    square = rest * rest
    half = 0.5 * square
    sine = rest + (rest * square * _polynomial(_SINE, square) + tail * (1 - half))
    one = 1 - half
    cosine = one + (((1 - one) - half) + (square * square * _polynomial(_COSINE, square) - rest * tail))
    quarter = (whole.astype(np.int64) + quarters) % 4
    return np.where(quarter % 2 == 0, sine, cosine) * np.where(quarter < 2, 1.0, -1.0)


def _polynomial(coefficients: list[float], x: Real) -> Real:
    """A polynomial by Horner's rule; the highest coefficient comes first."""
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
