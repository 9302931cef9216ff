// Pools over windows of [kernel_rows][kernel_columns] that do not overlap:
//
//   max: out[i][j][c] = max over r, s of in[i * kernel_rows + r][j * kernel_columns + s][c]; back, the gradient goes to the
//   first of the largest; average: their mean; back, each gets its share.
//
// Inputs under no window, at the lower and right edge, get no gradient.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../layers.h"
#include "../vector.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// in [height][width][channels] -> out, argmax [rows][columns][channels]; an index is row * window columns + column in
// the window, the first of the largest.
void max_pool_forward(View out, int32_t* argmax, View in, const Geometry& shape) {
  const int channels = shape.in.channels;
  for (int row = 0; row < shape.out.height; ++row) {
    for (int column = 0; column < shape.out.width; ++column) {
      const float* corner = in.data + row * shape.kernel_rows * in.row +
                            column * shape.kernel_columns * channels * kLanes;
      float* to = out.data + row * out.row + column * channels * kLanes;
      int32_t* indices = argmax + (row * shape.out.width + column) * channels * kLanes;
      for (int i = 0; i < channels * kLanes; i += kWidth) {
        Vec best = load(corner + i);
        IntVec index = {};
        for (int r = 0; r < shape.kernel_rows; ++r) {
          for (int k = 0; k < shape.kernel_columns; ++k) {
            const Vec value = load(corner + r * in.row + k * channels * kLanes + i);
            const IntVec better = value > best;
            best = select(better, value, best);
            index = select(better, broadcast(int32_t(r * shape.kernel_columns + k)), index);
          }
        }
        store(to + i, best);
        *reinterpret_cast<IntVec*>(indices + i) = index;
      }
    }
  }
}

// Calls gradient(offset in the result's row of floats, result row, tap) for every input under a window, and writes what it
// gives; the inputs under none get 0.
template <class Gradient>
void pool_backward(View grad_in, const Geometry& shape, Gradient gradient) {
  const int floats = shape.in.channels * kLanes;
  for (int row = 0; row < shape.in.height; ++row) {
    float* to = grad_in.data + row * grad_in.row;
    const int out_row = row / shape.kernel_rows;
    for (int column = 0; column < shape.in.width; ++column, to += floats) {
      const int out_column = column / shape.kernel_columns;
      if (out_row >= shape.out.height || out_column >= shape.out.width) {
        memset(to, 0, sizeof(float) * floats);
        continue;
      }
      const int tap = row % shape.kernel_rows * shape.kernel_columns + column % shape.kernel_columns;
      for (int i = 0; i < floats; i += kWidth) store(to + i, gradient(out_column * floats + i, out_row, tap));
    }
  }
}

void max_pool_backward(View grad_in, View grad_out, const int32_t* argmax, const Geometry& shape) {
  const int floats = shape.out.width * shape.out.channels * kLanes;
  pool_backward(grad_in, shape, [&](int offset, int row, int tap) {
    const IntVec index = *reinterpret_cast<const IntVec*>(argmax + row * floats + offset);
    return select(index == tap, load(grad_out.data + row * grad_out.row + offset), zeros());
  });
}

// in [height][width][channels] -> out [rows][columns][channels].
void average_pool_forward(View out, View in, const Geometry& shape) {
  const int channels = shape.in.channels;
  const float share = 1.0f / (shape.kernel_rows * shape.kernel_columns);
  for (int row = 0; row < shape.out.height; ++row) {
    for (int column = 0; column < shape.out.width; ++column) {
      const float* corner = in.data + row * shape.kernel_rows * in.row +
                            column * shape.kernel_columns * channels * kLanes;
      float* to = out.data + row * out.row + column * channels * kLanes;
      for (int i = 0; i < channels * kLanes; i += kWidth) {
        Vec sum = {};
        for (int r = 0; r < shape.kernel_rows; ++r) {
          for (int k = 0; k < shape.kernel_columns; ++k) {
            sum += load(corner + r * in.row + k * channels * kLanes + i);
          }
        }
        store(to + i, sum * share);
      }
    }
  }
}

void average_pool_backward(View grad_in, View grad_out, const Geometry& shape) {
  const float share = 1.0f / (shape.kernel_rows * shape.kernel_columns);
  pool_backward(grad_in, shape, [&](int offset, int row, int) {
    return load(grad_out.data + row * grad_out.row + offset) * share;
  });
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
