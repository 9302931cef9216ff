// Sine and cosine that give the same bits on every processor: mnist_minimal/data/elementary.py says how. The two do the same
// operations in the same order, none of them fused, so that they give the same bits.
#pragma once

#include <stdint.h>

namespace mnist_minimal {

// By Horner's rule; the highest coefficient comes first.
template <int kCount>
static inline double polynomial(const double (&coefficients)[kCount], double x) {
  double value = coefficients[0];
  for (int i = 1; i < kCount; ++i) value = value * x + coefficients[i];
  return value;
}

// The sine of x + quarters * pi / 2, |x| < 2**20.
static inline double sine_of_quarter(double x, int quarters) {
  // 1 / n!, where n! is exact in double precision.
  constexpr double kSine[] = {1.0 / 355687428096000, -1.0 / 1307674368000, 1.0 / 6227020800, -1.0 / 39916800,
                              1.0 / 362880,          -1.0 / 5040,          1.0 / 120,        -1.0 / 6};
  constexpr double kCosine[] = {1.0 / 20922789888000, -1.0 / 87178291200, 1.0 / 479001600, -1.0 / 3628800,
                                1.0 / 40320,          -1.0 / 720,         1.0 / 24};
  const double whole = __builtin_rint(x * 0x1.45f306dc9c883p-1);
  const double high = x - whole * 0x1.921fb544p+0, middle = whole * 0x1.0b4611a6p-34;
  const double first = high - middle;
  const double low = ((high - first) - middle) - whole * 0x1.3198a2e037073p-69;
  const double rest = first + low;
  const double tail = (first - rest) + low;
  const double square = rest * rest, half = 0.5 * square;
  const double sine = rest + (rest * square * polynomial(kSine, square) + tail * (1 - half));
  const double one = 1 - half;
  const double cosine = one + (((1 - one) - half) + (square * square * polynomial(kCosine, square) - rest * tail));
  const int64_t quarter = (int64_t(whole) + quarters) & 3;
  return (quarter % 2 == 0 ? sine : cosine) * (quarter < 2 ? 1.0 : -1.0);
}

static inline double sin(double x) { return sine_of_quarter(x, 0); }
static inline double cos(double x) { return sine_of_quarter(x, 1); }

}  // namespace mnist_minimal
