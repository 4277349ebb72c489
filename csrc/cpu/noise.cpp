#include "pyxai_fast/noise.h"

#include "draw.h"
#include "isa.h"
#include "stream.h"
#include "tiles.h"
#include "weighted_sum.h"

namespace pyxai_fast {
namespace {

// Blocks beyond which a table of all of them costs more than asking for one at a time.
constexpr int64_t kMostBlocksInTable = 32768;

// Features of a tile. Few where drawing takes its time, so that what is written to memory goes out
// while the next ones are drawn; signs are drawn by the two thousand.
constexpr int64_t kNoiseTile = 256;

PYXAI_FAST_INLINE int64_t tile_width(const NoiseArgs& noise) {
  const bool signs = noise.distribution == Distribution::kRademacher ||
                     noise.distribution == Distribution::kOrthogonal;
  return signs ? kTile : kNoiseTile;
}

PYXAI_FAST_INLINE int64_t groups_of(int64_t count) { return ceil_div(count, kGroup); }

// The noise of one tile of one example, sample after sample.
class NoiseTile {
 public:
  // Contiguous features have channels.count = features or channels.inner > 1.
  NoiseTile(const NoiseArgs& args, int64_t features, Channels channels)
      : args_(args), key_(random_key(args.key)), features_(features), channels_(channels) {
    pixels_ = channels.inner == 1 ? features / channels.count : 1;
    by_block_ = args.blocks != nullptr && (args.shared || args.keep_below < kAlways);
    if (by_block_ && args.block_count <= kMostBlocksInTable) {
      table_ = new float[2 * groups_of(args.block_count) * kGroup];
    }
  }
  ~NoiseTile() { delete[] table_; }
  NoiseTile(const NoiseTile&) = delete;
  NoiseTile& operator=(const NoiseTile&) = delete;

  void enter(Tile tile) {
    tile_ = tile;
    example_ = example_of(args_, tile.row);
    if (args_.blocks == nullptr) return;
    const int32_t* blocks = args_.blocks + tile.row * args_.block_row;
    for (int64_t i = 0; i < tile.count; ++i) {
      ids_[i] = blocks[feature_at(tile.begin + i) % args_.block_period];
    }
  }

  // Writes the noise of the tile, in the order of its memory, up to the next multiple of kGroup
  // features. The sign within a pair is left to the caller.
  Draw draw(int64_t sample, float* to) {
    const Draw draw = draw_of(args_, sample, features_);
    const bool one_block = args_.active != nullptr;
    const int32_t active = one_block ? args_.active[sample * args_.active_strides.row +
                                                    tile_.row * args_.active_strides.column]
                                     : 0;
    if (one_block && !holds(active)) {
      for (int64_t i = 0; i < tile_.count; ++i) to[i] = 0.0f;
      return draw;
    }
    if (args_.shared) {
      draw_blocks(draw, to);
    } else {
      in_memory_order(to, [&](int64_t group, int64_t groups, float* run) {
        draw_noise(draw, group, groups, run);
      });
    }
    if (args_.keep_below < kAlways) drop(draw, to);
    if (one_block) {
      for (int64_t i = 0; i < tile_.count; ++i) to[i] = ids_[i] == active ? to[i] : 0.0f;
    }
    return draw;
  }

  // Whether a sample has the noise of the one before it, but for the sign.
  bool repeats(int64_t sample) const {
    if (!args_.antithetic || ((args_.first_sample + sample) & 1) == 0) return false;
    if (args_.active == nullptr) return true;
    const int32_t* active = args_.active + tile_.row * args_.active_strides.column;
    const int64_t stride = args_.active_strides.row;
    return active[sample * stride] == active[(sample - 1) * stride];
  }

 private:
  // The logical feature at a place in memory.
  int64_t feature_at(int64_t place) const {
    return pixels_ == 1 ? place : place % channels_.count * pixels_ + place / channels_.count;
  }

  bool holds(int32_t block) const {
    bool found = false;
    for (int64_t i = 0; i < tile_.count; ++i) found |= ids_[i] == block;
    return found;
  }

