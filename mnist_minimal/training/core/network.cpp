#include "network.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>

#include "arithmetic.h"
#include "vector.h"

namespace mnist_minimal {
namespace {

double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

using Floats = std::unique_ptr<float[], void (*)(float*)>;

void free_floats(float* floats) { ::operator delete[](floats, std::align_val_t(64)); }

// Zeros, aligned for every vector type.
Floats make_floats(size_t count) {
  float* floats = static_cast<float*>(::operator new[](sizeof(float) * count, std::align_val_t(64)));
  std::fill(floats, floats + count, 0.0f);
  return Floats(floats, free_floats);
}

// The fewest channels, of input and output, with which a convolution makes two rows at once.
constexpr int kMinWinogradChannels = 8;

// Bounds on what is asked for, so that an absurd network or batch is refused instead of taking all memory, and no product
// of sizes overflows: numbers of an activation, also with its border; parameters, and copies of them for the layers; bytes
// that one call needs.
constexpr int64_t kMaxNumbers = 1 << 20, kMaxBordered = 1 << 22;
constexpr size_t kMaxParameters = size_t(1) << 24, kMaxTransformed = size_t(1) << 26;
constexpr size_t kMaxBytes = size_t(1) << 33;

constexpr size_t kMaxThreads = 256;

struct Border {
  int top = 0, left = 0, bottom = 0, right = 0;
};

bool has_kernel_window(const Layer& layer) { return layer.kind == Kind::kConvolution || layer.kind == Kind::kDepthwise; }

// Zeros that a layer needs around its input.
Border input_border(const Layer& layer) {
  if (!has_kernel_window(layer)) return {};
  return {layer.pad_top, layer.pad_left, layer.pad_bottom, layer.pad_right};
}

// Zeros that a layer needs around the gradient of its output.
Border gradient_border(const Layer& layer) {
  if (!has_kernel_window(layer) || layer.pooled != Pooled::kNot) return {};
  return {layer.kernel_rows - 1 - layer.pad_top, layer.kernel_columns - 1 - layer.pad_left,
          layer.kernel_rows - 1 - layer.pad_bottom, layer.kernel_columns - 1 - layer.pad_right};
}

size_t padded_floats(Shape shape, Border border) {
  return size_t(shape.height + border.top + border.bottom) * (shape.width + border.left + border.right) *
         shape.channels * kLanes;
}

View padded_view(float* data, Shape shape, Border border) {
  const ptrdiff_t row = ptrdiff_t(shape.width + border.left + border.right) * shape.channels * kLanes;
  return {data + border.top * row + ptrdiff_t(border.left) * shape.channels * kLanes, row};
}

// [kLanes]: 1 for each of the first `samples` lanes, 0 for the others.
const float* lane_mask(int samples) {
  struct Table {
    alignas(64) float lanes[kLanes + 1][kLanes] = {};
    Table() {
      for (int count = 0; count <= kLanes; ++count) std::fill(lanes[count], lanes[count] + count, 1.0f);
    }
  };
  static const Table table;
  return table.lanes[samples];
}

size_t groups_of(int64_t samples) { return size_t(samples + kLanes - 1) / kLanes; }

// A thread without a group would only wait at every barrier.
size_t useful_threads(int allowed, size_t groups) { return std::min({size_t(allowed), groups, kMaxThreads}); }

// The targets [images][classes] of a batch as its groups take them, [groups][classes][kLanes], in `rows`; null for null.
const float* gather_targets(const float* targets, const int64_t* order, int size, int classes,
                            std::vector<float>& rows) {
  if (!targets) return nullptr;
  rows.assign(groups_of(size) * classes * kLanes, 0.0f);
  for (int i = 0; i < size; ++i) {
    float* to = rows.data() + size_t(i / kLanes) * classes * kLanes + i % kLanes;
    for (int c = 0; c < classes; ++c) to[c * kLanes] = targets[order[i] * classes + c];
  }
  return rows.data();
}

// Whether a convolution has enough channels to make two rows at once; see winograd_f2x3.
bool uses_winograd(const Layer& layer) {
  return layer.kind == Kind::kConvolution && layer.pooled == Pooled::kNot && layer.kernel_rows == 3 &&
         layer.kernel_columns == 3 && std::min(layer.in.channels, layer.out.channels) >= kMinWinogradChannels;
}

bool is_identity(const Layer& layer) { return layer.slope == 1 && layer.drop == 0; }

// Merges what one kernel does at once: activation and dropout into the layer before them, and a 2x2 pool into the
// convolution of the network's input; an average pool only where that does not make its rows by Winograd's products, so
// that the bits are those of the two layers.
std::vector<Layer> fuse(const std::vector<Layer>& layers) {
  std::vector<Layer> fused;
  for (const Layer& layer : layers) {
    if (!fused.empty()) {
      Layer& last = fused.back();
      const bool last_is_pool = last.kind == Kind::kMaxPool || last.kind == Kind::kAveragePool;
      const bool takes_activation = last.slope == 1 && last.pooled != Pooled::kAverage;
      if (layer.kind == Kind::kElementwise && !is_identity(layer) && !last_is_pool && last.drop == 0 &&
          (layer.slope == 1 || takes_activation)) {
        if (layer.slope != 1) last.slope = layer.slope;
        if (layer.drop != 0) last.drop = layer.drop, last.dropout_index = layer.dropout_index;
        continue;
      }
      const bool max = layer.kind == Kind::kMaxPool;
      const bool average = layer.kind == Kind::kAveragePool && !uses_winograd(last);
      if ((max || average) && layer.kernel_rows == 2 && layer.kernel_columns == 2 && fused.size() == 1 &&
          last.kind == Kind::kConvolution && last.drop == 0 && last.pooled == Pooled::kNot) {
        last.pooled = max ? Pooled::kMax : Pooled::kAverage;
        last.out = layer.out;
        continue;
      }
    }
    fused.push_back(layer);
  }
  return fused;
}

void check_shapes(Shape input, const std::vector<Layer>& layers) {
  const auto numbers = [](int64_t height, int64_t width, int64_t channels, int64_t max) -> int64_t {
    const bool few = height >= 1 && width >= 1 && channels >= 1 && height <= max && width <= max / height &&
                     channels <= max / (height * width);
    return few ? height * width * channels : 0;
  };
  const auto size = [&](Shape shape) { return numbers(shape.height, shape.width, shape.channels, kMaxNumbers); };
  const auto equal = [](Shape a, Shape b) {
    return a.height == b.height && a.width == b.width && a.channels == b.channels;
  };
  Shape last = input;
  Kind last_kind = Kind::kElementwise;
  for (const Layer& layer : layers) {
    const Shape shapes[] = {layer.in, layer.out};
    for (const Shape& shape : shapes) {
      if (size(shape) == 0) {
        throw std::invalid_argument("expected shapes of 1 to 2**20 numbers in a layer");
      }
    }
    // Rows with a border around them can't be read as one row, but those of an elementwise layer have none.
    const bool flattened = last_kind == Kind::kElementwise && &layer != &layers.front() && layer.in.height == 1 &&
                           layer.in.width == 1 && size(layer.in) == size(last) && layer.kernel_rows == 1 &&
                           layer.kernel_columns == 1;
    if (!equal(layer.in, last) && !flattened) {
      throw std::invalid_argument("expected each layer to take what the one before it gives");
    }
    last = layer.out;
    last_kind = layer.kind;
    const int64_t rows = int64_t(layer.in.height) + layer.pad_top + layer.pad_bottom;
    const int64_t columns = int64_t(layer.in.width) + layer.pad_left + layer.pad_right;
    if (layer.kernel_rows < 1 || layer.kernel_columns < 1 || rows < layer.kernel_rows ||
        columns < layer.kernel_columns) {
      throw std::invalid_argument("expected kernels and windows that fit into the layer's input");
    }
    bool fits = true;
    switch (layer.kind) {
      case Kind::kConvolution:
      case Kind::kDepthwise:
        fits = layer.out.height == rows - layer.kernel_rows + 1 && layer.out.width == columns - layer.kernel_columns + 1;
        fits = fits && std::max(layer.pad_top, layer.pad_bottom) < layer.kernel_rows;
        fits = fits && std::max(layer.pad_left, layer.pad_right) < layer.kernel_columns;
        fits = fits && (layer.kind == Kind::kConvolution || layer.out.channels == layer.in.channels);
        break;
      case Kind::kMaxPool:
      case Kind::kAveragePool:
        fits = layer.out.height == layer.in.height / layer.kernel_rows &&
               layer.out.width == layer.in.width / layer.kernel_columns && layer.out.channels == layer.in.channels;
        break;
      default:
        fits = equal(layer.out, layer.in);
    }
    // The border of the gradient makes its rows as many as those of the input and of the kernel together, less one.
    if (has_kernel_window(layer) &&
        (numbers(rows, columns, layer.in.channels, kMaxBordered) == 0 ||
         numbers(int64_t(layer.in.height) + layer.kernel_rows - 1, int64_t(layer.in.width) + layer.kernel_columns - 1,
                 layer.out.channels, kMaxBordered) == 0)) {
      throw std::invalid_argument("expected at most 2**22 numbers in a layer with its border of zeros");
    }
    if (!fits) throw std::invalid_argument("expected a result of the shape that the layer's kind and input give");
  }
  if (layers.back().out.height != 1 || layers.back().out.width != 1) {
    throw std::invalid_argument("expected one row of logits at the network's end");
  }
}

// How many parameters a layer has at `kernel` and at `bias`, and of moving statistics.
size_t kernel_size(const Layer& layer) {
  const size_t taps = size_t(layer.kernel_rows) * layer.kernel_columns;
  switch (layer.kind) {
    case Kind::kConvolution: return taps * layer.in.channels * layer.out.channels;
    case Kind::kDepthwise: return taps * layer.in.channels;
    case Kind::kBatchNorm: return layer.in.channels;
    case Kind::kInstanceNorm: return 1;
    default: return 0;
  }
}

size_t bias_size(const Layer& layer) { return layer.kind == Kind::kInstanceNorm ? 1 : size_t(layer.out.channels); }

void check_offsets(const std::vector<Layer>& layers, size_t parameters, size_t statistics) {
  if (parameters > kMaxParameters || statistics > kMaxParameters) {
    throw std::invalid_argument("expected at most 2**24 parameters");
  }
  const auto inside = [](ptrdiff_t offset, size_t size, size_t end) {
    return offset >= 0 && size <= end && size_t(offset) <= end - size;
  };
  for (const Layer& layer : layers) {
    const bool needs_kernel = has_kernel_window(layer) || layer.kind == Kind::kInstanceNorm;
    if ((needs_kernel || layer.kernel != kNone) && !inside(layer.kernel, kernel_size(layer), parameters)) {
      throw std::invalid_argument("expected every layer's kernel inside the array of parameters");
    }
    if ((layer.kind == Kind::kInstanceNorm || layer.bias != kNone) &&
        !inside(layer.bias, bias_size(layer), parameters)) {
      throw std::invalid_argument("expected every layer's bias inside the array of parameters");
    }
    if (layer.kind == Kind::kBatchNorm && !inside(layer.statistics, 2 * size_t(layer.in.channels), statistics)) {
      throw std::invalid_argument("expected every layer's statistics inside the array of statistics");
    }
    if (!(layer.slope >= 0 && layer.slope <= 1) || layer.drop >= 65536) {
      throw std::invalid_argument("expected slopes in [0, 1] and dropout rates in [0, 1)");
    }
  }
}

// Rows of a 3x3 kernel [3][floats] -> weights [4][floats]; see winograd_f2x3.
void winograd_weights(const float* kernel, size_t floats, float* weights) {
  for (size_t i = 0; i < floats; ++i) {
    const float a = kernel[i], b = kernel[floats + i], c = kernel[2 * floats + i];
    weights[i] = a;
    weights[floats + i] = (a + b + c) * 0.5f;
    weights[2 * floats + i] = (a - b + c) * 0.5f;
    weights[3 * floats + i] = c;
  }
}

// Floats of scratch memory that a layer's kernels may need: sums before those over the lanes, and two rows of a
// convolution before its pool.
size_t scratch_floats(const Layer& layer) {
  size_t floats = kernel_size(layer) * kLanes;
  if (layer.kind == Kind::kBatchNorm) floats = 2 * size_t(layer.in.channels) * kLanes;
  if (layer.winograd_weights != kNone) {
    const int rows = 4 * kWinogradPairs;
    const Shape input = {rows, layer.in.width + layer.pad_left + layer.pad_right, layer.in.channels};
    const Border border = gradient_border(layer);
    const Shape gradient = {rows, layer.out.width + border.left + border.right, layer.out.channels};
    floats += floats / 3 + padded_floats(input, {}) + padded_floats(gradient, {});
  }
  if (layer.pooled != Pooled::kNot) {
    floats += 2 * size_t(layer.in.width + layer.pad_left + layer.pad_right) * layer.out.channels * kLanes;
  }
  return floats;
}

}  // namespace

DropoutKey dropout_key(uint64_t seed, uint32_t epoch, uint32_t step, int layer) {
  return threefry(stream(seed, Purpose::kDropout, epoch), {step, uint32_t(layer)});
}

void check_layers(Shape input, const std::vector<Layer>& layers, size_t parameters, size_t statistics) {
  if (layers.empty()) throw std::invalid_argument("expected at least one layer");
  check_shapes(input, layers);
  check_offsets(layers, parameters, statistics);
}

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> supported = {&baseline::kernels};
#ifdef MNIST_MINIMAL_X86
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx2) supported.insert(supported.begin(), &avx2::kernels);
  if (has_avx512) supported.insert(supported.begin(), &avx512::kernels);
