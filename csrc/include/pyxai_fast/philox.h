// Philox4x32-10: random words as a function of a counter and a key, with no state.
//
// Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (2011), section 3.3.
#pragma once

#include "pyxai_fast/lanes.h"

namespace pyxai_fast {

// A seed, and the number of one use of it.
//
// Every random word of this library is a word of philox(counter, seed) with the counter
//
//   { block,  example,  sample,  stream | tag << 16 }
//
// so it depends on nothing else: not on chunks, threads, blocks of threads, instruction sets or
// devices. What `block` and the four words of its result stand for is the business of a family;
// `tag` keeps families apart that may be given the same key, and streams have 16 bits.
struct RandomKey {
  uint64_t seed;
  uint32_t stream;
};

// The families, as tags.
constexpr uint32_t kNoiseTag = 0;  // noise for every feature, by its distribution
constexpr uint32_t kKeepTag = 1;   // which features are perturbed at all
constexpr uint32_t kStickTag = 2;  // splits of stick-breaking paths; 2 + node, up to 0xffff

// A key as it lies in memory: two int64, of which only the low 16 bits of the second count.
PYXAI_FAST_INLINE RandomKey random_key(const int64_t* key) {
  return {static_cast<uint64_t>(key[0]), static_cast<uint32_t>(key[1]) & 0xffffu};
}

constexpr uint32_t kPhiloxM0 = 0xD2511F53, kPhiloxM1 = 0xCD9E8D57;  // multipliers
constexpr uint32_t kPhiloxW0 = 0x9E3779B9, kPhiloxW1 = 0xBB67AE85;  // golden ratio, sqrt(3) - 1

PYXAI_FAST_INLINE void philox_rounds(ScalarLanes, uint32_t c0, uint32_t c1, uint32_t c2,
                                     uint32_t c3, uint64_t seed, uint32_t* words) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#if defined(__CUDACC__)
#pragma unroll
#else
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kPhiloxM0} * c0, p1 = uint64_t{kPhiloxM1} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

// The four words of a counter. Vectors have philox_rounds of their own.
template <typename Lanes>
PYXAI_FAST_INLINE void philox(typename Lanes::Word c0, typename Lanes::Word c1,
                              typename Lanes::Word c2, typename Lanes::Word c3, uint64_t seed,
                              typename Lanes::Word* words) {
  philox_rounds(Lanes{}, c0, c1, c2, c3, seed, words);
}

}  // namespace pyxai_fast
