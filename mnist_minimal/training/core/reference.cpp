// Every activation of a batch is an array [samples][height][width][channels]. Each layer has a function forward and one
// backward; backward adds to the gradients of parameters, and writes, or adds to zeros in, that of its input.
#include "reference.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "vector.h"

namespace mnist_minimal {
namespace {

size_t size_of(Shape shape) { return size_t(shape.height) * shape.width * shape.channels; }

// Position of a channel in an array [samples][height][width][channels].
size_t at(Shape shape, int sample, int row, int column, int channel) {
  return ((size_t(sample) * shape.height + row) * shape.width + column) * shape.channels + channel;
}

// Calls work(sample, row, column) for each position of a batch.
template <class Work>
void for_positions(int samples, Shape shape, Work work) {
  for (int n = 0; n < samples; ++n) {
    for (int i = 0; i < shape.height; ++i) {
      for (int j = 0; j < shape.width; ++j) work(n, i, j);
    }
  }
}

// Calls work(tap, row, column) for each tap of the kernel at output (i, j) and the input's row and column under it; what
// lies in the border is zero and left out.
template <class Work>
void for_taps(const Geometry& shape, int i, int j, Work work) {
  for (int r = 0; r < shape.kernel_rows; ++r) {
    for (int s = 0; s < shape.kernel_columns; ++s) {
      const int row = i + r - shape.pad_top, column = j + s - shape.pad_left;
      if (row < 0 || row >= shape.in.height || column < 0 || column >= shape.in.width) continue;
      work(r * shape.kernel_columns + s, row, column);
    }
  }
}

// ------------------------------------------------------------------------------------------------------- Convolution
// out[i][j][o] = bias[o] + sum over taps t and channels c of in[row][column][c] * kernel[t][c][o]

template <class Real>
void convolution_forward(Real* out, const Real* in, const Real* kernel, const Real* bias, int samples,
                         const Geometry& shape) {
  const int ins = shape.in.channels, outs = shape.out.channels;
  for_positions(samples, shape.out, [&](int n, int i, int j) {
    for (int o = 0; o < outs; ++o) {
      Real sum = bias ? bias[o] : 0;
      for_taps(shape, i, j, [&](int tap, int row, int column) {
        for (int c = 0; c < ins; ++c) sum += in[at(shape.in, n, row, column, c)] * kernel[(tap * ins + c) * outs + o];
      });
      out[at(shape.out, n, i, j, o)] = sum;
    }
  });
}

template <class Real>
void convolution_backward(Real* grad_in, Real* grad_kernel, Real* grad_bias, const Real* grad_out, const Real* in,
                          const Real* kernel, int samples, const Geometry& shape) {
  const int ins = shape.in.channels, outs = shape.out.channels;
  for_positions(samples, shape.out, [&](int n, int i, int j) {
    for (int o = 0; o < outs; ++o) {
      const Real g = grad_out[at(shape.out, n, i, j, o)];
      if (grad_bias) grad_bias[o] += g;
      for_taps(shape, i, j, [&](int tap, int row, int column) {
        for (int c = 0; c < ins; ++c) {
          const size_t input = at(shape.in, n, row, column, c), weight = (size_t(tap) * ins + c) * outs + o;
          grad_kernel[weight] += in[input] * g;
          grad_in[input] += kernel[weight] * g;
        }
      });
    }
  });
}

// --------------------------------------------------------------------------------------------- Depthwise convolution
// out[i][j][c] = bias[c] + sum over taps t of in[row][column][c] * kernel[t][c]

template <class Real>
void depthwise_forward(Real* out, const Real* in, const Real* kernel, const Real* bias, int samples,
                       const Geometry& shape) {
  const int channels = shape.in.channels;
  for_positions(samples, shape.out, [&](int n, int i, int j) {
    for (int c = 0; c < channels; ++c) {
      Real sum = bias ? bias[c] : 0;
      for_taps(shape, i, j, [&](int tap, int row, int column) {
        sum += in[at(shape.in, n, row, column, c)] * kernel[tap * channels + c];
      });
      out[at(shape.out, n, i, j, c)] = sum;
    }
  });
}

template <class Real>
void depthwise_backward(Real* grad_in, Real* grad_kernel, Real* grad_bias, const Real* grad_out, const Real* in,
                        const Real* kernel, int samples, const Geometry& shape) {
  const int channels = shape.in.channels;
  for_positions(samples, shape.out, [&](int n, int i, int j) {
    for (int c = 0; c < channels; ++c) {
      const Real g = grad_out[at(shape.out, n, i, j, c)];
      if (grad_bias) grad_bias[c] += g;
      for_taps(shape, i, j, [&](int tap, int row, int column) {
        grad_kernel[tap * channels + c] += in[at(shape.in, n, row, column, c)] * g;
        grad_in[at(shape.in, n, row, column, c)] += kernel[tap * channels + c] * g;
      });
    }
  });
}

// ----------------------------------------------------------------------------------------------------------- Pooling
// The window of output (i, j) starts at input (i * kernel_rows, j * kernel_columns).

// Position in the input of the largest of a window, the first of several.
template <class Real>
size_t largest_in_window(const Real* in, int n, int i, int j, int c, const Geometry& shape) {
  size_t best = at(shape.in, n, i * shape.kernel_rows, j * shape.kernel_columns, c);
  for (int r = 0; r < shape.kernel_rows; ++r) {
    for (int s = 0; s < shape.kernel_columns; ++s) {
      const size_t other = at(shape.in, n, i * shape.kernel_rows + r, j * shape.kernel_columns + s, c);
      if (in[other] > in[best]) best = other;
    }
  }
  return best;
}

template <class Real>
void max_pool_forward(Real* out, const Real* in, int samples, const Geometry& shape) {
  for_positions(samples, shape.out, [&](int n, int i, int j) {
    for (int c = 0; c < shape.in.channels; ++c) {
      out[at(shape.out, n, i, j, c)] = in[largest_in_window(in, n, i, j, c, shape)];
    }
  });
}

template <class Real>
void max_pool_backward(Real* grad_in, const Real* grad_out, const Real* in, int samples, const Geometry& shape) {
  for_positions(samples, shape.out, [&](int n, int i, int j) {
    for (int c = 0; c < shape.in.channels; ++c) {
      grad_in[largest_in_window(in, n, i, j, c, shape)] = grad_out[at(shape.out, n, i, j, c)];
    }
  });
}

template <class Real>
void average_pool_forward(Real* out, const Real* in, int samples, const Geometry& shape) {
  for_positions(samples, shape.out, [&](int n, int i, int j) {
    for (int c = 0; c < shape.in.channels; ++c) {
      Real sum = 0;
      for (int r = 0; r < shape.kernel_rows; ++r) {
        for (int s = 0; s < shape.kernel_columns; ++s) {
          sum += in[at(shape.in, n, i * shape.kernel_rows + r, j * shape.kernel_columns + s, c)];
        }
      }
      out[at(shape.out, n, i, j, c)] = sum / (shape.kernel_rows * shape.kernel_columns);
    }
  });
}

template <class Real>
void average_pool_backward(Real* grad_in, const Real* grad_out, int samples, const Geometry& shape) {
  for_positions(samples, shape.out, [&](int n, int i, int j) {
    for (int c = 0; c < shape.in.channels; ++c) {
      const Real share = grad_out[at(shape.out, n, i, j, c)] / (shape.kernel_rows * shape.kernel_columns);
      for (int r = 0; r < shape.kernel_rows; ++r) {
        for (int s = 0; s < shape.kernel_columns; ++s) {
          grad_in[at(shape.in, n, i * shape.kernel_rows + r, j * shape.kernel_columns + s, c)] = share;
        }
      }
    }
  });
}

// ----------------------------------------------------------------------------------------------------- Normalisation
// normalised = (in - mean) * scale, out = gain * normalised + bias. Backward, by the derivatives of mean and scale too:
// grad_in = gain * scale * (g - mean of g - normalised * mean of g * normalised).

// Mean of values [count], and the mean square of their differences from it.
template <class Real>
std::pair<Real, Real> moments_of(const std::vector<Real>& values) {
  Real sum = 0, squares = 0;
  for (Real value : values) sum += value;
  const Real mean = sum / values.size();
  for (Real value : values) squares += (value - mean) * (value - mean);
  return {mean, squares / values.size()};
}

// Of channel c of a batch [samples][height][width].
template <class Real>
std::vector<Real> channel_of(const Real* x, int c, int samples, Shape shape) {
  std::vector<Real> values;
  for_positions(samples, shape, [&](int n, int i, int j) { values.push_back(x[at(shape, n, i, j, c)]); });
  return values;
}

// mean, scale [channels]; gain and bias [channels], null for 1 and 0.
template <class Real>
void batch_norm_forward(Real* out, const Real* in, const Real* mean, const Real* scale, const Real* gain,
                        const Real* bias, int samples, Shape shape) {
  for_positions(samples, shape, [&](int n, int i, int j) {
    for (int c = 0; c < shape.channels; ++c) {
      const size_t x = at(shape, n, i, j, c);
      out[x] = (gain ? gain[c] : 1) * (in[x] - mean[c]) * scale[c] + (bias ? bias[c] : 0);
    }
  });
}

// mean, scale [channels] are those of this batch.
template <class Real>
void batch_norm_backward(Real* grad_in, Real* grad_gain, Real* grad_bias, const Real* grad_out, const Real* in,
                         const Real* mean, const Real* scale, const Real* gain, int samples, Shape shape) {
  const Real count = Real(samples) * shape.height * shape.width;
  for (int c = 0; c < shape.channels; ++c) {
    Real sum = 0, product = 0;
    for_positions(samples, shape, [&](int n, int i, int j) {
      const size_t x = at(shape, n, i, j, c);
      sum += grad_out[x];
      product += grad_out[x] * (in[x] - mean[c]) * scale[c];
    });
    if (grad_bias) grad_bias[c] += sum;
    if (grad_gain) grad_gain[c] += product;
    for_positions(samples, shape, [&](int n, int i, int j) {
      const size_t x = at(shape, n, i, j, c);
      const Real normalised = (in[x] - mean[c]) * scale[c];
      grad_in[x] = (gain ? gain[c] : 1) * scale[c] * (grad_out[x] - sum / count - normalised * product / count);
    });
  }
}

// Of one sample [size]: scale = 1 / (deviation + epsilon), variances no smaller than the Keras layer's SMALLEST_VARIANCE.
template <class Real>
struct InstanceMoments {
  Real mean, deviation, scale;

