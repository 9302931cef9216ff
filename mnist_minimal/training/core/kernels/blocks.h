// What several layers' kernels share: blocks of channels whose sums fit into the registers, sums over the lanes, and
// borders of zeros.
#pragma once

#include <string.h>

#include "../layers.h"
#include "../vector.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// Registers of one row of lanes that a kernel works on at a time.
constexpr int kPartsAtOnce = kParts < 2 ? 1 : 2;

// How many channels' rows of lanes a kernel may sum at a time, where each takes all registers of its row.
constexpr int kRowsAtOnce = kAccumulators / (2 * kParts) < 6 ? kAccumulators / (2 * kParts) : 6;

template <int N>
struct Size {
  static constexpr int value = N;
};

// Calls work(begin, Size<n>) for `count` channels in as few blocks of at most `Max` as there can be, of equal size or
// nearly so.
template <int Max, class Work>
inline void for_blocks(int count, Work work) {
  const int blocks = Max == 0 ? 0 : (count + Max - 1) / (Max == 0 ? 1 : Max);
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
      case 7: if constexpr (Max >= 7) work(begin, Size<7>()); break;
      case 8: if constexpr (Max >= 8) work(begin, Size<8>()); break;
    }
    begin += size;
  }
}

// lane_partials [n][kLanes] -> gradients [n], added to.
void reduce_lane_partials(const float* lane_partials, int n, float* gradients) {
  for (int i = 0; i < n; ++i) gradients[i] += reduce_lanes(lane_partials + i * kLanes);
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

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
