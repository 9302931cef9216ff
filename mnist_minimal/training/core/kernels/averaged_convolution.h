// The network's first convolution and the 2x2 average pool behind it,
//
//   out[i][j][o] = dropout((0 + y(0, 0) + y(0, 1) + y(1, 0) + y(1, 1)) / 4), y(a, b) = activation(convolution[2 i + a]
//   [2 j + b][o]),
//
// two rows at a time forward and one back, so that neither the large result of the convolution nor its gradient leaves the
// first-level cache. All is computed in the order in which the two layers alone do it, to the same bits.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../layers.h"
#include "../vector.h"
#include "blocks.h"
#include "convolution.h"
#include "epilogue.h"
#include "row_products.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// in [height][width][channels], kernel [rows][columns][channels][channels_out], bias [channels_out] or null, scratch
// [2][columns][channels_out] -> out and signs [rows / 2][columns / 2][channels_out]: bit 2 a + b says that y(a, b) > 0.
void averaged_convolution_forward(View out, int32_t* signs, View in, const float* kernel, const float* bias,
                                  const Geometry& shape, const Epilogue& epilogue, float* scratch) {
  const Convolution conv = row_products(kernel, bias, in.row, shape);
  const int columns = shape.in.width + shape.pad_left + shape.pad_right - shape.kernel_columns + 1;
  const ptrdiff_t channels = shape.out.channels;
  const View tile = {scratch, ptrdiff_t(columns) * channels * kLanes};
  const Vec slope = broadcast(epilogue.slope);
  with_epilogue({1, epilogue.drop, epilogue.key}, [&](auto& drop) {
    for (int row = 0; row < shape.out.height; ++row) {
      const float* x = padded_input(in, shape) + 2 * row * conv.x_row;
      for (int i = 0; i < 2; ++i) convolve_row(conv, x + i * conv.x_row, columns, tile.data + i * tile.row);
      float* to = out.data + row * out.row;
      for (ptrdiff_t column = 0; column < shape.out.width; ++column) {
        for (ptrdiff_t c = 0; c < channels; ++c) {
          const ptrdiff_t element = (row * shape.out.width + column) * channels + c;
          const float* corner = tile.data + (2 * column * channels + c) * kLanes;
          drop.draw(element);
#pragma GCC unroll 4
          for (int part = 0; part < kParts; ++part) {
            Vec sum = zeros();
            IntVec positive = {};
#pragma GCC unroll 4
            for (int tap = 0; tap < 4; ++tap) {
              Vec y = load(corner + part * kWidth + tap / 2 * tile.row + tap % 2 * channels * kLanes);
              y = max(y, slope * y);
              sum += y;
              positive |= select(y > 0.0f, broadcast(int32_t(1 << tap)), IntVec{});
            }
            store(to + (column * channels + c) * kLanes + part * kWidth, drop(sum * 0.25f, element, part));
            *reinterpret_cast<IntVec*>(signs + element * kLanes + part * kWidth) = positive;
          }
        }
      }
    }
  });
}

// One row of pooled gradients and signs [columns / 2][channels][kLanes] -> its upper or lower row of gradients of the
// convolution, [columns][channels][kLanes], whose sums are added to bias_partials [channels][kLanes]. A last column that no
// window has is 0 there already.
void spread_row(const float* pooled, const int32_t* signs, bool lower, float slope, int pooled_columns, int channels,
                float* grad, float* bias_partials) {
  const Vec above = broadcast(1.0f), below = broadcast(slope);
  const IntVec left = broadcast(int32_t(lower ? 4 : 1)), right = broadcast(int32_t(lower ? 8 : 2));
  for_blocks<kRowsAtOnce>(channels, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    for (int part = 0; part < kParts; ++part) {
      Vec sums[C];
#pragma GCC unroll 6
      for (int i = 0; i < C; ++i) sums[i] = load(bias_partials + (c + i) * kLanes + part * kWidth);
      for (ptrdiff_t column = 0; column < pooled_columns; ++column) {
#pragma GCC unroll 6
        for (int i = 0; i < C; ++i) {
          const ptrdiff_t offset = (column * channels + c + i) * kLanes + part * kWidth;
          const Vec share = load(pooled + offset) * 0.25f;
          const IntVec positive = *reinterpret_cast<const IntVec*>(signs + offset);
          const Vec first = share * select((positive & left) != 0, above, below);
          const Vec second = share * select((positive & right) != 0, above, below);
          float* to = grad + offset + column * channels * kLanes;
          store(to, first);
          store(to + channels * kLanes, second);
          sums[i] = sums[i] + first + second;
        }
      }
#pragma GCC unroll 6
      for (int i = 0; i < C; ++i) store(bias_partials + (c + i) * kLanes + part * kWidth, sums[i]);
    }
  });
}

// grad_out [rows / 2][columns / 2][channels_out] -> grad_kernel and, unless null, grad_bias, which are added to. Nobody
// needs the gradient of the images.
void averaged_convolution_backward(float* grad_kernel, float* grad_bias, View grad_out, View in, View out,
                                   const int32_t* signs, const Geometry& shape, const Epilogue& epilogue,
                                   float* scratch) {
  epilogue_backward(grad_out, nullptr, out, shape.out, {1, epilogue.drop, epilogue.key});
  const Convolution conv = row_products(nullptr, nullptr, in.row, shape);
  const int columns = shape.in.width + shape.pad_left + shape.pad_right - shape.kernel_columns + 1;
  const int width = shape.out.width, channels = shape.out.channels;
  const int weights = conv.kernel_rows * conv.span * channels, floats = columns * channels * kLanes;
  float* lane_partials = scratch;
  float* bias_partials = lane_partials + weights * kLanes;
  float* grad = bias_partials + channels * kLanes;
  memset(scratch, 0, sizeof(float) * ((weights + channels) * kLanes + floats));
  for (int row = 0; row < 2 * shape.out.height; ++row) {
    spread_row(grad_out.data + row / 2 * grad_out.row, signs + row / 2 * width * channels * kLanes, row % 2,
               epilogue.slope, width, channels, grad, bias_partials);
    kernel_backward(conv, padded_input(in, shape) + row * conv.x_row, {grad, floats}, 1, columns, lane_partials);
  }
  reduce_lane_partials(lane_partials, weights, grad_kernel);
  if (grad_bias) reduce_lane_partials(bias_partials, channels, grad_bias);
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
