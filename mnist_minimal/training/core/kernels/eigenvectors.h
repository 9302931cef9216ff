// Eigenvectors of a symmetric matrix.
//
// By Householder's reflections to a tridiagonal matrix, and implicit QR steps of this: G. Golub and C. Van Loan, "Matrix
// Computations", 4th edition, sections 5.1 and 8.3. Matrices are [size][size], the vectors of a basis are its rows. Every
// sum is made in one order, so that every instruction set gives the same bits.
#pragma once

#include <math.h>
#include <stddef.h>

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// What is nothing beside 1, the largest number of a matrix; the square of what is more does not underflow.
constexpr double kNothing = 0x1p-100;

// In eight sums, of every eighth product each, then these in their order.
template <class Real>
inline Real dot(const Real* a, const Real* b, int size) {
  constexpr int kSums = 8;
  Real sums[kSums] = {};
  int i = 0;
  for (; i + kSums <= size; i += kSums) {
    for (int j = 0; j < kSums; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (int j = 0; i < size; ++i, ++j) sums[j] += a[i] * b[i];
  Real sum = 0;
  for (Real each : sums) sum += each;
  return sum;
}

// to += factor from
inline void add(double* to, double factor, const double* from, int size) {
  for (int i = 0; i < size; ++i) to[i] += factor * from[i];
}

// Makes of x the vector v of a reflection, I - factor v v^T, that takes x to (0, ..., 0, last); of nothing it is none.
struct Reflection {
  double factor, last;
};

inline Reflection reflection(double* x, int size) {
  const double norm = sqrt(dot(x, x, size));
  if (norm <= kNothing) return {0, 0};
  // Of the other sign than the number that it is taken from, so that nothing cancels.
  const double last = x[size - 1] > 0 ? -norm : norm;
  x[size - 1] -= last;
  return {1 / (norm * fabs(x[size - 1])), last};
}

// Turns a symmetric matrix to a tridiagonal one: `diagonal` [size], and in beside[i] what stands between i and i + 1. Its
// lower triangle is read and written over. `basis` is the basis in which it is tridiagonal. scratch [size]
void tridiagonalize(double* matrix, double* basis, double* diagonal, double* beside, double* scratch, int size) {
  for (int k = size - 1; k >= 0; --k) {
    double *v = matrix + size_t(k) * size, *w = scratch;
    diagonal[k] = v[k];
    if (k == 0) break;
    const Reflection found = reflection(v, k);
    beside[k - 1] = found.last;
    v[k] = found.factor;  // For the basis, below.
    // The smaller matrix A on both sides: A - v w^T - w v^T with w = p - factor / 2 (p v) v, p = factor A v.
    for (int i = 0; i < k; ++i) {
      const double* row = matrix + size_t(i) * size;
      w[i] = row[i] * v[i] + dot(row, v, i);
      add(w, v[i], row, i);
    }
    for (int i = 0; i < k; ++i) w[i] *= found.factor;
    add(w, -found.factor / 2 * dot(w, v, k), v, k);
    for (int i = 0; i < k; ++i) {
      double* row = matrix + size_t(i) * size;
      const double of_v = v[i], of_w = w[i];
      for (int j = 0; j <= i; ++j) row[j] -= of_v * w[j] + of_w * v[j];
    }
  }
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) basis[size_t(i) * size + j] = i == j;
  }
  for (int k = 1; k < size; ++k) {
    const double* v = matrix + size_t(k) * size;
    // The other rows have nothing yet where v is.
    for (int i = 0; i < k; ++i) {
      double* row = basis + size_t(i) * size;
      add(row, -v[k] * dot(v, row, k), v, k);
    }
  }
}

// Rows p and q of a basis turned: p' = cosine p + sine q, q' = cosine q - sine p.
inline void turn(double* p, double* q, double cosine, double sine, int size) {
  for (int i = 0; i < size; ++i) {
    const double before = p[i];
    p[i] = cosine * before + sine * q[i];
    q[i] = cosine * q[i] - sine * before;
  }
}

// An implicit QR step, shifted as J. Wilkinson has it, of the rows of a tridiagonal matrix from `begin` to `end`, and of the
// basis in which it is tridiagonal.
void qr_step(double* diagonal, double* beside, double* basis, int begin, int end, int size) {
  const double half = (diagonal[end - 1] - diagonal[end]) / 2, square = beside[end - 1] * beside[end - 1];
  const double root = sqrt(half * half + square);
  double x = diagonal[begin] - diagonal[end] + square / (half + (half < 0 ? -root : root)), z = beside[begin];
  for (int k = begin; k < end; ++k) {
    const double norm = sqrt(x * x + z * z);
    const double cosine = norm == 0 ? 1 : x / norm, sine = norm == 0 ? 0 : z / norm;
    if (k > begin) beside[k - 1] = norm;
    const double a = diagonal[k], b = beside[k], c = diagonal[k + 1];
    const double twice = 2 * (cosine * sine * b);
    diagonal[k] = cosine * cosine * a + sine * sine * c + twice;
    diagonal[k + 1] = sine * sine * a + cosine * cosine * c - twice;
    x = beside[k] = cosine * sine * (c - a) + (cosine * cosine - sine * sine) * b;
    if (k + 1 < end) {
      z = sine * beside[k + 1];
      beside[k + 1] *= cosine;
    }
    turn(basis + size_t(k) * size, basis + size_t(k + 1) * size, cosine, sine, size);
  }
}

// `basis`: the eigenvectors of a symmetric matrix of finite numbers, the largest at most 1, whose lower triangle is read and
// written over; `values` [size]: its eigenvalues. scratch [2][size]
void eigenvectors(double* matrix, double* basis, double* values, double* scratch, int size) {
  // What stands beside two values is 0 from half a unit of their last place down.
  constexpr double kRounding = 0x1p-53;
  // Per value; it takes about two.
  constexpr int kMaxSteps = 30;
  double* beside = scratch;
  tridiagonalize(matrix, basis, values, beside, scratch + size, size);
  int end = size - 1;
  for (int left = kMaxSteps * size; left > 0; --left) {
    for (int i = 0; i < end; ++i) {
      if (fabs(beside[i]) <= kRounding * (fabs(values[i]) + fabs(values[i + 1])) + kNothing) beside[i] = 0;
    }
    while (end > 0 && beside[end - 1] == 0) --end;
    if (end == 0) break;
    int begin = end - 1;
    while (begin > 0 && beside[begin - 1] != 0) --begin;
    qr_step(values, beside, basis, begin, end, size);
  }
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
