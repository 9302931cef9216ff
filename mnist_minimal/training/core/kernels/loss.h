// Softmax cross-entropy of logits x [classes][kLanes]:
//
//   loss = sum over samples of log(sum over c of exp(x[c])) - x[label],
//   gradient[c] = weight * (exp(x[c]) / sum of exp(x) - (c == label)).
#pragma once

#include <math.h>
#include <stdint.h>

#include "../layers.h"
#include "../vector.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

GroupLoss softmax_cross_entropy(const float* logits, int classes, const uint8_t* labels, int samples, float weight,
                                float* gradient) {
  GroupLoss total = {0, 0};
  for (int lane = 0; lane < kLanes; ++lane) {
    const float* x = logits + lane;
    if (lane >= samples) {
      for (int c = 0; gradient && c < classes; ++c) gradient[c * kLanes + lane] = 0;
      continue;
    }
    int best = 0;
    for (int c = 1; c < classes; ++c) {
      if (x[c * kLanes] > x[best * kLanes]) best = c;
    }
    const float largest = x[best * kLanes];
    float sum = 0;
    for (int c = 0; c < classes; ++c) {
      const float exponential = expf(x[c * kLanes] - largest);
      sum += exponential;
      if (gradient) gradient[c * kLanes + lane] = exponential;
    }
    const int label = labels[lane];
    total.loss += logf(sum) + largest - x[label * kLanes];
    total.correct += best == label;
    for (int c = 0; gradient && c < classes; ++c) {
      float& g = gradient[c * kLanes + lane];
      g = (g / sum - (c == label)) * weight;
    }
  }
  return total;
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
