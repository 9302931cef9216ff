#include "optimizer.h"

#include <cmath>

namespace mnist_minimal {
namespace {

// base**exponent by squaring: the same bits everywhere, which std::pow does not promise.
double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2, base *= base) {
    if (exponent % 2) result *= base;
  }
  return result;
}

}  // namespace

// The formulas and their float32 order of operations are those of keras.optimizers.Adam and keras.optimizers.SGD.
void Optimizer::update(float* parameters, const float* gradients, float* moments, size_t n, int64_t step,
                       float learning_rate) const {
  if (kind == Kind::kMomentum) {
    for (size_t i = 0; i < n; ++i) {
      moments[i] = moments[i] * momentum - gradients[i] * learning_rate;
      parameters[i] += moments[i];
    }
    return;
  }
  const float unbiased = float(std::sqrt(1 - power(beta_2, step)) / (1 - power(beta_1, step)));
  const float rate = learning_rate * unbiased;
  float* second = moments + n;
  for (size_t i = 0; i < n; ++i) {
    parameters[i] -= parameters[i] * decay;
    moments[i] += (gradients[i] - moments[i]) * (1 - beta_1);
    second[i] += (gradients[i] * gradients[i] - second[i]) * (1 - beta_2);
    parameters[i] -= moments[i] * rate / (std::sqrt(second[i]) + epsilon);
  }
}

}  // namespace mnist_minimal
