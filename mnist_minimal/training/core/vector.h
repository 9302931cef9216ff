// Sixteen samples of a batch stand side by side: every number of a network is a row of kLanes floats, one per sample.
//
// The widest register of the instruction set that this file is compiled for holds kWidth of them, so that kParts
// registers make a row. The vector types are GCC's and Clang's vector extensions, which both compile for any processor.
//
// Every instruction set gives the same bits. So the compiler contracts nothing (-ffp-contract=off): a product is added by
// `fma`, rounded once, or by * and +, rounded twice, as a kernel says. A sum over samples and positions is a sum over the
// positions in each of the sixteen lanes, in one order, and then `reduce_lanes` of these lane partials; a narrow register
// goes over its own part of the lanes.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace mnist_minimal {
constexpr int kLanes = 16;
}

// The name of a namespace of its own for every instruction set that the kernels are compiled for.
#ifdef MNIST_MINIMAL_SIMD_NAMESPACE

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kParts = kLanes / kWidth;

// Registers that a kernel may fill with sums: the rest of the 16 or, with AVX-512 and on arm64, 32 registers is left for
// what is multiplied.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kAccumulators = 24;
#else
constexpr int kAccumulators = 12;
#endif

typedef float Vec __attribute__((vector_size(4 * kWidth), may_alias));
typedef int32_t IntVec __attribute__((vector_size(4 * kWidth), may_alias));
typedef uint32_t WordVec __attribute__((vector_size(4 * kWidth), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<Vec*>(to) = value; }
inline Vec broadcast(float value) { return value - Vec{}; }
inline IntVec broadcast(int32_t value) { return value - IntVec{}; }
inline Vec zeros() { return Vec{}; }

// where[i] ? a[i] : b[i]; a comparison of vectors gives -1 for true and 0 for false.
inline Vec select(IntVec where, Vec a, Vec b) { return where ? a : b; }
inline IntVec select(IntVec where, IntVec a, IntVec b) { return where ? a : b; }
inline Vec max(Vec a, Vec b) { return select(a > b, a, b); }
inline IntVec bits(Vec value) { return (IntVec)value; }

// a * b + c, rounded once.
#if defined(__AVX512F__)
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__)
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
#elif defined(__aarch64__)
inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
#else
// By doubles, in which the product of two floats is exact. Rounding the sum to a double and then to a float would round
// twice, unless the double is rounded to odd: whatever is lost leaves its last bit set. S. Boldo and G. Melquiond,
// "Emulation of FMA and correctly rounded sums", https://doi.org/10.1109/TC.2007.70819.
typedef double DoubleVec __attribute__((vector_size(8 * kWidth), may_alias));
typedef int64_t LongVec __attribute__((vector_size(8 * kWidth), may_alias));

// Not inlined: a kernel has hundreds of them.
__attribute__((noinline, unused)) static Vec fma(Vec a, Vec b, Vec c) {
  const DoubleVec product = __builtin_convertvector(a, DoubleVec) * __builtin_convertvector(b, DoubleVec);
  const DoubleVec summand = __builtin_convertvector(c, DoubleVec);
  const DoubleVec sum = product + summand;
  // What the sum has lost, exactly (D. Knuth's two-sum); NaN where the sum is no finite number. None of the products here
  // can underflow.
  const DoubleVec rounded = sum - product;
  const DoubleVec lost = (product - (sum - rounded)) + (summand - rounded);
  const LongVec is_inexact = lost * lost > 0.0, inwards = lost * sum < 0.0;
  const LongVec step = ~(LongVec)sum & 1 & is_inexact;
  return __builtin_convertvector((DoubleVec)((LongVec)sum + ((step ^ inwards) - inwards)), Vec);
}
#endif

inline Vec fma(float a, Vec b, Vec c) { return fma(broadcast(a), b, c); }

// Added to a value of at most 2**22 in size it leaves the nearest whole number, ties to even, in the sum's lowest bits:
// between 2**23 and 2**24 the floats are the whole numbers.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2**23

// Sum of a row of lanes, always in the same order.
inline float reduce_lanes(const float* row) {
  float lanes[kLanes / 2];
  for (int i = 0; i < kLanes / 2; ++i) lanes[i] = row[i] + row[i + kLanes / 2];
  for (int half = kLanes / 4; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// A whole row of lanes in registers.
struct Row {
  Vec part[kParts] = {};

  float reduce() const {
    alignas(64) float row[kLanes];
    for (int i = 0; i < kParts; ++i) store(row + i * kWidth, part[i]);
    return reduce_lanes(row);
  }
};

}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE

#endif
