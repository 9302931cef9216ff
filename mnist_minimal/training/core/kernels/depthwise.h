// Depthwise convolution of stride 1, one kernel for each channel, with a border of zeros:
//
//   out[i][j][c] = epilogue(bias[c] + sum over r, s of in[i + r - top][j + s - left][c] * kernel[r][s][c]),
//
// and back, with g the gradient before the epilogue: grad_bias[c] = sum of g[i][j][c], grad_kernel[r][s][c] = sum over i, j
// of in[i + r - top][j + s - left][c] * g[i][j][c], and grad_in = the same convolution of g by the taps in reverse order.
#pragma once

#include <string.h>

#include "../layers.h"
#include "../vector.h"
#include "blocks.h"
#include "convolution.h"
#include "epilogue.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// Positions of a channel that are made at once, beside nine taps in registers.
constexpr int kPositions = kAccumulators > 12 ? 6 : 3;

// One channel of a row of outputs, P positions at once: x [Rows][columns + kernel_columns - 1][channels][kLanes], kernel
// [rows * kernel_columns] of the channel, all in registers.
template <int P, int Rows, int Columns>
inline void depthwise_block(const float* x, ptrdiff_t x_row, ptrdiff_t step, const Vec* kernel, Vec bias, float* out) {
  Vec sums[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) sums[p] = bias;
#pragma GCC unroll 3
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 8
    for (int column = 0; column < P + Columns - 1; ++column) {
      const Vec value = load(x + row * x_row + column * step);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        if (column >= p && column - p < Columns) sums[p] = fma(kernel[row * Columns + column - p], value, sums[p]);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) store(out + p * step, sums[p]);
}

inline bool is_3x3(const Geometry& shape) { return shape.kernel_rows == 3 && shape.kernel_columns == 3; }

// Calls work(Size<channels>) for the numbers of channels for which a kernel of fixed distances between positions is
// compiled, and work(Size<0>) for the others.
template <class Work>
inline void with_channels(int channels, Work work) {
  switch (channels) {
    case 5: return work(Size<5>());
    case 6: return work(Size<6>());
    case 7: return work(Size<7>());
    case 8: return work(Size<8>());
    case 9: return work(Size<9>());
    case 10: return work(Size<10>());
    case 11: return work(Size<11>());
    case 12: return work(Size<12>());
    default: return work(Size<0>());
  }
}

// kernel [Rows * 3][channels]: the rows of a 3x3 kernel that meet anything but zeros. Channels is their number, or 0 where
// not known in advance.
template <int Rows, int Channels>
void depthwise_row_3x3(const float* x, ptrdiff_t x_row, const float* kernel, const float* bias, int columns,
                       int number_of_channels, float* out) {
  const int channels = Channels ? Channels : number_of_channels;
  const ptrdiff_t step = channels * kLanes;
  for (int c = 0; c < channels; ++c) {
    Vec taps[Rows * 3];
#pragma GCC unroll 9
    for (int tap = 0; tap < Rows * 3; ++tap) taps[tap] = broadcast(kernel[tap * channels + c]);
    const Vec start = bias ? broadcast(bias[c]) : zeros();
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const float* from = x + c * kLanes + part * kWidth;
      float* to = out + c * kLanes + part * kWidth;
      ptrdiff_t column = 0;
      for (; column + kPositions <= columns; column += kPositions) {
        depthwise_block<kPositions, Rows, 3>(from + column * step, x_row, step, taps, start, to + column * step);
      }
      for_blocks<kPositions - 1>(columns - column, [&](ptrdiff_t after, auto size) {
        const ptrdiff_t at = column + after;
        depthwise_block<decltype(size)::value, Rows, 3>(from + at * step, x_row, step, taps, start, to + at * step);
      });
    }
  }
}

void depthwise_row(const float* x, ptrdiff_t x_row, const float* kernel, int kernel_rows, int kernel_columns,
                   const float* bias, int columns, int channels, float* out) {
  for (int column = 0; column < columns; ++column) {
    for (int c = 0; c < channels; ++c) {
      const int offset = column * channels + c;
      for (int part = 0; part < kParts; ++part) {
        Vec sum = bias ? broadcast(bias[c]) : zeros();
        for (int row = 0; row < kernel_rows; ++row) {
          for (int k = 0; k < kernel_columns; ++k) {
            sum = fma(kernel[(row * kernel_columns + k) * channels + c],
                      load(x + row * x_row + (offset + k * channels) * kLanes + part * kWidth), sum);
          }
        }
        store(out + offset * kLanes + part * kWidth, sum);
      }
    }
  }
}

// x [rows + kernel_rows - 1][columns + kernel_columns - 1][channels], of which only `x_rows` from `top` on are not zero,
// kernel [kernel_rows][kernel_columns][channels] -> out [rows][columns][channels].
void depthwise_rows(const float* x, ptrdiff_t x_row, int top, int x_rows, const float* kernel, const float* bias,
                    const Geometry& shape, int rows, int columns, View out) {
  const int channels = shape.in.channels;
  for (int row = 0; row < rows; ++row) {
    float* to = out.data + row * out.row;
    if (!is_3x3(shape)) {
      depthwise_row(x + row * x_row, x_row, kernel, shape.kernel_rows, shape.kernel_columns, bias, columns, channels,
                    to);
      continue;
    }
    const int first = top > row ? top - row : 0, last = top + x_rows - row < 3 ? top + x_rows - row : 3;
    const float* from = x + (row + first) * x_row;
    const float* taps = kernel + first * 3 * channels;
    with_channels(channels, [&](auto known) {
      constexpr int C = decltype(known)::value;
      switch (last - first) {
        case 1: return depthwise_row_3x3<1, C>(from, x_row, taps, bias, columns, channels, to);
        case 2: return depthwise_row_3x3<2, C>(from, x_row, taps, bias, columns, channels, to);
        case 3: return depthwise_row_3x3<3, C>(from, x_row, taps, bias, columns, channels, to);
      }
    });
  }
}

