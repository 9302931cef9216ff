// Activation and dropout alone: out = epilogue(in), [height][width][channels][kLanes] each.
#pragma once

#include <string.h>

#include "../layers.h"
#include "../vector.h"
#include "epilogue.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

void elementwise_forward(View out, View in, Shape shape, const Epilogue& epilogue) {
  const int floats = shape.width * shape.channels * kLanes;
  with_epilogue(epilogue, [&](auto& apply) {
    for (int row = 0; row < shape.height; ++row) {
      const float* x = in.data + row * in.row;
      float* to = out.data + row * out.row;
      for (int i = 0; i < floats; i += kLanes) {
        apply.draw((row * floats + i) / kLanes);
        for (int part = 0; part < kParts; ++part) {
          store(to + i + part * kWidth, apply(load(x + i + part * kWidth), (row * floats + i) / kLanes, part));
        }
      }
    }
  });
}

// grad_in may have no data.
void elementwise_backward(View grad_in, View grad_out, View out, Shape shape, const Epilogue& epilogue) {
  epilogue_backward(grad_out, nullptr, out, shape, epilogue);
  if (!grad_in.data) return;
  const size_t bytes = sizeof(float) * shape.width * shape.channels * kLanes;
  for (int row = 0; row < shape.height; ++row) {
    memcpy(grad_in.data + row * grad_in.row, grad_out.data + row * grad_out.row, bytes);
  }
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
