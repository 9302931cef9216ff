#include "optimizer.h"

#include <cmath>

namespace mnist_minimal {

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
  const float count = static_cast<float>(step);
  const float rate = learning_rate * std::sqrt(1 - std::pow(beta_2, count)) / (1 - std::pow(beta_1, count));
  float* second = moments + n;
  for (size_t i = 0; i < n; ++i) {
    parameters[i] -= parameters[i] * decay;
    moments[i] += (gradients[i] - moments[i]) * (1 - beta_1);
    second[i] += (gradients[i] * gradients[i] - second[i]) * (1 - beta_2);
    parameters[i] -= moments[i] * rate / (std::sqrt(second[i]) + epsilon);
  }
}

}  // namespace mnist_minimal