  void draw_noise(const Draw& draw, int64_t group, int64_t groups, float* to) const {
    switch (args_.distribution) {
      case Distribution::kGaussian:
        return draw_normals(key_, kNoiseTag, example_, draw.sample, group, groups, to);
      case Distribution::kOnes:
        for (int64_t i = 0; i < groups * kGroup; ++i) to[i] = 1.0f;
        return;
      default:
        return draw_signs(key_, example_, draw, group, groups, to);
    }
  }

  // Calls `draw_groups` for runs of whole groups that hold the tile's features, channel by channel
  // in channels_last, and puts what it draws where the features lie in memory.
  template <typename DrawGroups>
  void in_memory_order(float* to, const DrawGroups& draw_groups) {
    if (pixels_ == 1) return draw_groups(tile_.begin / kGroup, groups_of(tile_.count), to);
    const int64_t channels = channels_.count;
    for (int64_t channel = 0; channel < channels; ++channel) {
      // The first of the tile's places that is of this channel, and how many there are.
      const int64_t skip = (channel - tile_.begin % channels + channels) % channels;
      if (skip >= tile_.count) continue;
      const int64_t count = ceil_div(tile_.count - skip, channels);
      const int64_t first = feature_at(tile_.begin + skip);
      const int64_t group = first / kGroup;
      draw_groups(group, groups_of(first + count - group * kGroup), run_);
      const float* from = run_ + (first - group * kGroup);
      for (int64_t i = 0; i < count; ++i) to[skip + i * channels] = from[i];
    }
  }

  // One value for each block.
  void draw_blocks(const Draw& draw, float* to) {
    if (table_ == nullptr) {
      for (int64_t i = 0; i < tile_.count; ++i) {
        to[i] = is_block(ids_[i]) ? noise_at(args_, key_, example_, draw, ids_[i]) : 0.0f;
      }
      return;
    }
    draw_noise(draw, 0, groups_of(args_.block_count), table_);
    for (int64_t i = 0; i < tile_.count; ++i) to[i] = is_block(ids_[i]) ? table_[ids_[i]] : 0.0f;
  }

  // Sets the noise of features, or whole blocks, that are not kept to zero.
  void drop(const Draw& draw, float* to) {
    if (!by_block_) {
      in_memory_order(kept_, [&](int64_t group, int64_t groups, float* run) {
        draw_kept(key_, args_.keep_below, example_, draw.pair, group, groups, run);
      });
      for (int64_t i = 0; i < tile_.count; ++i) to[i] = kept_[i] != 0.0f ? to[i] : 0.0f;
    } else if (table_ == nullptr) {
      for (int64_t i = 0; i < tile_.count; ++i) {
        to[i] = is_block(ids_[i]) && kept_at(args_, key_, example_, draw, ids_[i]) ? to[i] : 0.0f;
      }
    } else {
      const int64_t groups = groups_of(args_.block_count);
      float* kept = table_ + groups * kGroup;
      draw_kept(key_, args_.keep_below, example_, draw.pair, 0, groups, kept);
      for (int64_t i = 0; i < tile_.count; ++i) {
        to[i] = is_block(ids_[i]) && kept[ids_[i]] != 0.0f ? to[i] : 0.0f;
      }
    }
  }

  bool is_block(int32_t block) const { return block >= 0 && block < args_.block_count; }

