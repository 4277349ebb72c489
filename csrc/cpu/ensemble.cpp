#include "pyxai_fast/ensemble.h"

#include "draw.h"
#include "isa.h"
#include "products.h"
#include "tiles.h"

namespace pyxai_fast {
namespace {

// --- ensemble_contract ---------------------------------------------------------------------------

// Vectors of doubles, and the elements of memory that one of them is made of.
constexpr int kDoubles = kLanes / 2;
typedef double Doubles __attribute__((vector_size(8 * kDoubles)));
typedef float Floats __attribute__((vector_size(4 * kDoubles)));

PYXAI_FAST_INLINE Floats load_vector(const float* from) {
  Floats values;
  __builtin_memcpy(&values, from, sizeof(values));
  return values;
}

PYXAI_FAST_INLINE Doubles load_vector(const double* from) {
  Doubles values;
  __builtin_memcpy(&values, from, sizeof(values));
  return values;
}

PYXAI_FAST_INLINE Floats load_vector(const BFloat16* from) {
  typedef uint16_t Halves __attribute__((vector_size(2 * kDoubles)));
  typedef uint32_t Words __attribute__((vector_size(4 * kDoubles)));
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof(halves));
  return (Floats)(__builtin_convertvector(halves, Words) << 16);
}

PYXAI_FAST_INLINE Floats load_vector(const Float16* from) {
#if defined(PYXAI_FAST_ISA_AVX512)
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(PYXAI_FAST_ISA_AVX2)
  return (Floats)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
  Floats values;
  for (int i = 0; i < kDoubles; ++i) values[i] = widen(from[i]);
  return values;
#endif
}

// One instruction each: GCC 12 converts in halves, and puts them together.
PYXAI_FAST_INLINE Doubles as_doubles(Floats values) {
#if defined(PYXAI_FAST_ISA_AVX512)
  return (Doubles)_mm512_maskz_cvtps_pd(0xff, (__m256)values);
#elif defined(PYXAI_FAST_ISA_AVX2)
  return (Doubles)_mm256_cvtps_pd((__m128)values);
#else
  return __builtin_convertvector(values, Doubles);
#endif
}
PYXAI_FAST_INLINE Doubles as_doubles(Doubles values) { return values; }
PYXAI_FAST_INLINE double as_doubles(double value) { return value; }
PYXAI_FAST_INLINE double as_doubles(float value) { return static_cast<double>(value); }

// add_product of numbers or vectors.
template <typename Float>
PYXAI_FAST_INLINE double plus_product(double a, double b, double sum) {
  return add_product<Float>(a, b, sum);
}

template <typename Float>
PYXAI_FAST_INLINE Doubles plus_product(Doubles a, Doubles b, Doubles sum) {
#if defined(PYXAI_FAST_ISA_AVX512)
  if constexpr (sizeof(Float) == sizeof(float)) {
    return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)sum);
  }
#endif
  return a * b + sum;
}

// How memory is read: vectors of features, or the last few one by one.
struct ByVector {
  using Sum = Doubles;
  static constexpr int kWidth = kDoubles;
  template <typename Storage>
  static PYXAI_FAST_INLINE auto load(const Storage* from) {
    return load_vector(from);
  }
  static PYXAI_FAST_INLINE Sum broadcast(double value) { return value - Sum{}; }
};

struct ByOne {
  using Sum = double;
  static constexpr int kWidth = 1;
  template <typename Storage>
  static PYXAI_FAST_INLINE auto load(const Storage* from) {
    return widen(*from);
  }
  static PYXAI_FAST_INLINE Sum broadcast(double value) { return value; }
};

// Columns that go with the sums of one pass over the particles, and vectors of features that sums
// are kept of in registers.
#if defined(PYXAI_FAST_ISA_AVX512)
constexpr int kColumns = 10, kFewVectors = 2, kManyVectors = 8;
#else
constexpr int kColumns = 4, kFewVectors = 2, kManyVectors = 4;
#endif
constexpr int kFewColumns = 3;

template <typename Storage>
struct Contraction {
  using Compute = typename ComputeOf<Storage>::type;

  const EnsembleContract& args;
  Tile tile;
  alignas(64) Compute center[kTile];

