// SiLU, out = in * sigmoid(in), [height][width][channels][kLanes] each, and what every layer has at its end.
#pragma once

#include "../layers.h"
#include "../vector.h"
#include "elementary.h"
#include "epilogue.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// 1 / (1 + e**-x), of the exponential of -|x|, which can't overflow.
inline Vec sigmoid(Vec x) {
  const IntVec is_negative = x < 0.0f;
  const Vec e = exponential(select(is_negative, x, -x));
  return select(is_negative, e, broadcast(1.0f)) / (1.0f + e);
}

void silu_forward(View out, View in, Shape shape, const Epilogue& epilogue) {
  const int floats = shape.width * shape.channels * kLanes;
  for (int row = 0; row < shape.height; ++row) {
    const float* from = in.data + row * in.row;
    float* to = out.data + row * out.row;
    for (int i = 0; i < floats; i += kWidth) {
      const Vec x = load(from + i);
      store(to + i, x * sigmoid(x));
    }
    epilogue_row(to, row, shape.width * shape.channels, epilogue);
  }
}

// grad_out becomes the gradient before activation and dropout at the layer's end. grad_in may have no data.
void silu_backward(View grad_in, View grad_out, View in, View out, Shape shape, const Epilogue& epilogue) {
  epilogue_backward(grad_out, nullptr, out, shape, epilogue);
  if (!grad_in.data) return;
  const int floats = shape.width * shape.channels * kLanes;
  for (int row = 0; row < shape.height; ++row) {
    const float *from = in.data + row * in.row, *grad = grad_out.data + row * grad_out.row;
    float* to = grad_in.data + row * grad_in.row;
    for (int i = 0; i < floats; i += kWidth) {
      const Vec x = load(from + i), s = sigmoid(x);
      // s + x * s * (1 - s)
      store(to + i, load(grad + i) * fma(x * s, 1.0f - s, s));
    }
  }
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