  const NoiseArgs& args_;
  RandomKey key_;
  int64_t features_;
  Channels channels_;
  int64_t pixels_;  // 1 where features are contiguous
  bool by_block_;   // the table is of use
  Tile tile_{};
  uint32_t example_ = 0;
  float* table_ = nullptr;  // for every block, its noise; then whether it is kept
  int32_t ids_[kTile];
  alignas(64) float kept_[kTile];
  alignas(64) float run_[kTile + 2 * kGroup];
};

// --- perturb -------------------------------------------------------------------------------------

// A unit is a tile of one example and some of the samples: small inputs have few tiles.
constexpr int64_t kElementsPerUnit = 32768;

struct Units {
  int64_t width;    // of a tile
  int64_t samples;  // of a unit
  int64_t groups;   // of samples
};

PYXAI_FAST_INLINE Units units_of(const Perturb& args) {
  int64_t width = tile_width(args.noise);
  const int64_t channels = args.channels.count;
  if (args.channels.inner == 1 && channels < args.features) {
    // channels_last: whole groups of pixels, so that nothing is drawn in vain.
    const int64_t pixels = kTile / channels / kGroup * kGroup;
    width = pixels > 0 ? pixels * channels : kTile;
  }
  const int64_t samples = ceil_div(kElementsPerUnit, width < args.features ? width : args.features);
  return {width, samples, ceil_div(args.samples, samples)};
}

template <bool Ranged, bool Affine, typename Compute>
void write_points(const Compute* inputs, const Compute* step, const float* noise,
                  const Compute* scale, const Compute* shift, Compute low, Compute high,
                  bool reflect, int64_t count, Compute* points) {
  for (int64_t i = 0; i < count; ++i) {
    Compute point = inputs[i] + step[i] * static_cast<Compute>(noise[i]);
    if constexpr (Ranged) point = into_range(point, low, high, reflect);
    if constexpr (Affine) point = point * scale[i] + shift[i];
    points[i] = point;
  }
}

template <typename Storage, typename Point>
void perturb_units(const Perturb& args, int64_t begin, int64_t end) {
  using Compute = typename ComputeOf<Storage>::type;
  constexpr bool kDirect = __is_same(Compute, Point);
  alignas(64) Compute inputs[kTile];
  alignas(64) Compute step[2][kTile];  // of noise as it is drawn, and with the opposite sign
  alignas(64) Compute scale[kTile];
  alignas(64) Compute shift[kTile];
  alignas(64) Compute computed[kTile];
  alignas(64) Point narrowed[kTile];
  alignas(64) float drawn[kTile];
  const Units units = units_of(args);
  const Compute low = static_cast<Compute>(args.low), high = static_cast<Compute>(args.high);
  const bool ranged = low != static_cast<Compute>(-__builtin_inf()) ||
                      high != static_cast<Compute>(__builtin_inf());
  const bool affine = args.scale != nullptr;
  const int64_t bytes = args.samples * args.batch * args.features * size_of(args.point_dtype);
  const bool streamed = bytes >= kStreamedBytes;
  const auto write =
      ranged
          ? (affine ? &write_points<true, true, Compute> : &write_points<true, false, Compute>)
          : (affine ? &write_points<false, true, Compute> : &write_points<false, false, Compute>);
  NoiseTile noise(args.noise, args.features, args.channels);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Tile tile = tile_of(unit / units.groups, args.features, units.width);
    const int64_t first = tile.row * args.features + tile.begin;
    load_run(static_cast<const Storage*>(args.inputs) + first, inputs, tile.count);
    const auto sigma = static_cast<Compute>(args.sigma[tile.row * args.sigma_stride]);
    if (args.mask != nullptr) {
      load_rows<Storage>(args.mask, args.mask_strides, tile, step[0]);
      for (int64_t i = 0; i < tile.count; ++i) step[0][i] = sigma * step[0][i];
    } else {
      for (int64_t i = 0; i < tile.count; ++i) step[0][i] = sigma;
    }
    for (int64_t i = 0; i < tile.count; ++i) step[1][i] = -step[0][i];
    if (affine) {
      spread_channels(args.scale, args.channels, tile, scale);
      spread_channels(args.shift, args.channels, tile, shift);
    }
    noise.enter(tile);
    const int64_t from = unit % units.groups * units.samples;
    const int64_t to = from + units.samples < args.samples ? from + units.samples : args.samples;
    for (int64_t sample = from; sample < to; ++sample) {
      // The second of a pair is written with what was drawn for the first.
      const bool again = sample > from && noise.repeats(sample);
      const Draw draw =
          again ? draw_of(args.noise, sample, args.features) : noise.draw(sample, drawn);
      Point* out = static_cast<Point*>(args.points) + sample * args.batch * args.features + first;
      Point* const target = streamed ? narrowed : out;
      Compute* points;
      if constexpr (kDirect) {
        points = target;
      } else {
        points = computed;
      }
      write(inputs, step[draw.negated], drawn, scale, shift, low, high, args.reflect, tile.count,
            points);
      if constexpr (!kDirect) store_run(computed, target, tile.count);
      if (streamed) stream(narrowed, out, tile.count * static_cast<int64_t>(sizeof(Point)));
    }
  }
  if (streamed) stream_end();
}

// --- noise_contract ------------------------------------------------------------------------------

// Samples added in one pass over a tile's sums: their noise stays in a first-level cache.
constexpr int kSamplesPerPass = 4;

template <int Samples>
PYXAI_FAST_INLINE void add_samples(const NoiseContract& args, NoiseTile& noise, Tile tile,
                                   int64_t sample, float* drawn, double* total) {
  double signs[Samples];
  for (int s = 0; s < Samples; ++s) {
    const Draw draw = noise.draw(sample + s, drawn + s * kTile);
    signs[s] = draw.negated != 0 ? -1.0 : 1.0;
  }
  const double* weights = args.weights + (tile.row * args.samples + sample) * args.targets;
  for (int64_t target = 0; target < args.targets; ++target) {
    double pass[Samples];
    for (int s = 0; s < Samples; ++s) pass[s] = weights[s * args.targets + target];
    double* sums = total + target * args.features;
    if (args.squared) {
      for (int64_t i = 0; i < tile.count; ++i) {
        double sum = sums[i];
        for (int s = 0; s < Samples; ++s) {
          const auto value = static_cast<double>(drawn[s * kTile + i]);
          sum += pass[s] * (value * value);
        }
        sums[i] = sum;
      }
    } else {
      for (int s = 0; s < Samples; ++s) pass[s] *= signs[s];
      add_steps<Samples>(drawn, kTile, pass, tile.count, sums);
    }
  }
}

}  // namespace