#endif
  return supported;
}

const Kernels& choose_kernels(const char* name) {
  const char* variable = std::getenv("MNIST_MINIMAL_SIMD");
  const std::string wanted = name ? name : variable ? variable : "";
  const std::vector<const Kernels*> supported = supported_kernels();
  if (!name && wanted.empty()) return *supported.front();
  std::string known;
  for (const Kernels* kernels : supported) {
    if (wanted == kernels->name) return *kernels;
    known += (known.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument(std::string("expected ") + (name ? "instruction_set" : "MNIST_MINIMAL_SIMD") +
                              " to name an instruction set of this processor (" + known + "), found '" + wanted + "'");
}

// ------------------------------------------------------------------------------------------------------------ Threads

// Threads that work together for the length of one call.
class Network::ThreadPool {
 public:
  explicit ThreadPool(size_t threads) : threads_(threads) {
    try {
      for (size_t thread = 1; thread < threads; ++thread) helpers_.emplace_back([this, thread] { help(thread); });
    } catch (...) {
      stop();  // A program ends where a thread that still runs is forgotten.
      throw;
    }
  }

  ~ThreadPool() { stop(); }

  // Calls work(item, thread) for each item; the items of a thread are fixed, thread, thread + threads, and so on.
  void run(size_t items, const std::function<void(size_t, size_t)>& work) {
    if (threads_ == 1 || items == 1) {
      for (size_t item = 0; item < items; ++item) work(item, 0);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      items_ = items, work_ = &work, busy_ = threads_ - 1, ++round_;
    }
    wake_.notify_all();
    for (size_t item = 0; item < items; item += threads_) work(item, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }

  // Ends the helpers; their CPU time.
  double stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ended_ = true;
    }
    wake_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
    helpers_.clear();
    return helper_seconds_;
  }

 private:
  void help(size_t thread) {
    const DefaultArithmetic arithmetic;
    int round = 0;
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return ended_ || round_ != round; });
      if (round_ == round) {
        helper_seconds_ += thread_seconds();
        return;
      }
      round = round_;
      const size_t items = items_;
      const auto& work = *work_;
      lock.unlock();
      for (size_t item = thread; item < items; item += threads_) work(item, thread);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  const size_t threads_;
  std::vector<std::thread> helpers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(size_t, size_t)>* work_ = nullptr;
  size_t items_ = 0, busy_ = 0;
  int round_ = 0;
  bool ended_ = false;
  double helper_seconds_ = 0;
};