  // One pass over the particles for some features of the tile, from `at` on.
  template <typename By, int Columns, int Vectors, bool Moments>
  PYXAI_FAST_INLINE void pass(int64_t at, int64_t column) {
    using Sum = typename By::Sum;
    constexpr int kWidth = By::kWidth;
    constexpr int kSize = Vectors * kWidth;
    const int64_t stride = args.features;
    const int64_t feature = tile.begin + at;
    const Storage* particle =
        static_cast<const Storage*>(args.particles) + tile.row * args.count * stride + feature;
    const double* weights = args.weights + (tile.row * args.columns + column) * args.count;
    Sum sum[Vectors] = {}, squares[Vectors] = {}, total[Columns > 0 ? Columns : 1][Vectors] = {};
    for (int64_t k = 0; k < args.count; ++k, particle += stride) {
      const auto difference = [&](int v) {
        return as_doubles(By::load(particle + v * kWidth) - By::load(center + at + v * kWidth));
      };
      const auto add_moments = [&](int v, Sum d) {
        if constexpr (Moments) {
          sum[v] += d;
          squares[v] = plus_product<Compute>(d, d, squares[v]);
        }
      };
      if constexpr (Columns <= 1) {  // sums take most registers: one difference at a time
        const Sum weight = Columns == 0 ? Sum{} : By::broadcast(weights[k]);
#pragma GCC unroll 16
        for (int v = 0; v < Vectors; ++v) {
          const Sum d = difference(v);
          add_moments(v, d);
          if constexpr (Columns == 1) total[0][v] = plus_product<Compute>(weight, d, total[0][v]);
        }
      } else {  // or every weight once
        Sum d[Vectors];
#pragma GCC unroll 16
        for (int v = 0; v < Vectors; ++v) {
          d[v] = difference(v);
          add_moments(v, d[v]);
        }
#pragma GCC unroll 16
        for (int c = 0; c < Columns; ++c) {
          const Sum weight = By::broadcast(weights[c * args.count + k]);
#pragma GCC unroll 16
          for (int v = 0; v < Vectors; ++v) {
            total[c][v] = plus_product<Compute>(weight, d[v], total[c][v]);
          }
        }
      }
    }
    alignas(64) double first[kSize], second[kSize];
#pragma GCC unroll 16
    for (int c = 0; c < Columns; ++c) {
      __builtin_memcpy(first, total[c], sizeof(first));
      store_run(first,
                static_cast<Compute*>(args.contraction) +
                    (tile.row * args.columns + column + c) * stride + feature,
                kSize);
    }
    if constexpr (Moments) {
      const double count = static_cast<double>(args.count);
      __builtin_memcpy(first, sum, sizeof(first));
      __builtin_memcpy(second, squares, sizeof(second));
      for (int i = 0; i < kSize; ++i) second[i] = variance_of(first[i], second[i], count);
      const int64_t to = tile.row * stride + feature;
      store_run(second, static_cast<Compute*>(args.variance) + to, kSize);
      if (args.mean == nullptr) return;
      for (int i = 0; i < kSize; ++i) {
        first[i] = static_cast<double>(center[at + i]) + first[i] / count;
      }
      store_run(first, static_cast<Compute*>(args.mean) + to, kSize);
    }
  }

  // All columns, for features from `at` on: as many as one pass has.
  template <typename By, int Vectors>
  PYXAI_FAST_INLINE void all_columns(int64_t at) {
    if (args.columns == 0) return pass<By, 0, Vectors, true>(at, 0);
    if (args.columns == 1) return pass<By, 1, Vectors, true>(at, 0);
    constexpr int kVectors = Vectors < kFewVectors ? Vectors : kFewVectors;
    static_assert(Vectors % kVectors == 0, "whole passes");
    for (int v = 0; v < Vectors; v += kVectors, at += kVectors * By::kWidth) {
      int64_t column = 0;
      if (args.columns >= kColumns) {
        pass<By, kColumns, kVectors, true>(at, 0);
        column = kColumns;
      } else {
        pass<By, 1, kVectors, true>(at, 0);
        column = 1;
      }
      for (; column + kColumns <= args.columns; column += kColumns) {
        pass<By, kColumns, kVectors, false>(at, column);
      }
      for (; column + kFewColumns <= args.columns; column += kFewColumns) {
        pass<By, kFewColumns, kVectors, false>(at, column);
      }
      for (; column < args.columns; ++column) pass<By, 1, kVectors, false>(at, column);
    }
  }

  void run() {
    if (args.center == nullptr) {
      const Storage* first = static_cast<const Storage*>(args.particles) +
                             tile.row * args.count * args.features + tile.begin;
      load_run(first, center, tile.count);
    } else {
      load_rows<Compute>(args.center, args.center_strides, tile, center);
    }
    int64_t at = 0;
    for (; at + kManyVectors * kDoubles <= tile.count; at += kManyVectors * kDoubles) {
      all_columns<ByVector, kManyVectors>(at);
    }
    for (; at + kDoubles <= tile.count; at += kDoubles) all_columns<ByVector, 1>(at);
    // The last vector may lie over the one before: it writes the same once more.
    if (at < tile.count && tile.count >= kDoubles) {
      return all_columns<ByVector, 1>(tile.count - kDoubles);
    }
    for (; at < tile.count; ++at) all_columns<ByOne, 1>(at);
  }
};

