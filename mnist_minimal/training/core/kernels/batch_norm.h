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
  const double count = double(samples) * shape.height * shape.width;
  for_blocks<6>(shape.channels, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    Vec sums[C] = {};
    float means[C];
    for_positions(shape, in, c, [&](const float* x) {
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) {
        for (int part = 0; part < kParts; ++part) {
          sums[i] += load(x + i * kLanes + part * kWidth) * load(lane_mask + part * kWidth);
        }
      }
    });
    for (int i = 0; i < C; ++i) {
      means[i] = float(reduce_add(sums[i]) / count);
      mean[c + i] = means[i];
      sums[i] = zeros();
    }
    for_positions(shape, in, c, [&](const float* x) {
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) {
        for (int part = 0; part < kParts; ++part) {
          const Vec difference =
              (load(x + i * kLanes + part * kWidth) - means[i]) * load(lane_mask + part * kWidth);
          sums[i] += difference * difference;
        }
      }
    });
    for (int i = 0; i < C; ++i) squares[c + i] = reduce_add(sums[i]);
  });
}

// in, out [height][width][channels]; gain and bias [channels], or null for 1 and 0.
void batch_norm_forward(View out, View in, const float* gain, const float* bias, const BatchStatistics& batch,
                        Shape shape, const Epilogue& epilogue) {
  const int channels = shape.channels;
  with_epilogue(epilogue, [&](auto apply) {
    for (int row = 0; row < shape.height; ++row) {
      const float* x = in.data + row * in.row;
      float* to = out.data + row * out.row;
      for (int column = 0; column < shape.width; ++column) {
        for (int c = 0; c < channels; ++c) {
          const float factor = batch.scale[c] * (gain ? gain[c] : 1.0f);
          const float summand = bias ? bias[c] : 0.0f;
          const int offset = column * channels + c;
          for (int part = 0; part < kParts; ++part) {
            const Vec value = load(x + offset * kLanes + part * kWidth);
            const int element = row * shape.width * channels + offset;
            store(to + offset * kLanes + part * kWidth,
                  apply((value - batch.mean[c]) * factor + summand, element, part));
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
  // Sums before those over the lanes, [channels][kWidth] of the gradient and of the product.
  float *sums = scratch, *products = sums + channels * kWidth;
  memset(sums, 0, sizeof(float) * 2 * channels * kWidth);
  for (int row = 0; row < shape.height; ++row) {
    for_blocks<4>(channels, [&](int c, auto size) {
      constexpr int C = decltype(size)::value;
      Vec sum[C], sum_of_products[C], means[C];
      for (int i = 0; i < C; ++i) {
        sum[i] = load(sums + (c + i) * kWidth);
        sum_of_products[i] = load(products + (c + i) * kWidth);
        means[i] = broadcast(batch.mean[c + i]);
      }
      for (int column = 0; column < shape.width; ++column) {
        const ptrdiff_t offset = (column * channels + c) * kLanes;
        const float* x = in.data + row * in.row + offset;
        const float* result = out.data + row * out.row + offset;
        const float* grad = grad_out.data + row * grad_out.row + offset;
        float* to = grad_preactivation.data + row * grad_preactivation.row + offset;
#pragma GCC unroll 4
        for (int i = 0; i < C; ++i) {
#pragma GCC unroll 4
          for (int part = 0; part < kParts; ++part) {
            const int at = i * kLanes + part * kWidth;
            const Vec g = before_epilogue(load(result + at), load(grad + at));
            store(to + at, g);
            sum[i] += g;
            sum_of_products[i] += g * (load(x + at) - means[i]);
          }
        }
      }
      for (int i = 0; i < C; ++i) {
        store(sums + (c + i) * kWidth, sum[i]);
        store(products + (c + i) * kWidth, sum_of_products[i]);
      }
    });
  }
  for (int c = 0; c < channels; ++c) {
    gradient[c] = reduce_add(load(sums + c * kWidth));
    product[c] = reduce_add(load(products + c * kWidth)) * batch.scale[c];
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
          const Vec centred = load(grad + offset + part * kWidth) - batch.mean_gradient[c] -
                              normalised * batch.mean_product[c];
          store(to + offset + part * kWidth, centred * factor * load(lane_mask + part * kWidth));
        }
      }
    }
  }
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
