// A 3x3 convolution, two rows of outputs at once.
//
// S. Winograd's algorithm for two results y of three taps k, along the height: from four rows of inputs x,
//
//   m0 = (x0 - x2) k0, m1 = (x1 + x2) (k0 + k1 + k2) / 2, m2 = (x2 - x1) (k0 - k1 + k2) / 2, m3 = (x1 - x3) k2,
//   y0 = m0 + m1 + m2, y1 = m1 - m2 - m3,
//
// where a product is the convolution of a row by a row of the kernel: four instead of six. A. Lavin and S. Gray,
// https://arxiv.org/abs/1509.09308, section 4.1. With few channels the sums before and after cost more than that saves.
#pragma once

#include "../layers.h"
#include "../vector.h"
#include "blocks.h"
#include "row_products.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// x [4 rows], a register of each -> transformed [4], the factors of m0 to m3.
inline void winograd_inputs(const float* x, ptrdiff_t x_row, Vec* transformed) {
  const Vec a = load(x), b = load(x + x_row), c = load(x + 2 * x_row), d = load(x + 3 * x_row);
  transformed[0] = a - c;
  transformed[1] = b + c;
  transformed[2] = c - b;
  transformed[3] = b - d;
}

// x [4][columns + 2][channels_in], conv.kernel [4][span][channels_out], the Winograd weights -> out [2][columns]
// [channels_out].
void winograd_f2x3(const Convolution& conv, const float* x, int columns, View out, float* scratch) {
  const int x_floats = (columns + 2) * conv.x_step, floats = columns * conv.channels_out * kLanes;
  float* products = scratch + 4 * x_floats;
  for (int i = 0; i < x_floats; i += kWidth) {
    Vec rows[4];
    winograd_inputs(x + i, conv.x_row, rows);
    for (int row = 0; row < 4; ++row) store(scratch + row * x_floats + i, rows[row]);
  }
  for (int i = 0; i < 4; ++i) {
    Convolution one = conv;
    one.kernel += i * conv.span * conv.channels_out;
    // The second product goes into both results.
    one.bias = i == 1 ? conv.bias : nullptr;
    one.kernel_rows = 1;
    convolve_row(one, scratch + i * x_floats, columns, products + i * floats);
  }
  for (int i = 0; i < floats; i += kWidth) {
    const float* from = products + i;
    const Vec b = load(from + floats), c = load(from + 2 * floats);
    store(out.data + i, load(from) + b + c);
    store(out.data + out.row + i, b - c - load(from + 3 * floats));
  }
}

// One row of [columns][channels] -> its place, number `row`, in [blocks of channels][rows][columns][channels of the block], so
// that what is multiplied at a time lies together. transform(offset in the row, Vec[4]) gives the four factors' numbers
// there.
template <int Max, class Transform>
inline void transform_blocks(int row, int rows, int columns, int channels, float* to, Transform transform) {
  const int floats = rows * columns * channels * kLanes;
  for_blocks<Max>(channels, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    float* block = to + (rows * c + row * C) * columns * kLanes;
    for (int column = 0; column < columns; ++column) {
      for (int i = 0; i < C * kLanes; i += kWidth) {
        Vec factors[4];
        transform((column * channels + c) * kLanes + i, factors);
        for (int k = 0; k < 4; ++k) store(block + k * floats + column * C * kLanes + i, factors[k]);
      }
    }
  });
}

// As kernel_backward does, the transpose of the same. scratch [4][kWinogradPairs][columns + 2][channels_in] and [4]
// [kWinogradPairs][columns][channels_out], lane_partials [4][span][channels_out][kLanes].
void winograd_kernel_backward(const Convolution& conv, const float* x, View grad, int rows, int columns,
                              float* lane_partials, float* scratch) {
  const int x_columns = (columns + 2) * kLanes, columns_floats = columns * kLanes;
  const int weights = conv.span * conv.channels_out * kLanes;
  const int channels_in = conv.x_step / kLanes;
  int row = 0;
  while (row + 2 <= rows) {
    const int pairs = (rows - row) / 2 < kWinogradPairs ? (rows - row) / 2 : kWinogradPairs;
    const int x_floats = pairs * x_columns * channels_in, floats = pairs * columns_floats * conv.channels_out;
    float* grads = scratch + 4 * x_floats;
    for (int pair = 0; pair < pairs; ++pair, row += 2) {
      const float* from = x + row * conv.x_row;
      transform_blocks<kOuterIn>(pair, pairs, columns + 2, channels_in, scratch, [&](int offset, Vec* factors) {
        winograd_inputs(from + offset, conv.x_row, factors);
      });
      const float* g = grad.data + row * grad.row;
      transform_blocks<kOuterOut>(pair, pairs, columns, conv.channels_out, grads, [&](int offset, Vec* factors) {
        const Vec a = load(g + offset), b = load(g + grad.row + offset);
        factors[0] = a, factors[1] = a + b, factors[2] = a - b, factors[3] = -b;
      });
    }
    for (int i = 0; i < 4; ++i) {
      for_blocks<kOuterOut>(conv.channels_out, [&](int out, auto outs) {
        constexpr int B = decltype(outs)::value;
        const View block = {grads + i * floats + pairs * out * columns_floats, B * columns_floats};
        for_blocks<kOuterIn>(channels_in, [&](int in, auto ins) {
          constexpr int A = decltype(ins)::value;
          const float* inputs = scratch + i * x_floats + pairs * in * x_columns;
          for (int k = 0; k < 3; ++k) {
            outer_products<A, B>(inputs + k * A * kLanes, A * x_columns, A * kLanes, block, B * kLanes, pairs, columns,
                                 lane_partials + i * weights +
                                     ((k * channels_in + in) * conv.channels_out + out) * kLanes,
                                 conv.channels_out * kLanes);
          }
        });
      });
    }
  }
  for (int i = 0; i < weights; i += kWidth) {
    const Vec b = load(lane_partials + weights + i), c = load(lane_partials + 2 * weights + i);
    const Vec outer = (b + c) * 0.5f;
    store(lane_partials + i, load(lane_partials + i) + outer);
    store(lane_partials + weights + i, (b - c) * 0.5f);
    store(lane_partials + 2 * weights + i, outer + load(lane_partials + 3 * weights + i));
  }
  if (row < rows) {
    kernel_backward(conv, x + row * conv.x_row, {grad.data + row * grad.row, grad.row}, 1, columns, lane_partials);
  }
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
