// Reads images: out[i][j][c][lane] = images[order[lane]][i][j][c] * scale + offset.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../layers.h"
#include "../vector.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// Four bytes of each lane, from byte i on, loaded as one word; experiments/LOG.md says what that saves.
inline void read_four(const uint8_t* const* from, int i, float scale, float offset, float* to) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte of a word must be its lowest");
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    WordVec words;
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) {
      uint32_t word;
      memcpy(&word, from[part * kWidth + lane] + i, sizeof word);
      words[lane] = word;
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const Vec value = __builtin_convertvector((IntVec)((words >> 8 * k) & 255), Vec);
      store(to + k * kLanes + part * kWidth, value * scale + offset);
    }
  }
}

template <class Pixel>
void read_images(const Pixel* images, const int64_t* order, int samples, Shape shape, float scale, float offset,
                 View out) {
  const int size = shape.width * shape.channels;
  for (int row = 0; row < shape.height; ++row) {
    float* to = out.data + row * out.row;
    const Pixel* from[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      // An empty lane repeats the last sample, so that it holds numbers; its gradient is zero.
      const int64_t image = order[lane < samples ? lane : samples - 1];
      from[lane] = images + image * (int64_t(shape.height) * size) + int64_t(row) * size;
    }
    int i = 0;
    if constexpr (sizeof(Pixel) == 1) {
      for (; i + 4 <= size; i += 4, to += 4 * kLanes) read_four(from, i, scale, offset, to);
    }
    for (; i < size; ++i, to += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) to[lane] = float(from[lane][i]) * scale + offset;
    }
  }
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
