// The kernels of every layer: forward and backward side by side, the shapes on each.
//
// This file is compiled once for each instruction set, in a namespace of its own, and the best that the processor has is
// chosen when the program runs. So nothing here may come from the C++ library: an inline function of it, compiled with
// AVX-512, could be the copy that the linker keeps for the whole program.

#include "layers.h"

#include <math.h>
#include <string.h>

#include "vector.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// Registers of one row of lanes that a kernel works on at a time.
constexpr int kPartsAtOnce = kParts < 2 ? 1 : 2;

// ---------------------------------------------------------------------------------------------------- Blocks of channels

template <int N>
struct Size {
  static constexpr int value = N;
};

// Calls work(begin, Size<n>) for `count` channels in as few blocks of at most `Max` as there can be, of equal size or
// nearly so.
template <int Max, class Work>
inline void for_blocks(int count, Work work) {
  const int blocks = (count + Max - 1) / Max;
  int begin = 0;
  for (int block = 0; block < blocks; ++block) {
    const int size = count / blocks + (block < count % blocks);
    switch (size) {
      case 1: work(begin, Size<1>()); break;
      case 2: if constexpr (Max >= 2) work(begin, Size<2>()); break;
      case 3: if constexpr (Max >= 3) work(begin, Size<3>()); break;
      case 4: if constexpr (Max >= 4) work(begin, Size<4>()); break;
      case 5: if constexpr (Max >= 5) work(begin, Size<5>()); break;
      case 6: if constexpr (Max >= 6) work(begin, Size<6>()); break;
    }
    begin += size;
  }
}

// ---------------------------------------------------------------------------------------- The end of a layer: activation
// and dropout, done to a result while it is in a register

// What is dropped becomes -0.0, and nothing else does, as adding +0.0 turns -0.0 into +0.0: so the backward pass can read
// in the result what was dropped, and no mask is kept.
constexpr int32_t kDropped = INT32_MIN;

struct NoEpilogue {
  Vec operator()(Vec value, ptrdiff_t, int) const { return value; }
};

// x > 0 ? x : slope * x for a slope in [0, 1], then dropout.
//
// The random numbers are those of a counter, one for each lane: the two multiplications of C. Wellons' hash "lowbias32"
// (https://github.com/skeeto/hash-prospector), one half of the key before each. A row of 16 lanes takes eight words: lane
// i < 8 the lower half of word i, lane i >= 8 the upper half of word i - 8. So a probability is a multiple of 2**-16.
template <bool Drops>
struct Epilogue {
  Vec slope, scale;
  IntVec threshold;
  WordVec first, second;

  Epilogue(const Layer& layer, const Group& group)
      : slope(broadcast(layer.slope)),
        scale(broadcast(65536.0f / (65536.0f - layer.drop))),
        // As the hash's words are compared as signed numbers, the smallest of which is -2**31.
        threshold(broadcast(int32_t((layer.drop << 16) ^ 0x80000000u))),
        second(group.key.second - WordVec{}) {
    const uint32_t elements = layer.out.height * layer.out.width * layer.out.channels;
    first = group.key.first + group.index * elements * 8 - WordVec{};
  }

  // `element` is the place in the layer's result, [height][width][channels].
  Vec operator()(Vec value, ptrdiff_t element, int part) const {
    value = max(value, slope * value);
    if constexpr (Drops) {
      WordVec lanes;
      for (int i = 0; i < kWidth; ++i) lanes[i] = (part * kWidth + i) % 8;
      WordVec x = first + (uint32_t(element) * 8 + lanes);
      x ^= x >> 16;
      x *= 0x21f0aaadu;
      x ^= x >> 15;
      x ^= second;
      x *= 0x735a2d97u;
      x ^= x >> 15;
      for (int i = 0; i < kWidth; ++i) lanes[i] = part * kWidth + i < 8 ? 16 : 0;
      const IntVec random = (IntVec)(x << lanes);
      value = select(random >= threshold, value * scale + 0.0f, broadcast(-0.0f));
    }
    return value;
  }
};

inline bool drops(const Layer& layer, const Group& group) { return group.training && layer.drop > 0; }

// Calls work(epilogue) with what the layer does at its end.
template <class Work>
inline void with_epilogue(const Layer& layer, const Group& group, Work work) {
  if (drops(layer, group)) {
    work(Epilogue<true>(layer, group));
  } else if (layer.slope != 1) {
    work(Epilogue<false>(layer, group));
  } else {
    work(NoEpilogue());
  }
}

// The epilogue of one row of the layer's result, in place, while the row is in the cache: a convolution's sums need all
// registers.
void epilogue_row(const Layer& layer, const Group& group, int row) {
  if (layer.slope == 1 && !drops(layer, group)) return;
  const ptrdiff_t size = layer.out.width * layer.out.channels;
  float* out = group.out.data + row * group.out.row;
  with_epilogue(layer, group, [&](auto epilogue) {
    for (ptrdiff_t i = 0; i < size; ++i) {
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        float* value = out + i * kLanes + part * kWidth;
        store(value, epilogue(load(value), row * size + i, part));
      }
    }
  });
}

// Gradient of a layer's result -> gradient before activation and dropout, from the result itself.
struct EpilogueGradient {
  Vec above, below, dropped;

  EpilogueGradient(const Layer& layer, const Group& group) {
    const bool dropping = drops(layer, group);
    const float scale = dropping ? 65536.0f / (65536.0f - layer.drop) : 1.0f;
    above = broadcast(scale);
    below = broadcast(scale * layer.slope);
    dropped = dropping ? zeros() : below;
  }

  Vec operator()(Vec result, Vec gradient) const {
    return gradient * select(result > 0.0f, above, select(bits(result) == kDropped, dropped, below));
  }
};

// The same for a whole layer, in place; and its sums [channels], added to `channel_sums` unless that is null: the gradient
// of a bias.
void epilogue_backward(const Layer& layer, const Group& group, float* channel_sums) {
  const bool has_epilogue = drops(layer, group) || layer.slope != 1;
  if (!has_epilogue && !channel_sums) return;
  const EpilogueGradient epilogue(layer, group);
  for_blocks<6>(layer.out.channels, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    Vec sums[C] = {};
    for (int row = 0; row < layer.out.height; ++row) {
      const float* out = group.out.data + row * group.out.row + c * kLanes;
      float* grad = group.grad_out.data + row * group.grad_out.row + c * kLanes;
      for (int column = 0; column < layer.out.width; ++column) {
        if (has_epilogue) {
#pragma GCC unroll 8
          for (int i = 0; i < C; ++i) {
#pragma GCC unroll 4
            for (int part = 0; part < kParts; ++part) {
              const int offset = i * kLanes + part * kWidth;
              const Vec g = epilogue(load(out + offset), load(grad + offset));
              store(grad + offset, g);
              sums[i] += g;
            }
          }
        } else {
#pragma GCC unroll 8
          for (int i = 0; i < C; ++i) {
#pragma GCC unroll 4
            for (int part = 0; part < kParts; ++part) sums[i] += load(grad + i * kLanes + part * kWidth);
          }
        }
        out += layer.out.channels * kLanes;
        grad += layer.out.channels * kLanes;
      }
    }
    for (int i = 0; channel_sums && i < C; ++i) channel_sums[c + i] += reduce_add(sums[i]);
  });
}

float* bias_gradients(const Layer& layer, const Group& group) {
  return layer.bias == kNone ? nullptr : group.gradients + layer.bias;
}

// ---------------------------------------------------------------------------------------------------- Sums over lanes

