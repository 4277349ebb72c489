// Random words to numbers, and one standard normal for every feature.
#pragma once

#include "pyxai_fast/elementary.h"
#include "pyxai_fast/philox.h"

namespace pyxai_fast {

// In (0, 1], a multiple of 2^-24: the word's low 8 bits are ignored.
template <typename Lanes>
PYXAI_FAST_INLINE typename Lanes::Float uniform(typename Lanes::Word word) {
  return Lanes::to_float((typename Lanes::Int)((word >> 8) + 1u)) * 0x1p-24f;
}

// Two independent standard normals from two words: Box and Muller, "A Note on the Generation of
// Random Normal Deviates" (1958). At most sqrt(48 ln 2) = 5.77 in magnitude.
template <typename Lanes>
PYXAI_FAST_INLINE void box_muller(typename Lanes::Word a, typename Lanes::Word b,
                                  typename Lanes::Float& first, typename Lanes::Float& second) {
  using Float = typename Lanes::Float;
  const Float radius = Lanes::square_root(natural_log<Lanes>(uniform<Lanes>(a)) * -2.0f);
  cosine_and_sine_of_turn<Lanes>(b, first, second);
  first = radius * first;
  second = radius * second;
}

// Feature f has word (f / 16) % 4 of block f / 64 * 16 + f % 16: a run of 64 features is the four
// words of 16 neighbouring blocks, so vectors of 4, 8 or 16 lanes hold neighbouring features without
// moving anything, and so does a CUDA thread that takes 4 blocks.
constexpr int kGroup = 64;        // features of 16 blocks
constexpr int kGroupBlocks = 16;  // each with four words, for features 16 apart

PYXAI_FAST_INLINE uint32_t block_of(int64_t feature) {
  return static_cast<uint32_t>(feature / kGroup * kGroupBlocks + feature % kGroupBlocks);
}
PYXAI_FAST_INLINE int word_of(int64_t feature) {
  return static_cast<int>(feature / kGroupBlocks % 4);
}

// The four words of a block for one example and sample.
template <typename Lanes>
PYXAI_FAST_INLINE void random_words(RandomKey key, uint32_t tag, typename Lanes::Word block,
                                    uint32_t example, uint32_t sample,
                                    typename Lanes::Word* words) {
  philox<Lanes>(block, Lanes::broadcast(example), Lanes::broadcast(sample),
                Lanes::broadcast(key.stream | tag << 16), key.seed, words);
}

// The four normals of a block.
template <typename Lanes>
PYXAI_FAST_INLINE void random_normals(RandomKey key, uint32_t tag, typename Lanes::Word block,
                                      uint32_t example, uint32_t sample,
                                      typename Lanes::Float* normals) {
  typename Lanes::Word words[4];
  random_words<Lanes>(key, tag, block, example, sample, words);
  box_muller<Lanes>(words[0], words[1], normals[0], normals[1]);
  box_muller<Lanes>(words[2], words[3], normals[2], normals[3]);
}

}  // namespace pyxai_fast