// in [height][width][channels], with its border; kernel [rows][columns][channels]; bias [channels] or null -> out
// [rows][columns][channels].
void depthwise_forward(View out, View in, const float* kernel, const float* bias, const Geometry& shape,
                       const Epilogue& epilogue) {
  depthwise_rows(padded_input(in, shape), in.row, shape.pad_top, shape.in.height, kernel, bias, shape,
                 shape.out.height, shape.out.width, out);
  for (int row = 0; row < shape.out.height; ++row) {
    epilogue_row(out.data + row * out.row, row, shape.out.width * shape.out.channels, epilogue);
  }
}

// P positions of one channel, a register of each: x [Rows][P + Columns - 1], grad [P] -> sums [Rows][Columns], added to.
template <int P, int Rows, int Columns>
inline void depthwise_products(const float* x, ptrdiff_t x_row, const float* grad, ptrdiff_t step, Vec* sums) {
  Vec g[P];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) g[p] = load(grad + p * step);
#pragma GCC unroll 3
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 8
    for (int column = 0; column < P + Columns - 1; ++column) {
      const Vec value = load(x + row * x_row + column * step);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        if (column < p || column - p >= Columns) continue;
        Vec& sum = sums[row * Columns + column - p];
        sum = fma(g[p], value, sum);
      }
    }
  }
}

// in [height][width][channels], grad_out [rows][columns][channels] -> lane_partials [taps][channels][kLanes].
template <int Channels>
void depthwise_kernel_backward(float* lane_partials, View grad_out, View in, const Geometry& shape) {
  const int channels = Channels ? Channels : shape.in.channels;
  const ptrdiff_t step = channels * kLanes;
  const float* x = padded_input(in, shape);
  memset(lane_partials, 0, sizeof(float) * shape.kernel_rows * shape.kernel_columns * step);
  if (is_3x3(shape)) {
    // Two rows at a time: fewer loads of the sums, and the rows of all channels stay in the first-level cache.
    for (int begin = 0; begin < shape.out.height; begin += 2) {
      const int end = begin + 2 < shape.out.height ? begin + 2 : shape.out.height;
      for (int i = 0; i < step; i += kWidth) {
        Vec sums[9];
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; ++tap) sums[tap] = load(lane_partials + tap * step + i);
        for (int row = begin; row < end; ++row) {
          const float *from = x + row * in.row + i, *grad = grad_out.data + row * grad_out.row + i;
          ptrdiff_t column = 0;
          for (; column + 3 <= shape.out.width; column += 3) {
            depthwise_products<3, 3, 3>(from + column * step, in.row, grad + column * step, step, sums);
          }
          for (; column < shape.out.width; ++column) {
            depthwise_products<1, 3, 3>(from + column * step, in.row, grad + column * step, step, sums);
          }
        }
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; ++tap) store(lane_partials + tap * step + i, sums[tap]);
      }
    }
    return;
  }
  for (int row = 0; row < shape.out.height; ++row, x += in.row) {
    const float* grad = grad_out.data + row * grad_out.row;
    for (int tap = 0; tap < shape.kernel_rows * shape.kernel_columns; ++tap) {
      const float* from = x + tap / shape.kernel_columns * in.row + tap % shape.kernel_columns * step;
      for (int i = 0; i < step; i += kWidth) {
        float* partial = lane_partials + tap * step + i;
        Vec sum[1] = {load(partial)};
        for (int column = 0; column < shape.out.width; ++column) {
          depthwise_products<1, 1, 1>(from + column * step + i, 0, grad + column * step + i, step, sum);
        }
        store(partial, sum[0]);
      }
    }
  }
}

// in and out as forward had them, grad_out [rows][columns][channels] -> grad_kernel and, unless null, grad_bias, which are
// added to, and grad_in unless its data is null. scratch [rows * columns of the kernel][channels][kLanes].
void depthwise_backward(View grad_in, float* grad_kernel, float* grad_bias, View grad_out, View in, View out,
                        const float* flipped_kernel, const Geometry& shape, const Epilogue& epilogue, float* scratch) {
  epilogue_backward(grad_out, grad_bias, out, shape.out, epilogue);
  with_channels(shape.in.channels, [&](auto channels) {
    depthwise_kernel_backward<decltype(channels)::value>(scratch, grad_out, in, shape);
  });
  reduce_lane_partials(scratch, shape.kernel_rows * shape.kernel_columns * shape.in.channels, grad_kernel);
  if (!grad_in.data) return;
  const int channels = shape.in.channels * kLanes;
  const int top = shape.kernel_rows - 1 - shape.pad_top, bottom = shape.kernel_rows - 1 - shape.pad_bottom;
  const int left = shape.kernel_columns - 1 - shape.pad_left, right = shape.kernel_columns - 1 - shape.pad_right;
  // A 3x3 kernel does not read the rows of zeros above and below.
  const bool skips = is_3x3(shape);
  clear_border(grad_out, shape.out.height, shape.out.width * channels, skips ? 0 : top, skips ? 0 : bottom,
               left * channels, right * channels);
  depthwise_rows(grad_out.data - top * grad_out.row - left * channels, grad_out.row, top,
                 shape.out.height, flipped_kernel, nullptr, shape, shape.in.height, shape.in.width,
                 grad_in);
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