// lane_partials [n][kWidth] -> gradients [n], added to.
void reduce_lane_partials(const float* lane_partials, int n, float* gradients) {
  for (int i = 0; i < n; ++i) gradients[i] += reduce_add(load(lane_partials + i * kWidth));
}

// Writes zeros around [rows][floats].
void clear_border(View view, int rows, int floats, int top, int bottom, int left, int right) {
  for (int row = -top; row < rows + bottom; ++row) {
    float* start = view.data + row * view.row;
    if (row < 0 || row >= rows) {
      memset(start - left, 0, sizeof(float) * (left + floats + right));
    } else {
      memset(start - left, 0, sizeof(float) * left);
      memset(start + floats, 0, sizeof(float) * right);
    }
  }
}

// ------------------------------------------------------------------------------------------------------- Convolution
//
// Under one row of the kernel, the inputs of one output lie next to each other: kernel_columns * channels_in of them, the
// "span". So a convolution is kernel_rows matrix products, and the pointwise and the dense layer are the case of one row
// and a span of channels_in.

// One row of outputs: x [kernel_rows][columns + kernel_columns - 1][channels_in][kLanes], kernel [kernel_rows][span]
// [channels_out], bias [channels_out] or null -> out [columns][channels_out][kLanes].
struct Convolution {
  ptrdiff_t x_row;
  ptrdiff_t x_step;  // floats from one position of x to the next
  const float* kernel;
  const float* bias;
  int kernel_rows, span, channels_out;
};

// Positions [P] and channels [C] of a row at once. Rows and Span are the kernel's, or 0 where not known in advance.
template <int P, int C, int Rows, int Span>
inline void convolve_block(const Convolution& conv, const float* x, int c, float* out) {
  constexpr int Q = kPartsAtOnce;
  const int rows = Rows ? Rows : conv.kernel_rows, span = Span ? Span : conv.span;
  for (int part = 0; part < kParts; part += Q) {
    Vec sums[P][Q][C];
    const float* bias = conv.bias ? conv.bias + c : nullptr;
#pragma GCC unroll 8
    for (int i = 0; i < C; ++i) {
      const Vec start = bias ? broadcast(bias[i]) : zeros();
#pragma GCC unroll 24
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
        for (int q = 0; q < Q; ++q) sums[p][q][i] = start;
      }
    }
    const float* kernel = conv.kernel + c;
    const float* from_row = x + part * kWidth;
#pragma GCC unroll 3
    for (int row = 0; row < rows; ++row, from_row += conv.x_row) {
      const float* from = from_row;
#pragma GCC unroll 3
      for (int k = 0; k < span; ++k, from += kLanes, kernel += conv.channels_out) {
#pragma GCC unroll 8
        for (int i = 0; i < C; ++i) {
          const Vec weight = broadcast(kernel[i]);
#pragma GCC unroll 24
          for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
            for (int q = 0; q < Q; ++q) sums[p][q][i] += weight * load(from + p * conv.x_step + q * kWidth);
          }
        }
      }
    }
#pragma GCC unroll 24
    for (int p = 0; p < P; ++p) {
      const int offset = p * conv.channels_out + c;
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) {
#pragma GCC unroll 2
        for (int q = 0; q < Q; ++q) {
          store(out + (offset + i) * kLanes + (part + q) * kWidth, sums[p][q][i]);
        }
      }
    }
  }
}

template <int Rows, int Span>
void convolve_row(const Convolution& conv, const float* x, int columns, float* out) {
  for_blocks<6>(conv.channels_out, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    constexpr int P = kAccumulators / (kPartsAtOnce * C) < 1 ? 1 : kAccumulators / (kPartsAtOnce * C);
    const ptrdiff_t step = conv.channels_out;
    ptrdiff_t column = 0;
    for (; column + P <= columns; column += P) {
      convolve_block<P, C, Rows, Span>(conv, x + column * conv.x_step, c, out + column * step * kLanes);
    }
    for (; column < columns; ++column) {
      convolve_block<1, C, Rows, Span>(conv, x + column * conv.x_step, c, out + column * step * kLanes);
    }
  });
}

void convolve_row(const Convolution& conv, const float* x, int columns, float* out) {
  if (conv.kernel_rows == 3 && conv.span == 3) {
    convolve_row<3, 3>(conv, x, columns, out);
  } else if (conv.kernel_rows == 1) {
    convolve_row<1, 0>(conv, x, columns, out);
  } else {
    convolve_row<0, 0>(conv, x, columns, out);
  }
}

// A numbers of each of the [rows][columns] positions of x and B of those of grad -> lane_partials [A][B][kWidth], added
// to; x_step, grad_step and partials_step are the floats between two positions and between two rows of `lane_partials`.
template <int A, int B>
inline void outer_products(const float* x, ptrdiff_t x_row, ptrdiff_t x_step, View grad, ptrdiff_t grad_step, int rows,
                           int columns, float* lane_partials, ptrdiff_t partials_step) {
  // Sums that are few are kept apart for the parts of a row of lanes: each must wait for the one before it.
  constexpr int Q = A * B * kPartsAtOnce <= kAccumulators ? kPartsAtOnce : 1;
  Vec sums[Q][A][B];
#pragma GCC unroll 2
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 4
    for (int a = 0; a < A; ++a) {
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) sums[q][a][b] = zeros();
    }
  }
  for (int row = 0; row < rows; ++row) {
    const float* from = x + row * x_row;
    const float* g = grad.data + row * grad.row;
    for (int column = 0; column < columns; ++column, from += x_step, g += grad_step) {
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
#pragma GCC unroll 4
        for (int a = 0; a < A; ++a) {
          const Vec value = load(from + a * kLanes + part * kWidth);
#pragma GCC unroll 4
          for (int b = 0; b < B; ++b) sums[part % Q][a][b] += value * load(g + b * kLanes + part * kWidth);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int a = 0; a < A; ++a) {
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      float* to = lane_partials + a * partials_step + b * kWidth;
      Vec sum = load(to);
#pragma GCC unroll 2
      for (int q = 0; q < Q; ++q) sum += sums[q][a][b];
      store(to, sum);
    }
  }
}

// x [rows + kernel_rows - 1][columns + kernel_columns - 1][channels_in][kLanes], grad [rows][columns][channels_out]
// [kLanes] -> lane_partials [kernel_rows][span][channels_out][kWidth], added to: the kernel's gradient before the sum
// over lanes.
void kernel_backward(const Convolution& conv, const float* x, View grad, int rows, int columns,
                     float* lane_partials) {
  // As many rows at a time as leave both operands in the first-level cache.
  const int bytes_per_row = columns * int(conv.x_step + conv.channels_out * kLanes) * int(sizeof(float));
  const int chunk = bytes_per_row > 8192 ? 1 : 16384 / bytes_per_row + 1;
  for (int begin = 0; begin < rows; begin += chunk) {
    const int count = rows - begin < chunk ? rows - begin : chunk;
    for_blocks<3>(conv.channels_out, [&](int c, auto channels) {
      const View g = {grad.data + begin * grad.row + c * kLanes, grad.row};
      for (int row = 0; row < conv.kernel_rows; ++row) {
        for_blocks<3>(conv.span, [&](int k, auto taps) {
          outer_products<decltype(taps)::value, decltype(channels)::value>(
              x + (begin + row) * conv.x_row + k * kLanes, conv.x_row, conv.x_step, g, conv.channels_out * kLanes, count,
              columns, lane_partials + ((row * conv.span + k) * conv.channels_out + c) * kWidth,
              conv.channels_out * kWidth);
        });
      }
    });
  }
}

