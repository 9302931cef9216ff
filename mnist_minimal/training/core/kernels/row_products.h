// The matrix products that a convolution consists of. Under one row of the kernel, the inputs of one output lie next to
// each other: kernel_columns * channels_in of them, the "span". So with stride 1,
//
//   out[p][o] = bias[o] + sum over kernel rows r and k < span of x[r][p * channels_in + k] * kernel[r][k][o],
//   grad_kernel[r][k][o] = sum over rows, positions p and samples of x[row + r][p * channels_in + k] * grad[row][p][o],
//
// and the pointwise and the dense layer are the case of one row and a span of channels_in.
#pragma once

#include "../layers.h"
#include "../vector.h"
#include "blocks.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// A block of outputs is of so many channels at most, and a block of the kernel's gradient of so many each way.
constexpr int kChannelsAtOnce = kWidth == kLanes ? 8 : 6;
constexpr int kOuterIn = kAccumulators > 12 ? 5 : 3, kOuterOut = kAccumulators > 12 ? 5 : 4;

// One row of outputs: x [kernel_rows][columns + kernel_columns - 1][channels_in][kLanes], kernel [kernel_rows][span]
// [channels_out], bias [channels_out] or null -> out [columns][channels_out][kLanes].
struct Convolution {
  ptrdiff_t x_row;
  ptrdiff_t x_step;  // floats from one position of x to the next
  const float* kernel;
  const float* bias;
  int kernel_rows, span, channels_out;
};

// Positions [P] and channels [C] of a row at once. Rows and Span are the kernel's, or 0 where not known in advance.
template <int P, int C, int Rows, int Span>
inline void convolve_block(const Convolution& conv, const float* x, int c, float* out) {
  constexpr int Q = kPartsAtOnce;
  const int rows = Rows ? Rows : conv.kernel_rows, span = Span ? Span : conv.span;
  for (int part = 0; part < kParts; part += Q) {
    Vec sums[P][Q][C];
    const float* bias = conv.bias ? conv.bias + c : nullptr;
#pragma GCC unroll 8
    for (int i = 0; i < C; ++i) {
      const Vec start = bias ? broadcast(bias[i]) : zeros();
#pragma GCC unroll 24
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
        for (int q = 0; q < Q; ++q) sums[p][q][i] = start;
      }
    }
    const float* kernel = conv.kernel + c;
    const float* from_row = x + part * kWidth;
#pragma GCC unroll 3
    for (int row = 0; row < rows; ++row, from_row += conv.x_row) {
      const float* from = from_row;
#pragma GCC unroll 3
      for (int k = 0; k < span; ++k, from += kLanes, kernel += conv.channels_out) {
#pragma GCC unroll 8
        for (int i = 0; i < C; ++i) {
          const Vec weight = broadcast(kernel[i]);
#pragma GCC unroll 24
          for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
            for (int q = 0; q < Q; ++q) {
              sums[p][q][i] = fma(weight, load(from + p * conv.x_step + q * kWidth), sums[p][q][i]);
            }
          }
        }
      }
    }
#pragma GCC unroll 24
    for (int p = 0; p < P; ++p) {
      const int offset = p * conv.channels_out + c;
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) {
#pragma GCC unroll 2
        for (int q = 0; q < Q; ++q) {
          store(out + (offset + i) * kLanes + (part + q) * kWidth, sums[p][q][i]);
        }
      }
    }
  }
}

template <int Rows, int Span>
void convolve_row(const Convolution& conv, const float* x, int columns, float* out) {
  for_blocks<kChannelsAtOnce>(conv.channels_out, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    constexpr int P = kAccumulators / (kPartsAtOnce * C) < 1 ? 1 : kAccumulators / (kPartsAtOnce * C);
    const ptrdiff_t step = conv.channels_out;
    ptrdiff_t column = 0;
    for (; column + P <= columns; column += P) {
      convolve_block<P, C, Rows, Span>(conv, x + column * conv.x_step, c, out + column * step * kLanes);
    }
    constexpr int kHalf = P < 2 ? 1 : P / 2;
    for (; column + kHalf <= columns; column += kHalf) {
      convolve_block<kHalf, C, Rows, Span>(conv, x + column * conv.x_step, c, out + column * step * kLanes);
    }
    for (; column < columns; ++column) {
      convolve_block<1, C, Rows, Span>(conv, x + column * conv.x_step, c, out + column * step * kLanes);
    }
  });
}