template <typename Storage>
void contract_units(const EnsembleContract& args, int64_t begin, int64_t end) {
  Contraction<Storage> contraction{args, {}, {}};
  for (int64_t unit = begin; unit < end; ++unit) {
    contraction.tile = tile_of(unit, args.features);
    contraction.run();
  }
}

// --- ensemble_transform --------------------------------------------------------------------------

// Centred particles of a tile take half of a first-level cache, or, of many particles, some of the
// second level: every one of them serves kRows rows for each time it is read.
constexpr int64_t kCentredBytes = 24576;
constexpr int64_t kParticlesAtOnce = 256;

// Features of a tile.
constexpr int64_t transform_width(int64_t count, int64_t size) {
  const int64_t fitting = kCentredBytes / (count > 0 ? count : 1) / kStepBytes * kStepBytes / size;
  return fitting < kStepBytes / size ? kStepBytes / size : fitting < kTile ? fitting : kTile;
}

template <typename Storage>
void transform_units(const EnsembleTransform& args, int64_t begin, int64_t end) {
  using Compute = typename ComputeOf<Storage>::type;
  alignas(64) Compute centred[kParticlesAtOnce * kStepFeatures<Compute>];
  alignas(64) Compute center[kTile], taper[kTile], sums[kRows * kTile], old[kTile];
  const int64_t width = transform_width(args.count, sizeof(Compute));
  const int64_t at_once = args.count < kParticlesAtOnce ? args.count : kParticlesAtOnce;
  for (int64_t unit = begin; unit < end; ++unit) {
    const Tile tile = tile_of(unit, args.features, width);
    const int64_t whole = ceil_div(tile.count, kStep<Compute>) * kStep<Compute>;
    const int64_t first = tile.row * args.count * args.features + tile.begin;
    const Storage* particles = static_cast<const Storage*>(args.particles) + first;
    const Compute* matrix =
        static_cast<const Compute*>(args.matrix) + tile.row * args.count * args.count;
    if (args.center == nullptr) {
      load_run(particles, center, tile.count);
    } else {
      load_rows<Compute>(args.center, args.center_strides, tile, center);
    }
    if (args.taper != nullptr) load_rows<Compute>(args.taper, args.taper_strides, tile, taper);
    const auto centre = [&](int64_t from, int64_t count) {
      for (int64_t j = 0; j < count; ++j) {
        Compute* row = centred + j * width;
        load_run(particles + (from + j) * args.features, row, tile.count);
        for (int64_t i = 0; i < tile.count; ++i) row[i] -= center[i];
        for (int64_t i = tile.count; i < whole; ++i) row[i] = Compute(0);
      }
    };
    if (at_once == args.count) centre(0, args.count);
    for (int64_t i = 0; i < args.count; i += kRows) {
      const int rows = static_cast<int>(args.count - i < kRows ? args.count - i : kRows);
      for (int64_t j = 0; j < args.count; j += at_once) {
        const int64_t count = args.count - j < at_once ? args.count - j : at_once;
        if (at_once != args.count) centre(j, count);
        const Compute* coefficients = matrix + i * args.count + j;
        for (int64_t f = 0; f < whole; f += kStep<Compute>) {
          multiply(coefficients, {args.count, 1}, rows, centred + f, width, count, j > 0, sums + f,
                   kTile);
        }
      }
      for (int r = 0; r < rows; ++r) {
        Compute* sum = sums + r * kTile;
        if (args.taper != nullptr) {
          for (int64_t f = 0; f < tile.count; ++f) sum[f] *= taper[f];
        }
        if (args.add_particles) {
          load_run(particles + (i + r) * args.features, old, tile.count);
          for (int64_t f = 0; f < tile.count; ++f) sum[f] = old[f] + sum[f];
        }
        store_run(sum, static_cast<Storage*>(args.out) + first + (i + r) * args.features,
                  tile.count);
      }
    }
  }
}

// --- guided_step ---------------------------------------------------------------------------------

// A tile of one particle's arrays, in Float.
template <typename Storage>
struct GuidedTile {
  using Compute = typename ComputeOf<Storage>::type;
  alignas(64) Compute noise[kNormTile];  // the predicted noise
  alignas(64) Compute guide[kNormTile];  // guide - center
  alignas(64) Compute away[kNormTile];   // denoised - origin
  alignas(64) Compute denoised[kNormTile];
  alignas(64) Compute row[kNormTile];