Convolution forward_convolution(const Layer& layer, const Group& group) {
  return {group.in.row,
          layer.in.channels * kLanes,
          group.parameters + layer.kernel,
          layer.bias == kNone ? nullptr : group.parameters + layer.bias,
          layer.kernel_rows,
          layer.kernel_columns * layer.in.channels,
          layer.out.channels};
}

// The kernel's Winograd weights, followed by those of the flipped one, or null where the layer has none.
const float* winograd_weights(const Layer& layer, const Group& group) {
  return layer.winograd_weights == kNone ? nullptr : group.transformed + layer.winograd_weights;
}

// The first input under the kernel at the first output.
const float* padded_input(const Layer& layer, const Group& group) {
  return group.in.data - layer.pad_top * group.in.row - layer.pad_left * layer.in.channels * kLanes;
}

// Columns of a convolution's result before pooling.
int convolved_columns(const Layer& layer) {
  return layer.in.width + layer.pad_left + layer.pad_right - layer.kernel_columns + 1;
}

// -------------------------------------------------------------------------------------------- Two rows of outputs at once
//
// S. Winograd's algorithm for two results y of three taps k, along the height: from four rows of inputs x,
//
//   m0 = (x0 - x2) k0, m1 = (x1 + x2) (k0 + k1 + k2) / 2, m2 = (x2 - x1) (k0 - k1 + k2) / 2, m3 = (x1 - x3) k2,
//   y0 = m0 + m1 + m2, y1 = m1 - m2 - m3,
//
// where a product is the convolution of a row by a row of the kernel: four instead of six. A. Lavin and S. Gray,
// https://arxiv.org/abs/1509.09308, section 4.1. With few channels the sums before and after cost more than that saves.

// x [4 rows], a register of each -> transformed [4], the factors of m0 to m3.
inline void winograd_inputs(const float* x, ptrdiff_t x_row, Vec* transformed) {
  const Vec a = load(x), b = load(x + x_row), c = load(x + 2 * x_row), d = load(x + 3 * x_row);
  transformed[0] = a - c;
  transformed[1] = b + c;
  transformed[2] = c - b;
  transformed[3] = b - d;
}

// x [4][columns + 2][channels_in], conv.kernel [4][span][channels_out], the Winograd weights -> out [2][columns]
// [channels_out].
void winograd_f2x3(const Convolution& conv, const float* x, int columns, View out, float* scratch) {
  const int x_floats = (columns + 2) * conv.x_step, floats = columns * conv.channels_out * kLanes;
  float* products = scratch + 4 * x_floats;
  for (int i = 0; i < x_floats; i += kWidth) {
    Vec rows[4];
    winograd_inputs(x + i, conv.x_row, rows);
    for (int row = 0; row < 4; ++row) store(scratch + row * x_floats + i, rows[row]);
  }
  for (int i = 0; i < 4; ++i) {
    Convolution one = conv;
    one.kernel += i * conv.span * conv.channels_out;
    // The second product goes into both results.
    one.bias = i == 1 ? conv.bias : nullptr;
    one.kernel_rows = 1;
    convolve_row(one, scratch + i * x_floats, columns, products + i * floats);
  }
  for (int i = 0; i < floats; i += kWidth) {
    const float* from = products + i;
    const Vec b = load(from + floats), c = load(from + 2 * floats);
    store(out.data + i, load(from) + b + c);
    store(out.data + out.row + i, b - c - load(from + 3 * floats));
  }
}

// One row of [columns][channels] -> [blocks of channels][columns][channels of the block], so that what is multiplied at a
// time lies together. transform(offset in the row, Vec[4]) gives the four rows' numbers there.
template <class Transform>
inline void transform_blocks(int columns, int channels, float* to, Transform transform) {
  const int floats = columns * channels * kLanes;
  for_blocks<3>(channels, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    float* block = to + c * columns * kLanes;
    for (int column = 0; column < columns; ++column) {
      for (int i = 0; i < C * kLanes; i += kWidth) {
        Vec rows[4];
        transform((column * channels + c) * kLanes + i, rows);
        for (int row = 0; row < 4; ++row) store(block + row * floats + column * C * kLanes + i, rows[row]);
      }
    }
  });
}

// As kernel_backward does, the transpose of the same. scratch [4][columns + 2][channels_in] and [4][columns][channels_out],
// lane_partials [4][span][channels_out][kWidth].
void winograd_kernel_backward(const Convolution& conv, const float* x, View grad, int rows, int columns,
                              float* lane_partials, float* scratch) {
  const int x_floats = (columns + 2) * conv.x_step, floats = columns * conv.channels_out * kLanes;
  const int weights = conv.span * conv.channels_out * kWidth;
  const int channels_in = conv.x_step / kLanes;
  float* grads = scratch + 4 * x_floats;
  int row = 0;
  for (; row + 2 <= rows; row += 2) {
    const float* from = x + row * conv.x_row;
    transform_blocks(columns + 2, channels_in, scratch, [&](int offset, Vec* rows) {
      winograd_inputs(from + offset, conv.x_row, rows);
    });
    const float* g = grad.data + row * grad.row;
    transform_blocks(columns, conv.channels_out, grads, [&](int offset, Vec* rows) {
      const Vec a = load(g + offset), b = load(g + grad.row + offset);
      rows[0] = a, rows[1] = a + b, rows[2] = a - b, rows[3] = -b;
    });
    for (int i = 0; i < 4; ++i) {
      for_blocks<3>(conv.channels_out, [&](int out, auto outs) {
        const View block = {grads + i * floats + out * columns * kLanes, 0};
        for_blocks<3>(channels_in, [&](int in, auto ins) {
          constexpr int A = decltype(ins)::value, B = decltype(outs)::value;
          const float* inputs = scratch + i * x_floats + in * (columns + 2) * kLanes;
          for (int k = 0; k < 3; ++k) {
            outer_products<A, B>(inputs + k * A * kLanes, 0, A * kLanes, block, B * kLanes, 1, columns,
                                 lane_partials + i * weights +
                                     ((k * channels_in + in) * conv.channels_out + out) * kWidth,
                                 conv.channels_out * kWidth);
          }
        });
      });
    }
  }
  for (int i = 0; i < weights; i += kWidth) {
    const Vec b = load(lane_partials + weights + i), c = load(lane_partials + 2 * weights + i);
    const Vec outer = (b + c) * 0.5f;
    store(lane_partials + i, load(lane_partials + i) + outer);
    store(lane_partials + weights + i, (b - c) * 0.5f);
    store(lane_partials + 2 * weights + i, outer + load(lane_partials + 3 * weights + i));
  }
  if (row < rows) {
    kernel_backward(conv, x + row * conv.x_row, {grad.data + row * grad.row, grad.row}, 1, columns, lane_partials);
  }
}

// Makes two of `rows` rows at once if there are Winograd weights, and else one; how many it made.
int convolve_rows(const Convolution& conv, const float* winograd_weights, const float* x, int rows, int columns,
                  View out, float* scratch) {
  if (!winograd_weights || rows < 2) {
    convolve_row(conv, x, columns, out.data);
    return 1;
  }
  Convolution two = conv;
  two.kernel = winograd_weights;
  winograd_f2x3(two, x, columns, out, scratch);
  return 2;
}

