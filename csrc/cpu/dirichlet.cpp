#include "pyxai_fast/dirichlet.h"

#include "isa.h"
#include "simd.h"
#include "tiles.h"

namespace pyxai_fast {
namespace {

// Elements that are drawn together: the boundaries kept for them, two for every level, stay in the
// first cache up to 64 steps or so. Steps drawn before any is used, and pieces of features, such as
// the channels of pixels, that use the same draws.
constexpr int64_t kDrawn = 512;
constexpr int64_t kStepsPerPass = 8;
constexpr int64_t kPieces = 4;

static_assert(kDrawn <= kTile && kDrawn % kLanes == 0, "a tile of elements is one of features");

PYXAI_FAST_INLINE int64_t groups_of(const DirichletPaths& path) {
  return path.per_pixel ? ceil_div(path.channels.count, kPieces) : 1;
}

// A unit of work: a tile of elements of one path of one example, and some of their pieces.
//
// Piece k is a run of `count` features in memory: channel k of the tile's pixels where channels lie
// apart, and the k-th part of the tile's features where they lie together.
struct Unit {
  int64_t path;
  int64_t example;
  int64_t begin;  // of the elements
  int64_t count;
  int64_t first_piece;
  int64_t pieces;
};

PYXAI_FAST_INLINE Unit unit_of(const DirichletPaths& path, int64_t unit) {
  const int64_t tiles = ceil_div(path.elements, kDrawn);
  const int64_t groups = groups_of(path);
  Unit u;
  u.begin = unit % tiles * kDrawn;
  const int64_t left = path.elements - u.begin;
  u.count = left < kDrawn ? left : kDrawn;
  u.first_piece = unit / tiles % groups * kPieces;
  const int64_t pieces = path.per_pixel ? path.channels.count - u.first_piece : 1;
  u.pieces = pieces < kPieces ? pieces : kPieces;
  const int64_t row = unit / tiles / groups;
  u.path = row / path.batch;
  u.example = row % path.batch;
  return u;
}

PYXAI_FAST_INLINE bool channels_together(const DirichletPaths& path) {
  return path.per_pixel && path.channels.inner == 1;
}

// The features of a piece.
PYXAI_FAST_INLINE Tile piece_of(const DirichletPaths& path, const Unit& unit, int64_t piece) {
  const int64_t begin = channels_together(path)
                            ? unit.begin * path.channels.count + piece * unit.count
                            : unit.begin + piece * path.elements;
  return {unit.example, begin, unit.count};
}

// The progress of a tile of elements along its path, one boundary after the other.
struct Walk {
  alignas(64) float places[kPlaces][kDrawn];
  alignas(64) uint32_t words[4][kDrawn];
  alignas(64) uint32_t elements[kDrawn];
  uint32_t served[kMaxLevels];  // by depth: the block that served it last, plus one
  RandomKey key;
  uint32_t example;
  uint32_t path;
  double concentration;
  int64_t width;  // elements, in whole vectors
  int levels;
};

void begin_walk(const DirichletPaths& path, const Unit& unit, int64_t features, Walk& walk) {
  walk.key = random_key(path.key);
  walk.example =
      static_cast<uint32_t>(path.examples == nullptr ? unit.example : path.examples[unit.example]);
  walk.path = static_cast<uint32_t>(path.first_path + unit.path);
  walk.concentration = path.concentration;
  walk.width = ceil_div(unit.count, kLanes) * kLanes;
  walk.levels = levels_of(path.steps);
  for (int depth = 0; depth < walk.levels; ++depth) walk.served[depth] = 0;
  for (int64_t i = 0; i < kDrawn; ++i) {
    walk.places[kStart][i] = 1.0f;
    walk.places[kEnd][i] = 2.0f;
    walk.elements[i] = static_cast<uint32_t>(unit.begin + i);
  }
  if (!path.per_pixel && path.channels.inner == 1) {
    for (int64_t i = 0; i < unit.count; ++i)
      walk.elements[i] = element_of(path, features, unit.begin + i);
  }
}

// The middles of intervals, by betas from two words each.
void halve(const float* low, const float* high, const uint32_t* a, const uint32_t* b, float inverse,
           int64_t width, float* middle) {
  for (int64_t i = 0; i < width; i += kLanes) {
    const auto beta =
        symmetric_beta<VectorLanes>(VectorLanes::load(a + i), VectorLanes::load(b + i), inverse);
    const auto l = VectorLanes::load(low + i), h = VectorLanes::load(high + i);
    VectorLanes::store(middle + i, l + beta * (h - l));
  }
}

// Splits the two nodes at `depth` that a block serves. Words first, then betas: the loops are
// chains of dependent operations, and short ones overlap better.
void split(Walk& walk, int depth, uint32_t block) {
  const float inverse = inverse_shape(walk.concentration, depth);
  const int levels = walk.levels;
  const float *low = walk.places[kStart], *middle = low, *high = walk.places[kEnd];
  if (depth > 0) {  // the two halves of the node above
    const uint32_t node = block - (1u << (depth - 1));
    low = walk.places[boundary_place(node << (levels - depth + 1), levels)];
    middle = walk.places[boundary_place((2 * node + 1) << (levels - depth), levels)];
    high = walk.places[boundary_place((node + 1) << (levels - depth + 1), levels)];
  }
  for (int64_t i = 0; i < walk.width; i += kLanes) {
    VectorLanes::Word words[4];
    stick_words<VectorLanes>(walk.key, block, VectorLanes::load(walk.elements + i), walk.example,
                             walk.path, words);
    for (int word = 0; word < 4; ++word) VectorLanes::store(walk.words[word] + i, words[word]);
  }
  float* split_at = walk.places[2 + 2 * depth];
  if (depth > 0) halve(low, middle, walk.words[0], walk.words[1], inverse, walk.width, split_at);
  halve(middle, high, walk.words[2], walk.words[3], inverse, walk.width, split_at + kDrawn);
}

const float* reach(Walk& walk, uint32_t boundary) {
  const int place = boundary_place(boundary, walk.levels);
  if (place > kEnd) {
    for (int depth = 0; depth <= depth_of(boundary, walk.levels); ++depth) {
      const uint32_t block = block_on_way(boundary, depth, walk.levels);
      if (walk.served[depth] == block + 1) continue;
      split(walk, depth, block);
      walk.served[depth] = block + 1;
    }
  }
  return walk.places[place];
}

// Elements' numbers for the features of a piece whose channels lie together.
PYXAI_FAST_INLINE void spread_pixels(const float* pixels, int64_t channels, int64_t first,
                                     int64_t count, float* to) {
  const float* pixel = pixels + first / channels;
  int64_t channel = first % channels;
  for (int64_t i = 0; i < count; ++i) {
    to[i] = *pixel;
    if (++channel == channels) {
      channel = 0;
      ++pixel;
    }
  }
}

// Makes number(low, high) of the boundaries of every step for every element, and calls
// use(piece, steps, first, numbers) for every piece of a pass of steps from `first` on, with rows of
// kDrawn numbers.
template <typename Number, typename Use>
PYXAI_FAST_INLINE void walk_unit(const DirichletPaths& path, const Unit& unit, int64_t features,
                                 Number number, Use use) {
  Walk walk;
  begin_walk(path, unit, features, walk);
  alignas(64) float low[kDrawn];
  alignas(64) float numbers[kStepsPerPass * kDrawn];
  alignas(64) float spread[kStepsPerPass * kDrawn];
  const auto boundary = [&](int64_t step) {
    return reach(walk, boundary_of(path.first_step + step, path.steps, walk.levels));
  };
  const float* start = boundary(0);
  for (int64_t i = 0; i < walk.width; ++i) low[i] = start[i];
  for (int64_t first = 0; first < path.count; first += kStepsPerPass) {
    const int64_t left = path.count - first;
    const int64_t steps = left < kStepsPerPass ? left : kStepsPerPass;
    for (int64_t s = 0; s < steps; ++s) {
      const float* high = boundary(first + s + 1);
      for (int64_t i = 0; i < walk.width; ++i) {
        numbers[s * kDrawn + i] = number(low[i], high[i]);
        low[i] = high[i];
      }
    }
    for (int64_t piece = unit.first_piece; piece < unit.first_piece + unit.pieces; ++piece) {
      if (!channels_together(path)) {
        use(piece, steps, first, numbers);
        continue;
      }
      for (int64_t s = 0; s < steps; ++s) {
        spread_pixels(numbers + s * kDrawn, path.channels.count, piece * unit.count, unit.count,
                      spread + s * kDrawn);
      }
      use(piece, steps, first, spread);
    }
  }
}

template <typename Storage, typename Point>
void points_of_units(const DirichletPoints& args, int64_t begin, int64_t end) {
  using Compute = typename ComputeOf<Storage>::type;
  constexpr bool kDirect = __is_same(Compute, Point);
  alignas(64) Compute baseline[kDrawn];
  alignas(64) Compute step[kDrawn];
  alignas(64) Compute scale[kDrawn];
  alignas(64) Compute shift[kDrawn];
  alignas(64) Compute rounded[kDrawn];
  const DirichletPaths& path = args.path;
  const float position = static_cast<float>(args.position);
  for (int64_t number = begin; number < end; ++number) {
    const Unit unit = unit_of(path, number);
    int64_t loaded = -1;
    const auto load_piece = [&](int64_t piece) {
      const Tile tile = piece_of(path, unit, piece);
      load_run(static_cast<const Storage*>(args.inputs) + tile.row * args.features + tile.begin,
               step, tile.count);
      load_rows<Storage>(args.baselines, args.baseline_strides, tile, baseline);
      for (int64_t i = 0; i < tile.count; ++i) step[i] -= baseline[i];
      if (args.scale != nullptr) {
        spread_channels(args.scale, path.channels, tile, scale);
        spread_channels(args.shift, path.channels, tile, shift);
      }
      loaded = piece;
    };
    const auto progress = [position](float low, float high) {
      return (low - 1.0f) + position * (high - low);
    };
    const auto write = [&](int64_t piece, int64_t steps, int64_t first, const float* numbers) {
      if (loaded != piece) load_piece(piece);
      const Tile tile = piece_of(path, unit, piece);
      for (int64_t s = 0; s < steps; ++s) {
        const int64_t row = ((first + s) * path.paths + unit.path) * path.batch + unit.example;
        Point* out = static_cast<Point*>(args.points) + row * args.features + tile.begin;
        const float* at = numbers + s * kDrawn;
        Compute* points;
        if constexpr (kDirect) {
          points = out;
        } else {
          points = rounded;
        }
        if (args.scale == nullptr) {
          for (int64_t i = 0; i < tile.count; ++i)
            points[i] = baseline[i] + static_cast<Compute>(at[i]) * step[i];
        } else {
          for (int64_t i = 0; i < tile.count; ++i) {
            points[i] = (baseline[i] + static_cast<Compute>(at[i]) * step[i]) * scale[i] + shift[i];
          }
        }
        if constexpr (!kDirect) store_run(rounded, out, tile.count);
      }
    };
    walk_unit(path, unit, args.features, progress, write);
  }
}

template <typename Grad>
PYXAI_FAST_INLINE void add_step(const Grad* grads, const float* weights, int64_t count,
                                double* total) {
  if constexpr (__is_same(Grad, Float16) || __is_same(Grad, BFloat16)) {
    alignas(64) float wide[kDrawn];
    load_run(grads, wide, count);
    add_step(wide, weights, count, total);
  } else {
    for (int64_t i = 0; i < count; ++i)
      total[i] += static_cast<double>(weights[i]) * static_cast<double>(grads[i]);
  }
}

// total *= (inputs - baselines) * scale
template <typename Storage>
PYXAI_FAST_INLINE void times_step(const DirichletAccumulate& args, Tile tile, double* total) {
  using Compute = typename ComputeOf<Storage>::type;
  alignas(64) Compute baseline[kDrawn];
  alignas(64) Compute step[kDrawn];
  load_run(static_cast<const Storage*>(args.inputs) + tile.row * args.features + tile.begin, step,
           tile.count);
  load_rows<Storage>(args.baselines, args.baseline_strides, tile, baseline);
  for (int64_t i = 0; i < tile.count; ++i) step[i] -= baseline[i];
  if (args.scale != nullptr) {
    alignas(64) Compute scale[kDrawn];
    spread_channels(args.scale, args.path.channels, tile, scale);
    for (int64_t i = 0; i < tile.count; ++i) step[i] *= scale[i];
  }
  for (int64_t i = 0; i < tile.count; ++i) total[i] *= static_cast<double>(step[i]);
}

template <typename Grad>
void sum_units(const DirichletAccumulate& args, int64_t begin, int64_t end) {
  const DirichletPaths& path = args.path;
  alignas(64) double buffer[kPieces * kDrawn];
  for (int64_t number = begin; number < end; ++number) {
    const Unit unit = unit_of(path, number);
    const int64_t row = unit.path * path.batch + unit.example;
    const auto total_of = [&](int64_t piece) {
      return args.total != nullptr
                 ? args.total + row * args.features + piece_of(path, unit, piece).begin
                 : buffer + (piece - unit.first_piece) * kDrawn;
    };
    if (args.total == nullptr) {
      for (int64_t i = 0; i < kPieces * kDrawn; ++i) buffer[i] = 0.0;
    }
    const auto increment = [](float low, float high) { return high - low; };
    const auto add = [&](int64_t piece, int64_t steps, int64_t first, const float* numbers) {
      const Tile tile = piece_of(path, unit, piece);
      for (int64_t s = 0; s < steps; ++s) {
        const int64_t at = (first + s) * path.paths * path.batch + row;
        add_step(static_cast<const Grad*>(args.grads) + at * args.features + tile.begin,
                 numbers + s * kDrawn, tile.count, total_of(piece));
      }
    };
    walk_unit(path, unit, args.features, increment, add);
    if (args.attributions == nullptr) continue;
    for (int64_t piece = unit.first_piece; piece < unit.first_piece + unit.pieces; ++piece) {
      const Tile tile = piece_of(path, unit, piece);
      double* total = total_of(piece);
      if (args.inputs != nullptr) {
        with_dtype(args.dtype,
                   [&](auto storage) { times_step<decltype(storage)>(args, tile, total); });
      }
      const int64_t at = row * args.features + tile.begin;
      if (args.attribution_dtype == DType::kFloat64) {
        store_run(total, static_cast<double*>(args.attributions) + at, tile.count);
      } else {
        store_run(total, static_cast<float*>(args.attributions) + at, tile.count);
      }
    }
  }
}

}  // namespace

namespace PYXAI_FAST_ISA_NAMESPACE {

void run_cpu(const DirichletPoints& args, int64_t begin, int64_t end) {
  with_dtype(args.dtype, [&](auto storage) {
    with_dtype(args.point_dtype, [&](auto point) {
      points_of_units<decltype(storage), decltype(point)>(args, begin, end);
    });
  });
}

void run_cpu(const DirichletAccumulate& args, int64_t begin, int64_t end) {
  with_dtype(args.grad_dtype, [&](auto grad) { sum_units<decltype(grad)>(args, begin, end); });
}

}  // namespace PYXAI_FAST_ISA_NAMESPACE

#if defined(PYXAI_FAST_ISA_BASELINE)

// Drawing takes the time of going through several elements of memory.
constexpr int64_t kElementsPerDraw = 8;

static Work work_of_paths(const DirichletPaths& path) {
  const int64_t width = path.elements < kDrawn ? path.elements : kDrawn;
  const int64_t per_unit = path.count * width * kElementsPerDraw;
  return {path.paths * path.batch * groups_of(path) * ceil_div(path.elements, kDrawn),
          per_unit > 0 ? ceil_div(kElementsPerThread, per_unit) : 1};
}

Work work_of(const DirichletPoints& args) { return work_of_paths(args.path); }
Work work_of(const DirichletAccumulate& args) { return work_of_paths(args.path); }

PYXAI_FAST_DEFINE_BY_ISA(DirichletPoints)
PYXAI_FAST_DEFINE_BY_ISA(DirichletAccumulate)

#endif

}  // namespace pyxai_fast
