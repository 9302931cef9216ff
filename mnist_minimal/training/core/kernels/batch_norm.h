// Batch normalisation of each channel over batch, height and width:
//
//   n = (in - mean) * scale, scale = 1 / sqrt(variance + epsilon), out = epilogue(gain * n + bias),
//
// and back, with g the gradient before the epilogue and the means over the whole batch: grad_gain = sum of g * n,
// grad_bias = sum of g, grad_in = gain * scale * (g - mean of g - n * mean of g * n). S. Ioffe and C. Szegedy,
// https://arxiv.org/abs/1502.03167, section 3.
#pragma once

#include <string.h>

#include "../layers.h"
#include "../vector.h"
#include "blocks.h"
#include "epilogue.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// Calls work(x) for channel `c` of each position of an activation.
template <class Work>
inline void for_positions(Shape shape, View activation, int c, Work work) {
  for (int row = 0; row < shape.height; ++row) {
    const float* x = activation.data + row * activation.row + c * kLanes;
    for (int column = 0; column < shape.width; ++column, x += shape.channels * kLanes) work(x);
  }
}

// in [height][width][channels], lane_mask [kLanes] with `samples` ones -> mean and sum of squared differences from it,
// [channels] each: those of one group, of which the network makes the batch's.
void batch_moments(double* mean, double* squares, View in, const float* lane_mask, int samples, Shape shape) {
  // As a float, exact: where a double is rounded to a float and made a double again, GCC 12 may leave the rounding out.
  const float count = float(samples * shape.height * shape.width);
  for_blocks<kRowsAtOnce>(shape.channels, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    Row sums[C], squares_of[C];
    float means[C];
    for_positions(shape, in, c, [&](const float* x) {
#pragma GCC unroll 6
      for (int i = 0; i < C; ++i) {
#pragma GCC unroll 4
        for (int part = 0; part < kParts; ++part) {
          Vec& sum = sums[i].part[part];
          sum = fma(load(x + i * kLanes + part * kWidth), load(lane_mask + part * kWidth), sum);
        }
      }
    });
    for (int i = 0; i < C; ++i) {
      means[i] = sums[i].reduce() / count;
      mean[c + i] = means[i];
    }
    for_positions(shape, in, c, [&](const float* x) {
#pragma GCC unroll 6
      for (int i = 0; i < C; ++i) {
#pragma GCC unroll 4
        for (int part = 0; part < kParts; ++part) {
          const Vec difference = (load(x + i * kLanes + part * kWidth) - means[i]) * load(lane_mask + part * kWidth);
          Vec& sum = squares_of[i].part[part];
          sum = fma(difference, difference, sum);
        }
      }
    });
    for (int i = 0; i < C; ++i) squares[c + i] = squares_of[i].reduce();
  });
}

// in, out [height][width][channels]; gain and bias [channels], or null for 1 and 0.
void batch_norm_forward(View out, View in, const float* gain, const float* bias, const BatchStatistics& batch,
                        Shape shape, const Epilogue& epilogue) {
  const int channels = shape.channels;
  with_epilogue(epilogue, [&](auto& apply) {
    for (int row = 0; row < shape.height; ++row) {
      const float* x = in.data + row * in.row;
      float* to = out.data + row * out.row;
      for (int column = 0; column < shape.width; ++column) {
        for (int c = 0; c < channels; ++c) {
          const float factor = batch.scale[c] * (gain ? gain[c] : 1.0f);
          const float summand = bias ? bias[c] : 0.0f;
          const int offset = column * channels + c, element = row * shape.width * channels + offset;
          apply.draw(element);
          for (int part = 0; part < kParts; ++part) {
            const Vec value = load(x + offset * kLanes + part * kWidth);
            store(to + offset * kLanes + part * kWidth,
                  apply(fma(factor, value - batch.mean[c], broadcast(summand)), element, part));
          }
        }
      }
    }
  });
}

// grad_out, taken back through the epilogue -> grad_preactivation; its sums and those of its product with the normalised
// input -> gradient and product [channels] each, of one group.
void batch_gradients(double* gradient, double* product, View grad_preactivation, View grad_out, View in, View out,
                     const BatchStatistics& batch, Shape shape, const Epilogue& epilogue, float* scratch) {
  const EpilogueGradient before_epilogue(epilogue);
  const int channels = shape.channels;
  // Lane partials [channels] of the gradient and of the product.
  float *sums = scratch, *products = sums + channels * kLanes;
  memset(sums, 0, sizeof(float) * 2 * channels * kLanes);
  for (int row = 0; row < shape.height; ++row) {
    for (int column = 0; column < shape.width; ++column) {
      const ptrdiff_t offset = column * channels * kLanes;
      const float* x = in.data + row * in.row + offset;
      const float* result = out.data + row * out.row + offset;
      const float* grad = grad_out.data + row * grad_out.row + offset;
      float* to = grad_preactivation.data + row * grad_preactivation.row + offset;
      for (int c = 0; c < channels; ++c) {
#pragma GCC unroll 4
        for (int part = 0; part < kParts; ++part) {
          const int at = c * kLanes + part * kWidth;
          const Vec g = before_epilogue(load(result + at), load(grad + at));
          store(to + at, g);
          store(sums + at, load(sums + at) + g);
          store(products + at, fma(g, load(x + at) - batch.mean[c], load(products + at)));
        }
      }
    }
  }
  for (int c = 0; c < channels; ++c) {
    gradient[c] = reduce_lanes(sums + c * kLanes);
    product[c] = reduce_lanes(products + c * kLanes) * batch.scale[c];
  }
}

// grad_preactivation, with the whole batch's means in `batch` -> grad_in, which is 0 in the lanes without a sample.
void batch_norm_backward(View grad_in, View grad_preactivation, View in, const float* gain,
                         const BatchStatistics& batch, const float* lane_mask, Shape shape) {
  const int channels = shape.channels;
  for (int row = 0; row < shape.height; ++row) {
    const float* x = in.data + row * in.row;
    const float* grad = grad_preactivation.data + row * grad_preactivation.row;
    float* to = grad_in.data + row * grad_in.row;
    for (int column = 0; column < shape.width; ++column) {
      for (int c = 0; c < channels; ++c) {
        const float scale = batch.scale[c], factor = (gain ? gain[c] : 1.0f) * scale;
        const int offset = (column * channels + c) * kLanes;
        for (int part = 0; part < kParts; ++part) {
          const Vec normalised = (load(x + offset + part * kWidth) - batch.mean[c]) * scale;
          const Vec centred = fma(-batch.mean_product[c], normalised,
                                  load(grad + offset + part * kWidth) - batch.mean_gradient[c]);
          store(to + offset + part * kWidth, centred * factor * load(lane_mask + part * kWidth));
        }
      }
    }
  }
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