// in [height][width][channels], out [rows][columns][channels_out].
void convolution_forward(const Layer& layer, const Group& group) {
  const Convolution conv = forward_convolution(layer, group);
  const float* weights = winograd_weights(layer, group);
  const float* x = padded_input(layer, group);
  for (int row = 0; row < layer.out.height;) {
    const View out = {group.out.data + row * group.out.row, group.out.row};
    int made = convolve_rows(conv, weights, x + row * conv.x_row, layer.out.height - row, layer.out.width, out,
                             group.scratch);
    for (; made > 0; --made, ++row) epilogue_row(layer, group, row);
  }
}

// The gradient of the input is a convolution of the output's gradient, with a border of zeros, by the flipped kernel.
void convolution_input_backward(const Layer& layer, const Group& group) {
  const int channels = layer.out.channels * kLanes;
  const int top = layer.kernel_rows - 1 - layer.pad_top, bottom = layer.kernel_rows - 1 - layer.pad_bottom;
  const int left = layer.kernel_columns - 1 - layer.pad_left, right = layer.kernel_columns - 1 - layer.pad_right;
  clear_border(group.grad_out, layer.out.height, layer.out.width * channels, top, bottom, left * channels,
               right * channels);
  const Convolution flipped = {group.grad_out.row,
                               channels,
                               group.transformed + layer.flipped,
                               nullptr,
                               layer.kernel_rows,
                               layer.kernel_columns * layer.out.channels,
                               layer.in.channels};
  const float* grad = group.grad_out.data - top * group.grad_out.row - left * channels;
  const float* forward_weights = winograd_weights(layer, group);
  const float* weights = forward_weights ? forward_weights + 4 * flipped.span * flipped.channels_out : nullptr;
  for (int row = 0; row < layer.in.height;) {
    const View to = {group.grad_in.data + row * group.grad_in.row, group.grad_in.row};
    row += convolve_rows(flipped, weights, grad + row * flipped.x_row, layer.in.height - row, layer.in.width, to,
                         group.scratch);
  }
}

void convolution_backward(const Layer& layer, const Group& group) {
  epilogue_backward(layer, group, bias_gradients(layer, group));
  const Convolution conv = forward_convolution(layer, group);
  const int weights = conv.kernel_rows * conv.span * conv.channels_out;
  const float* x = padded_input(layer, group);
  float* lane_partials = group.scratch;
  if (layer.winograd_weights == kNone) {
    memset(lane_partials, 0, sizeof(float) * weights * kWidth);
    kernel_backward(conv, x, group.grad_out, layer.out.height, layer.out.width, lane_partials);
  } else {
    const int partials = weights / 3 * 4 * kWidth;
    memset(lane_partials, 0, sizeof(float) * partials);
    winograd_kernel_backward(conv, x, group.grad_out, layer.out.height, layer.out.width, lane_partials,
                             lane_partials + partials);
  }
  reduce_lane_partials(lane_partials, weights, group.gradients + layer.kernel);
  if (group.grad_in.data) convolution_input_backward(layer, group);
}

// The network's first convolution with the 2x2 max pool behind it, two rows at a time, so that the large result of the
// convolution never leaves the first-level cache. An activation that grows with its argument may come after the pool.
// in [height][width][channels], scratch [2][columns][channels_out], out and argmax [rows / 2][columns / 2][channels_out].
void pooled_convolution_forward(const Layer& layer, const Group& group) {
  const Convolution conv = forward_convolution(layer, group);
  const int columns = convolved_columns(layer);
  const ptrdiff_t channels = layer.out.channels;
  const View tile = {group.scratch, ptrdiff_t(columns) * channels * kLanes};
  with_epilogue(layer, group, [&](auto epilogue) {
    for (int row = 0; row < layer.out.height; ++row) {
      const float* x = padded_input(layer, group) + 2 * row * conv.x_row;
      for (int i = 0; i < 2; ++i) convolve_row(conv, x + i * conv.x_row, columns, tile.data + i * tile.row);
      float* out = group.out.data + row * group.out.row;
      for (ptrdiff_t column = 0; column < layer.out.width; ++column) {
        for (ptrdiff_t c = 0; c < channels; ++c) {
          const ptrdiff_t element = (row * layer.out.width + column) * channels + c;
          const float* corner = tile.data + (2 * column * channels + c) * kLanes;
#pragma GCC unroll 4
          for (int part = 0; part < kParts; ++part) {
            const float* from = corner + part * kWidth;
            const Vec a = load(from), b = load(from + channels * kLanes);
            const Vec d = load(from + tile.row), e = load(from + tile.row + channels * kLanes);
            const IntVec right = b > a, lower_right = e > d;
            const Vec upper = select(right, b, a), lower = select(lower_right, e, d);
            const IntVec down = lower > upper;
            const IntVec index = select(down, 2 - lower_right, -right);
            const ptrdiff_t offset = (column * channels + c) * kLanes + part * kWidth;
            store(out + offset, epilogue(select(down, lower, upper), element, part));
            *reinterpret_cast<IntVec*>(group.argmax + element * kLanes + part * kWidth) = index;
          }
        }
      }
    }
  });
}

// A max pool hands a gradient to one of four positions, so three quarters of a plain kernel gradient would be products
// with zeros. Instead the input under the chosen position is selected, first the column, then the row: with the sums of
// two neighbouring rows of the kernel from one selection of columns.
// One row of pooled gradients and argmax [columns][channels][kLanes], R rows and K taps of the kernel: x [2][R + 1]
// [2 * columns + ...][kLanes] -> lane_partials [R][span][channels][kWidth], added to.
template <int R, int K>
inline void pooled_products(const Convolution& conv, const float* x, const float* grad, const int32_t* argmax,
                            int columns, float* lane_partials) {
  const ptrdiff_t stride = conv.channels_out * kLanes;
  Vec sums[R][K];
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int k = 0; k < K; ++k) sums[r][k] = zeros();
  }
  for (ptrdiff_t column = 0; column < columns; ++column) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const ptrdiff_t offset = column * stride + part * kWidth;
      const Vec g = load(grad + offset);
      const IntVec index = *reinterpret_cast<const IntVec*>(argmax + offset);
      const IntVec right = (index & 1) == 1, down = index > 1;
      const float* from = x + 2 * column * conv.x_step + part * kWidth;
#pragma GCC unroll 3
      for (int k = 0; k < K; ++k, from += kLanes) {
        Vec above = select(right, load(from + conv.x_step), load(from));
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) {
          const float* next = from + (r + 1) * conv.x_row;
          const Vec below = select(right, load(next + conv.x_step), load(next));
          sums[r][k] += g * select(down, below, above);
          above = below;
        }
      }
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int k = 0; k < K; ++k) {
      float* to = lane_partials + (r * conv.span + k) * conv.channels_out * kWidth;
      store(to, load(to) + sums[r][k]);
    }
  }
}

void pooled_convolution_backward(const Layer& layer, const Group& group) {
  epilogue_backward(layer, group, bias_gradients(layer, group));
  const Convolution conv = forward_convolution(layer, group);
  const int width = layer.out.width, channels = layer.out.channels;
  const int weights = conv.kernel_rows * conv.span * channels;
  float* lane_partials = group.scratch;
  memset(lane_partials, 0, sizeof(float) * weights * kWidth);
  for (int row = 0; row < layer.out.height; ++row) {
    const float* x = padded_input(layer, group) + 2 * row * conv.x_row;
    const float* grad = group.grad_out.data + row * group.grad_out.row;
    const int32_t* argmax = group.argmax + row * width * channels * kLanes;
    for (int c = 0; c < channels; ++c) {
      for_blocks<3>(conv.kernel_rows, [&](int r, auto rows) {
        for_blocks<3>(conv.span, [&](int k, auto taps) {
          pooled_products<decltype(rows)::value, decltype(taps)::value>(
              conv, x + r * conv.x_row + k * kLanes, grad + c * kLanes, argmax + c * kLanes, width,
              lane_partials + ((r * conv.span + k) * channels + c) * kWidth);
        });
      });
    }
  }
  reduce_lane_partials(lane_partials, weights, group.gradients + layer.kernel);
}