void convolve_row(const Convolution& conv, const float* x, int columns, float* out) {
  if (conv.kernel_rows == 3 && conv.span == 3) {
    convolve_row<3, 3>(conv, x, columns, out);
  } else if (conv.kernel_rows == 1) {
    convolve_row<1, 0>(conv, x, columns, out);
  } else {
    convolve_row<0, 0>(conv, x, columns, out);
  }
}

// A numbers of each of the [rows][columns] positions of x and B of those of grad -> lane_partials [A][B][kLanes], added
// to; x_step, grad_step and partials_step are the floats between two positions and between two rows of `lane_partials`.
template <int A, int B>
inline void outer_products(const float* x, ptrdiff_t x_row, ptrdiff_t x_step, View grad, ptrdiff_t grad_step, int rows,
                           int columns, float* lane_partials, ptrdiff_t partials_step) {
  for (int part = 0; part < kParts; ++part) {
    float* partials = lane_partials + part * kWidth;
    Vec sums[A][B];
#pragma GCC unroll 6
    for (int a = 0; a < A; ++a) {
#pragma GCC unroll 6
      for (int b = 0; b < B; ++b) sums[a][b] = load(partials + a * partials_step + b * kLanes);
    }
    for (int row = 0; row < rows; ++row) {
      const float* from = x + row * x_row + part * kWidth;
      const float* g = grad.data + row * grad.row + part * kWidth;
      for (int column = 0; column < columns; ++column, from += x_step, g += grad_step) {
        Vec values[A];
#pragma GCC unroll 6
        for (int a = 0; a < A; ++a) values[a] = load(from + a * kLanes);
#pragma GCC unroll 6
        for (int b = 0; b < B; ++b) {
          const Vec gradient = load(g + b * kLanes);
#pragma GCC unroll 6
          for (int a = 0; a < A; ++a) sums[a][b] = fma(values[a], gradient, sums[a][b]);
        }
      }
    }
#pragma GCC unroll 6
    for (int a = 0; a < A; ++a) {
#pragma GCC unroll 6
      for (int b = 0; b < B; ++b) store(partials + a * partials_step + b * kLanes, sums[a][b]);
    }
  }
}

// x [rows + kernel_rows - 1][columns + kernel_columns - 1][channels_in][kLanes], grad [rows][columns][channels_out]
// [kLanes] -> lane_partials [kernel_rows][span][channels_out][kLanes], added to: the kernel's gradient before the sum
// over lanes.
void kernel_backward(const Convolution& conv, const float* x, View grad, int rows, int columns,
                     float* lane_partials) {
  // As many rows at a time as leave both operands in the first-level cache.
  const int bytes_per_row = columns * int(conv.x_step + conv.channels_out * kLanes) * int(sizeof(float));
  const int chunk = bytes_per_row > 8192 ? 1 : 16384 / bytes_per_row + 1;
  for (int begin = 0; begin < rows; begin += chunk) {
    const int count = rows - begin < chunk ? rows - begin : chunk;
    for_blocks<kOuterOut>(conv.channels_out, [&](int c, auto channels) {
      const View g = {grad.data + begin * grad.row + c * kLanes, grad.row};
      for (int row = 0; row < conv.kernel_rows; ++row) {
        for_blocks<kOuterIn>(conv.span, [&](int k, auto taps) {
          outer_products<decltype(taps)::value, decltype(channels)::value>(
              x + (begin + row) * conv.x_row + k * kLanes, conv.x_row, conv.x_step, g, conv.channels_out * kLanes, count,
              columns, lane_partials + ((row * conv.span + k) * conv.channels_out + c) * kLanes,
              conv.channels_out * kLanes);
        });
      }
    });
  }
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
