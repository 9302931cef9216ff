// The network's first convolution and the 2x2 max pool behind it,
//
//   out[i][j][o] = epilogue(max over a, b in {0, 1} of convolution[2 i + a][2 j + b][o]), argmax = 2 a + b of the first
//   largest,
//
// two rows at a time, so that the large result of the convolution never leaves the first-level cache. An activation that
// grows with its argument may come after the pool.
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
// [2][columns][channels_out] -> out and argmax [rows / 2][columns / 2][channels_out].
void pooled_convolution_forward(View out, int32_t* argmax, View in, const float* kernel, const float* bias,
                                const Geometry& shape, const Epilogue& epilogue, float* scratch) {
  const Convolution conv = row_products(kernel, bias, in.row, shape);
  const int columns = shape.in.width + shape.pad_left + shape.pad_right - shape.kernel_columns + 1;
  const ptrdiff_t channels = shape.out.channels;
  const View tile = {scratch, ptrdiff_t(columns) * channels * kLanes};
  with_epilogue(epilogue, [&](auto& apply) {
    for (int row = 0; row < shape.out.height; ++row) {
      const float* x = padded_input(in, shape) + 2 * row * conv.x_row;
      for (int i = 0; i < 2; ++i) convolve_row(conv, x + i * conv.x_row, columns, tile.data + i * tile.row);
      float* to = out.data + row * out.row;
      for (ptrdiff_t column = 0; column < shape.out.width; ++column) {
        for (ptrdiff_t c = 0; c < channels; ++c) {
          const ptrdiff_t element = (row * shape.out.width + column) * channels + c;
          const float* corner = tile.data + (2 * column * channels + c) * kLanes;
          apply.draw(element);
#pragma GCC unroll 4
          for (int part = 0; part < kParts; ++part) {
            const float* from = corner + part * kWidth;
            const Vec a = load(from), b = load(from + channels * kLanes);
            const Vec d = load(from + tile.row), e = load(from + tile.row + channels * kLanes);
            const IntVec right = b > a, lower_right = e > d;
            const Vec upper = select(right, b, a), lower = select(lower_right, e, d);
            const IntVec down = lower > upper;
            const IntVec index = select(down, select(lower_right, broadcast(3), broadcast(2)),
                                        select(right, broadcast(1), broadcast(0)));
            const ptrdiff_t offset = (column * channels + c) * kLanes + part * kWidth;
            store(to + offset, apply(select(down, lower, upper), element, part));
            *reinterpret_cast<IntVec*>(argmax + element * kLanes + part * kWidth) = index;
          }
        }
      }
    }
  });
}

// A max pool hands a gradient to one of four positions, so three quarters of a plain kernel gradient would be products
// with zeros. Instead the input under the chosen position is selected, first the column, then the row: with the sums of
// two neighbouring rows of the kernel from one selection of columns.
// One row of pooled gradients and argmax [columns][channels][kLanes], R rows and K taps of the kernel: x [2][R + 1]
// [2 * columns + ...][kLanes] -> lane_partials [R][span][channels][kLanes], added to.
template <int R, int K>
inline void pooled_products(const Convolution& conv, const float* x, const float* grad, const int32_t* argmax,
                            int columns, float* lane_partials) {
  const ptrdiff_t stride = conv.channels_out * kLanes;
  for (int part = 0; part < kParts; ++part) {
    const auto partial = [&](int r, int k) {
      return lane_partials + (r * conv.span + k) * stride + part * kWidth;
    };
    Vec sums[R][K];
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
      for (int k = 0; k < K; ++k) sums[r][k] = load(partial(r, k));
    }
    for (ptrdiff_t column = 0; column < columns; ++column) {
      const ptrdiff_t offset = column * stride + part * kWidth;
      const Vec g = load(grad + offset);
      const IntVec index = *reinterpret_cast<const IntVec*>(argmax + offset);
      const IntVec right = (index & 1) == 1, down = index > 1;
      const float* from = x + 2 * column * conv.x_step + part * kWidth;
#pragma GCC unroll 3
      for (int k = 0; k < K; ++k, from += kLanes) {
        Vec above = select(right, load(from + conv.x_step), load(from));
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) {
          const float* next = from + (r + 1) * conv.x_row;
          const Vec below = select(right, load(next + conv.x_step), load(next));
          sums[r][k] = fma(g, select(down, below, above), sums[r][k]);
          above = below;
        }
      }
    }
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
      for (int k = 0; k < K; ++k) store(partial(r, k), sums[r][k]);
    }
  }
}

// grad_out [rows / 2][columns / 2][channels_out] -> grad_kernel and, unless null, grad_bias, which are added to. Nobody
// needs the gradient of the images.
void pooled_convolution_backward(float* grad_kernel, float* grad_bias, View grad_out, View in, View out,
                                 const int32_t* argmax, const Geometry& shape, const Epilogue& epilogue,
                                 float* scratch) {
  epilogue_backward(grad_out, grad_bias, out, shape.out, epilogue);
  const Convolution conv = row_products(nullptr, nullptr, in.row, shape);
  const int width = shape.out.width, channels = shape.out.channels;
  const int weights = conv.kernel_rows * conv.span * channels;
  float* lane_partials = scratch;
  memset(lane_partials, 0, sizeof(float) * weights * kLanes);
  for (int row = 0; row < shape.out.height; ++row) {
    const float* x = padded_input(in, shape) + 2 * row * conv.x_row;
    const float* grad = grad_out.data + row * grad_out.row;
    const int32_t* indices = argmax + row * width * channels * kLanes;
    for (int c = 0; c < channels; ++c) {
      for_blocks<3>(conv.kernel_rows, [&](int r, auto rows) {
        for_blocks<3>(conv.span, [&](int k, auto taps) {
          pooled_products<decltype(rows)::value, decltype(taps)::value>(
              conv, x + r * conv.x_row + k * kLanes, grad + c * kLanes, indices + c * kLanes, width,
              lane_partials + ((r * conv.span + k) * channels + c) * kLanes);
        });
      });
    }
  }
  reduce_lane_partials(lane_partials, weights, grad_kernel);
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