// --------------------------------------------------------------------------------------------- Depthwise convolution

// One channel of a row of outputs, P positions at once: x [Rows][columns + kernel_columns - 1][channels][kLanes], kernel
// [rows * kernel_columns] of the channel, all in registers.
template <int P, int Rows, int Columns>
inline void depthwise_block(const float* x, ptrdiff_t x_row, ptrdiff_t step, const Vec* kernel, Vec bias, float* out) {
  Vec sums[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) sums[p] = bias;
#pragma GCC unroll 3
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 8
    for (int column = 0; column < P + Columns - 1; ++column) {
      const Vec value = load(x + row * x_row + column * step);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        if (column >= p && column - p < Columns) sums[p] += kernel[row * Columns + column - p] * value;
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) store(out + p * step, sums[p]);
}

inline bool is_3x3(const Layer& layer) { return layer.kernel_rows == 3 && layer.kernel_columns == 3; }

// Calls work(Size<channels>) for the numbers of channels for which a kernel of fixed distances between positions is
// compiled, and work(Size<0>) for the others.
template <class Work>
inline void with_channels(int channels, Work work) {
  switch (channels) {
    case 5: return work(Size<5>());
    case 6: return work(Size<6>());
    case 7: return work(Size<7>());
    case 8: return work(Size<8>());
    case 9: return work(Size<9>());
    case 10: return work(Size<10>());
    case 11: return work(Size<11>());
    case 12: return work(Size<12>());
    default: return work(Size<0>());
  }
}

// kernel [Rows * 3][channels]: the rows of a 3x3 kernel that meet anything but zeros. Channels is their number, or 0 where
// not known in advance.
template <int Rows, int Channels>
void depthwise_row_3x3(const float* x, ptrdiff_t x_row, const float* kernel, const float* bias, int columns,
                       int number_of_channels, float* out) {
  const int channels = Channels ? Channels : number_of_channels;
  const ptrdiff_t step = channels * kLanes;
  for (int c = 0; c < channels; ++c) {
    Vec taps[Rows * 3];
#pragma GCC unroll 9
    for (int tap = 0; tap < Rows * 3; ++tap) taps[tap] = broadcast(kernel[tap * channels + c]);
    const Vec start = bias ? broadcast(bias[c]) : zeros();
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const float* from = x + c * kLanes + part * kWidth;
      float* to = out + c * kLanes + part * kWidth;
      ptrdiff_t column = 0;
      for (; column + 3 <= columns; column += 3) {
        depthwise_block<3, Rows, 3>(from + column * step, x_row, step, taps, start, to + column * step);
      }
      for (; column < columns; ++column) {
        depthwise_block<1, Rows, 3>(from + column * step, x_row, step, taps, start, to + column * step);
      }
    }
  }
}

void depthwise_row(const float* x, ptrdiff_t x_row, const float* kernel, int kernel_rows, int kernel_columns,
                   const float* bias, int columns, int channels, float* out) {
  for (int column = 0; column < columns; ++column) {
    for (int c = 0; c < channels; ++c) {
      const int offset = column * channels + c;
      for (int part = 0; part < kParts; ++part) {
        Vec sum = bias ? broadcast(bias[c]) : zeros();
        for (int row = 0; row < kernel_rows; ++row) {
          for (int k = 0; k < kernel_columns; ++k) {
            sum += broadcast(kernel[(row * kernel_columns + k) * channels + c]) *
                   load(x + row * x_row + (offset + k * channels) * kLanes + part * kWidth);
          }
        }
        store(out + offset * kLanes + part * kWidth, sum);
      }
    }
  }
}

// x [rows + kernel_rows - 1][columns + kernel_columns - 1][channels], of which only `x_rows` from `top` on are not zero,
// kernel [kernel_rows][kernel_columns][channels] -> out [rows][columns][channels].
void depthwise_rows(const float* x, ptrdiff_t x_row, int top, int x_rows, const float* kernel, const float* bias,
                    const Layer& layer, int rows, int columns, View out) {
  const int channels = layer.in.channels;
  for (int row = 0; row < rows; ++row) {
    float* to = out.data + row * out.row;
    if (!is_3x3(layer)) {
      depthwise_row(x + row * x_row, x_row, kernel, layer.kernel_rows, layer.kernel_columns, bias, columns, channels,
                    to);
      continue;
    }
    const int first = top > row ? top - row : 0, last = top + x_rows - row < 3 ? top + x_rows - row : 3;
    const float* from = x + (row + first) * x_row;
    const float* taps = kernel + first * 3 * channels;
    with_channels(channels, [&](auto known) {
      constexpr int C = decltype(known)::value;
      switch (last - first) {
        case 1: return depthwise_row_3x3<1, C>(from, x_row, taps, bias, columns, channels, to);
        case 2: return depthwise_row_3x3<2, C>(from, x_row, taps, bias, columns, channels, to);
        case 3: return depthwise_row_3x3<3, C>(from, x_row, taps, bias, columns, channels, to);
      }
    });
  }
}

void depthwise_forward(const Layer& layer, const Group& group) {
  depthwise_rows(padded_input(layer, group), group.in.row, layer.pad_top, layer.in.height,
                 group.parameters + layer.kernel, layer.bias == kNone ? nullptr : group.parameters + layer.bias, layer,
                 layer.out.height, layer.out.width, group.out);
  for (int row = 0; row < layer.out.height; ++row) epilogue_row(layer, group, row);
}

// P positions of one channel: x [Rows][P + Columns - 1], grad [P] -> sums [Rows][Columns], added to.
template <int P, int Rows, int Columns>
inline void depthwise_products(const float* x, ptrdiff_t x_row, const float* grad, ptrdiff_t step, Vec* sums) {
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    Vec g[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) g[p] = load(grad + p * step + part * kWidth);
#pragma GCC unroll 3
    for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 8
      for (int column = 0; column < P + Columns - 1; ++column) {
        const Vec value = load(x + row * x_row + column * step + part * kWidth);
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
          if (column >= p && column - p < Columns) sums[row * Columns + column - p] += g[p] * value;
        }
      }
    }
  }
}