// ------------------------------------------------------------------------------------------------------------- Memory

// Results and gradients. A group keeps what each segment starts with until it has come back there; all else serves one
// group after the other in a thread, which makes it again before it goes back through a segment.
struct Network::Slot {
  std::vector<View> activations;  // the input and every layer's result
  std::vector<int32_t*> taps;     // of the layer before
  std::vector<float*> saved;      // by the layer before
  std::vector<View> gradients;    // of the same; only a thread's
  float* grad_preactivation = nullptr;  // only a group's
  Floats memory{nullptr, free_floats};
};

// How many floats a slot needs: [layers + 1] for activations and for taps, one after the other, and the rest.
struct Network::Plan {
  std::vector<size_t> activations, taps;
  size_t results;       // the sum of these, and of what is saved
  size_t max_gradient;  // of one layer
  size_t rest;          // two gradients, or one before its activation

  size_t floats() const { return results + rest; }
};

struct Network::Batch {
  Images images;
  const uint8_t* labels;  // [size]
  const float* targets;   // [groups][classes][kLanes], or null
  const int64_t* order;
  int size;
  bool training, updating;
  uint64_t seed;
  uint32_t epoch, step;
  const Augmentation* augmentation = nullptr;  // needs images of bytes

  size_t groups() const { return groups_of(size); }
  int samples(size_t group) const { return std::min(kLanes, size - int(group) * kLanes); }
};

