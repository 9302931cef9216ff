#include "augmentation.h"

#include <cmath>

#include "elementary.h"

namespace mnist_minimal {

Changes draw_changes(const Augmentation& augmentation, Words key, uint32_t image, int height, int width) {
  double uniform[10];
  for (uint32_t i = 0; i < 5; ++i) {
    const Words words = threefry(key, {image, i});
    uniform[2 * i] = words.first * 0x1p-32;
    uniform[2 * i + 1] = words.second * 0x1p-32;
  }
  const auto either_side = [&](int i) { return 2 * uniform[i] - 1; };
  double angle = 0, scale = 1, shift[2] = {0, 0};
  if (uniform[0] < augmentation.affine_share) {
    angle = augmentation.rotation * either_side(2);
    scale = augmentation.min_scale + (augmentation.max_scale - augmentation.min_scale) * uniform[3];
    const double sides[2] = {double(height), double(width)};
    for (int axis = 0; axis < 2; ++axis) {
      shift[axis] = sides[axis] * augmentation.translation * either_side(4 + axis);
      if (augmentation.nearest) shift[axis] = std::rint(shift[axis]);
    }
  }
  const bool toned = uniform[1] < augmentation.tone_share;
  const double radians = angle * (3.141592653589793 / 180);
  const double windows = 2 * double(augmentation.crop) + 1;
  Changes changes;
  changes.moved = angle != 0 || scale != 1 || shift[0] != 0 || shift[1] != 0;
  changes.cosine = cos(radians) / scale;
  changes.sine = sin(radians) / scale;
  for (int axis = 0; axis < 2; ++axis) {
    changes.shift[axis] = shift[axis];
    changes.corner[axis] = int64_t(windows * uniform[6 + axis]);
  }
  changes.contrast = toned ? 1 + augmentation.contrast * either_side(8) : 1;
  changes.brightness = toned ? 255 * augmentation.brightness * either_side(9) : 0;
  return changes;
}

void augment(float* out, const uint8_t* images, const int64_t* order, int64_t count, Shape shape,
             const Augmentation& augmentation, uint64_t seed, uint32_t epoch, float* scratch, const Kernels& kernels) {
  const Words key = stream(seed, Purpose::kAugmentation, epoch);
  const int64_t size = int64_t(shape.height) * shape.width * shape.channels;
  for (int64_t i = 0; i < count; ++i) {
    const Changes changes = draw_changes(augmentation, key, uint32_t(order[i]), shape.height, shape.width);
    kernels.augment(out + i * size, images + order[i] * size, shape, changes, augmentation, scratch);
  }
}

}  // namespace mnist_minimal
