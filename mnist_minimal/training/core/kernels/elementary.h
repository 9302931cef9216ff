// The project's own exponential and logarithm, of registers: those of C libraries differ in their last bits.
#pragma once

#include <stdint.h>

#include "../vector.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// log(2) in two parts; whole numbers below 2**14 times the first are exact.
constexpr float kLog2High = 0.693359375f, kLog2Low = -2.1219444e-4f;

// The coefficients of the two polynomials were fitted by least squares at 400 Chebyshev nodes of the range that is named.

// e**x for x <= 0, within 1.1 units in the last place; 0 below -87.3, where the result would not be a normal number.
inline Vec exponential(Vec x) {
  const Vec shifted = fma(1.442695f, x, broadcast(kRounder));
  const Vec n = shifted - kRounder;  // x / log(2), rounded
  const Vec r = fma(-kLog2Low, n, fma(-kLog2High, n, x));
  // (e**r - 1 - r) / r**2, |r| <= log(2) / 2
  Vec q = broadcast(0.0013933702f);
  q = fma(q, r, broadcast(0.008363214f));
  q = fma(q, r, broadcast(0.041666463f));
  q = fma(q, r, broadcast(0.16666576f));
  q = fma(q, r, broadcast(0.5f));
  const Vec value = fma(r * r, q, r) + 1.0f;
  const Vec power = (Vec)((bits(shifted) << 23) + bits(broadcast(1.0f)));  // 2**n
  return select(x < -87.3f, zeros(), value * power);
}

// The natural logarithm of a positive normal number, within 1.1 units in the last place.
inline Vec logarithm(Vec x) {
  // x = (1 + f) * 2**n with 1 + f from sqrt(1/2) to sqrt(2)
  const IntVec from_half = bits(x) - bits(broadcast(0.70710677f));
  const IntVec n = from_half >> 23;
  const Vec f = (Vec)(bits(x) - (n << 23)) - 1.0f;
  // (log(1 + f) - f + f**2 / 2) / f**3
  Vec q = broadcast(-0.08101559f);
  q = fma(q, f, broadcast(0.12712307f));
  q = fma(q, f, broadcast(-0.12972239f));
  q = fma(q, f, broadcast(0.14202175f));
  q = fma(q, f, broadcast(-0.16642247f));
  q = fma(q, f, broadcast(0.20001468f));
  q = fma(q, f, broadcast(-0.25000298f));
  q = fma(q, f, broadcast(0.33333328f));
  const Vec whole = __builtin_convertvector(n, Vec);
  const Vec square = f * f;
  const Vec small = fma(square * f, q, fma(kLog2Low, whole, square * -0.5f));
  return fma(kLog2High, whole, small + f);
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
