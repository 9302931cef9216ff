// The optimizers: one step over flat arrays of parameters, gradients and moments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace mnist_minimal {

struct Kernels;

struct Optimizer {
  enum class Kind { kAdam, kMomentum, kSoap };

  Kind kind = Kind::kAdam;
  float beta_1 = 0.9f, beta_2 = 0.999f, epsilon = 1e-7f;
  float decay = 0;     // share of itself that every parameter loses at each step, before Adam's step
  float momentum = 0;  // of stochastic gradient descent
  std::vector<int> blocks;  // of SOAP: the parameters of each, one block after the other; soap.h

  // Of all blocks.
  size_t parameters() const { return std::accumulate(blocks.begin(), blocks.end(), size_t(0)); }

  // Step number `step`, counted from 1, with gradients [n]; parameters [n] and moments [2][n] are updated. Gradient descent
  // uses the first moment for its velocity. SOAP, which has more to keep, is not taken here.
  void update(float* parameters, const float* gradients, float* moments, size_t n, int64_t step,
              float learning_rate) const;
};

// Numbers of the covariances, and of the bases, of blocks of these sizes.
size_t soap_numbers(const std::vector<int>& sizes);

// The identity for each block.
void soap_begin(const std::vector<int>& sizes, std::vector<float>& bases);

// Step number `step`, counted from 1, of all blocks one after the other: gradients [n]; parameters [n], moments [2][n],
// covariances and bases are updated.
void soap_update(const std::vector<int>& sizes, float* parameters, const float* gradients, float* moments,
                 double* covariances, float* bases, size_t n, int64_t step, float learning_rate, const Kernels& kernels);

}  // namespace mnist_minimal