// in [height][width][channels], grad_out [rows][columns][channels] -> lane_partials [taps][channels][kWidth].
template <int Channels>
void depthwise_kernel_backward(const Layer& layer, const Group& group, float* lane_partials) {
  const int channels = Channels ? Channels : layer.in.channels;
  const ptrdiff_t step = channels * kLanes;
  const float* x = padded_input(layer, group);
  memset(lane_partials, 0, sizeof(float) * layer.kernel_rows * layer.kernel_columns * channels * kWidth);
  for (int row = 0; row < layer.out.height; ++row, x += group.in.row) {
    const float* grad = group.grad_out.data + row * group.grad_out.row;
    for (int c = 0; c < channels; ++c) {
      if (is_3x3(layer)) {
        Vec sums[9];
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; ++tap) sums[tap] = load(lane_partials + (tap * channels + c) * kWidth);
        const float* from = x + c * kLanes;
        const float* g = grad + c * kLanes;
        ptrdiff_t column = 0;
        for (; column + 3 <= layer.out.width; column += 3) {
          depthwise_products<3, 3, 3>(from + column * step, group.in.row, g + column * step, step, sums);
        }
        for (; column < layer.out.width; ++column) {
          depthwise_products<1, 3, 3>(from + column * step, group.in.row, g + column * step, step, sums);
        }
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; ++tap) store(lane_partials + (tap * channels + c) * kWidth, sums[tap]);
        continue;
      }
      for (int kernel_row = 0; kernel_row < layer.kernel_rows; ++kernel_row) {
        for (int k = 0; k < layer.kernel_columns; ++k) {
          float* sum = lane_partials + ((kernel_row * layer.kernel_columns + k) * channels + c) * kWidth;
          Vec sums[1] = {load(sum)};
          const float* from = x + kernel_row * group.in.row + k * step + c * kLanes;
          for (int column = 0; column < layer.out.width; ++column) {
            depthwise_products<1, 1, 1>(from + column * step, 0, grad + c * kLanes + column * step, step, sums);
          }
          store(sum, sums[0]);
        }
      }
    }
  }
}

void depthwise_backward(const Layer& layer, const Group& group) {
  epilogue_backward(layer, group, bias_gradients(layer, group));
  with_channels(layer.in.channels, [&](auto channels) {
    depthwise_kernel_backward<decltype(channels)::value>(layer, group, group.scratch);
  });
  reduce_lane_partials(group.scratch, layer.kernel_rows * layer.kernel_columns * layer.in.channels,
                    group.gradients + layer.kernel);
  if (!group.grad_in.data) return;
  const int channels = layer.in.channels * kLanes;
  const int top = layer.kernel_rows - 1 - layer.pad_top, bottom = layer.kernel_rows - 1 - layer.pad_bottom;
  const int left = layer.kernel_columns - 1 - layer.pad_left, right = layer.kernel_columns - 1 - layer.pad_right;
  // A 3x3 kernel does not read the rows of zeros above and below.
  const bool skips = is_3x3(layer);
  clear_border(group.grad_out, layer.out.height, layer.out.width * channels, skips ? 0 : top, skips ? 0 : bottom,
               left * channels, right * channels);
  depthwise_rows(group.grad_out.data - top * group.grad_out.row - left * channels, group.grad_out.row, top,
                 layer.out.height, group.transformed + layer.flipped, nullptr, layer, layer.in.height, layer.in.width,
                 group.grad_in);
}

// ----------------------------------------------------------------------------------------------------------- Pooling

// in [height][width][channels] -> out, argmax [rows][columns][channels]; an index is row * window columns + column in
// the window, the first of the largest.
void max_pool_forward(const Layer& layer, const Group& group) {
  const int channels = layer.in.channels;
  for (int row = 0; row < layer.out.height; ++row) {
    for (int column = 0; column < layer.out.width; ++column) {
      const float* corner = group.in.data + row * layer.kernel_rows * group.in.row +
                            column * layer.kernel_columns * channels * kLanes;
      float* out = group.out.data + row * group.out.row + column * channels * kLanes;
      int32_t* argmax = group.argmax + (row * layer.out.width + column) * channels * kLanes;
      for (int i = 0; i < channels * kLanes; i += kWidth) {
        Vec best = load(corner + i);
        IntVec index = {};
        for (int r = 0; r < layer.kernel_rows; ++r) {
          for (int k = 0; k < layer.kernel_columns; ++k) {
            const Vec value = load(corner + r * group.in.row + k * channels * kLanes + i);
            const IntVec better = value > best;
            best = select(better, value, best);
            index = select(better, broadcast(int32_t(r * layer.kernel_columns + k)), index);
          }
        }
        store(out + i, best);
        *reinterpret_cast<IntVec*>(argmax + i) = index;
      }
    }
  }
}

// Calls gradient(offset in the result's row of floats, result row, tap) for every input under a window, and writes what it
// gives; the inputs under none get 0.
template <class Gradient>
void pool_backward(const Layer& layer, const Group& group, Gradient gradient) {
  const int floats = layer.in.channels * kLanes;
  for (int row = 0; row < layer.in.height; ++row) {
    float* to = group.grad_in.data + row * group.grad_in.row;
    const int out_row = row / layer.kernel_rows;
    for (int column = 0; column < layer.in.width; ++column, to += floats) {
      const int out_column = column / layer.kernel_columns;
      if (out_row >= layer.out.height || out_column >= layer.out.width) {
        memset(to, 0, sizeof(float) * floats);
        continue;
      }
      const int tap = row % layer.kernel_rows * layer.kernel_columns + column % layer.kernel_columns;
      for (int i = 0; i < floats; i += kWidth) store(to + i, gradient(out_column * floats + i, out_row, tap));
    }
  }
}

void max_pool_backward(const Layer& layer, const Group& group) {
  if (!group.grad_in.data) return;
  const int floats = layer.out.width * layer.out.channels * kLanes;
  pool_backward(layer, group, [&](int offset, int row, int tap) {
    const IntVec index = *reinterpret_cast<const IntVec*>(group.argmax + row * floats + offset);
    return select(index == tap, load(group.grad_out.data + row * group.grad_out.row + offset), zeros());
  });
}

// in [height][width][channels] -> out [rows][columns][channels].
void average_pool_forward(const Layer& layer, const Group& group) {
  const int channels = layer.in.channels;
  const float share = 1.0f / (layer.kernel_rows * layer.kernel_columns);
  for (int row = 0; row < layer.out.height; ++row) {
    for (int column = 0; column < layer.out.width; ++column) {
      const float* corner = group.in.data + row * layer.kernel_rows * group.in.row +
                            column * layer.kernel_columns * channels * kLanes;
      float* out = group.out.data + row * group.out.row + column * channels * kLanes;
      for (int i = 0; i < channels * kLanes; i += kWidth) {
        Vec sum = {};
        for (int r = 0; r < layer.kernel_rows; ++r) {
          for (int k = 0; k < layer.kernel_columns; ++k) {
            sum += load(corner + r * group.in.row + k * channels * kLanes + i);
          }
        }
        store(out + i, sum * share);
      }
    }
  }
}

void average_pool_backward(const Layer& layer, const Group& group) {
  if (!group.grad_in.data) return;
  const float share = 1.0f / (layer.kernel_rows * layer.kernel_columns);
  pool_backward(layer, group, [&](int offset, int row, int) {
    return load(group.grad_out.data + row * group.grad_out.row + offset) * share;
  });
}

// ----------------------------------------------------------------------------------------------------- Normalisation

// Calls work(x) for channel `c` of each position of an activation.
template <class Work>
inline void for_positions(Shape shape, View activation, int c, Work work) {
  for (int row = 0; row < shape.height; ++row) {
    const float* x = activation.data + row * activation.row + c * kLanes;
    for (int column = 0; column < shape.width; ++column, x += shape.channels * kLanes) work(x);
  }
}

