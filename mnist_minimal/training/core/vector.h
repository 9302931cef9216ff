// Sixteen samples of a batch stand side by side: every number of a network is a row of kLanes floats, one per sample.
//
// The widest register of the instruction set that this file is compiled for holds kWidth of them, so that kParts
// registers make a row. The vector types are GCC's and Clang's vector extensions, which both compile for any processor.
#pragma once

#include <cstdint>

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

// Sum of a register's lanes, always in the same order.
inline float reduce_add(Vec value) {
  float lanes[kWidth];
  for (int i = 0; i < kWidth; ++i) lanes[i] = value[i];
  for (int half = kWidth / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE

#endif