Network::Network(Shape input, float scale, float offset, std::vector<Layer> layers, size_t parameters,
                 size_t statistics, Optimizer optimizer, const Kernels& kernels)
    : input_(input), scale_(scale), offset_(offset), optimizer_(optimizer), kernels_(kernels) {
  check_layers(input, layers, parameters, statistics);
  this->parameters.resize(parameters);
  gradients.resize(parameters);
  moments.resize(2 * parameters);
  this->statistics.resize(statistics);
  sums.resize(parameters + statistics);
  if (optimizer_.kind == Optimizer::Kind::kSoap) {
    if (optimizer_.parameters() != parameters) {
      throw std::invalid_argument("expected blocks of all parameters");
    }
    covariances.resize(soap_numbers(optimizer_.blocks));
    soap_begin(optimizer_.blocks, bases);
  }
  classes_ = layers.back().out.channels;  // An activation after Flatten becomes part of a layer of another shape.
  layers_ = fuse(layers);
  segments_.push_back(0);
  first_trained_ = layers_.size();
  size_t transformed = 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    if (layer.kind == Kind::kBatchNorm) segments_.push_back(i);
    if (layer.kernel != kNone || layer.bias != kNone) first_trained_ = std::min(first_trained_, i);
    if (has_kernel_window(layer)) {
      layer.flipped = transformed;
      transformed += kernel_size(layer);
    }
    if (uses_winograd(layer)) {
      layer.winograd_weights = transformed;
      transformed += 2 * kernel_size(layer) / 3 * 4;
    }
    batch_.emplace_back(layer.kind == Kind::kBatchNorm ? 4 * layer.in.channels : 0);
  }
  if (transformed > kMaxTransformed) {
    throw std::invalid_argument("expected at most 2**26 weights in all kernels of the layers");
  }
  transformed_.resize(transformed);
}