// in [height][width][channels] -> mean [channels], squares [channels].
void batch_moments(const Layer& layer, const Group& group, double* mean, double* squares) {
  const double count = double(group.samples) * layer.in.height * layer.in.width;
  for_blocks<6>(layer.in.channels, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    Vec sums[C] = {};
    float means[C];
    for_positions(layer.in, group.in, c, [&](const float* x) {
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) {
        for (int part = 0; part < kParts; ++part) {
          sums[i] += load(x + i * kLanes + part * kWidth) * load(group.lane_mask + part * kWidth);
        }
      }
    });
    for (int i = 0; i < C; ++i) {
      means[i] = float(reduce_add(sums[i]) / count);
      mean[c + i] = means[i];
      sums[i] = zeros();
    }
    for_positions(layer.in, group.in, c, [&](const float* x) {
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) {
        for (int part = 0; part < kParts; ++part) {
          const Vec difference =
              (load(x + i * kLanes + part * kWidth) - means[i]) * load(group.lane_mask + part * kWidth);
          sums[i] += difference * difference;
        }
      }
    });
    for (int i = 0; i < C; ++i) squares[c + i] = reduce_add(sums[i]);
  });
}

// in, out [height][width][channels]: kernel * (in - mean) * scale + bias.
void batch_norm_forward(const Layer& layer, const Group& group) {
  const int channels = layer.in.channels;
  with_epilogue(layer, group, [&](auto epilogue) {
    for (int row = 0; row < layer.in.height; ++row) {
      const float* x = group.in.data + row * group.in.row;
      float* out = group.out.data + row * group.out.row;
      for (int column = 0; column < layer.in.width; ++column) {
        for (int c = 0; c < channels; ++c) {
          const float gain = layer.kernel == kNone ? 1.0f : group.parameters[layer.kernel + c];
          const float bias = layer.bias == kNone ? 0.0f : group.parameters[layer.bias + c];
          const float factor = group.batch.scale[c] * gain;
          const int offset = column * channels + c;
          for (int part = 0; part < kParts; ++part) {
            const Vec value = load(x + offset * kLanes + part * kWidth);
            const int element = row * layer.in.width * channels + offset;
            store(out + offset * kLanes + part * kWidth,
                  epilogue((value - group.batch.mean[c]) * factor + bias, element, part));
          }
        }
      }
    }
  });
}