  void load(const GuidedArrays& args, int64_t particle, int64_t begin, int64_t count, bool guided) {
    const int64_t first = particle * args.features + begin;
    load_run(static_cast<const Storage*>(args.noise_pred) + first, noise, count);
    load_run(static_cast<const Storage*>(args.denoised) + first, denoised, count);
    if (!guided) return;
    const Tile tile{particle / args.count, begin, count};
    load_run(static_cast<const Storage*>(args.guide) + first, guide, count);
    load_rows<Compute>(args.center, args.center_strides, tile, row);
    for (int64_t i = 0; i < count; ++i) guide[i] -= row[i];
    load_rows<Compute>(args.origin, args.origin_strides, tile, row);
    for (int64_t i = 0; i < count; ++i) away[i] = denoised[i] - row[i];
  }
};

// The first lane of lanes folded in halves.
PYXAI_FAST_INLINE double folded(double* lanes) {
#pragma GCC unroll 5
  for (int half = kNormLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

template <typename Compute>
PYXAI_FAST_INLINE double sum_of_squares(const Compute* values, int64_t count) {
  alignas(64) double lanes[kNormLanes] = {};
  int64_t i = 0;
  for (; i + kNormLanes <= count; i += kNormLanes) {
    for (int l = 0; l < kNormLanes; ++l) {
      const double value = static_cast<double>(values[i + l]);
      lanes[l] = add_product<Compute>(value, value, lanes[l]);
    }
  }
  for (int l = 0; i + l < count; ++l) {
    const double value = static_cast<double>(values[i + l]);
    lanes[l] = add_product<Compute>(value, value, lanes[l]);
  }
  return folded(lanes);
}

template <typename Storage>
void norms_of_units(const GuidedNorms& args, int64_t begin, int64_t end) {
  using Compute = typename ComputeOf<Storage>::type;
  GuidedTile<Storage> tile;
  const int64_t features = args.arrays.features;
  for (int64_t particle = begin; particle < end; ++particle) {
    double noise = 0.0, guide = 0.0, signs = 0.0;
    for (int64_t at = 0; at < features; at += kNormTile) {
      const int64_t count = features - at < kNormTile ? features - at : kNormTile;
      tile.load(args.arrays, particle, at, count, true);
      noise += sum_of_squares(tile.noise, count);
      guide += sum_of_squares(tile.guide, count);
      int unequal = 0;
      for (int64_t i = 0; i < count; ++i) unequal += sign_of(tile.away[i]) != Compute(0) ? 1 : 0;
      signs += static_cast<double>(unequal);
    }
    const double weight =
        args.weights == nullptr
            ? 1.0
            : static_cast<double>(static_cast<const Compute*>(args.weights)[particle]);
    guided_factors(noise, guide, signs, weight, args.guidance, args.proximity,
                   args.factors + 2 * particle);
  }
}

// Normals are drawn for this many features at once. In channels_last order they are runs of every
// channel, which begin and end inside groups: the longer the runs, the fewer drawn in vain.
constexpr int64_t kNoiseTile = 4096;

// The normals of features [begin, begin + count) in memory order.
PYXAI_FAST_INLINE void noise_of(const GuidedStep& args, int64_t particle, int64_t begin,
                                int64_t count, float* noise) {
  const RandomKey key = random_key(args.key);
  const auto example = static_cast<uint32_t>(particle / args.arrays.count);
  const auto sample = static_cast<uint32_t>(particle % args.arrays.count);
  if (args.channels.count == 1) {  // tiles are whole groups
    return draw_normals(key, kNoiseTag, example, sample, begin / kGroup, ceil_div(count, kGroup),
                        noise);
  }
  const int64_t channels = args.channels.count;
  const int64_t pixels = args.arrays.features / channels;
  alignas(64) float drawn[kGroup];
  for (int64_t channel = 0; channel < channels; ++channel) {
    // Pixels of this channel in the tile: those p with begin <= p * channels + channel < begin + count.
    int64_t p = begin <= channel ? 0 : ceil_div(begin - channel, channels);
    const int64_t limit = begin + count - channel;
    const int64_t end = limit <= 0 ? 0 : ceil_div(limit, channels);
    while (p < end) {
      const int64_t feature = channel * pixels + p;
      const int64_t group = feature / kGroup;
      const int64_t skipped = feature - group * kGroup;
      const int64_t left = end - p;
      const int64_t run = left < kGroup - skipped ? left : kGroup - skipped;
      draw_normals(key, kNoiseTag, example, sample, group, 1, drawn);
      float* to = noise + p * channels + channel - begin;
      for (int64_t i = 0; i < run; ++i) to[i * channels] = drawn[skipped + i];
      p += run;
    }
  }
}

template <typename Storage>
void step_units(const GuidedStep& args, int64_t begin, int64_t end) {
  using Compute = typename ComputeOf<Storage>::type;
  GuidedTile<Storage> tile;
  alignas(64) float drawn[kNoiseTile];
  const int64_t features = args.arrays.features;
  const int64_t per_row = ceil_div(features, kNoiseTile);
  const Compute signal = static_cast<Compute>(args.signal);
  const Compute scale = static_cast<Compute>(args.noise);
  const Compute direction = static_cast<Compute>(args.direction);
  const bool guided = args.factors != nullptr;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t particle = unit / per_row;
    const int64_t from = unit % per_row * kNoiseTile;
    const int64_t to = features - from < kNoiseTile ? features : from + kNoiseTile;
    if (args.key != nullptr) noise_of(args, particle, from, to - from, drawn);
    Compute guidance = 0, proximity = 0;
    if (guided) {
      guidance = static_cast<Compute>(args.factors[2 * particle]);
      proximity = static_cast<Compute>(args.factors[2 * particle + 1]);
    }
    for (int64_t at = from; at < to; at += kNormTile) {
      const int64_t count = to - at < kNormTile ? to - at : kNormTile;
      tile.load(args.arrays, particle, at, count, guided);
      Compute* next = tile.denoised;
      for (int64_t i = 0; i < count; ++i) next[i] = signal * next[i];
      if (args.key != nullptr) {
        const float* z = drawn + (at - from);
        for (int64_t i = 0; i < count; ++i) next[i] += scale * static_cast<Compute>(z[i]);
      }
      for (int64_t i = 0; i < count; ++i) next[i] += direction * tile.noise[i];
      if (guided) {
        for (int64_t i = 0; i < count; ++i) {
          next[i] += guidance * tile.guide[i] - proximity * sign_of(tile.away[i]);
        }
      }
      store_run(next, static_cast<Storage*>(args.out) + particle * features + at, count);
    }
  }
}

}  // namespace

