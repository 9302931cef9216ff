// What a layer does to its result at its end, while the result is in a register: activation and dropout,
//
//   y = keep * (x > 0 ? x : slope * x) / (1 - drop / 2**16), keep = 0 with probability drop / 2**16, and else 1,
//
// and back: dx = dy * keep * (x > 0 ? 1 : slope) / (1 - drop / 2**16), of which the sum over positions and samples is the
// gradient of a bias. x, y [height][width][channels][kLanes].
#pragma once

#include <stdint.h>

#include "../layers.h"
#include "../vector.h"
#include "blocks.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// What is dropped becomes -0.0, and nothing else does, as adding +0.0 turns -0.0 into +0.0: so the backward pass can read
// in the result what was dropped, and no mask is kept.
constexpr int32_t kDropped = INT32_MIN;

struct Identity {
  void draw(ptrdiff_t) {}
  Vec operator()(Vec value, ptrdiff_t, int) const { return value; }
};

// x > 0 ? x : slope * x for a slope in [0, 1], then dropout.
//
// The random numbers are those of a counter, one for each lane: the two multiplications of C. Wellons' hash "lowbias32"
// (https://github.com/skeeto/hash-prospector), one half of the key before each. Two rows of lanes, those of an even element
// and of the next one, take sixteen words: word i of the pair is for lane i, its lower half for the even element and its
// upper half for the odd one. So a probability is a multiple of 2**-16.
template <bool Drops>
class ActivationAndDropout {
 public:
  explicit ActivationAndDropout(const Epilogue& epilogue)
      : slope_(broadcast(epilogue.slope)),
        scale_(broadcast(65536.0f / (65536.0f - epilogue.drop))),
        // As the hash's words are compared as signed numbers, the smallest of which is -2**31.
        threshold_(broadcast(int32_t((epilogue.drop << 16) ^ 0x80000000u))),
        first_(epilogue.key.first - WordVec{}),
        second_(epilogue.key.second - WordVec{}) {}

  // Makes the words of the element of number `element` in the layer's result, [height][width][channels], and of the other of
  // its pair.
  void draw(ptrdiff_t element) {
    if constexpr (!Drops) return;
    if (element / 2 == pair_) return;
    pair_ = element / 2;
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      WordVec lanes;
      for (int i = 0; i < kWidth; ++i) lanes[i] = part * kWidth + i;
      WordVec x = first_ + (uint32_t(pair_) * kLanes + lanes);
      x ^= x >> 16;
      x *= 0x21f0aaadu;
      x ^= x >> 15;
      x ^= second_;
      x *= 0x735a2d97u;
      x ^= x >> 15;
      words_[part] = x;
    }
  }

  // Of an element whose words are drawn.
  Vec operator()(Vec value, ptrdiff_t element, int part) const {
    value = max(value, slope_ * value);
    if constexpr (Drops) {
      const IntVec random = (IntVec)(element % 2 ? words_[part] : words_[part] << 16);
      value = select(random >= threshold_, value * scale_ + 0.0f, broadcast(-0.0f));
    }
    return value;
  }

 private:
  Vec slope_, scale_;
  IntVec threshold_;
  WordVec first_, second_;
  WordVec words_[kParts] = {};
  ptrdiff_t pair_ = -1;
};

inline bool is_identity(const Epilogue& epilogue) { return epilogue.slope == 1 && epilogue.drop == 0; }

// Calls work(function) with the function (value, element, part) -> value that the epilogue is: chosen once a layer, not
// once a number.
template <class Work>
inline void with_epilogue(const Epilogue& epilogue, Work work) {
  if (epilogue.drop > 0) {
    ActivationAndDropout<true> apply(epilogue);
    work(apply);
  } else if (epilogue.slope != 1) {
    ActivationAndDropout<false> apply(epilogue);
    work(apply);
  } else {
    Identity apply;
    work(apply);
  }
}

// out [size][kLanes], row number `row` of a layer's result, in place, while it is in the cache: a convolution's sums need
// all registers.
void epilogue_row(float* out, int row, ptrdiff_t size, const Epilogue& epilogue) {
  if (is_identity(epilogue)) return;
  with_epilogue(epilogue, [&](auto& apply) {
    const ptrdiff_t first = row * size, end = first + size;
    const auto at = [&](ptrdiff_t element) {
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        float* value = out + (element - first) * kLanes + part * kWidth;
        store(value, apply(load(value), element, part));
      }
    };
    ptrdiff_t element = first;
    if (element % 2) {
      apply.draw(element);
      at(element++);
    }
    for (; element < end; element += 2) {
      apply.draw(element);
      at(element);
      if (element + 1 < end) at(element + 1);
    }
  });
}

// Gradient of a layer's result -> gradient before activation and dropout, from the result itself.
struct EpilogueGradient {
  Vec above, below, dropped;

  explicit EpilogueGradient(const Epilogue& epilogue) {
    const bool dropping = epilogue.drop > 0;
    const float scale = dropping ? 65536.0f / (65536.0f - epilogue.drop) : 1.0f;
    above = broadcast(scale);
    below = broadcast(scale * epilogue.slope);
    dropped = dropping ? zeros() : below;
  }

  Vec operator()(Vec result, Vec gradient) const {
    return gradient * select(result > 0.0f, above, select(bits(result) == kDropped, dropped, below));
  }
};

// The same for a whole layer, result `out` and gradient `grad_out` [shape], in place; and its sums [channels], added to
// `grad_bias` unless that is null.
void epilogue_backward(View grad_out, float* grad_bias, View out, Shape shape, const Epilogue& epilogue) {
  const bool has_epilogue = !is_identity(epilogue);
  if (!has_epilogue && !grad_bias) return;
  const EpilogueGradient gradient(epilogue);
  for_blocks<kRowsAtOnce>(shape.channels, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    Row sums[C];
    for (int row = 0; row < shape.height; ++row) {
      const float* result = out.data + row * out.row + c * kLanes;
      float* grad = grad_out.data + row * grad_out.row + c * kLanes;
      for (int column = 0; column < shape.width; ++column) {
#pragma GCC unroll 6
        for (int i = 0; i < C; ++i) {
#pragma GCC unroll 4
          for (int part = 0; part < kParts; ++part) {
            const int offset = i * kLanes + part * kWidth;
            Vec g = load(grad + offset);
            if (has_epilogue) {
              g = gradient(load(result + offset), g);
              store(grad + offset, g);
            }
            sums[i].part[part] += g;
          }
        }
        result += shape.channels * kLanes;
        grad += shape.channels * kLanes;
      }
    }
    for (int i = 0; grad_bias && i < C; ++i) grad_bias[c + i] += sums[i].reduce();
  });
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
