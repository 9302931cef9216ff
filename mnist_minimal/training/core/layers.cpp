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

// Calls work(begin, Size<n>) for `count` channels in as few blocks of at most `Most` as there can be, of equal size or
// nearly so.
template <int Most, class Work>
inline void for_blocks(int count, Work work) {
  const int blocks = (count + Most - 1) / Most;
  int begin = 0;
  for (int block = 0; block < blocks; ++block) {
    const int size = count / blocks + (block < count % blocks);
    switch (size) {
      case 1: work(begin, Size<1>()); break;
      case 2: if constexpr (Most >= 2) work(begin, Size<2>()); break;
      case 3: if constexpr (Most >= 3) work(begin, Size<3>()); break;
      case 4: if constexpr (Most >= 4) work(begin, Size<4>()); break;
      case 5: if constexpr (Most >= 5) work(begin, Size<5>()); break;
      case 6: if constexpr (Most >= 6) work(begin, Size<6>()); break;
    }
    begin += size;
  }
}

// ---------------------------------------------------------------------------------------- The end of a layer: activation
// and dropout, done to a result while it is in a register

// What is dropped becomes -0.0, and nothing else does, as adding +0.0 turns -0.0 into +0.0: so the backward pass can read
// in the result what was dropped, and no mask is kept.
constexpr int32_t kDropped = INT32_MIN;

struct Plain {
  Vec operator()(Vec value, int, int) const { return value; }
};

// x > 0 ? x : slope * x for a slope in [0, 1], then dropout.
//
// The random numbers are those of a counter, one for each lane: the two multiplications of C. Wellons' hash "lowbias32"
// (https://github.com/skeeto/hash-prospector), one half of the key before each. A row of 16 lanes takes eight words: lane
// i < 8 the lower half of word i, lane i >= 8 the upper half of word i - 8. So a probability is a multiple of 2**-16.
template <bool Drops>
struct Finish {
  Vec slope, scale;
  IntVec threshold;
  WordVec first, second;

  Finish(const Layer& layer, const Group& group)
      : slope(broadcast(layer.slope)),
        scale(broadcast(65536.0f / (65536.0f - layer.drop))),
        // As the hash's words are compared as signed numbers, the smallest of which is -2**31.
        threshold(broadcast(int32_t((layer.drop << 16) ^ 0x80000000u))),
        second(group.key.second - WordVec{}) {
    const uint32_t elements = layer.out.height * layer.out.width * layer.out.channels;
    first = group.key.first + group.index * elements * 8 - WordVec{};
  }

