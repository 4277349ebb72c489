// Random numbers for runs of features, by vectors.
#pragma once

#include "pyxai_fast/noise.h"
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

// 1 for features that are kept and 0 for the others, for the same features.
[[maybe_unused]] void draw_kept(RandomKey key, uint64_t keep_below, uint32_t example,
                                uint32_t sample, int64_t group, int64_t groups, float* to) {
  for (int64_t g = 0; g < groups; ++g, to += kGroup) {
    for (int lane = 0; lane < kGroupBlocks; lane += kLanes) {
      const auto first = static_cast<uint32_t>((group + g) * kGroupBlocks + lane);
      VectorLanes::Word words[4];
      random_words<VectorLanes>(key, kKeepTag, VectorLanes::indices() + first, example, sample,
                                words);
      for (int word = 0; word < 4; ++word) {
        for (int i = 0; i < kLanes; ++i) {
          to[word * kGroupBlocks + lane + i] = words[word][i] < keep_below ? 1.0f : 0.0f;
        }
      }
    }
  }
}

// +1 and -1 for the same features: Rademacher signs, times a row of the Hadamard matrix.
[[maybe_unused]] void draw_signs(RandomKey key, uint32_t example, const Draw& draw, int64_t group,
                                 int64_t groups, float* to) {
  // Within 16 features the row's pattern is the same everywhere, up to a sign.
  alignas(64) uint32_t pattern[kGroupBlocks];
  for (uint32_t i = 0; i < kGroupBlocks; ++i) {
    pattern[i] = parity_of_common(draw.row & 15u, i) << 31;
  }
  alignas(64) uint32_t words[4][kGroupBlocks];
  int64_t drawn = -1;
  const int64_t end = (group + groups) * kGroup;
  for (int64_t feature = group * kGroup; feature < end;
       feature += kGroupBlocks, to += kGroupBlocks) {
    if (const int64_t sign_group = feature / kSignGroup; sign_group != drawn) {
      drawn = sign_group;
      for (int lane = 0; lane < kGroupBlocks; lane += kLanes) {
        const auto first = static_cast<uint32_t>(sign_group * kGroupBlocks + lane);
        VectorLanes::Word found[4];
        random_words<VectorLanes>(key, kNoiseTag, VectorLanes::indices() + first, example,
                                  draw.sample, found);
        for (int word = 0; word < 4; ++word) {
          __builtin_memcpy(&words[word][lane], &found[word], sizeof(found[word]));
        }
      }
    }
    const int64_t vector = feature / kGroupBlocks;
    const uint32_t* word = words[feature / kSignRun % 4];
    const int bit = static_cast<int>(vector % 32);
    const uint32_t sign = parity_of_common(draw.row >> 4, static_cast<uint64_t>(vector)) << 31;
    for (int i = 0; i < kGroupBlocks; ++i) {
      const uint32_t flipped = (word[i] >> bit << 31) ^ pattern[i] ^ sign;
      to[i] = bit_cast<float>(flipped | 0x3f800000u);
    }
  }
}

}  // namespace
}  // namespace pyxai_fast
