// The table of kernels: unpacks a layer and a group into what each kernel reads and writes.
//
// This file, with the kernels that it includes, is compiled once for each instruction set, in a namespace of its own, and
// the best that the processor has is chosen when the program runs. So nothing here may come from the C++ library: an
// inline function of it, compiled with AVX-512, could be the copy that the linker keeps for the whole program.

#include "layers.h"

#include "kernels/augmentation.h"
#include "kernels/averaged_convolution.h"
#include "kernels/batch_norm.h"
#include "kernels/convolution.h"
#include "kernels/depthwise.h"
#include "kernels/elementwise.h"
#include "kernels/images.h"
#include "kernels/instance_norm.h"
#include "kernels/loss.h"
#include "kernels/pooled_convolution.h"
#include "kernels/pooling.h"
#include "kernels/silu.h"
#include "kernels/soap.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

Epilogue epilogue_of(const Layer& layer, const Group& group) {
  const uint32_t elements = layer.out.height * layer.out.width * layer.out.channels;
  // Two elements of a group take a row of words of the counter; see epilogue.h.
  const uint32_t words = (elements + 1) / 2 * kLanes;
  const DropoutKey key = {group.key.first + group.index * words, group.key.second};
  return {layer.slope, group.training ? layer.drop : 0, key};
}

// An array at its offset, null where the layer has none.
template <class Float>
Float* at(Float* array, ptrdiff_t offset) {
  return offset == kNone ? nullptr : array + offset;
}

void forward(const Layer& layer, const Group& group) {
  const View in = group.in, out = group.out;
  const float *kernel = at(group.parameters, layer.kernel), *bias = at(group.parameters, layer.bias);
  const Epilogue epilogue = epilogue_of(layer, group);
  switch (layer.kind) {
    case Kind::kConvolution:
      if (layer.pooled == Pooled::kMax) {
        return pooled_convolution_forward(out, group.taps, in, kernel, bias, layer, epilogue, group.scratch);
      }
      if (layer.pooled == Pooled::kAverage) {
        return averaged_convolution_forward(out, group.taps, in, kernel, bias, layer, epilogue, group.scratch);
      }
      return convolution_forward(out, in, kernel, at(group.transformed, layer.winograd_weights), bias, layer, epilogue,
                                 group.scratch);
    case Kind::kDepthwise: return depthwise_forward(out, in, kernel, bias, layer, epilogue);
    case Kind::kMaxPool: return max_pool_forward(out, group.taps, in, layer);
    case Kind::kAveragePool: return average_pool_forward(out, in, layer);
    case Kind::kBatchNorm: return batch_norm_forward(out, in, kernel, bias, group.batch, layer.in, epilogue);
    case Kind::kInstanceNorm:
      return instance_norm_forward(out, group.saved, in, *kernel, *bias, layer.epsilon, layer.in, epilogue);
    case Kind::kSilu: return silu_forward(out, in, layer.in, epilogue);
    case Kind::kElementwise: return elementwise_forward(out, in, layer.in, epilogue);
  }
}

void backward(const Layer& layer, const Group& group) {
  const View in = group.in, out = group.out, grad_in = group.grad_in, grad_out = group.grad_out;
  const float* kernel = at(group.parameters, layer.kernel);
  float *grad_kernel = at(group.gradients, layer.kernel), *grad_bias = at(group.gradients, layer.bias);
  const float* flipped = at(group.transformed, layer.flipped);
  const Epilogue epilogue = epilogue_of(layer, group);
  switch (layer.kind) {
    case Kind::kConvolution: {
      if (layer.pooled == Pooled::kMax) {
        return pooled_convolution_backward(grad_kernel, grad_bias, grad_out, in, out, group.taps, layer, epilogue,
                                           group.scratch);
      }
      if (layer.pooled == Pooled::kAverage) {
        return averaged_convolution_backward(grad_kernel, grad_bias, grad_out, in, out, group.taps, layer, epilogue,
                                             group.scratch);
      }
      const float* winograd = at(group.transformed, layer.winograd_weights);
      // Those of the kernel, four rows instead of its three, come first.
      if (winograd) winograd += 4 * layer.kernel_columns * layer.in.channels * layer.out.channels;
      return convolution_backward(grad_in, grad_kernel, grad_bias, grad_out, in, out, flipped, winograd, layer,
                                  epilogue, group.scratch);
    }
    case Kind::kDepthwise:
      return depthwise_backward(grad_in, grad_kernel, grad_bias, grad_out, in, out, flipped, layer, epilogue,
                                group.scratch);
    case Kind::kInstanceNorm:
      return instance_norm_backward(grad_in, grad_kernel, grad_bias, grad_out, in, out, group.saved, *kernel,
                                    layer.epsilon, layer.in, epilogue);
    case Kind::kSilu: return silu_backward(grad_in, grad_out, in, out, layer.in, epilogue);
    case Kind::kElementwise: return elementwise_backward(grad_in, grad_out, out, layer.in, epilogue);
    default: break;
  }
  if (!grad_in.data) return;
  switch (layer.kind) {
    case Kind::kMaxPool: return max_pool_backward(grad_in, grad_out, group.taps, layer);
    case Kind::kAveragePool: return average_pool_backward(grad_in, grad_out, layer);
    default:
      return batch_norm_backward(grad_in, group.grad_preactivation, in, kernel, group.batch, group.lane_mask, layer.in);
  }
}

void batch_moments(const Layer& layer, const Group& group, double* mean, double* squares) {
  batch_moments(mean, squares, group.in, group.lane_mask, group.samples, layer.in);
}

void batch_gradients(const Layer& layer, const Group& group, double* gradient, double* product) {
  batch_gradients(gradient, product, group.grad_preactivation, group.grad_out, group.in, group.out, group.batch,
                  layer.in, epilogue_of(layer, group), group.scratch);
}

#define MNIST_MINIMAL_QUOTE(name) #name
#define MNIST_MINIMAL_NAME(name) MNIST_MINIMAL_QUOTE(name)

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {MNIST_MINIMAL_NAME(MNIST_MINIMAL_SIMD_NAMESPACE),
                         read_images<uint8_t>,
                         read_images<float>,
                         augment,
                         forward,
                         backward,
                         softmax_cross_entropy,
                         softmax,
                         batch_moments,
                         batch_gradients,
                         soap_step,
                         soap_renew};

}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