Network::~Network() = default;

void Network::reserve(size_t slots, size_t groups, size_t threads) {
  size_t max_channels = 1, max_scratch = 1;
  for (const Layer& layer : layers_) {
    max_channels = std::max(max_channels, size_t(layer.in.channels));
    max_scratch = std::max(max_scratch, scratch_floats(layer));
  }
  const size_t bytes = sizeof(float) * (slots * plan_slot(true).floats() + threads * plan_slot(false).floats() +
                                        threads * max_scratch + groups * parameters.size()) +
                       sizeof(double) * groups * 2 * max_channels;
  if (bytes > kMaxBytes) {
    throw std::invalid_argument("expected a network and a batch that take at most " + std::to_string(kMaxBytes >> 30) +
                                " GiB, found " + std::to_string((bytes >> 30) + 1) + " GiB; take smaller batches");
  }
  // One after the other, each looked at by itself: memory may give out in between, and the caller may go on after that.
  while (scratch_.size() < threads) scratch_.push_back(make_floats(max_scratch));
  if (group_gradients_.size() < groups) group_gradients_.resize(groups, std::vector<float>(parameters.size()));
  if (partials_.size() < groups) partials_.resize(groups, std::vector<double>(2 * max_channels));
  if (group_losses_.size() < groups) group_losses_.resize(groups);
  while (kept_.size() < slots) kept_.push_back(make_slot(true));
  while (passing_.size() < threads) passing_.push_back(make_slot(false));
}

// Whether a group keeps what comes before layer `index`.
bool Network::is_kept(size_t index) const {
  return std::find(segments_.begin(), segments_.end(), index) != segments_.end();
}

Network::Plan Network::plan_slot(bool kept) const {
  const size_t count = layers_.size();
  Plan plan = {std::vector<size_t>(count + 1), std::vector<size_t>(count + 1), 0, 0, 0};
  size_t max_preactivation = 0;
  for (size_t i = 0; i <= count; ++i) {
    const Shape shape = i > 0 ? layers_[i - 1].out : input_;
    if (i > 0) plan.max_gradient = std::max(plan.max_gradient, padded_floats(shape, gradient_border(layers_[i - 1])));
    if (i < count && layers_[i].kind == Kind::kBatchNorm) {
      max_preactivation = std::max(max_preactivation, padded_floats(shape, {}));
    }
    if (is_kept(i) != kept) continue;
    plan.activations[i] = padded_floats(shape, i < count ? input_border(layers_[i]) : Border());
    const bool has_taps = i > 0 && (layers_[i - 1].pooled != Pooled::kNot || layers_[i - 1].kind == Kind::kMaxPool);
    if (has_taps) plan.taps[i] = padded_floats(shape, {});
    plan.results += plan.activations[i] + plan.taps[i] + 2 * kLanes;
  }
  plan.rest = kept ? max_preactivation : 2 * plan.max_gradient;
  return plan;
}

std::unique_ptr<Network::Slot> Network::make_slot(bool kept) const {
  const size_t count = layers_.size();
  const Plan plan = plan_slot(kept);
  auto slot = std::make_unique<Slot>();
  slot->memory = make_floats(plan.floats());
  float* next = slot->memory.get();
  float* rest = next + plan.results;
  if (kept) slot->grad_preactivation = rest;
  for (size_t i = 0; i <= count; ++i) {
    const Shape shape = i > 0 ? layers_[i - 1].out : input_;
    slot->activations.push_back(padded_view(next, shape, i < count ? input_border(layers_[i]) : Border()));
    slot->taps.push_back(reinterpret_cast<int32_t*>(next + plan.activations[i]));
    slot->saved.push_back(next + plan.activations[i] + plan.taps[i]);
    if (is_kept(i) == kept) next += plan.activations[i] + plan.taps[i] + 2 * kLanes;
    if (kept) continue;
    slot->gradients.push_back(
        padded_view(rest + i % 2 * plan.max_gradient, shape, i > 0 ? gradient_border(layers_[i - 1]) : Border()));
  }
  return slot;
}

