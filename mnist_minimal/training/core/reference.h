// The core once more as plain scalar loops, in single or double precision: slow, and short enough to be checked by reading.
// The vector kernels are tested against it.
#pragma once

#include <cstdint>
#include <vector>

#include "layers.h"
#include "network.h"
#include "optimizer.h"

namespace mnist_minimal {

// A network as Network is one, of the same layers. `Real` is float or double.
template <class Real>
class Reference {
 public:
  // Throws std::invalid_argument where Network does.
  Reference(Shape input, float scale, float offset, std::vector<Layer> layers, size_t parameters, size_t statistics,
            Optimizer optimizer);

  std::vector<Real> parameters, gradients, moments, statistics;
  int64_t steps = 0;

  // As those of Network, whose comments say what they do.
  Totals train(Images images, const uint8_t* labels, const float* targets, const int64_t* order, int64_t count,
               int batch_size, uint64_t seed, uint32_t epoch, const float* learning_rates);
  Totals compute_gradients(Images images, const uint8_t* labels, const float* targets, const int64_t* order, int count,
                           uint64_t seed, uint32_t epoch, uint32_t step);
  // Images [count] -> probabilities [count][classes], without dropout, with the moving statistics.
  void predict(Images images, int count, Real* probabilities);

  Shape input() const { return input_; }
  int classes() const { return layers_.back().out.channels; }

 private:
  struct Pass;

  std::vector<Real> read(Images images, const int64_t* order, int count) const;
  // Runs all layers over a batch; the moving statistics are moved if `updating`, and used instead of the batch's unless
  // `training`.
  Pass forward(std::vector<Real> x, int samples, bool training, bool updating, uint64_t seed, uint32_t epoch,
               uint32_t step);
  // grad [samples][classes], of the logits -> `gradients`.
  void backward(const Pass& pass, std::vector<Real> grad);
  Totals run_batch(Images images, const uint8_t* labels, const float* targets, const int64_t* order, int samples,
                   bool updating, uint64_t seed, uint32_t epoch, uint32_t step);

  Shape input_;
  Real scale_, offset_;
  std::vector<Layer> layers_;
  Optimizer optimizer_;
};

}  // namespace mnist_minimal
