// A block's part of a step of SOAP, and its new basis; ../soap.h has the formulas.
#pragma once

#include <math.h>
#include <stddef.h>

#include "../soap.h"
#include "../vector.h"
#include "eigenvectors.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// scratch [size]
void soap_step(const SoapBlock& block, const float* gradient, SoapScales scales, float* scratch) {
  const int size = block.size;
  float* change = scratch;
  for (int i = 0; i < size; ++i) {
    block.momentum[i] = block.momentum[i] * kSoapBeta1 + gradient[i] * (1 - kSoapBeta1);
    change[i] = 0;
  }
  for (int k = 0; k < size; ++k) {
    const float* vector = block.basis + size_t(k) * size;
    const float turned = dot(vector, gradient, size);
    block.variance[k] = block.variance[k] * kSoapBeta2 + turned * turned * (1 - kSoapBeta2);
    const float along =
        dot(vector, block.momentum, size) * scales.rate / (sqrtf(block.variance[k] * scales.variance) + kSoapEpsilon);
    for (int i = 0; i < size; ++i) change[i] += vector[i] * along;
  }
  for (int i = 0; i < size; ++i) block.parameters[i] -= change[i];
  for (int i = 0; i < size; ++i) {
    const double share = (1 - kSoapDecay) * gradient[i];
    double* row = block.covariance + size_t(i) * size;
    for (int j = 0; j <= i; ++j) row[j] = row[j] * kSoapDecay + share * double(gradient[j]);
  }
}

// Renews a block's basis, and its variance along it; `weight` is the sum of the weights in the covariance. A block without a
// gradient, or one whose covariance is not finite, as of a training that diverges, keeps what it has. scratch
// [2 size + 3][size]
void soap_renew(const SoapBlock& block, double weight, double* scratch) {
  const int size = block.size;
  const size_t numbers = size_t(size) * size;
  double *matrix = scratch, *basis = scratch + numbers, *values = scratch + 2 * numbers, *rest = values + size;
  // No number beside the diagonal is larger than the diagonal's sum.
  double total = 0;
  for (int i = 0; i < size; ++i) total += block.covariance[size_t(i) * size + i];
  if (!(total > 0 && isfinite(total))) return;
  for (size_t i = 0; i < numbers; ++i) matrix[i] = block.covariance[i] / total;
  eigenvectors(matrix, basis, values, rest, size);
  for (int k = 0; k < size; ++k) {
    // Rounding may leave less than 0 of nothing.
    block.variance[k] = values[k] > 0 ? float(values[k] * total / weight) : 0.0f;
  }
  for (size_t i = 0; i < numbers; ++i) block.basis[i] = float(basis[i]);
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
