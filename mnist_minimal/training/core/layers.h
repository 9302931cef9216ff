// The layers as data, and the kernels that run them: one table of kernels for each instruction set.
//
// A group is kLanes samples of a batch that go through the network together. An activation of shape (height, width,
// channels) of a group is a row-major array [height][width][channels][kLanes] of floats, with room for a border of zeros
// around it where the next layer pads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "random.h"
#include "soap.h"

namespace mnist_minimal {

struct Augmentation;
struct Changes;

struct Shape {
  int height, width, channels;
};

// Where the first row of an activation or of its gradient starts, and how many floats lie between two rows.
struct View {
  float* data;
  ptrdiff_t row;
};

enum class Kind {
  kConvolution,         // also the dense layer, over one position, and the pointwise half of a separable convolution
  kDepthwise,           // one kernel for each channel
  kMaxPool,             // over windows that do not overlap
  kAveragePool,         // over windows that do not overlap; also the global average
  kBatchNorm,           // over batch, height and width
  kInstanceNorm,        // over height, width and channels
  kSilu,                // x / (1 + e**-x)
  kElementwise,         // activation and dropout alone
};

// The 2x2 pool that follows a convolution of the network's input, and is made with it. A max pool changes places with the
// activation, which comes before an average; dropout comes after both.
enum class Pooled { kNot, kMax, kAverage };

constexpr ptrdiff_t kNone = -1;

// The shapes of a layer, and the window that it moves over its input.
struct Geometry {
  Shape in, out;
  // The convolution kernel, or the pool's window. Strides are 1 for kernels and the window's size for pools.
  int kernel_rows = 1, kernel_columns = 1;
  // Border of zeros that a kernel needs before its input's first row and column and after the last.
  int pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
};

struct Layer : Geometry {
  Kind kind;
  Pooled pooled = Pooled::kNot;
  // Positions in the flat array of parameters, kNone where there is none. A convolution's kernel is [kernel_rows]
  // [kernel_columns][in.channels][out.channels], a depthwise one [kernel_rows][kernel_columns][channels]; `bias` has
  // one number for each channel. A normalisation's scale is `kernel`, its offset is `bias`.
  ptrdiff_t kernel = kNone, bias = kNone;
  // The kernel as the gradient of the input needs it, in the array of transformed kernels: taps in reverse order, in and
  // out channels exchanged.
  ptrdiff_t flipped = kNone;
  // Where two rows are made at once: in the same array, four rows for the kernel and then for the flipped one, each
  // [kernel_columns][channels][channels]; see winograd_f2x3.
  ptrdiff_t winograd_weights = kNone;
  // Position of the moving means, followed by the moving variances, in the flat array of statistics.
  ptrdiff_t statistics = kNone;
  float epsilon = 0, momentum = 0;
  // What every kind but the pools does to its result at the end: x > 0 ? x : slope * x, then dropout with probability
  // drop / 2**16. A slope of 1 is no activation.
  float slope = 1;
  uint32_t drop = 0;
  int dropout_index = 0;
};

// Pairs of rows that a Winograd convolution's kernel gradient takes at a time, for fewer passes over the sums.
constexpr int kWinogradPairs = 2;

// A key of the dropout's random numbers: one layer in one step of one epoch of one seed.
using DropoutKey = Words;

// What a layer does to its result at the end, for one group: x > 0 ? x : slope * x, then dropout with probability
// drop / 2**16, which is 0 outside training. The key is the group's.
struct Epilogue {
  float slope;
  uint32_t drop;
  DropoutKey key;
};

// Mean and reciprocal standard deviation of each channel, and what the backward pass needs of the whole batch.
struct BatchStatistics {
  const float *mean, *scale;
  const float *mean_gradient, *mean_product;
};

// All that there is of one group at one layer; layers.cpp hands each kernel what it reads and writes.
struct Group {
  View in, out;                        // activations
  View grad_out, grad_in;              // gradients of the loss; grad_in.data is null where nobody needs it
  View grad_preactivation;             // of a batch normalisation: what batch_gradients leaves for backward
  const float* parameters;             // [parameters]
  const float* transformed;            // [transformed kernels]
  float* gradients;                    // [parameters], this group's, added to
  float* scratch;                      // of the thread
  int32_t* taps;                       // [out shape][kLanes]: the largest in each window of a max pool; which were
                                       // positive in each of a pooled convolution's average
  float* saved;                        // [2][kLanes], mean and reciprocal deviation of an instance normalisation
  const float* lane_mask;              // [kLanes], 1 for a sample and 0 for an empty lane
  int samples;                         // lanes that hold a sample: the first ones
  int index;                           // the group's place in its batch
  bool training;                       // whether dropout drops
  DropoutKey key;
  BatchStatistics batch;
};

// What one group found of the loss.
struct GroupLoss {
  double loss;  // sum over samples
  int correct;
};

struct Kernels {
  const char* name;
  // Images [n][size] -> view [rows][columns * channels][kLanes], x * scale + offset; the first `samples` of `order`.
  void (*read_bytes)(const uint8_t* images, const int64_t* order, int samples, Shape shape, float scale, float offset,
                     View out);
  void (*read_floats)(const float* images, const int64_t* order, int samples, Shape shape, float scale, float offset,
                      View out);
  // What becomes of a training image; see augmentation.h.
  void (*augment)(float* out, const uint8_t* image, Shape shape, const Changes& changes,
                  const Augmentation& augmentation, float* scratch);
  void (*forward)(const Layer& layer, const Group& group);
  void (*backward)(const Layer& layer, const Group& group);
  // Softmax cross-entropy of logits [classes][kLanes] against the labels or, unless null, targets [classes][kLanes];
  // `gradient` may be null; `weight` is 1 / batch size.
  GroupLoss (*loss)(const float* logits, int classes, const uint8_t* labels, const float* targets, int samples,
                    float weight, float* gradient);
  // Logits [classes][kLanes] -> probabilities [samples][classes].
  void (*softmax)(float* probabilities, const float* logits, int classes, int samples);
  // Mean of each channel over a group's samples, and the sum of squared differences from it; [channels] each.
  void (*batch_moments)(const Layer& layer, const Group& group, double* mean, double* squares);
  // Takes the gradient back through activation and dropout, into `grad_preactivation`. Sums of each channel's, and of its
  // product with the normalised input; [channels] each.
  void (*batch_gradients)(const Layer& layer, const Group& group, double* gradient, double* product);
  // A block's step, and its new basis; see kernels/soap.h.
  void (*soap_step)(const SoapBlock& block, const float* gradient, SoapScales scales, float* scratch);
  void (*soap_renew)(const SoapBlock& block, double weight, double* scratch);
};

namespace baseline {
extern const Kernels kernels;
}
#ifdef MNIST_MINIMAL_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

}  // namespace mnist_minimal
