// What becomes of a training image in an epoch. mnist_minimal/data/augmentation.py says what the numbers mean, and is the
// oracle: it does the same operations in the same order, and gives the same bits.
#pragma once

#include <stdint.h>

#include "layers.h"
#include "random.h"
#include "vector.h"

namespace mnist_minimal {

// The ranges from which is drawn, as recipes.Augmentation has them. `fill` is not used where the image is mirrored.
struct Augmentation {
  double rotation, translation;
  double min_scale, max_scale;
  double affine_share;
  bool nearest;
  int crop;
  bool reflect;
  double fill;
  double brightness, contrast;
  double tone_share;
};

// What was drawn for an image.
struct Changes {
  bool moved;
  double cosine, sine;  // of the angle, divided by the scale
  double shift[2];
  int64_t corner[2];
  double contrast, brightness;
};

// `key` is the stream of the trial's seed, kAugmentation and the epoch; `image` is the place in the training set.
Changes draw_changes(const Augmentation& augmentation, Words key, uint32_t image, int height, int width);

// Scratch memory to augment images in: kPlanes planes, each with room for one channel with a frame around it.
constexpr int kPlanes = 12;
static inline size_t plane_floats(Shape shape) {
  const size_t framed = size_t(shape.height + 3) * (shape.width + 3);
  return framed / kLanes * kLanes + 2 * kLanes;
}

// Images order[0 .. count-1] of uint8 [n][height][width][channels] -> out [count][height][width][channels], in 0 .. 255.
// `scratch` has kPlanes planes.
void augment(float* out, const uint8_t* images, const int64_t* order, int64_t count, Shape shape,
             const Augmentation& augmentation, uint64_t seed, uint32_t epoch, float* scratch, const Kernels& kernels);

}  // namespace mnist_minimal