  InstanceMoments(const Real* in, size_t size, Real epsilon) {
    const auto [of_values, variance] = moments_of(std::vector<Real>(in, in + size));
    mean = of_values;
    deviation = std::sqrt(std::max(variance, Real(1e-12f)));
    scale = 1 / (deviation + epsilon);
  }
};

template <class Real>
void instance_norm_forward(Real* out, const Real* in, Real gain, Real bias, Real epsilon, int samples, Shape shape) {
  const size_t size = size_of(shape);
  for (int n = 0; n < samples; ++n, in += size, out += size) {
    const InstanceMoments<Real> moments(in, size, epsilon);
    for (size_t i = 0; i < size; ++i) out[i] = gain * (in[i] - moments.mean) * moments.scale + bias;
  }
}

// The scale's derivative has the factor (deviation + epsilon) / deviation more than without the epsilon.
template <class Real>
void instance_norm_backward(Real* grad_in, Real* grad_gain, Real* grad_bias, const Real* grad_out, const Real* in,
                            Real gain, Real epsilon, int samples, Shape shape) {
  const size_t size = size_of(shape);
  for (int n = 0; n < samples; ++n, in += size, grad_in += size, grad_out += size) {
    const InstanceMoments<Real> moments(in, size, epsilon);
    Real sum = 0, product = 0;
    for (size_t i = 0; i < size; ++i) {
      sum += grad_out[i];
      product += grad_out[i] * (in[i] - moments.mean) * moments.scale;
    }
    *grad_bias += sum;
    *grad_gain += product;
    const Real slope = product / size * (moments.deviation + epsilon) / moments.deviation;
    for (size_t i = 0; i < size; ++i) {
      const Real normalised = (in[i] - moments.mean) * moments.scale;
      grad_in[i] = gain * moments.scale * (grad_out[i] - sum / size - normalised * slope);
    }
  }
}

// -------------------------------------------------------------------------------------------- Activation and dropout

// Whether dropout keeps an element of a sample. Samples go by groups of kLanes; the counter gives a group kLanes words, one
// for each of its samples, for every two elements: the lower halves of these are the even one's, the upper the odd one's.
bool keeps(DropoutKey key, uint32_t drop, int sample, uint32_t element, uint32_t elements) {
  const uint32_t pairs = (elements + 1) / 2;
  uint32_t x = key.first + (uint32_t(sample / kLanes) * pairs + element / 2) * kLanes + sample % kLanes;
  x ^= x >> 16;
  x *= 0x21f0aaadu;
  x ^= x >> 15;
  x ^= key.second;
  x *= 0x735a2d97u;
  x ^= x >> 15;
  const uint32_t half = element % 2 ? x >> 16 : x & 0xffff;
  return (half ^ 0x8000u) >= drop;
}

// What an element is multiplied by: 0 where it is dropped, else what keeps the expected value.
template <class Real>
Real dropout_factor(DropoutKey key, uint32_t drop, int sample, size_t element, size_t elements) {
  if (drop == 0) return 1;
  return keeps(key, drop, sample, element, elements) ? Real(65536) / (65536 - drop) : 0;
}

template <class Real>
void epilogue_forward(Real* out, const Real* in, const Epilogue& epilogue, int samples, Shape shape) {
  const size_t size = size_of(shape);
  for (int n = 0; n < samples; ++n) {
    for (size_t i = 0; i < size; ++i) {
      const Real x = in[n * size + i], activated = x > 0 ? x : epilogue.slope * x;
      out[n * size + i] = activated * dropout_factor<Real>(epilogue.key, epilogue.drop, n, i, size);
    }
  }
}

// In place: the gradient of what epilogue_forward gives -> that of what it takes.
template <class Real>
void epilogue_backward(Real* grad, const Real* in, const Epilogue& epilogue, int samples, Shape shape) {
  const size_t size = size_of(shape);
  for (int n = 0; n < samples; ++n) {
    for (size_t i = 0; i < size; ++i) {
      const Real slope = in[n * size + i] > 0 ? 1 : epilogue.slope;
      grad[n * size + i] *= slope * dropout_factor<Real>(epilogue.key, epilogue.drop, n, i, size);
    }
  }
}

// -------------------------------------------------------------------------------------------------------------- Loss

template <class Real>
int index_of_largest(const Real* x, int count) {
  return int(std::max_element(x, x + count) - x);
}

// logits [classes] -> probabilities [classes].
template <class Real>
void softmax(Real* probabilities, const Real* logits, int classes) {
  const Real largest = logits[index_of_largest(logits, classes)];
  Real sum = 0;
  for (int c = 0; c < classes; ++c) sum += probabilities[c] = std::exp(logits[c] - largest);
  for (int c = 0; c < classes; ++c) probabilities[c] /= sum;
}

// Sum of target * -log of the softmax; the sum of the targets [classes] is 1.
template <class Real>
Real cross_entropy(const Real* logits, const Real* target, int classes) {
  const Real largest = logits[index_of_largest(logits, classes)];
  Real sum = 0, of_target = 0;
  for (int c = 0; c < classes; ++c) {
    sum += std::exp(logits[c] - largest);
    of_target += target[c] * logits[c];
  }
  return std::log(sum) + largest - of_target;
}

// --------------------------------------------------------------------------------------------------------- Optimizers

template <class Real>
void optimizer_step(const Optimizer& optimizer, std::vector<Real>& parameters, const std::vector<Real>& gradients,
                    std::vector<Real>& moments, int64_t step, Real learning_rate) {
  const size_t count = parameters.size();
  const Real beta_1 = optimizer.beta_1, beta_2 = optimizer.beta_2;
  const Real unbiased = std::sqrt(1 - std::pow(beta_2, Real(step))) / (1 - std::pow(beta_1, Real(step)));
  for (size_t i = 0; i < count; ++i) {
    Real &w = parameters[i], &first = moments[i], &second = moments[count + i];
    const Real g = gradients[i];
    if (optimizer.kind == Optimizer::Kind::kMomentum) {
      first = optimizer.momentum * first - learning_rate * g;
      w += first;
    } else {
      w -= optimizer.decay * w;
      first = beta_1 * first + (1 - beta_1) * g;
      second = beta_2 * second + (1 - beta_2) * g * g;
      w -= learning_rate * unbiased * first / (std::sqrt(second) + optimizer.epsilon);
    }
  }
}

// An array at its offset, null where the layer has none.
template <class Real>
Real* at_offset(std::vector<Real>& array, ptrdiff_t offset) {
  return offset == kNone ? nullptr : array.data() + offset;
}

}  // namespace

// ------------------------------------------------------------------------------------------------------- The network

// What the backward pass needs of the forward one, for each layer: its input, its result before activation and dropout,
// these two, and a batch normalisation's mean and scale.
template <class Real>
struct Reference<Real>::Pass {
  int samples;
  std::vector<std::vector<Real>> inputs, results, means, scales;
  std::vector<Epilogue> epilogues;
  std::vector<Real> logits;
};

template <class Real>
Reference<Real>::Reference(Shape input, float scale, float offset, std::vector<Layer> layers, size_t parameters,
                           size_t statistics, Optimizer optimizer)
    : input_(input), scale_(scale), offset_(offset), layers_(std::move(layers)), optimizer_(optimizer) {
  if (optimizer_.kind == Optimizer::Kind::kSoap) throw std::invalid_argument("expected no SOAP, which Network alone has");
  check_layers(input, layers_, parameters, statistics);
  this->parameters.resize(parameters);
  gradients.resize(parameters);
  moments.resize(2 * parameters);
  this->statistics.resize(statistics);
}

template <class Real>
std::vector<Real> Reference<Real>::read(Images images, const int64_t* order, int count) const {
  const size_t size = size_of(input_);
  std::vector<Real> x(size * count);
  for (int n = 0; n < count; ++n) {
    for (size_t i = 0; i < size; ++i) {
      const size_t from = size_t(order[n]) * size + i;
      x[n * size + i] = (images.bytes ? Real(images.bytes[from]) : Real(images.floats[from])) * scale_ + offset_;
    }
  }
  return x;
}

template <class Real>
typename Reference<Real>::Pass Reference<Real>::forward(std::vector<Real> x, int samples, bool training, bool updating,
                                                        uint64_t seed, uint32_t epoch, uint32_t step) {
  const size_t count = layers_.size();
  Pass pass = {samples, {}, {}, std::vector<std::vector<Real>>(count), std::vector<std::vector<Real>>(count), {}, {}};
  for (size_t index = 0; index < count; ++index) {
    const Layer& layer = layers_[index];
    const Real *kernel = at_offset(parameters, layer.kernel), *bias = at_offset(parameters, layer.bias);
    const Real* in = x.data();
    std::vector<Real> result(size_of(layer.out) * samples);
    switch (layer.kind) {
      case Kind::kConvolution: convolution_forward(result.data(), in, kernel, bias, samples, layer); break;
      case Kind::kDepthwise: depthwise_forward(result.data(), in, kernel, bias, samples, layer); break;
      case Kind::kMaxPool: max_pool_forward(result.data(), in, samples, layer); break;
      case Kind::kAveragePool: average_pool_forward(result.data(), in, samples, layer); break;
      case Kind::kBatchNorm: {
        Real *moving_mean = statistics.data() + layer.statistics, *moving_variance = moving_mean + layer.in.channels;
        for (int c = 0; c < layer.in.channels; ++c) {
          auto [mean, variance] = training ? moments_of(channel_of(in, c, samples, layer.in))
                                           : std::pair<Real, Real>(moving_mean[c], moving_variance[c]);
          pass.means[index].push_back(mean);
          pass.scales[index].push_back(1 / std::sqrt(variance + layer.epsilon));
          if (!updating) continue;
          moving_mean[c] = layer.momentum * moving_mean[c] + (1 - Real(layer.momentum)) * mean;
          moving_variance[c] = layer.momentum * moving_variance[c] + (1 - Real(layer.momentum)) * variance;
        }
        batch_norm_forward(result.data(), in, pass.means[index].data(), pass.scales[index].data(), kernel, bias, samples,
                           layer.in);
        break;
      }
      case Kind::kInstanceNorm:
        instance_norm_forward(result.data(), in, *kernel, *bias, Real(layer.epsilon), samples, layer.in);
        break;
      case Kind::kSilu:
        for (size_t i = 0; i < result.size(); ++i) result[i] = x[i] / (1 + std::exp(-x[i]));
        break;
      case Kind::kElementwise: result = x; break;
    }
    const DropoutKey key = dropout_key(seed, epoch, step, layer.dropout_index);
    const Epilogue epilogue = {layer.slope, training ? layer.drop : 0, key};
    pass.inputs.push_back(std::move(x));
    x.resize(result.size());
    epilogue_forward(x.data(), result.data(), epilogue, samples, layer.out);
    pass.results.push_back(std::move(result));
    pass.epilogues.push_back(epilogue);
  }
  pass.logits = std::move(x);
  return pass;
}

template <class Real>
void Reference<Real>::backward(const Pass& pass, std::vector<Real> grad) {
  std::fill(gradients.begin(), gradients.end(), Real(0));
  const int samples = pass.samples;
  for (size_t index = layers_.size(); index-- > 0;) {
    const Layer& layer = layers_[index];
    const Real* kernel = at_offset(parameters, layer.kernel);
    Real *grad_kernel = at_offset(gradients, layer.kernel), *grad_bias = at_offset(gradients, layer.bias);
    const Real* in = pass.inputs[index].data();
    std::vector<Real> grad_in(size_of(layer.in) * samples);
    epilogue_backward(grad.data(), pass.results[index].data(), pass.epilogues[index], samples, layer.out);
    switch (layer.kind) {
      case Kind::kConvolution:
        convolution_backward(grad_in.data(), grad_kernel, grad_bias, grad.data(), in, kernel, samples, layer);
        break;
      case Kind::kDepthwise:
        depthwise_backward(grad_in.data(), grad_kernel, grad_bias, grad.data(), in, kernel, samples, layer);
        break;
      case Kind::kMaxPool: max_pool_backward(grad_in.data(), grad.data(), in, samples, layer); break;
      case Kind::kAveragePool: average_pool_backward(grad_in.data(), grad.data(), samples, layer); break;
      case Kind::kBatchNorm:
        batch_norm_backward(grad_in.data(), grad_kernel, grad_bias, grad.data(), in, pass.means[index].data(),
                            pass.scales[index].data(), kernel, samples, layer.in);
        break;
      case Kind::kInstanceNorm:
        instance_norm_backward(grad_in.data(), grad_kernel, grad_bias, grad.data(), in, *kernel, Real(layer.epsilon),
                               samples, layer.in);
        break;
      case Kind::kSilu:
        for (size_t i = 0; i < grad_in.size(); ++i) {
          const Real sigmoid = 1 / (1 + std::exp(-in[i]));
          grad_in[i] = grad[i] * sigmoid * (1 + in[i] * (1 - sigmoid));
        }
        break;
      case Kind::kElementwise: grad_in = grad; break;
    }
    grad = std::move(grad_in);
  }
}

// One batch forward and backward: the gradients of its mean loss.
template <class Real>
Totals Reference<Real>::run_batch(Images images, const uint8_t* labels, const float* targets, const int64_t* order,
                                  int samples, bool updating, uint64_t seed, uint32_t epoch, uint32_t step) {
  const Pass pass = forward(read(images, order, samples), samples, true, updating, seed, epoch, step);
  Totals totals;
  std::vector<Real> grad(pass.logits.size());
  for (int n = 0; n < samples; ++n) {
    const Real* logits = pass.logits.data() + n * classes();
    const int label = labels[order[n]];
    std::vector<Real> target(classes());
    for (int c = 0; c < classes(); ++c) target[c] = targets ? targets[order[n] * classes() + c] : c == label;
    totals.loss += cross_entropy(logits, target.data(), classes());
    totals.correct += index_of_largest(logits, classes()) == label;
    // The cross-entropy's derivative: probabilities minus targets.
    Real* g = grad.data() + n * classes();
    softmax(g, logits, classes());
    for (int c = 0; c < classes(); ++c) g[c] = (g[c] - target[c]) / samples;
  }
  backward(pass, std::move(grad));
  return totals;
}

template <class Real>
Totals Reference<Real>::compute_gradients(Images images, const uint8_t* labels, const float* targets,
                                          const int64_t* order, int count, uint64_t seed, uint32_t epoch,
                                          uint32_t step) {
  return run_batch(images, labels, targets, order, count, false, seed, epoch, step);
}

template <class Real>
Totals Reference<Real>::train(Images images, const uint8_t* labels, const float* targets, const int64_t* order,
                              int64_t count, int batch_size, uint64_t seed, uint32_t epoch,
                              const float* learning_rates) {
  Totals totals;
  for (int64_t begin = 0; begin < count; begin += batch_size) {
    const int samples = int(std::min<int64_t>(batch_size, count - begin));
    const Totals found = run_batch(images, labels, targets, order + begin, samples, true, seed, epoch,
                                   uint32_t(begin / batch_size));
    totals.loss += found.loss;
    totals.correct += found.correct;
    optimizer_step(optimizer_, parameters, gradients, moments, ++steps, Real(learning_rates[begin / batch_size]));
  }
  return totals;
}

template <class Real>
void Reference<Real>::predict(Images images, int count, Real* probabilities) {
  std::vector<int64_t> order(count);
  for (int n = 0; n < count; ++n) order[n] = n;
  const Pass pass = forward(read(images, order.data(), count), count, false, false, 0, 0, 0);
  for (int n = 0; n < count; ++n) softmax(probabilities + n * classes(), pass.logits.data() + n * classes(), classes());
}

template class Reference<float>;
template class Reference<double>;

}  // namespace mnist_minimal
