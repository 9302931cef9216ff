// Convolution of stride 1 with a border of zeros; also the dense layer, over one position:
//
//   out[i][j][o] = epilogue(bias[o] + sum over r, s, c of in[i + r - top][j + s - left][c] * kernel[r][s][c][o]),
//
// and back, with g the gradient before the epilogue: grad_bias[o] = sum of g[i][j][o], grad_kernel[r][s][c][o] = sum over
// i, j of in[i + r - top][j + s - left][c] * g[i][j][o], and grad_in = the convolution of g by the kernel with its taps in
// reverse order and its in and out channels exchanged.
#pragma once

#include <string.h>

#include "../layers.h"
#include "../vector.h"
#include "blocks.h"
#include "epilogue.h"
#include "row_products.h"
#include "winograd.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// The row products of a convolution of `in`; kernel and bias are null where only shapes are asked for.
Convolution row_products(const float* kernel, const float* bias, ptrdiff_t x_row, const Geometry& shape) {
  return {x_row, shape.in.channels * kLanes, kernel, bias, shape.kernel_rows, shape.kernel_columns * shape.in.channels,
          shape.out.channels};
}

// The first input under the kernel at the first output.
const float* padded_input(View in, const Geometry& shape) {
  return in.data - shape.pad_top * in.row - shape.pad_left * shape.in.channels * kLanes;
}

// Makes two of `rows` rows at once if there are Winograd weights, and else one; how many it made.
int convolve_rows(const Convolution& conv, const float* winograd_weights, const float* x, int rows, int columns,
                  View out, float* scratch) {
  if (!winograd_weights || rows < 2) {
    convolve_row(conv, x, columns, out.data);
    return 1;
  }
  Convolution two = conv;
  two.kernel = winograd_weights;
  winograd_f2x3(two, x, columns, out, scratch);
  return 2;
}

// in [height][width][channels], with its border; kernel [rows][columns][channels][channels_out]; winograd_weights
// [4][columns][channels][channels_out] or null; bias [channels_out] or null -> out [rows][columns][channels_out].
void convolution_forward(View out, View in, const float* kernel, const float* winograd_weights, const float* bias,
                         const Geometry& shape, const Epilogue& epilogue, float* scratch) {
  const Convolution conv = row_products(kernel, bias, in.row, shape);
  const float* x = padded_input(in, shape);
  for (int row = 0; row < shape.out.height;) {
    const View to = {out.data + row * out.row, out.row};
    int made = convolve_rows(conv, winograd_weights, x + row * conv.x_row, shape.out.height - row, shape.out.width, to,
                             scratch);
    for (; made > 0; --made, ++row) {
      epilogue_row(out.data + row * out.row, row, shape.out.width * shape.out.channels, epilogue);
    }
  }
}

// grad_out, around which zeros are written, * the flipped kernel and its Winograd weights or null -> grad_in.
void convolution_input_backward(View grad_in, View grad_out, const float* flipped_kernel,
                                const float* winograd_flipped, const Geometry& shape, float* scratch) {
  const int channels = shape.out.channels * kLanes;
  const int top = shape.kernel_rows - 1 - shape.pad_top, bottom = shape.kernel_rows - 1 - shape.pad_bottom;
  const int left = shape.kernel_columns - 1 - shape.pad_left, right = shape.kernel_columns - 1 - shape.pad_right;
  clear_border(grad_out, shape.out.height, shape.out.width * channels, top, bottom, left * channels,
               right * channels);
  const Convolution flipped = {grad_out.row,
                               channels,
                               flipped_kernel,
                               nullptr,
                               shape.kernel_rows,
                               shape.kernel_columns * shape.out.channels,
                               shape.in.channels};
  const float* grad = grad_out.data - top * grad_out.row - left * channels;
  for (int row = 0; row < shape.in.height;) {
    const View to = {grad_in.data + row * grad_in.row, grad_in.row};
    row += convolve_rows(flipped, winograd_flipped, grad + row * flipped.x_row, shape.in.height - row, shape.in.width,
                         to, scratch);
  }
}

// in and out as forward had them, grad_out [rows][columns][channels_out] -> grad_kernel and, unless null, grad_bias, which
// are added to, and grad_in unless its data is null.
void convolution_backward(View grad_in, float* grad_kernel, float* grad_bias, View grad_out, View in, View out,
                          const float* flipped_kernel, const float* winograd_flipped, const Geometry& shape,
                          const Epilogue& epilogue, float* scratch) {
  epilogue_backward(grad_out, grad_bias, out, shape.out, epilogue);
  const Convolution conv = row_products(nullptr, nullptr, in.row, shape);
  const int weights = conv.kernel_rows * conv.span * conv.channels_out;
  const float* x = padded_input(in, shape);
  float* lane_partials = scratch;
  if (!winograd_flipped) {
    memset(lane_partials, 0, sizeof(float) * weights * kLanes);
    kernel_backward(conv, x, grad_out, shape.out.height, shape.out.width, lane_partials);
  } else {
    const int partials = weights / 3 * 4 * kLanes;
    memset(lane_partials, 0, sizeof(float) * partials);
    winograd_kernel_backward(conv, x, grad_out, shape.out.height, shape.out.width, lane_partials,
                             lane_partials + partials);
  }
  reduce_lane_partials(lane_partials, weights, grad_kernel);
  if (grad_in.data) {
    convolution_input_backward(grad_in, grad_out, flipped_kernel, winograd_flipped, shape, scratch);
  }
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