namespace PYXAI_FAST_ISA_NAMESPACE {

void run_cpu(const Perturb& args, int64_t begin, int64_t end) {
  if (begin >= end) return;
  with_dtype(args.dtype, [&](auto storage) {
    with_dtype(args.point_dtype, [&](auto point) {
      perturb_units<decltype(storage), decltype(point)>(args, begin, end);
    });
  });
}

void run_cpu(const NoiseContract& args, int64_t begin, int64_t end) {
  alignas(64) float drawn[kSamplesPerPass * kTile];
  const int64_t width = tile_width(args.noise);
  NoiseTile noise(args.noise, args.features, {args.features, 1});
  for (int64_t unit = begin; unit < end; ++unit) {
    const Tile tile = tile_of(unit, args.features, width);
    noise.enter(tile);
    double* total = args.total + tile.row * args.targets * args.features + tile.begin;
    int64_t sample = 0;
    for (; sample + kSamplesPerPass <= args.samples; sample += kSamplesPerPass) {
      add_samples<kSamplesPerPass>(args, noise, tile, sample, drawn, total);
    }
    for (; sample < args.samples; ++sample) {
      add_samples<1>(args, noise, tile, sample, drawn, total);
    }
  }
}

}  // namespace PYXAI_FAST_ISA_NAMESPACE

#if defined(PYXAI_FAST_ISA_BASELINE)

Work work_of(const Perturb& args) {
  if (args.samples * args.batch * args.features == 0) return {0, 1};
  const Units units = units_of(args);
  const int64_t samples = args.samples < units.samples ? args.samples : units.samples;
  const int64_t width = args.features < units.width ? args.features : units.width;
  return {args.batch * ceil_div(args.features, units.width) * units.groups,
          ceil_div(kElementsPerUnit / 4, samples * width)};
}

Work work_of(const NoiseContract& args) {
  if (args.samples * args.batch * args.features == 0) return {0, 1};
  const int64_t tile = tile_width(args.noise);
  const int64_t width = args.features < tile ? args.features : tile;
  return {args.batch * ceil_div(args.features, tile),
          ceil_div(kElementsPerUnit / 4, args.samples * width)};
}

PYXAI_FAST_DEFINE_BY_ISA(Perturb)
PYXAI_FAST_DEFINE_BY_ISA(NoiseContract)

#endif

}  // namespace pyxai_fast
