// Random numbers for runs of features, by vectors.
#pragma once

#include "pyxai_fast/normal.h"
#include "simd.h"

namespace pyxai_fast {
namespace {  // one copy per instruction set

// Normals of features [kGroup * group, kGroup * (group + groups)).
[[maybe_unused]] void draw_normals(RandomKey key, uint32_t tag, uint32_t example, uint32_t sample,
                                   int64_t group, int64_t groups, float* to) {
  for (int64_t g = 0; g < groups; ++g, to += kGroup) {
    for (int lane = 0; lane < kGroupBlocks; lane += kLanes) {
      const auto first = static_cast<uint32_t>((group + g) * kGroupBlocks + lane);
      VectorLanes::Float normals[4];
      random_normals<VectorLanes>(key, tag, VectorLanes::indices() + first, example, sample,
                                  normals);
      for (int word = 0; word < 4; ++word) {
        VectorLanes::store(to + word * kGroupBlocks + lane, normals[word]);
      }
    }
  }
}

}  // namespace
}  // namespace pyxai_fast