Group Network::group_at(size_t index, const Batch& batch, size_t group, size_t slot, size_t thread) {
  const Layer& layer = layers_[index];
  const Slot& before = is_kept(index) ? *kept_[slot] : *passing_[thread];
  const Slot& after = is_kept(index + 1) ? *kept_[slot] : *passing_[thread];
  Group result = {};
  result.in = before.activations[index];
  result.out = after.activations[index + 1];
  result.grad_out = passing_[thread]->gradients[index + 1];
  result.grad_in = index > first_trained_ ? passing_[thread]->gradients[index] : View{nullptr, 0};
  result.parameters = parameters.data();
  result.transformed = transformed_.data();
  result.gradients = group_gradients_[group < group_gradients_.size() ? group : 0].data();
  result.scratch = scratch_[thread].get();
  result.taps = after.taps[index + 1];
  result.saved = after.saved[index + 1];
  result.samples = batch.samples(group);
  result.lane_mask = lane_mask(result.samples);
  result.index = int(group);
  result.training = batch.training;
  result.key = dropout_key(batch.seed, batch.epoch, batch.step, layer.dropout_index);
  if (layer.kind == Kind::kBatchNorm) {
    const float* data = batch_[index].data();
    const int channels = layer.in.channels;
    result.grad_preactivation = padded_view(kept_[slot]->grad_preactivation, layer.in, {});
    result.batch = {data, data + channels, data + 2 * channels, data + 3 * channels};
  }
  return result;
}

// ------------------------------------------------------------------------------------------------------------- A batch

void Network::transform_kernels() {
  for (const Layer& layer : layers_) {
    if (!has_kernel_window(layer)) continue;
    const float* kernel = parameters.data() + layer.kernel;
    float* flipped = transformed_.data() + layer.flipped;
    const int taps = layer.kernel_rows * layer.kernel_columns;
    const int ins = layer.in.channels, outs = layer.kind == Kind::kDepthwise ? 1 : layer.out.channels;
    for (int tap = 0; tap < taps; ++tap) {
      for (int in = 0; in < ins; ++in) {
        for (int out = 0; out < outs; ++out) {
          flipped[((taps - 1 - tap) * outs + out) * ins + in] = kernel[(tap * ins + in) * outs + out];
        }
      }
    }
    if (layer.winograd_weights == kNone) continue;
    const size_t floats = kernel_size(layer) / 3;
    winograd_weights(kernel, floats, transformed_.data() + layer.winograd_weights);
    winograd_weights(flipped, floats, transformed_.data() + layer.winograd_weights + 4 * floats);
  }
}

