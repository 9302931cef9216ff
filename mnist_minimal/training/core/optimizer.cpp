#include "optimizer.h"

#include <algorithm>
#include <cmath>

#include "layers.h"
#include "soap.h"

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

size_t soap_numbers(const std::vector<int>& sizes) {
  size_t numbers = 0;
  for (int size : sizes) numbers += size_t(size) * size;
  return numbers;
}

void soap_begin(const std::vector<int>& sizes, std::vector<float>& bases) {
  bases.assign(soap_numbers(sizes), 0.0f);
  float* basis = bases.data();
  for (int size : sizes) {
    for (int i = 0; i < size; ++i) basis[size_t(i) * size + i] = 1;
    basis += size_t(size) * size;
  }
}

void soap_update(const std::vector<int>& sizes, float* parameters, const float* gradients, float* moments,
                 double* covariances, float* bases, size_t n, int64_t step, float learning_rate,
                 const Kernels& kernels) {
  const bool first = step <= kSoapRenewal;
  const float rate = first ? std::min(learning_rate, kSoapFirstRate) : learning_rate;
  const SoapScales scales = {float(rate / (1 - power(kSoapBeta1, step))),
                             first ? float(1 / (1 - power(kSoapBeta2, step))) : 1.0f};
  const int largest = *std::max_element(sizes.begin(), sizes.end());
  std::vector<float> scratch(largest);
  std::vector<double> matrices;
  for (int size : sizes) {
    const SoapBlock block = {size, parameters, moments, moments + n, covariances, bases};
    kernels.soap_step(block, gradients, scales, scratch.data());
    if (step % kSoapRenewal == 0) {
      matrices.resize((2 * size_t(largest) + 3) * largest);
      kernels.soap_renew(block, 1 - power(kSoapDecay, step), matrices.data());
    }
    parameters += size;
    gradients += size;
    moments += size;
    covariances += size_t(size) * size;
    bases += size_t(size) * size;
  }
}

}  // namespace mnist_minimal