namespace PYXAI_FAST_ISA_NAMESPACE {

void run_cpu(const EnsembleContract& args, int64_t begin, int64_t end) {
  with_dtype(args.dtype,
             [&](auto storage) { contract_units<decltype(storage)>(args, begin, end); });
}

void run_cpu(const EnsembleTransform& args, int64_t begin, int64_t end) {
  with_dtype(args.dtype,
             [&](auto storage) { transform_units<decltype(storage)>(args, begin, end); });
}

void run_cpu(const GuidedNorms& args, int64_t begin, int64_t end) {
  with_dtype(args.arrays.dtype,
             [&](auto storage) { norms_of_units<decltype(storage)>(args, begin, end); });
}

void run_cpu(const GuidedStep& args, int64_t begin, int64_t end) {
  with_dtype(args.arrays.dtype,
             [&](auto storage) { step_units<decltype(storage)>(args, begin, end); });
}

}  // namespace PYXAI_FAST_ISA_NAMESPACE

#if defined(PYXAI_FAST_ISA_BASELINE)

namespace {

// `units` that go through `elements` of memory each.
Work evenly(int64_t units, int64_t elements) {
  return {units, elements > 0 ? ceil_div(kElementsPerThread, elements) : 1};
}

}  // namespace

Work work_of(const EnsembleContract& args) {
  return evenly(args.batch * ceil_div(args.features, kTile),
                args.count * (args.features < kTile ? args.features : kTile));
}

Work work_of(const EnsembleTransform& args) {
  const int64_t size = args.dtype == DType::kFloat64 ? 8 : 4;
  const int64_t width = transform_width(args.count, size);
  return evenly(args.batch * ceil_div(args.features, width),
                args.count * (args.features < width ? args.features : width));
}

Work work_of(const GuidedNorms& args) {
  return evenly(args.arrays.batch * args.arrays.count, 2 * args.arrays.features);
}

Work work_of(const GuidedStep& args) {
  const int64_t features = args.arrays.features;
  return evenly(args.arrays.batch * args.arrays.count * ceil_div(features, kNoiseTile),
                4 * (features < kNoiseTile ? features : kNoiseTile));
}

PYXAI_FAST_DEFINE_BY_ISA(EnsembleContract)
PYXAI_FAST_DEFINE_BY_ISA(EnsembleTransform)
PYXAI_FAST_DEFINE_BY_ISA(GuidedNorms)
PYXAI_FAST_DEFINE_BY_ISA(GuidedStep)

#endif

}  // namespace pyxai_fast