void Network::read_group(const Batch& batch, size_t group, size_t slot, size_t thread) {
  const int64_t* order = batch.order + group * kLanes;
  const View out = kept_[slot]->activations[0];
  if (batch.augmentation) {
    constexpr int64_t kInOrder[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float* images = augmented_[thread].get();
    float* scratch = images + kLanes * input_.height * input_.width * input_.channels;
    augment(images, batch.images.bytes, order, batch.samples(group), input_, *batch.augmentation, batch.seed,
            batch.epoch, scratch, kernels_);
    kernels_.read_floats(images, kInOrder, batch.samples(group), input_, scale_, offset_, out);
  } else if (batch.images.bytes) {
    kernels_.read_bytes(batch.images.bytes, order, batch.samples(group), input_, scale_, offset_, out);
  } else {
    kernels_.read_floats(batch.images.floats, order, batch.samples(group), input_, scale_, offset_, out);
  }
}

// Mean and variance of the batch from those of its groups. T. Chan, G. Golub and R. LeVeque, "Algorithms for computing
// the sample variance", https://doi.org/10.1080/00031305.1983.10483115.
void Network::merge_moments(size_t index, const Batch& batch) {
  const Layer& layer = layers_[index];
  const int channels = layer.in.channels;
  const double positions = double(layer.in.height) * layer.in.width;
  for (int c = 0; c < channels; ++c) {
    double mean = 0, squares = 0, count = 0;
    for (size_t group = 0; group < batch.groups(); ++group) {
      const double more = positions * batch.samples(group);
      const double difference = partials_[group][c] - mean;
      squares += partials_[group][channels + c] + difference * difference * count * more / (count + more);
      mean += difference * more / (count + more);
      count += more;
    }
    batch_[index][c] = float(mean);
    batch_[index][channels + c] = float(1 / std::sqrt(squares / count + layer.epsilon));
    if (!batch.updating) continue;
    float* moving = statistics.data() + layer.statistics;
    moving[c] = moving[c] * layer.momentum + float(mean) * (1 - layer.momentum);
    moving[channels + c] = moving[channels + c] * layer.momentum + float(squares / count) * (1 - layer.momentum);
  }
}

void Network::merge_batch_gradients(size_t index, const Batch& batch) {
  const Layer& layer = layers_[index];
  const int channels = layer.in.channels;
  const double count = double(layer.in.height) * layer.in.width * batch.size;
  for (int c = 0; c < channels; ++c) {
    double gradient = 0, product = 0;
    for (size_t group = 0; group < batch.groups(); ++group) {
      gradient += partials_[group][c];
      product += partials_[group][channels + c];
    }
    batch_[index][2 * channels + c] = float(gradient / count);
    batch_[index][3 * channels + c] = float(product / count);
    if (layer.bias != kNone) group_gradients_[0][layer.bias + c] += float(gradient);
    if (layer.kernel != kNone) group_gradients_[0][layer.kernel + c] += float(product);
  }
}

void Network::use_moving_statistics() {
  for (size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    if (layer.kind != Kind::kBatchNorm) continue;
    const int channels = layer.in.channels;
    for (int c = 0; c < channels; ++c) {
      batch_[index][c] = statistics[layer.statistics + c];
      batch_[index][channels + c] = 1 / std::sqrt(statistics[layer.statistics + channels + c] + layer.epsilon);
    }
  }
}

// Forward and backward, one segment after the other, all groups through each: what a batch normalisation needs of the
// whole batch is merged in between. Where there is only one segment a group goes all the way before the next one starts,
// and its memory is used again.
Totals Network::run_batch(const Batch& batch, ThreadPool& pool) {
  const size_t groups = batch.groups(), segments = segments_.size(), last = segments - 1;
  const auto slot_of = [&](size_t group, size_t thread) { return segments > 1 ? group : thread; };
  transform_kernels();
  for (size_t group = 0; group < groups; ++group) {
    std::fill(group_gradients_[group].begin(), group_gradients_[group].end(), 0.0f);
  }

  const auto backward = [&](size_t segment, size_t group, size_t thread) {
    const size_t begin = std::max(segments_[segment], first_trained_);
    const size_t end = segment == last ? layers_.size() : segments_[segment + 1];
    if (segment < last) {
      for (size_t i = segments_[segment]; i + 1 < end; ++i) {
        kernels_.forward(layers_[i], group_at(i, batch, group, slot_of(group, thread), thread));
      }
      kernels_.backward(layers_[end], group_at(end, batch, group, slot_of(group, thread), thread));
    }
    for (size_t i = end; i-- > begin;) {
      const Group at = group_at(i, batch, group, slot_of(group, thread), thread);
      if (layers_[i].kind == Kind::kBatchNorm) {
        double* partials = partials_[group].data();
        kernels_.batch_gradients(layers_[i], at, partials, partials + layers_[i].in.channels);
      } else {
        kernels_.backward(layers_[i], at);
      }
    }
  };

  for (size_t segment = 0; segment < segments; ++segment) {
    const size_t end = segment == last ? layers_.size() : segments_[segment + 1];
    pool.run(groups, [&](size_t group, size_t thread) {
      const size_t slot = slot_of(group, thread);
      if (segment == 0) read_group(batch, group, slot, thread);
      for (size_t i = segments_[segment]; i < end; ++i) {
        kernels_.forward(layers_[i], group_at(i, batch, group, slot, thread));
      }
      if (segment < last) {
        double* partials = partials_[group].data();
        kernels_.batch_moments(layers_[end], group_at(end, batch, group, slot, thread), partials,
                               partials + layers_[end].in.channels);
        return;
      }
      const Group at = group_at(layers_.size() - 1, batch, group, slot, thread);
      const float* targets = batch.targets ? batch.targets + group * classes() * kLanes : nullptr;
      group_losses_[group] = kernels_.loss(at.out.data, classes(), batch.labels + group * kLanes, targets, at.samples,
                                           1.0f / batch.size, at.grad_out.data);
      backward(segment, group, thread);
    });
    if (segment < last) merge_moments(end, batch);
  }
  for (size_t segment = last; segment-- > 0;) {
    merge_batch_gradients(segments_[segment + 1], batch);
    pool.run(groups, [&](size_t group, size_t thread) { backward(segment, group, thread); });
  }

  // Always summed group by group from the first, whichever thread ran which.
  gradients = group_gradients_[0];
  for (size_t group = 1; group < groups; ++group) {
    for (size_t i = 0; i < gradients.size(); ++i) gradients[i] += group_gradients_[group][i];
  }
  Totals totals;
  for (size_t group = 0; group < groups; ++group) {
    totals.loss += group_losses_[group].loss;
    totals.correct += group_losses_[group].correct;
  }
  return totals;
}

// ---------------------------------------------------------------------------------------------------------- The loops

Totals Network::train(Images images, const uint8_t* labels, const float* targets, const int64_t* order, int64_t count,
                      int batch_size, uint64_t seed, uint32_t epoch, const float* learning_rates, int threads,
                      const Augmentation* augmentation, int64_t sum_from) {
  const std::lock_guard<std::mutex> lock(running_);
  const DefaultArithmetic arithmetic;
  const size_t max_groups = groups_of(std::min<int64_t>(batch_size, count));
  const size_t workers = useful_threads(threads, max_groups);
  ThreadPool pool(workers);
  Totals totals;
  reserve(segments_.size() > 1 ? max_groups : workers, max_groups, workers);
  while (augmentation && augmented_.size() < workers) {
    const size_t images = size_t(kLanes) * input_.height * input_.width * input_.channels;
    augmented_.push_back(make_floats(images + kPlanes * plane_floats(input_)));
  }
  std::vector<uint8_t> batch_labels(batch_size);
  std::vector<float> batch_targets;
  uint32_t step = 0;
  for (int64_t begin = 0; begin < count; begin += batch_size, ++step) {
    const int size = int(std::min<int64_t>(batch_size, count - begin));
    for (int i = 0; i < size; ++i) batch_labels[i] = labels[order[begin + i]];
    const float* rows = gather_targets(targets, order + begin, size, classes(), batch_targets);
    const Totals found = run_batch(
        {images, batch_labels.data(), rows, order + begin, size, true, true, seed, epoch, step, augmentation}, pool);
    totals.loss += found.loss;
    totals.correct += found.correct;
    ++steps;
    if (optimizer_.kind == Optimizer::Kind::kSoap) {
      soap_update(optimizer_.blocks, parameters.data(), gradients.data(), moments.data(), covariances.data(),
                  bases.data(), parameters.size(), steps, learning_rates[step], kernels_);
    } else {
      optimizer_.update(parameters.data(), gradients.data(), moments.data(), parameters.size(), steps,
                        learning_rates[step]);
    }
    if (steps <= sum_from) continue;
    for (size_t i = 0; i < parameters.size(); ++i) sums[i] += parameters[i];
    for (size_t i = 0; i < statistics.size(); ++i) sums[parameters.size() + i] += statistics[i];
  }
  totals.helper_seconds = pool.stop();
  return totals;
}

Totals Network::compute_gradients(Images images, const uint8_t* labels, const float* targets, const int64_t* order,
                                  int batch_size, uint64_t seed, uint32_t epoch, uint32_t step, int threads) {
  const std::lock_guard<std::mutex> lock(running_);
  const DefaultArithmetic arithmetic;
  const size_t groups = groups_of(batch_size), workers = useful_threads(threads, groups);
  ThreadPool pool(workers);
  reserve(segments_.size() > 1 ? groups : workers, groups, workers);
  std::vector<uint8_t> batch_labels(batch_size);
  for (int i = 0; i < batch_size; ++i) batch_labels[i] = labels[order[i]];
  std::vector<float> batch_targets;
  const float* rows = gather_targets(targets, order, batch_size, classes(), batch_targets);
  Totals totals =
      run_batch({images, batch_labels.data(), rows, order, batch_size, true, false, seed, epoch, step}, pool);
  totals.helper_seconds = pool.stop();
  return totals;
}

Totals Network::evaluate(Images images, const uint8_t* labels, const int64_t* order, int64_t count,
                         float* probabilities, int threads) {
  const std::lock_guard<std::mutex> lock(running_);
  const DefaultArithmetic arithmetic;
  const size_t workers = useful_threads(threads, groups_of(count));
  ThreadPool pool(workers);
  Batch batch = {images, nullptr, nullptr, order, int(count), false, false, 0, 0, 0};
  reserve(workers, 1, workers);
  if (group_losses_.size() < batch.groups()) group_losses_.resize(batch.groups());
  std::vector<uint8_t> batch_labels(count);
  for (int64_t i = 0; i < count; ++i) batch_labels[i] = labels[order[i]];
  transform_kernels();
  use_moving_statistics();
  pool.run(batch.groups(), [&](size_t group, size_t thread) {
    read_group(batch, group, thread, thread);
    for (size_t i = 0; i < layers_.size(); ++i) {
      kernels_.forward(layers_[i], group_at(i, batch, group, thread, thread));
    }
    const Group at = group_at(layers_.size() - 1, batch, group, thread, thread);
    const float* logits = at.out.data;
    group_losses_[group] =
        kernels_.loss(logits, classes(), batch_labels.data() + group * kLanes, nullptr, at.samples, 0, nullptr);
    if (probabilities) {
      kernels_.softmax(probabilities + group * kLanes * classes(), logits, classes(), at.samples);
    }
  });
  Totals totals;
  for (size_t group = 0; group < batch.groups(); ++group) {
    totals.loss += group_losses_[group].loss;
    totals.correct += group_losses_[group].correct;
  }
  totals.helper_seconds = pool.stop();
  return totals;
}

}  // namespace mnist_minimal
