// A network: a list of layers, flat arrays of parameters, gradients, moments and moving statistics, and the loops over
// batches. Training is a function of these arrays, the number of steps taken, the seed and the epoch, and of nothing else:
// not of the number of threads either.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "augmentation.h"
#include "layers.h"
#include "optimizer.h"

namespace mnist_minimal {

// Images [count][height][width][channels], of bytes or of floats: one of the two is null.
struct Images {
  const uint8_t* bytes;
  const float* floats;
};

struct Totals {
  double loss = 0;         // sum over samples of the cross-entropy
  int64_t correct = 0;     // samples whose largest logit is the label's
  double helper_seconds = 0;  // CPU time of the threads beside the calling one
};

// Throws std::invalid_argument where shapes do not follow on each other, or where what a layer needs lies outside the flat
// arrays of so many parameters and statistics.
void check_layers(Shape input, const std::vector<Layer>& layers, size_t parameters, size_t statistics);

// The key of a layer's dropout; `layer` is its dropout_index.
DropoutKey dropout_key(uint64_t seed, uint32_t epoch, uint32_t step, int layer);

class Network {
 public:
  // Layers as the model lists them, the last with `classes` logits over one position. Pixels are read as
  // x * scale + offset. Throws std::invalid_argument where shapes do not follow on each other.
  Network(Shape input, float scale, float offset, std::vector<Layer> layers, size_t parameters, size_t statistics,
          Optimizer optimizer, const Kernels& kernels);
  ~Network();

  // Two threads of Python may use the same network: every call below holds this lock, and whoever reads or writes the arrays
  // and the number of steps from outside takes it first.
  std::unique_lock<std::mutex> lock() { return std::unique_lock<std::mutex>(running_); }

  std::vector<float> parameters, gradients, moments, statistics;
  std::vector<double> sums;  // of parameters and statistics, [parameters + statistics]; see train
  std::vector<double> covariances;  // of SOAP's blocks one after the other; empty for other optimizers
  std::vector<float> bases;         // likewise
  int64_t steps = 0;

  // Everywhere here `threads` says how many may share the work; no more are started than a batch has groups.

  // An epoch: the images order[0 .. count-1] in batches of `batch_size`, the last perhaps smaller, each with a learning rate
  // of its own. The loss is by the labels, or by the probabilities `targets` [images][classes] unless they are null. Images
  // of bytes are augmented unless `augmentation` is null. After every step that is taken when at least `sum_from` have been
  // taken before, in this call and those before it, parameters and statistics are added to `sums`, one after the other.
  Totals train(Images images, const uint8_t* labels, const float* targets, const int64_t* order, int64_t count,
               int batch_size, uint64_t seed, uint32_t epoch, const float* learning_rates, int threads,
               const Augmentation* augmentation, int64_t sum_from);
  // Leaves in `gradients` those of the mean loss of one batch, as at the epoch's step `step`; updates no parameter and no
  // moving statistic.
  Totals compute_gradients(Images images, const uint8_t* labels, const float* targets, const int64_t* order,
                           int batch_size, uint64_t seed, uint32_t epoch, uint32_t step, int threads);
  // Loss and accuracy of images order[0 .. count-1] without dropout, with the moving statistics. `probabilities` [count]
  // [classes] are written unless null.
  Totals evaluate(Images images, const uint8_t* labels, const int64_t* order, int64_t count, float* probabilities,
                  int threads);

  Shape input() const { return input_; }
  int classes() const { return classes_; }
  const char* instruction_set() const { return kernels_.name; }

 private:
  class ThreadPool;
  struct Slot;
  struct Plan;
  struct Batch;

  void transform_kernels();
  void reserve(size_t slots, size_t groups, size_t threads);
  bool is_kept(size_t index) const;
  Plan plan_slot(bool kept) const;
  std::unique_ptr<Slot> make_slot(bool kept) const;
  Group group_at(size_t layer, const Batch& batch, size_t group, size_t slot, size_t thread);
  void read_group(const Batch& batch, size_t group, size_t slot, size_t thread);
  Totals run_batch(const Batch& batch, ThreadPool& pool);
  void merge_moments(size_t layer, const Batch& batch);
  void merge_batch_gradients(size_t layer, const Batch& batch);
  void use_moving_statistics();

  std::mutex running_;
  Shape input_;
  int classes_;
  float scale_, offset_;
  std::vector<Layer> layers_;
  Optimizer optimizer_;
  const Kernels& kernels_;
  std::vector<size_t> segments_;  // first layer of each stretch that one group can run alone
  size_t first_trained_;          // first layer with a parameter
  std::vector<float> transformed_;
  std::vector<std::vector<float>> batch_;      // for each layer, [4][channels] of BatchStatistics
  std::vector<std::vector<double>> partials_;  // for each group, [2][max channels]
  std::vector<std::unique_ptr<Slot>> kept_;     // of the groups that are under way
  std::vector<std::unique_ptr<Slot>> passing_;  // of the threads
  std::vector<std::unique_ptr<float[], void (*)(float*)>> scratch_;
  std::vector<std::unique_ptr<float[], void (*)(float*)>> augmented_;  // of the threads: a group's images, and scratch
  std::vector<std::vector<float>> group_gradients_;
  std::vector<GroupLoss> group_losses_;
};

// The kernels of each instruction set that this processor has, the best first.
std::vector<const Kernels*> supported_kernels();

// The kernels of the instruction set `name` ("baseline", "avx2", "avx512"); if that is null, of the one that the environment
// variable MNIST_MINIMAL_SIMD names; without that, the best. Throws std::invalid_argument if the processor has not that one.
const Kernels& choose_kernels(const char* name);

}  // namespace mnist_minimal
