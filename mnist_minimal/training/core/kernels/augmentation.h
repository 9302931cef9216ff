// Turns, scales, shifts, crops and tones one image; ../augmentation.h says where it is described.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../augmentation.h"
#include "../layers.h"
#include "../vector.h"

namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE {
namespace {

// Mirrored places are brought within these bounds first, so that all that follows is exact; among them is one that is no
// number, as a scale of 0 gives.
constexpr float kMaxPlace = 1 << 20;

inline Vec load_unaligned(const float* from) {
  Vec value;
  memcpy(&value, from, sizeof value);
  return value;
}

inline void store_unaligned(float* to, Vec value) { memcpy(to, &value, sizeof value); }

// To the nearest whole number, halves to the even one, |x| <= 2**22.
inline Vec nearest_whole(Vec x) { return (x + kRounder) - kRounder; }

// The largest whole number that is not above x, |x| < 2**31.
inline Vec floor_of(Vec x) {
  const Vec towards_zero = __builtin_convertvector(__builtin_convertvector(x, IntVec), Vec);
  return towards_zero - select(towards_zero > x, broadcast(1.0f), zeros());
}

// The nearest of low .. high; high for what is no number.
inline Vec limited(Vec x, float low, float high) {
  x = select(x < high, x, broadcast(high));
  return select(x > low, x, broadcast(low));
}

// Moves places outside the image onto its frame, or to where they are mirrored.
template <bool kMirror>
inline Vec inside(Vec places, float side) {
  if (!kMirror) return limited(places, -1, side);
  // Mirrored at both ends, the image repeats itself; the repetition around 0 is symmetrical.
  const float period = side > 1 ? 2 * (side - 1) : 1, frequency = float(1.0 / period);
  places = limited(places, -kMaxPlace, kMaxPlace);
  places -= nearest_whole(places * frequency) * period;
  places = select(places < 0, -places, places);
  return select(places < side - 1, places, broadcast(side - 1));
}

// Where in [size] mirrored at its ends a place lies.
inline int64_t mirrored(int64_t place, int64_t size) {
  if (size == 1) return 0;
  const int64_t period = 2 * (size - 1);
  place = (place % period + period) % period;
  return place < size ? place : period - place;
}

// What is made on the way, for one channel of an image; each array begins a plane of scratch, some take two. A row of places
// is written in whole registers, its end over the beginning of the next one, which comes later.
struct Workspace {
  float* framed;                    // [height + 3][width + 3]
  float *down, *across;             // [width], what a column adds to the row and to the column that are read
  uint32_t* index;                  // [height][width], in `framed`
  float *row_share, *column_share;  // [height][width], how far the place lies below and beside that pixel
  float *upper, *lower;             // [height][width][2]: that pixel and the one to its right, and those below them
  float* plane;                     // [height][width], what has become of the channel
  int32_t* columns;                 // [width], where a crop reads
};

inline Workspace workspace_at(float* scratch, Shape shape) {
  const size_t plane = plane_floats(shape);
  const auto at = [&](int i) { return scratch + i * plane; };
  static_assert(kPlanes == 12, "upper and lower take two planes each");
  return {at(0), at(1), at(2), reinterpret_cast<uint32_t*>(at(3)), at(4), at(5), at(6), at(8), at(10),
          reinterpret_cast<int32_t*>(at(11))};
}

// One channel of an image [height][width][channels].
inline void to_floats(float* plane, const uint8_t* image, Shape shape) {
  const ptrdiff_t size = ptrdiff_t(shape.height) * shape.width;
  if (shape.channels == 1) {
    for (ptrdiff_t i = 0; i < size; ++i) plane[i] = image[i];
  } else {
    for (ptrdiff_t i = 0; i < size; ++i) plane[i] = image[i * shape.channels];
  }
}

// One pixel of frame before the image and two behind it: a place outside is moved onto the frame, and has there, as
// everywhere, a neighbour below and to the right.
inline void frame(float* framed, const float* plane, Shape shape, float fill) {
  const int width = shape.width, framed_width = width + 3;
  for (int i = 0; i < framed_width; ++i) framed[i] = fill;
  for (int row = 0; row < shape.height; ++row) {
    float* to = framed + (row + 1) * framed_width;
    to[0] = to[width + 1] = to[width + 2] = fill;
    memcpy(to + 1, plane + row * width, sizeof(float) * width);
  }
  for (int i = 0; i < 2 * framed_width; ++i) framed[(shape.height + 1) * framed_width + i] = fill;
}

// Where each pixel of the result is read: the inverse of turn, scale and shift.
template <bool kNearest, bool kMirror>
void set_places(const Workspace& work, Shape shape, const Changes& changes) {
  const int height = shape.height, width = shape.width;
  // An image's places, fewer than 2**24, are counted in floats.
  const float framed_width = width + 3, origin = framed_width + 1;
  const double row_centre = (height - 1) / 2.0, column_centre = (width - 1) / 2.0;
  for (int column = 0; column < width; ++column) {
    const double across = column - column_centre - changes.shift[1];
    work.down[column] = float(changes.sine * across);
    work.across[column] = float(changes.cosine * across);
  }
  for (int i = 0; i < kLanes; ++i) work.down[width + i] = work.across[width + i] = 0;
  for (int row = 0; row < height; ++row) {
    const double down = row - row_centre - changes.shift[0];
    const float first_row = float(row_centre + changes.cosine * down);
    const float first_column = float(column_centre - changes.sine * down);
    for (int column = 0; column < width; column += kWidth) {
      Vec row_places = inside<kMirror>(first_row + load_unaligned(work.down + column), height);
      Vec column_places = inside<kMirror>(first_column + load_unaligned(work.across + column), width);
      if (kNearest) row_places += 0.5f, column_places += 0.5f;
      const Vec whole_rows = floor_of(row_places), whole_columns = floor_of(column_places);
      const IntVec indices = __builtin_convertvector(whole_rows * framed_width + whole_columns + origin, IntVec);
      const int at = row * width + column;
      memcpy(work.index + at, &indices, sizeof indices);
      if (kNearest) continue;
      store_unaligned(work.row_share + at, row_places - whole_rows);
      store_unaligned(work.column_share + at, column_places - whole_columns);
    }
  }
}

template <bool kNearest>
void read_places(const Workspace& work, Shape shape) {
  // 2 * i must not wrap around, as an int would where a compiler is told -fwrapv: it would not make vectors then.
  const ptrdiff_t size = ptrdiff_t(shape.height) * shape.width, framed_width = shape.width + 3;
  const float* __restrict framed = work.framed;
  const uint32_t* __restrict index = work.index;
  float* __restrict to = work.plane;
  if (kNearest) {
    for (ptrdiff_t i = 0; i < size; ++i) to[i] = framed[index[i]];
    return;
  }
  float *__restrict upper = work.upper, *__restrict lower = work.lower;
#pragma GCC unroll 4
  for (ptrdiff_t i = 0; i < size; ++i) {
    const float* at = framed + index[i];
    memcpy(upper + 2 * i, at, 2 * sizeof(float));
    memcpy(lower + 2 * i, at + framed_width, 2 * sizeof(float));
  }
  const float *__restrict row_share = work.row_share, *__restrict column_share = work.column_share;
  for (ptrdiff_t i = 0; i < size; ++i) {
    const float above = upper[2 * i] + (upper[2 * i + 1] - upper[2 * i]) * column_share[i];
    const float below = lower[2 * i] + (lower[2 * i + 1] - lower[2 * i]) * column_share[i];
    to[i] = above + (below - above) * row_share[i];
  }
}

// The window of the padded plane that begins at the corner; `out` has a pixel every `channels` floats.
void crop(float* out, const float* plane, Shape shape, const Changes& changes, const Augmentation& augmentation,
          int32_t* columns) {
  const auto source = [&](int64_t place, int64_t size) {
    if (augmentation.reflect) return int32_t(mirrored(place, size));
    return int32_t(place >= 0 && place < size ? place : -1);
  };
  const float fill = float(augmentation.fill);
  for (int j = 0; j < shape.width; ++j) columns[j] = source(j + changes.corner[1] - augmentation.crop, shape.width);
  for (int i = 0; i < shape.height; ++i) {
    const int32_t row = source(i + changes.corner[0] - augmentation.crop, shape.height);
    for (int j = 0; j < shape.width; ++j, out += shape.channels) {
      *out = row < 0 || columns[j] < 0 ? fill : plane[row * shape.width + columns[j]];
    }
  }
}

// x * contrast + brightness, limited to 0 .. 255.
void tone(float* image, ptrdiff_t size, float contrast, float brightness) {
  for (ptrdiff_t i = 0; i < size; ++i) {
    float x = image[i] * contrast + brightness;
    x = x <= 0 ? 0 : x;
    image[i] = x >= 255 ? 255 : x;
  }
}

// image [height][width][channels] -> out of the same shape, in 0 .. 255; scratch has kPlanes planes.
void augment(float* out, const uint8_t* image, Shape shape, const Changes& changes, const Augmentation& augmentation,
             float* scratch) {
  Workspace work = workspace_at(scratch, shape);
  const ptrdiff_t size = ptrdiff_t(shape.height) * shape.width;
  // The only channel is made where it is to lie, unless it is cropped in the end.
  const bool in_place = shape.channels == 1 && augmentation.crop == 0;
  if (in_place) work.plane = out;
  if (changes.moved) {
    const auto set = augmentation.nearest
                         ? augmentation.reflect ? set_places<true, true> : set_places<true, false>
                         : augmentation.reflect ? set_places<false, true> : set_places<false, false>;
    set(work, shape, changes);
  }
  for (int channel = 0; channel < shape.channels; ++channel) {
    to_floats(work.plane, image + channel, shape);
    if (changes.moved) {
      frame(work.framed, work.plane, shape, augmentation.reflect ? 0 : float(augmentation.fill));
      augmentation.nearest ? read_places<true>(work, shape) : read_places<false>(work, shape);
    }
    if (augmentation.crop) {
      crop(out + channel, work.plane, shape, changes, augmentation, work.columns);
    } else if (!in_place) {
      for (ptrdiff_t i = 0; i < size; ++i) out[i * shape.channels + channel] = work.plane[i];
    }
  }
  if (augmentation.contrast != 0 || augmentation.brightness != 0) {
    tone(out, size * shape.channels, float(changes.contrast), float(changes.brightness));
  }
}

}  // namespace
}  // namespace mnist_minimal::MNIST_MINIMAL_SIMD_NAMESPACE
