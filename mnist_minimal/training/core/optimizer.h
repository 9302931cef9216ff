// The optimizers: one step over flat arrays of parameters, gradients and moments.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mnist_minimal {

struct Optimizer {
  enum class Kind { kAdam, kMomentum };

  Kind kind = Kind::kAdam;
  float beta_1 = 0.9f, beta_2 = 0.999f, epsilon = 1e-7f;
  float decay = 0;     // share of itself that every parameter loses at each step, before Adam's step
  float momentum = 0;  // of stochastic gradient descent

  // Step number `step`, counted from 1, with gradients [n]; parameters [n] and moments [2][n] are updated. Gradient descent
  // uses the first moment for its velocity.
  void update(float* parameters, const float* gradients, float* moments, size_t n, int64_t step,
              float learning_rate) const;
};

}  // namespace mnist_minimal
