// SOAP with full matrices: Adam along the eigenvectors of the covariance of each layer's gradients.
//
// After N. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", https://arxiv.org/abs/2409.11321, where each
// array has two covariances, of its rows and of its columns; a layer of a few hundred numbers can have the whole one. With
// the gradient g of a block, a layer's parameters w:
//
//   m = .9 m + .1 g                                  corrected for its start at 0
//   v = .99 v + .01 (Q^T g)^2                        set to the diagonal of Q^T C Q where Q is renewed
//   w = w - rate Q (Q^T m / (sqrt(v) + 1e-8))
//   C = .999 C + .001 g g^T                          corrected for its start at 0 where it is used
//
// Q, the eigenvectors of C, is renewed after every kSoapRenewal steps. Until the first it is the identity, v is corrected for
// its start at 0, and no rate is higher than kSoapFirstRate: so far this is Adam.
//
// Every sum is made in one order, and only numbers that are independent of each other stand side by side in a register, so
// that every instruction set gives the same bits.
#pragma once

#include <cstdint>

namespace mnist_minimal {

constexpr int64_t kSoapRenewal = 200;
constexpr float kSoapFirstRate = 0.01f;
constexpr float kSoapBeta1 = 0.9f, kSoapBeta2 = 0.99f, kSoapEpsilon = 1e-8f;
constexpr double kSoapDecay = 0.999;

// A block's parameters and state.
struct SoapBlock {
  int size;
  float *parameters, *momentum, *variance;  // [size]; the variance is along the basis
  double* covariance;                       // [size][size], of which the lower triangle is used
  float* basis;                             // [size][size], a vector in each row
};

// What a step is multiplied with, beside the learning rate: both correct moments for their start at 0.
struct SoapScales {
  float rate, variance;
};

}  // namespace mnist_minimal