  // `element` is the place in the layer's result, [height][width][channels].
  Vec operator()(Vec value, int element, int part) const {
    value = larger(value, slope * value);
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

// Calls work(finish) with what the layer does at its end.
template <class Work>
inline void with_finish(const Layer& layer, const Group& group, Work work) {
  if (drops(layer, group)) {
    work(Finish<true>(layer, group));
  } else if (layer.slope != 1) {
    work(Finish<false>(layer, group));
  } else {
    work(Plain());
  }
}

// Finishes one row of the layer's result in place, while it is in the cache. The convolutions leave it to this: their
// sums need all registers.
void finish_row(const Layer& layer, const Group& group, int row) {
  if (layer.slope == 1 && !drops(layer, group)) return;
  const int size = layer.out.width * layer.out.channels;
  float* out = group.out.data + row * group.out.row;
  with_finish(layer, group, [&](auto finish) {
    for (int i = 0; i < size; ++i) {
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        float* place = out + i * kLanes + part * kWidth;
        store(place, finish(load(place), row * size + i, part));
      }
    }
  });
}

// Gradient of a layer's result -> gradient before activation and dropout, in place, from the result itself; and its sums
// [channels], added to `sums` unless that is null: the gradient of a bias.
void finish_backward(const Layer& layer, const Group& group, float* channel_sums) {
  const bool dropping = drops(layer, group), finishes = dropping || layer.slope != 1;
  if (!finishes && !channel_sums) return;
  const float scale = dropping ? 65536.0f / (65536.0f - layer.drop) : 1.0f;
  const Vec above = broadcast(scale), below = broadcast(scale * layer.slope);
  const Vec dropped = dropping ? zeros() : below;
  for_blocks<6>(layer.out.channels, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    Vec sums[C] = {};
    for (int row = 0; row < layer.out.height; ++row) {
      const float* out = group.out.data + row * group.out.row + c * kLanes;
      float* grad = group.grad_out.data + row * group.grad_out.row + c * kLanes;
      for (int column = 0; column < layer.out.width; ++column) {
        if (finishes) {
#pragma GCC unroll 8
          for (int i = 0; i < C; ++i) {
#pragma GCC unroll 4
            for (int part = 0; part < kParts; ++part) {
              const int place = i * kLanes + part * kWidth;
              const Vec value = load(out + place);
              const Vec factor = select(value > 0.0f, above, select(bits(value) == kDropped, dropped, below));
              const Vec g = load(grad + place) * factor;
              store(grad + place, g);
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
    for (int i = 0; channel_sums && i < C; ++i) channel_sums[c + i] += sum_of_lanes(sums[i]);
  });
}

float* bias_gradients(const Layer& layer, const Group& group) {
  return layer.bias == kNone ? nullptr : group.gradients + layer.bias;
}

// ---------------------------------------------------------------------------------------------------- Sums over lanes

// wide [n][kWidth] -> gradients [n], added to.
void add_sums_of_lanes(const float* wide, int n, float* gradients) {
  for (int i = 0; i < n; ++i) gradients[i] += sum_of_lanes(load(wide + i * kWidth));
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
  int x_step;  // floats from one position of x to the next
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
      const int place = p * conv.channels_out + c;
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) {
#pragma GCC unroll 2
        for (int q = 0; q < Q; ++q) {
          store(out + (place + i) * kLanes + (part + q) * kWidth, sums[p][q][i]);
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
    const int step = conv.channels_out;
    int column = 0;
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

// x [rows + kernel_rows - 1][columns + kernel_columns - 1][channels_in][kLanes], grad [rows][columns][channels_out]
// [kLanes] -> wide [kernel_rows][span][channels_out][kWidth], added to: the kernel's gradient before the sum over lanes.
template <int A, int B>
inline void outer_products(const float* x, ptrdiff_t x_row, int x_step, View grad, int c, int channels_out, int rows,
                           int columns, float* wide) {
  // Sums that are few are kept apart for the parts of a row of lanes: each must wait for the one before it.
  constexpr int Q = A * B * kPartsAtOnce <= kAccumulators ? kPartsAtOnce : 1;
  Vec sums[Q][A][B] = {};
  for (int row = 0; row < rows; ++row) {
    const float* from = x + row * x_row;
    const float* g = grad.data + row * grad.row + c * kLanes;
    for (int column = 0; column < columns; ++column, from += x_step, g += channels_out * kLanes) {
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
  for (int a = 0; a < A; ++a) {
    for (int b = 0; b < B; ++b) {
      float* to = wide + (a * channels_out + c + b) * kWidth;
      Vec sum = load(to);
      for (int q = 0; q < Q; ++q) sum += sums[q][a][b];
      store(to, sum);
    }
  }
}

void kernel_backward(const Convolution& conv, const float* x, View grad, int rows, int columns, float* wide) {
  // As many rows at a time as leave both operands in the first-level cache.
  const int bytes_per_row = (columns * (conv.x_step + conv.channels_out * kLanes)) * int(sizeof(float));
  const int chunk = bytes_per_row > 8192 ? 1 : 16384 / bytes_per_row + 1;
  for (int begin = 0; begin < rows; begin += chunk) {
    const int count = rows - begin < chunk ? rows - begin : chunk;
    const View g = {grad.data + begin * grad.row, grad.row};
    for_blocks<3>(conv.channels_out, [&](int c, auto channels) {
      for (int row = 0; row < conv.kernel_rows; ++row) {
        for_blocks<3>(conv.span, [&](int k, auto taps) {
          outer_products<decltype(taps)::value, decltype(channels)::value>(
              x + (begin + row) * conv.x_row + k * kLanes, conv.x_row, conv.x_step, g, c, conv.channels_out, count,
              columns, wide + (row * conv.span + k) * conv.channels_out * kWidth);
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

// The first input under the kernel at the first output.
const float* padded_input(const Layer& layer, const Group& group) {
  return group.in.data - layer.pad_top * group.in.row - layer.pad_left * layer.in.channels * kLanes;
}

// Columns of a convolution's result before pooling.
int convolved_columns(const Layer& layer) {
  return layer.in.width + layer.pad_left + layer.pad_right - layer.kernel_columns + 1;
}

// in [height][width][channels], out [rows][columns][channels_out].
void convolution_forward(const Layer& layer, const Group& group) {
  const Convolution conv = forward_convolution(layer, group);
  const float* x = padded_input(layer, group);
  for (int row = 0; row < layer.out.height; ++row) {
    convolve_row(conv, x + row * conv.x_row, layer.out.width, group.out.data + row * group.out.row);
    finish_row(layer, group, row);
  }
}

// The gradient of the input is a convolution of the output's gradient, with a border of zeros, by the turned kernel.
void convolution_input_backward(const Layer& layer, const Group& group) {
  const int channels = layer.out.channels * kLanes;
  const int top = layer.kernel_rows - 1 - layer.pad_top, bottom = layer.kernel_rows - 1 - layer.pad_bottom;
  const int left = layer.kernel_columns - 1 - layer.pad_left, right = layer.kernel_columns - 1 - layer.pad_right;
  clear_border(group.grad_out, layer.out.height, layer.out.width * channels, top, bottom, left * channels,
               right * channels);
  const Convolution turned = {group.grad_out.row,
                              channels,
                              group.turned + layer.turned,
                              nullptr,
                              layer.kernel_rows,
                              layer.kernel_columns * layer.out.channels,
                              layer.in.channels};
  const float* grad = group.grad_out.data - top * group.grad_out.row - left * channels;
  for (int row = 0; row < layer.in.height; ++row) {
    convolve_row(turned, grad + row * turned.x_row, layer.in.width, group.grad_in.data + row * group.grad_in.row);
  }
}

void convolution_backward(const Layer& layer, const Group& group) {
  finish_backward(layer, group, bias_gradients(layer, group));
  const Convolution conv = forward_convolution(layer, group);
  const int weights = conv.kernel_rows * conv.span * conv.channels_out;
  memset(group.scratch, 0, sizeof(float) * weights * kWidth);
  kernel_backward(conv, padded_input(layer, group), group.grad_out, layer.out.height, layer.out.width, group.scratch);
  add_sums_of_lanes(group.scratch, weights, group.gradients + layer.kernel);
  if (group.grad_in.data) convolution_input_backward(layer, group);
}

// The network's first convolution with the 2x2 max pool behind it, two rows at a time, so that the large result of the
// convolution never leaves the first-level cache. An activation that grows with its argument may come after the pool.
// in [height][width][channels], scratch [2][columns][channels_out], out and choices [rows / 2][columns / 2][channels_out].
void pooled_convolution_forward(const Layer& layer, const Group& group) {
  const Convolution conv = forward_convolution(layer, group);
  const int columns = convolved_columns(layer), channels = layer.out.channels;
  const View tile = {group.scratch, ptrdiff_t(columns) * channels * kLanes};
  with_finish(layer, group, [&](auto finish) {
    for (int row = 0; row < layer.out.height; ++row) {
      const float* x = padded_input(layer, group) + 2 * row * conv.x_row;
      for (int i = 0; i < 2; ++i) convolve_row(conv, x + i * conv.x_row, columns, tile.data + i * tile.row);
      float* out = group.out.data + row * group.out.row;
      for (int column = 0; column < layer.out.width; ++column) {
        for (int c = 0; c < channels; ++c) {
          const int element = (row * layer.out.width + column) * channels + c;
          const float* corner = tile.data + (2 * column * channels + c) * kLanes;
#pragma GCC unroll 4
          for (int part = 0; part < kParts; ++part) {
            const float* from = corner + part * kWidth;
            const Vec a = load(from), b = load(from + channels * kLanes);
            const Vec d = load(from + tile.row), e = load(from + tile.row + channels * kLanes);
            const IntVec right = b > a, lower_right = e > d;
            const Vec upper = select(right, b, a), lower = select(lower_right, e, d);
            const IntVec down = lower > upper;
            const IntVec choice = select(down, 2 - lower_right, -right);
            const int place = (column * channels + c) * kLanes + part * kWidth;
            store(out + place, finish(select(down, lower, upper), element, part));
            *reinterpret_cast<IntVec*>(group.choices + element * kLanes + part * kWidth) = choice;
          }
        }
      }
    }
  });
}

// A max pool hands a gradient to one of four positions, so three quarters of a plain kernel gradient would be products
// with zeros. Instead the input under the chosen position is selected, first the column, then the row: with the sums of
// two neighbouring rows of the kernel from one selection of columns.
// One row of pooled gradients and choices [columns][channels][kLanes], R rows and K places of the kernel: x [2][R + 1]
// [2 * columns + ...][kLanes] -> wide [R][span][channels][kWidth], added to.
template <int R, int K>
inline void pooled_products(const Convolution& conv, const float* x, const float* grad, const int32_t* choices,
                            int columns, float* wide) {
  const int stride = conv.channels_out * kLanes;
  Vec sums[R][K] = {};
  for (int column = 0; column < columns; ++column) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const int place = column * stride + part * kWidth;
      const Vec g = load(grad + place);
      const IntVec choice = *reinterpret_cast<const IntVec*>(choices + place);
      const IntVec right = (choice & 1) == 1, down = choice > 1;
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
  for (int r = 0; r < R; ++r) {
    for (int k = 0; k < K; ++k) {
      float* to = wide + (r * conv.span + k) * conv.channels_out * kWidth;
      store(to, load(to) + sums[r][k]);
    }
  }
}

void pooled_convolution_backward(const Layer& layer, const Group& group) {
  finish_backward(layer, group, bias_gradients(layer, group));
  const Convolution conv = forward_convolution(layer, group);
  const int width = layer.out.width, channels = layer.out.channels;
  const int weights = conv.kernel_rows * conv.span * channels;
  float* wide = group.scratch;
  memset(wide, 0, sizeof(float) * weights * kWidth);
  for (int row = 0; row < layer.out.height; ++row) {
    const float* x = padded_input(layer, group) + 2 * row * conv.x_row;
    const float* grad = group.grad_out.data + row * group.grad_out.row;
    const int32_t* choices = group.choices + row * width * channels * kLanes;
    for (int c = 0; c < channels; ++c) {
      for_blocks<3>(conv.kernel_rows, [&](int r, auto rows) {
        for_blocks<3>(conv.span, [&](int k, auto places) {
          pooled_products<decltype(rows)::value, decltype(places)::value>(
              conv, x + r * conv.x_row + k * kLanes, grad + c * kLanes, choices + c * kLanes, width,
              wide + ((r * conv.span + k) * channels + c) * kWidth);
        });
      });
    }
  }
  add_sums_of_lanes(wide, weights, group.gradients + layer.kernel);
}

// --------------------------------------------------------------------------------------------- Depthwise convolution

// One channel of a row of outputs, P positions at once: x [Rows][columns + kernel_columns - 1][channels][kLanes], kernel
// [rows * kernel_columns] of the channel, all in registers.
template <int P, int Rows, int Columns>
inline void depthwise_block(const float* x, ptrdiff_t x_row, int step, const Vec* kernel, Vec bias, float* out) {
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

// kernel [Rows * 3][channels]: the rows of a 3x3 kernel that meet anything but zeros.
template <int Rows>
void depthwise_row_3x3(const float* x, ptrdiff_t x_row, const float* kernel, const float* bias, int columns,
                       int channels, float* out) {
  const int step = channels * kLanes;
  for (int c = 0; c < channels; ++c) {
    Vec taps[Rows * 3];
#pragma GCC unroll 9
    for (int tap = 0; tap < Rows * 3; ++tap) taps[tap] = broadcast(kernel[tap * channels + c]);
    const Vec start = bias ? broadcast(bias[c]) : zeros();
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const float* from = x + c * kLanes + part * kWidth;
      float* to = out + c * kLanes + part * kWidth;
      int column = 0;
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
      const int place = column * channels + c;
      for (int part = 0; part < kParts; ++part) {
        Vec sum = bias ? broadcast(bias[c]) : zeros();
        for (int row = 0; row < kernel_rows; ++row) {
          for (int k = 0; k < kernel_columns; ++k) {
            sum += broadcast(kernel[(row * kernel_columns + k) * channels + c]) *
                   load(x + row * x_row + (place + k * channels) * kLanes + part * kWidth);
          }
        }
        store(out + place * kLanes + part * kWidth, sum);
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
    if (layer.kernel_rows != 3 || layer.kernel_columns != 3) {
      depthwise_row(x + row * x_row, x_row, kernel, layer.kernel_rows, layer.kernel_columns, bias, columns, channels,
                    to);
      continue;
    }
    const int first = top > row ? top - row : 0, last = top + x_rows - row < 3 ? top + x_rows - row : 3;
    const float* from = x + (row + first) * x_row;
    const float* taps = kernel + first * 3 * channels;
    switch (last - first) {
      case 1: depthwise_row_3x3<1>(from, x_row, taps, bias, columns, channels, to); break;
      case 2: depthwise_row_3x3<2>(from, x_row, taps, bias, columns, channels, to); break;
      case 3: depthwise_row_3x3<3>(from, x_row, taps, bias, columns, channels, to); break;
    }
  }
}

void depthwise_forward(const Layer& layer, const Group& group) {
  depthwise_rows(padded_input(layer, group), group.in.row, layer.pad_top, layer.in.height,
                 group.parameters + layer.kernel, layer.bias == kNone ? nullptr : group.parameters + layer.bias, layer,
                 layer.out.height, layer.out.width, group.out);
  for (int row = 0; row < layer.out.height; ++row) finish_row(layer, group, row);
}

// P positions of one channel: x [Rows][P + Columns - 1], grad [P] -> sums [Rows][Columns], added to.
template <int P, int Rows, int Columns>
inline void depthwise_products(const float* x, ptrdiff_t x_row, const float* grad, int step, Vec* sums) {
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

// in [height][width][channels], grad_out [rows][columns][channels] -> wide [taps][channels][kWidth].
void depthwise_kernel_backward(const Layer& layer, const Group& group, float* wide) {
  const int channels = layer.in.channels, step = channels * kLanes;
  const float* x = padded_input(layer, group);
  memset(wide, 0, sizeof(float) * layer.kernel_rows * layer.kernel_columns * channels * kWidth);
  for (int row = 0; row < layer.out.height; ++row, x += group.in.row) {
    const float* grad = group.grad_out.data + row * group.grad_out.row;
    for (int c = 0; c < channels; ++c) {
      if (layer.kernel_rows == 3 && layer.kernel_columns == 3) {
        Vec sums[9];
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; ++tap) sums[tap] = load(wide + (tap * channels + c) * kWidth);
        const float* from = x + c * kLanes;
        const float* g = grad + c * kLanes;
        int column = 0;
        for (; column + 3 <= layer.out.width; column += 3) {
          depthwise_products<3, 3, 3>(from + column * step, group.in.row, g + column * step, step, sums);
        }
        for (; column < layer.out.width; ++column) {
          depthwise_products<1, 3, 3>(from + column * step, group.in.row, g + column * step, step, sums);
        }
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; ++tap) store(wide + (tap * channels + c) * kWidth, sums[tap]);
        continue;
      }
      for (int kernel_row = 0; kernel_row < layer.kernel_rows; ++kernel_row) {
        for (int k = 0; k < layer.kernel_columns; ++k) {
          float* sum = wide + ((kernel_row * layer.kernel_columns + k) * channels + c) * kWidth;
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
  finish_backward(layer, group, bias_gradients(layer, group));
  depthwise_kernel_backward(layer, group, group.scratch);
  add_sums_of_lanes(group.scratch, layer.kernel_rows * layer.kernel_columns * layer.in.channels,
                    group.gradients + layer.kernel);
  if (!group.grad_in.data) return;
  const int channels = layer.in.channels * kLanes;
  const int top = layer.kernel_rows - 1 - layer.pad_top, bottom = layer.kernel_rows - 1 - layer.pad_bottom;
  const int left = layer.kernel_columns - 1 - layer.pad_left, right = layer.kernel_columns - 1 - layer.pad_right;
  clear_border(group.grad_out, layer.out.height, layer.out.width * channels, top, bottom, left * channels,
               right * channels);
  depthwise_rows(group.grad_out.data - top * group.grad_out.row - left * channels, group.grad_out.row, top,
                 layer.out.height, group.turned + layer.turned, nullptr, layer, layer.in.height, layer.in.width, group.grad_in);
}

// ----------------------------------------------------------------------------------------------------------- Pooling

// in [height][width][channels] -> out, choices [rows][columns][channels]; a choice is row * window columns + column in the
// window, the first of the largest.
void max_pool_forward(const Layer& layer, const Group& group) {
  const int channels = layer.in.channels;
  for (int row = 0; row < layer.out.height; ++row) {
    for (int column = 0; column < layer.out.width; ++column) {
      const float* corner = group.in.data + row * layer.kernel_rows * group.in.row +
                            column * layer.kernel_columns * channels * kLanes;
      float* out = group.out.data + row * group.out.row + column * channels * kLanes;
      int32_t* choices = group.choices + (row * layer.out.width + column) * channels * kLanes;
      for (int i = 0; i < channels * kLanes; i += kWidth) {
        Vec best = load(corner + i);
        IntVec choice = {};
        for (int r = 0; r < layer.kernel_rows; ++r) {
          for (int k = 0; k < layer.kernel_columns; ++k) {
            const Vec value = load(corner + r * group.in.row + k * channels * kLanes + i);
            const IntVec better = value > best;
            best = select(better, value, best);
            choice = select(better, broadcast(int32_t(r * layer.kernel_columns + k)), choice);
          }
        }
        store(out + i, best);
        *reinterpret_cast<IntVec*>(choices + i) = choice;
      }
    }
  }
}

// Calls gradient(place in the result's row of floats, result row, tap) for every input under a window, and writes what it
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
  pool_backward(layer, group, [&](int place, int row, int tap) {
    const IntVec choice = *reinterpret_cast<const IntVec*>(group.choices + row * floats + place);
    return select(choice == tap, load(group.grad_out.data + row * group.grad_out.row + place), zeros());
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
  pool_backward(layer, group, [&](int place, int row, int) {
    return load(group.grad_out.data + row * group.grad_out.row + place) * share;
  });
}

// ----------------------------------------------------------------------------------------------------- Normalisation

// Calls work(column, x, y) for each position of a row range of two activations of the same shape.
template <class Work>
inline void for_positions(Shape shape, View a, View b, int c, Work work) {
  for (int row = 0; row < shape.height; ++row) {
    const ptrdiff_t first = c * kLanes;
    for (int column = 0; column < shape.width; ++column) {
      const ptrdiff_t place = first + ptrdiff_t(column) * shape.channels * kLanes;
      work(a.data + row * a.row + place, b.data + row * b.row + place);
    }
  }
}

// in [height][width][channels] -> mean [channels], squares [channels].
void batch_moments(const Layer& layer, const Group& group, double* mean, double* squares) {
  const double count = double(group.samples) * layer.in.height * layer.in.width;
  for_blocks<6>(layer.in.channels, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    Vec sums[C] = {};
    float means[C];
    for_positions(layer.in, group.in, group.in, c, [&](const float* x, const float*) {
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) {
        for (int part = 0; part < kParts; ++part) {
          sums[i] += load(x + i * kLanes + part * kWidth) * load(group.present + part * kWidth);
        }
      }
    });
    for (int i = 0; i < C; ++i) {
      means[i] = float(sum_of_lanes(sums[i]) / count);
      mean[c + i] = means[i];
      sums[i] = zeros();
    }
    for_positions(layer.in, group.in, group.in, c, [&](const float* x, const float*) {
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) {
        for (int part = 0; part < kParts; ++part) {
          const Vec difference = (load(x + i * kLanes + part * kWidth) - means[i]) * load(group.present + part * kWidth);
          sums[i] += difference * difference;
        }
      }
    });
    for (int i = 0; i < C; ++i) squares[c + i] = sum_of_lanes(sums[i]);
  });
}

// in, out [height][width][channels]: kernel * (in - mean) * scale + bias.
void batch_norm_forward(const Layer& layer, const Group& group) {
  const int channels = layer.in.channels;
  with_finish(layer, group, [&](auto finish) {
    for (int row = 0; row < layer.in.height; ++row) {
      const float* x = group.in.data + row * group.in.row;
      float* out = group.out.data + row * group.out.row;
      for (int column = 0; column < layer.in.width; ++column) {
        for (int c = 0; c < channels; ++c) {
          const float gain = layer.kernel == kNone ? 1.0f : group.parameters[layer.kernel + c];
          const float bias = layer.bias == kNone ? 0.0f : group.parameters[layer.bias + c];
          const float factor = group.batch.scale[c] * gain;
          const int place = column * channels + c;
          for (int part = 0; part < kParts; ++part) {
            const Vec value = load(x + place * kLanes + part * kWidth);
            store(out + place * kLanes + part * kWidth,
                  finish((value - group.batch.mean[c]) * factor + bias, row * layer.in.width * channels + place, part));
          }
        }
      }
    }
  });
}

void batch_gradients(const Layer& layer, const Group& group, double* gradient, double* product) {
  finish_backward(layer, group, nullptr);
  for_blocks<3>(layer.in.channels, [&](int c, auto size) {
    constexpr int C = decltype(size)::value;
    Vec sums[C] = {}, products[C] = {};
    for_positions(layer.in, group.in, group.grad_out, c, [&](const float* x, const float* grad) {
#pragma GCC unroll 4
      for (int i = 0; i < C; ++i) {
        for (int part = 0; part < kParts; ++part) {
          const Vec g = load(grad + i * kLanes + part * kWidth);
          sums[i] += g;
          products[i] += g * ((load(x + i * kLanes + part * kWidth) - group.batch.mean[c + i]) *
                              group.batch.scale[c + i]);
        }
      }
    });
    for (int i = 0; i < C; ++i) {
      gradient[c + i] = sum_of_lanes(sums[i]);
      product[c + i] = sum_of_lanes(products[i]);
    }
  });
}

// grad_in = kernel * scale * (grad_out - mean of grad_out - normalised input * mean of grad_out * normalised input), the
// means over the whole batch. S. Ioffe and C. Szegedy, https://arxiv.org/abs/1502.03167, section 3.
void batch_norm_backward(const Layer& layer, const Group& group) {
  if (!group.grad_in.data) return;
  const int channels = layer.in.channels;
  for (int row = 0; row < layer.in.height; ++row) {
    const float* x = group.in.data + row * group.in.row;
    const float* grad = group.grad_out.data + row * group.grad_out.row;
    float* to = group.grad_in.data + row * group.grad_in.row;
    for (int column = 0; column < layer.in.width; ++column) {
      for (int c = 0; c < channels; ++c) {
        const float gain = layer.kernel == kNone ? 1.0f : group.parameters[layer.kernel + c];
        const float scale = group.batch.scale[c], factor = gain * scale;
        const int place = (column * channels + c) * kLanes;
        for (int part = 0; part < kParts; ++part) {
          const Vec normalised = (load(x + place + part * kWidth) - group.batch.mean[c]) * scale;
          const Vec centred = load(grad + place + part * kWidth) - group.batch.mean_gradient[c] -
                              normalised * group.batch.mean_product[c];
          store(to + place + part * kWidth, centred * factor * load(group.present + part * kWidth));
        }
      }
    }
  }
}

// 1 / (sqrt(variance) + epsilon), of variances no smaller than the Keras layer's SMALLEST_VARIANCE.
inline Vec reciprocal_deviation(Vec variance, float epsilon) {
  Vec result = larger(variance, broadcast(1e-12f));
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
  with_finish(layer, group, [&](auto finish) {
    for (int row = 0; row < layer.in.height; ++row) {
      const float* x = group.in.data + row * group.in.row;
      float* out = group.out.data + row * group.out.row;
      for (int i = 0; i < floats; i += kLanes) {
        for (int part = 0; part < kParts; ++part) {
          const Vec mean = load(group.saved + part * kWidth), scale = load(group.saved + kLanes + part * kWidth);
          store(out + i + part * kWidth, finish((load(x + i + part * kWidth) - mean) * (scale * gain) + bias,
                                                (row * floats + i) / kLanes, part));
        }
      }
    }
  });
}

void instance_norm_backward(const Layer& layer, const Group& group) {
  finish_backward(layer, group, nullptr);
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
  group.gradients[layer.bias] += sum_of_lanes(bias_gradient);
  group.gradients[layer.kernel] += sum_of_lanes(gain_gradient);
}

// ------------------------------------------------------------------------------------------------------- Elementwise

void elementwise_forward(const Layer& layer, const Group& group) {
  const int floats = layer.in.width * layer.in.channels * kLanes;
  with_finish(layer, group, [&](auto finish) {
    for (int row = 0; row < layer.in.height; ++row) {
      const float* x = group.in.data + row * group.in.row;
      float* out = group.out.data + row * group.out.row;
      for (int i = 0; i < floats; i += kLanes) {
        for (int part = 0; part < kParts; ++part) {
          store(out + i + part * kWidth, finish(load(x + i + part * kWidth), (row * floats + i) / kLanes, part));
        }
      }
    }
  });
}

void elementwise_backward(const Layer& layer, const Group& group) {
  finish_backward(layer, group, nullptr);
  if (!group.grad_in.data) return;
  const size_t bytes = sizeof(float) * layer.in.width * layer.in.channels * kLanes;
  for (int row = 0; row < layer.in.height; ++row) {
    memcpy(group.grad_in.data + row * group.grad_in.row, group.grad_out.data + row * group.grad_out.row, bytes);
  }
}

// ----------------------------------------------------------------------------------------------------- Input and loss

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
    for (int i = 0; i < size; ++i, to += kLanes) {
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
    for (int c = 0; c < classes; ++c) sum += expf(x[c * kLanes] - largest);
    const int label = labels[lane];
    total.loss += logf(sum) + largest - x[label * kLanes];
    total.correct += best == label;
    for (int c = 0; gradient && c < classes; ++c) {
      gradient[c * kLanes + lane] = (expf(x[c * kLanes] - largest) / sum - (c == label)) * weight;
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
