// Normalisation of each sample over height, width and channels, with one gain and one bias:
//
//   n = (in - mean) * scale, scale = 1 / (deviation + epsilon), out = epilogue(gain * n + bias),
//
// and back, with g the gradient before the epilogue: grad_gain = sum of g * n, grad_bias = sum of g, grad_in = gain * scale
// * (g - mean of g - n * (mean of g * n) * (deviation + epsilon) / deviation).
#pragma once

#include <math.h>

#include "../layers.h"
#include "../vector.h"
#include "epilogue.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// 1 / (sqrt(variance) + epsilon), of variances no smaller than the Keras layer's SMALLEST_VARIANCE.
inline Vec reciprocal_deviation(Vec variance, float epsilon) {
  Vec result = max(variance, broadcast(1e-12f));
  for (int i = 0; i < kWidth; ++i) result[i] = 1.0f / (sqrtf(result[i]) + epsilon);
  return result;
}

// in, out [height][width][channels]; saved [2][kLanes], each sample's mean and scale.
void instance_norm_forward(View out, float* saved, View in, float gain, float bias, float epsilon, Shape shape,
                           const Epilogue& epilogue) {
  const int floats = shape.width * shape.channels * kLanes;
  const float share = 1.0f / (shape.height * shape.width * shape.channels);
  for (int part = 0; part < kParts; ++part) {
    // Summed by rows first: one sum over thousands of numbers loses digits.
    Vec sum = {}, squares = {};
    for (int row = 0; row < shape.height; ++row) {
      const float* x = in.data + row * in.row + part * kWidth;
      Vec row_sum = {};
      for (int i = 0; i < floats; i += kLanes) row_sum += load(x + i);
      sum += row_sum;
    }
    const Vec mean = sum * share;
    for (int row = 0; row < shape.height; ++row) {
      const float* x = in.data + row * in.row + part * kWidth;
      Vec row_squares = {};
      for (int i = 0; i < floats; i += kLanes) {
        const Vec difference = load(x + i) - mean;
        row_squares = fma(difference, difference, row_squares);
      }
      squares += row_squares;
    }
    store(saved + part * kWidth, mean);
    store(saved + kLanes + part * kWidth, reciprocal_deviation(squares * share, epsilon));
  }
  with_epilogue(epilogue, [&](auto& apply) {
    for (int row = 0; row < shape.height; ++row) {
      const float* x = in.data + row * in.row;
      float* to = out.data + row * out.row;
      for (int i = 0; i < floats; i += kLanes) {
        apply.draw((row * floats + i) / kLanes);
        for (int part = 0; part < kParts; ++part) {
          const Vec mean = load(saved + part * kWidth), scale = load(saved + kLanes + part * kWidth);
          store(to + i + part * kWidth, apply(fma(load(x + i + part * kWidth) - mean, scale * gain, broadcast(bias)),
                                              (row * floats + i) / kLanes, part));
        }
      }
    }
  });
}

// grad_out [height][width][channels] -> grad_gain and grad_bias, one number each, added to, and grad_in unless its data is
// null.
void instance_norm_backward(View grad_in, float* grad_gain, float* grad_bias, View grad_out, View in, View out,
                            const float* saved, float gain, float epsilon, Shape shape, const Epilogue& epilogue) {
  epilogue_backward(grad_out, nullptr, out, shape, epilogue);
  const int floats = shape.width * shape.channels * kLanes;
  const float share = 1.0f / (shape.height * shape.width * shape.channels);
  Row gain_gradient, bias_gradient;
  for (int part = 0; part < kParts; ++part) {
    const Vec mean = load(saved + part * kWidth), scale = load(saved + kLanes + part * kWidth);
    Vec sum = {}, product = {};
    for (int row = 0; row < shape.height; ++row) {
      const float* x = in.data + row * in.row + part * kWidth;
      const float* grad = grad_out.data + row * grad_out.row + part * kWidth;
      Vec row_sum = {}, row_product = {};
      for (int i = 0; i < floats; i += kLanes) {
        row_sum += load(grad + i);
        row_product = fma(load(grad + i), (load(x + i) - mean) * scale, row_product);
      }
      sum += row_sum;
      product += row_product;
    }
    bias_gradient.part[part] = sum;
    gain_gradient.part[part] = product;
    if (!grad_in.data) continue;
    // The deviation's share of what it divides by is less than all of it: (deviation + epsilon) / deviation.
    const Vec slope = product * share / (1.0f - epsilon * scale), mean_gradient = sum * share;
    for (int row = 0; row < shape.height; ++row) {
      const float* x = in.data + row * in.row + part * kWidth;
      const float* grad = grad_out.data + row * grad_out.row + part * kWidth;
      float* to = grad_in.data + row * grad_in.row + part * kWidth;
      for (int i = 0; i < floats; i += kLanes) {
        const Vec normalised = (load(x + i) - mean) * scale;
        store(to + i, fma(-normalised, slope, load(grad + i) - mean_gradient) * (scale * gain));
      }
    }
  }
  *grad_bias += bias_gradient.reduce();
  *grad_gain += gain_gradient.reduce();
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