void batch_gradients(const Layer& layer, const Group& group, double* gradient, double* product) {
  const EpilogueGradient epilogue(layer, group);
  const int channels = layer.in.channels;
  // Sums before those over the lanes, [channels][kWidth] of the gradient and of the product.
  float *sums = group.scratch, *products = sums + channels * kWidth;
  memset(sums, 0, sizeof(float) * 2 * channels * kWidth);
  for (int row = 0; row < layer.in.height; ++row) {
    for_blocks<4>(channels, [&](int c, auto size) {
      constexpr int C = decltype(size)::value;
      Vec sum[C], sum_of_products[C], means[C];
      for (int i = 0; i < C; ++i) {
        sum[i] = load(sums + (c + i) * kWidth);
        sum_of_products[i] = load(products + (c + i) * kWidth);
        means[i] = broadcast(group.batch.mean[c + i]);
      }
      for (int column = 0; column < layer.in.width; ++column) {
        const ptrdiff_t offset = (column * channels + c) * kLanes;
        const float* x = group.in.data + row * group.in.row + offset;
        const float* out = group.out.data + row * group.out.row + offset;
        const float* grad = group.grad_out.data + row * group.grad_out.row + offset;
        float* grad_preactivation = group.grad_preactivation.data + row * group.grad_preactivation.row + offset;
#pragma GCC unroll 4
        for (int i = 0; i < C; ++i) {
#pragma GCC unroll 4
          for (int part = 0; part < kParts; ++part) {
            const int at = i * kLanes + part * kWidth;
            const Vec g = epilogue(load(out + at), load(grad + at));
            store(grad_preactivation + at, g);
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
    product[c] = reduce_add(load(products + c * kWidth)) * group.batch.scale[c];
  }
}

// grad_in = kernel * scale * (g - mean of g - normalised input * mean of g * normalised input), where g is
// grad_preactivation, the means over the whole batch. S. Ioffe and C. Szegedy, https://arxiv.org/abs/1502.03167,
// section 3.
void batch_norm_backward(const Layer& layer, const Group& group) {
  if (!group.grad_in.data) return;
  const int channels = layer.in.channels;
  for (int row = 0; row < layer.in.height; ++row) {
    const float* x = group.in.data + row * group.in.row;
    const float* grad = group.grad_preactivation.data + row * group.grad_preactivation.row;
    float* to = group.grad_in.data + row * group.grad_in.row;
    for (int column = 0; column < layer.in.width; ++column) {
      for (int c = 0; c < channels; ++c) {
        const float gain = layer.kernel == kNone ? 1.0f : group.parameters[layer.kernel + c];
        const float scale = group.batch.scale[c], factor = gain * scale;
        const int offset = (column * channels + c) * kLanes;
        for (int part = 0; part < kParts; ++part) {
          const Vec normalised = (load(x + offset + part * kWidth) - group.batch.mean[c]) * scale;
          const Vec centred = load(grad + offset + part * kWidth) - group.batch.mean_gradient[c] -
                              normalised * group.batch.mean_product[c];
          store(to + offset + part * kWidth, centred * factor * load(group.lane_mask + part * kWidth));
        }
      }
    }
  }
}

// 1 / (sqrt(variance) + epsilon), of variances no smaller than the Keras layer's SMALLEST_VARIANCE.
inline Vec reciprocal_deviation(Vec variance, float epsilon) {
  Vec result = max(variance, broadcast(1e-12f));
  for (int i = 0; i < kWidth; ++i) result[i] = 1.0f / (sqrtf(result[i]) + epsilon);
  return result;
}

// in, out [height][width][channels]; each sample has its own mean and deviation over all three. saved [2][kLanes].
void instance_norm_forward(const Layer& layer, const Group& group) {
  const int floats = layer.in.width * layer.in.channels * kLanes;
  const float share = 1.0f / (layer.in.height * layer.in.width * layer.in.channels);
  const float gain = group.parameters[layer.kernel], bias = group.parameters[layer.bias];
  for (int part = 0; part < kParts; ++part) {
    // Summed by rows first: one sum over thousands of numbers loses digits.
    Vec sum = {}, squares = {};
    for (int row = 0; row < layer.in.height; ++row) {
      const float* x = group.in.data + row * group.in.row + part * kWidth;
      Vec row_sum = {};
      for (int i = 0; i < floats; i += kLanes) row_sum += load(x + i);
      sum += row_sum;
    }
    const Vec mean = sum * share;
    for (int row = 0; row < layer.in.height; ++row) {
      const float* x = group.in.data + row * group.in.row + part * kWidth;
      Vec row_squares = {};
      for (int i = 0; i < floats; i += kLanes) {
        const Vec difference = load(x + i) - mean;
        row_squares += difference * difference;
      }
      squares += row_squares;
    }
    store(group.saved + part * kWidth, mean);
    store(group.saved + kLanes + part * kWidth, reciprocal_deviation(squares * share, layer.epsilon));
  }
  with_epilogue(layer, group, [&](auto epilogue) {
    for (int row = 0; row < layer.in.height; ++row) {
      const float* x = group.in.data + row * group.in.row;
      float* out = group.out.data + row * group.out.row;
      for (int i = 0; i < floats; i += kLanes) {
        for (int part = 0; part < kParts; ++part) {
          const Vec mean = load(group.saved + part * kWidth), scale = load(group.saved + kLanes + part * kWidth);
          store(out + i + part * kWidth, epilogue((load(x + i + part * kWidth) - mean) * (scale * gain) + bias,
                                                (row * floats + i) / kLanes, part));
        }
      }
    }
  });
}

void instance_norm_backward(const Layer& layer, const Group& group) {
  epilogue_backward(layer, group, nullptr);
  const int floats = layer.in.width * layer.in.channels * kLanes;
  const float share = 1.0f / (layer.in.height * layer.in.width * layer.in.channels);
  const float gain = group.parameters[layer.kernel];
  Vec gain_gradient = {}, bias_gradient = {};
  for (int part = 0; part < kParts; ++part) {
    const Vec mean = load(group.saved + part * kWidth), scale = load(group.saved + kLanes + part * kWidth);
    Vec sum = {}, product = {};
    for (int row = 0; row < layer.in.height; ++row) {
      const float* x = group.in.data + row * group.in.row + part * kWidth;
      const float* grad = group.grad_out.data + row * group.grad_out.row + part * kWidth;
      Vec row_sum = {}, row_product = {};
      for (int i = 0; i < floats; i += kLanes) {
        row_sum += load(grad + i);
        row_product += load(grad + i) * ((load(x + i) - mean) * scale);
      }
      sum += row_sum;
      product += row_product;
    }
    bias_gradient += sum;
    gain_gradient += product;
    if (!group.grad_in.data) continue;
    // The deviation's share of what it divides by is less than all of it: (deviation + epsilon) / deviation.
    const Vec slope = product * share / (1.0f - layer.epsilon * scale);
    for (int row = 0; row < layer.in.height; ++row) {
      const float* x = group.in.data + row * group.in.row + part * kWidth;
      const float* grad = group.grad_out.data + row * group.grad_out.row + part * kWidth;
      float* to = group.grad_in.data + row * group.grad_in.row + part * kWidth;
      for (int i = 0; i < floats; i += kLanes) {
        const Vec normalised = (load(x + i) - mean) * scale;
        store(to + i, (load(grad + i) - sum * share - normalised * slope) * (scale * gain));
      }
    }
  }
  group.gradients[layer.bias] += reduce_add(bias_gradient);
  group.gradients[layer.kernel] += reduce_add(gain_gradient);
}

// ------------------------------------------------------------------------------------------------------- Elementwise

void elementwise_forward(const Layer& layer, const Group& group) {
  const int floats = layer.in.width * layer.in.channels * kLanes;
  with_epilogue(layer, group, [&](auto epilogue) {
    for (int row = 0; row < layer.in.height; ++row) {
      const float* x = group.in.data + row * group.in.row;
      float* out = group.out.data + row * group.out.row;
      for (int i = 0; i < floats; i += kLanes) {
        for (int part = 0; part < kParts; ++part) {
          store(out + i + part * kWidth, epilogue(load(x + i + part * kWidth), (row * floats + i) / kLanes, part));
        }
      }
    }
  });
}

void elementwise_backward(const Layer& layer, const Group& group) {
  epilogue_backward(layer, group, nullptr);
  if (!group.grad_in.data) return;
  const size_t bytes = sizeof(float) * layer.in.width * layer.in.channels * kLanes;
  for (int row = 0; row < layer.in.height; ++row) {
    memcpy(group.grad_in.data + row * group.grad_in.row, group.grad_out.data + row * group.grad_out.row, bytes);
  }
}

// ----------------------------------------------------------------------------------------------------- Input and loss

// Four bytes of each lane, from byte i on, loaded as one word; experiments/LOG.md says what that saves.
inline void read_four(const uint8_t* const* from, int i, float scale, float offset, float* to) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte of a word must be its lowest");
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    WordVec words;
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) {
      uint32_t word;
      memcpy(&word, from[part * kWidth + lane] + i, sizeof word);
      words[lane] = word;
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const Vec value = __builtin_convertvector((IntVec)((words >> 8 * k) & 255), Vec);
      store(to + k * kLanes + part * kWidth, value * scale + offset);
    }
  }
}

template <class Pixel>
void read_images(const Pixel* images, const int64_t* order, int samples, Shape shape, float scale, float offset,
                 View out) {
  const int size = shape.width * shape.channels;
  for (int row = 0; row < shape.height; ++row) {
    float* to = out.data + row * out.row;
    const Pixel* from[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      // An empty lane repeats the last sample, so that it holds numbers; its gradient is zero.
      const int64_t image = order[lane < samples ? lane : samples - 1];
      from[lane] = images + image * (int64_t(shape.height) * size) + int64_t(row) * size;
    }
    int i = 0;
    if constexpr (sizeof(Pixel) == 1) {
      for (; i + 4 <= size; i += 4, to += 4 * kLanes) read_four(from, i, scale, offset, to);
    }
    for (; i < size; ++i, to += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) to[lane] = float(from[lane][i]) * scale + offset;
    }
  }
}

GroupLoss softmax_cross_entropy(const float* logits, int classes, const uint8_t* labels, int samples, float weight,
                                float* gradient) {
  GroupLoss total = {0, 0};
  for (int lane = 0; lane < kLanes; ++lane) {
    const float* x = logits + lane;
    if (lane >= samples) {
      for (int c = 0; gradient && c < classes; ++c) gradient[c * kLanes + lane] = 0;
      continue;
    }
    int best = 0;
    for (int c = 1; c < classes; ++c) {
      if (x[c * kLanes] > x[best * kLanes]) best = c;
    }
    const float largest = x[best * kLanes];
    float sum = 0;
    for (int c = 0; c < classes; ++c) {
      const float exponential = expf(x[c * kLanes] - largest);
      sum += exponential;
      if (gradient) gradient[c * kLanes + lane] = exponential;
    }
    const int label = labels[lane];
    total.loss += logf(sum) + largest - x[label * kLanes];
    total.correct += best == label;
    for (int c = 0; gradient && c < classes; ++c) {
      float& g = gradient[c * kLanes + lane];
      g = (g / sum - (c == label)) * weight;
    }
  }
  return total;
}

// ---------------------------------------------------------------------------------------------------------- The table

void forward(const Layer& layer, const Group& group) {
  switch (layer.kind) {
    case Kind::kConvolution:
      return layer.pooled ? pooled_convolution_forward(layer, group) : convolution_forward(layer, group);
    case Kind::kDepthwise: return depthwise_forward(layer, group);
    case Kind::kMaxPool: return max_pool_forward(layer, group);
    case Kind::kAveragePool: return average_pool_forward(layer, group);
    case Kind::kBatchNorm: return batch_norm_forward(layer, group);
    case Kind::kInstanceNorm: return instance_norm_forward(layer, group);
    case Kind::kElementwise: return elementwise_forward(layer, group);
  }
}

void backward(const Layer& layer, const Group& group) {
  switch (layer.kind) {
    case Kind::kConvolution:
      return layer.pooled ? pooled_convolution_backward(layer, group) : convolution_backward(layer, group);
    case Kind::kDepthwise: return depthwise_backward(layer, group);
    case Kind::kMaxPool: return max_pool_backward(layer, group);
    case Kind::kAveragePool: return average_pool_backward(layer, group);
    case Kind::kBatchNorm: return batch_norm_backward(layer, group);
    case Kind::kInstanceNorm: return instance_norm_backward(layer, group);
    case Kind::kElementwise: return elementwise_backward(layer, group);
  }
}

#define MNIST_MINIMAL_QUOTE(name) #name
#define MNIST_MINIMAL_NAME(name) MNIST_MINIMAL_QUOTE(name)

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {MNIST_MINIMAL_NAME(MNIST_MINIMAL_SIMD_NAMESPACE),
                         read_images<uint8_t>,
                         read_images<float>,
                         forward,
                         backward,
                         softmax_cross_entropy,
                         batch_moments,
                         batch_gradients};

}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
