// Softmax cross-entropy of logits x [classes][kLanes] against targets t, which are 1 at the label and else 0, or are given:
//
//   loss = sum over samples of log(sum over c of exp(x[c])) - sum over c of t[c] * x[c],
//   gradient[c] = weight * (exp(x[c]) / sum of exp(x) - t[c]).
#pragma once

#include <stdint.h>

#include "../layers.h"
#include "../vector.h"
#include "elementary.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// Of one register of samples: the largest of their logits, and the first class that has it.
struct Largest {
  Vec value;
  IntVec index;

  Largest(const float* logits, int classes) : value(load(logits)), index{} {
    for (int c = 1; c < classes; ++c) {
      const Vec x = load(logits + c * kLanes);
      const IntVec larger = x > value;
      value = select(larger, x, value);
      index = select(larger, broadcast(int32_t(c)), index);
    }
  }
};

// labels [samples]; targets [classes][kLanes], whose sum over the classes is 1, or null for the labels'; gradient [classes]
// [kLanes] or null. The lanes without a sample have no part in the loss, and their gradient is 0.
GroupLoss softmax_cross_entropy(const float* logits, int classes, const uint8_t* labels, const float* targets,
                                int samples, float weight, float* gradient) {
  GroupLoss total = {0, 0};
  for (int part = 0; part < kParts; ++part) {
    const float* x = logits + part * kWidth;
    IntVec label, lanes;
    for (int i = 0; i < kWidth; ++i) {
      const int lane = part * kWidth + i;
      lanes[i] = lane;
      label[i] = labels[lane < samples ? lane : samples - 1];
    }
    const IntVec is_sample = lanes < samples;
    const auto target = [&](int c) {
      return targets ? load(targets + c * kLanes + part * kWidth) : select(label == c, broadcast(1.0f), zeros());
    };
    const Largest largest(x, classes);
    Vec sum = {}, at_target = {};
    for (int c = 0; c < classes; ++c) {
      const Vec below = load(x + c * kLanes) - largest.value;
      const Vec exponential_of_it = exponential(below);
      sum += exponential_of_it;
      at_target = fma(target(c), below, at_target);
      if (gradient) store(gradient + c * kLanes + part * kWidth, exponential_of_it);
    }
    const Vec loss = logarithm(sum) - at_target;
    const IntVec correct = (largest.index == label) & is_sample;
    for (int i = 0; i < kWidth && part * kWidth + i < samples; ++i) {
      total.loss += loss[i];
      total.correct -= correct[i];
    }
    for (int c = 0; gradient && c < classes; ++c) {
      float* g = gradient + c * kLanes + part * kWidth;
      store(g, select(is_sample, (load(g) / sum - target(c)) * weight, zeros()));
    }
  }
  return total;
}

// logits [classes][kLanes] -> probabilities [samples][classes].
void softmax(float* probabilities, const float* logits, int classes, int samples) {
  for (int part = 0; part < kParts; ++part) {
    const float* x = logits + part * kWidth;
    const Largest largest(x, classes);
    Vec sum = {};
    for (int c = 0; c < classes; ++c) sum += exponential(load(x + c * kLanes) - largest.value);
    for (int c = 0; c < classes; ++c) {
      const Vec probability = exponential(load(x + c * kLanes) - largest.value) / sum;
      for (int i = 0; i < kWidth && part * kWidth + i < samples; ++i) {
        probabilities[(part * kWidth + i) * classes + c] = probability[i];
      }
    }
  }
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
