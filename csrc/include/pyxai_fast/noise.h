// The noise family: noisy copies of inputs as model inputs, and answers contracted with the noise.
//
//   perturb         point[k, b, f] = inputs[b, f] + sigma[b] * mask[b, f] * noise[k, b, f]
//                   points         = into_range(point[k, b, f]) * scale[c] + shift[c]
//   noise_contract  total[b, n, f] = sum over k of weights[b, k, n] * noise[k, b, f] ^ power
//
// The noise is never stored: a value depends on the key, the example, the sample and the feature,
// and is drawn again where it is needed. With Gaussian noise the second op is the score-function
// estimate of a gradient from answers to the first: Stein's lemma, E[s(x + sigma z) z] / sigma.
#pragma once

#include "pyxai_fast/dtype.h"
#include "pyxai_fast/layout.h"
#include "pyxai_fast/normal.h"

namespace pyxai_fast {

enum class Distribution : int {
  kGaussian,
  kRademacher,  // +1 or -1, equally likely
  kOrthogonal,  // rows of a Hadamard matrix whose columns have Rademacher signs
  kOnes,        // no noise: what is left is which features are kept
};

// What is drawn. Features are counted in logical order (channels, height, width), whatever the
// memory format, so both formats get the same noise.
struct NoiseArgs {
  const int64_t* key;       // [2]: seed and stream
  const int64_t* examples;  // [batch]: the numbers of the examples, or null: 0, 1, ...
  const int32_t*
      blocks;  // block of feature f of example b: blocks[b * block_row + f % block_period]
  const int32_t* active;  // [samples, batch] through strides: the only block perturbed; or null
  int64_t first_sample;   // the number of sample 0
  int64_t block_row;
  int64_t block_period;
  int64_t block_count;
  Strides2 active_strides;
  uint64_t keep_below;  // a feature (or block) is perturbed if its word is less: 2^32 for always
  Distribution distribution;
  bool antithetic;  // samples 2 j and 2 j + 1 have the same noise with opposite signs
  bool shared;      // one value for all features of a block
};

// Arguments of perturb. `inputs`, `mask` and `points` have the same memory order.
struct Perturb {
  static constexpr const char* kName = "perturb";
  const void* inputs;   // [batch, features], dtype
  const double* sigma;  // [batch] or one number, by sigma_stride
  const void* mask;     // [batch, features] through mask_strides, dtype; or null
  const double* scale;  // [channels] or null
  const double* shift;  // [channels] or null (null together with scale)
  void* points;         // [samples, batch, features], point_dtype
  NoiseArgs noise;
  int64_t samples;
  int64_t batch;
  int64_t features;
  int64_t sigma_stride;
  Strides2 mask_strides;
  Channels channels;  // of a feature's place in memory
  double low;         // the range of points before the affine map: -inf and inf for any
  double high;
  DType dtype;
  DType point_dtype;
  bool reflect;  // points outside of the range are mirrored at its ends, else set to them
};

// Arguments of noise_contract. Sums are double, added in the order of the samples, so any split of
// the samples over calls that continue the same `total` gives the same bits.
struct NoiseContract {
  static constexpr const char* kName = "noise_contract";
  const double* weights;  // [batch, samples, targets]
  double* total;          // [batch, targets, features], added to
  NoiseArgs noise;
  int64_t samples;
  int64_t batch;
  int64_t features;
  int64_t targets;
  bool squared;  // contract with the squares of the noise
};

// The draw that a sample uses: pairs share one with opposite signs.
struct Draw {
  uint32_t sample;   // the counter's, for values
  uint32_t pair;     // the counter's, for what is kept
  uint64_t row;      // of the Hadamard matrix
  uint32_t negated;  // 1 or 0
};

// The Hadamard matrix has as many rows as the smallest power of two that holds all features, or all
// blocks that share a value; after its last row the signs of its columns are drawn anew.
PYXAI_FAST_INLINE Draw draw_of(const NoiseArgs& noise, int64_t sample, int64_t features) {
  const int64_t number = noise.first_sample + sample;
  const int64_t pair = noise.antithetic ? number >> 1 : number;
  const uint32_t negated = noise.antithetic ? static_cast<uint32_t>(number & 1) : 0u;
  if (noise.distribution != Distribution::kOrthogonal) {
    return {static_cast<uint32_t>(pair), static_cast<uint32_t>(pair), 0, negated};
  }
  const int64_t columns = noise.shared ? noise.block_count : features;
  int bits = 0;
  while ((int64_t{1} << bits) < columns) ++bits;
  const int64_t rows = int64_t{1} << bits;
  return {static_cast<uint32_t>(pair >> bits), static_cast<uint32_t>(pair),
          static_cast<uint64_t>(pair & (rows - 1)), negated};
}

PYXAI_FAST_INLINE uint32_t example_of(const NoiseArgs& noise, int64_t row) {
  return static_cast<uint32_t>(noise.examples == nullptr ? row : noise.examples[row]);
}

// Signs take one bit each: feature f has bit (f / 16) % 32 of word (f / 512) % 4 of block
// f / 2048 * 16 + f % 16, so that here too neighbouring lanes hold neighbouring features.
constexpr int kSignRun = 512;     // features of one word of 16 blocks
constexpr int kSignGroup = 2048;  // features of 16 blocks

// 1 where the number of common ones of two words is odd.
PYXAI_FAST_INLINE uint32_t parity_of_common(uint64_t a, uint64_t b) {
  uint64_t common = a & b;
  common ^= common >> 32;
  common ^= common >> 16;
  common ^= common >> 8;
  common ^= common >> 4;
  return 0x6996u >> (common & 15u) & 1u;
}

// One value of the noise, before its sign within a pair: the slow way, for any index at all.
PYXAI_FAST_INLINE float noise_at(const NoiseArgs& noise, RandomKey key, uint32_t example,
                                 const Draw& draw, int64_t index) {
  if (noise.distribution == Distribution::kOnes) return 1.0f;
  if (noise.distribution == Distribution::kGaussian) {
    float normals[4];
    random_normals<ScalarLanes>(key, kNoiseTag, block_of(index), example, draw.sample, normals);
    return normals[word_of(index)];
  }
  uint32_t words[4];
  const uint32_t block =
      static_cast<uint32_t>(index / kSignGroup * kGroupBlocks + index % kGroupBlocks);
  random_words<ScalarLanes>(key, kNoiseTag, block, example, draw.sample, words);
  const uint32_t bit = words[index / kSignRun % 4] >> (index / kGroupBlocks % 32) & 1u;
  const uint32_t sign = bit ^ parity_of_common(draw.row, static_cast<uint64_t>(index));
  return sign != 0 ? -1.0f : 1.0f;
}

// Whether a feature (or block) is perturbed, where only a share of them is.
PYXAI_FAST_INLINE bool kept_at(const NoiseArgs& noise, RandomKey key, uint32_t example,
                               const Draw& draw, int64_t index) {
  uint32_t words[4];
  random_words<ScalarLanes>(key, kKeepTag, block_of(index), example, draw.pair, words);
  return words[word_of(index)] < noise.keep_below;
}

constexpr uint64_t kAlways = uint64_t{1} << 32;

// NaN stays NaN.
template <typename T>
PYXAI_FAST_INLINE T into_range(T value, T low, T high, bool reflect) {
  if (reflect) {
    value = value < low ? low + low - value : value;
    value = value > high ? high + high - value : value;
  }
  value = value < low ? low : value;
  return value > high ? high : value;
}

PYXAI_FAST_API Work work_of(const Perturb& args);
PYXAI_FAST_API void run_cpu(const Perturb& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const Perturb& args, void* stream);

PYXAI_FAST_API Work work_of(const NoiseContract& args);
PYXAI_FAST_API void run_cpu(const NoiseContract& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const NoiseContract& args, void* stream);

}  // namespace pyxai_fast
