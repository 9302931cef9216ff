// What seeds decide: random words as functions of (seed, purpose, epoch, step, layer, place). The scheme and its source are
// in mnist_minimal/data/random.py; the two give the same words.
#pragma once

#include <stdint.h>

namespace mnist_minimal {

struct Words {
  uint32_t first, second;
};

enum class Purpose : uint32_t { kOrder = 1, kAugmentation, kDropout, kInitialWeights };

// Threefry-2x32 with 20 rounds.
static inline Words threefry(Words key, Words counter) {
  constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {key.first, key.second, key.first ^ key.second ^ 0x1bd11bdau};
  uint32_t first = counter.first + keys[0], second = counter.second + keys[1];
  for (int block = 1; block < 6; ++block) {
    for (int rotation : kRotations[(block - 1) % 2]) {
      first += second;
      second = first ^ (second << rotation | second >> (32 - rotation));
    }
    first += keys[block % 3];
    second += keys[(block + 1) % 3] + uint32_t(block);
  }
  return {first, second};
}

// The key of what is drawn for a purpose in an epoch.
static inline Words stream(uint64_t seed, Purpose purpose, uint32_t epoch) {
  return threefry({uint32_t(seed), uint32_t(seed >> 32)}, {uint32_t(purpose), epoch});
}

}  // namespace mnist_minimal
