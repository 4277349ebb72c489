// The dirichlet family: stick-breaking paths, whose progress is a Dirichlet process, drawn again
// wherever it is needed and never stored.
//
//   dirichlet_points      point[m, p, b, d] = baselines[b, d] + at * step[b, d]
//                         with at           = F[m] + position * (F[m+1] - F[m])
//                         points            = point[m, p, b, d] * scale[c] + shift[c]
//   dirichlet_accumulate  sum[p, b, d]      = sum over m of grads[m, p, b, d] * (F[m+1] - F[m])
//                         attributions      = sum[p, b, d] * (step[b, d] * scale[c])
//   with                  step[b, d]        = inputs[b, d] - baselines[b, d],  c = channel of d
//
// F is the progress of element e of example b on path p: it rises from F[0] = 0 to F[steps] = 1.
// Elements are features, or pixels whose channels share a path.
//
// Sethuraman, "A Constructive Definition of Dirichlet Priors" (1994): sticks broken by Beta(1, alpha)
// and laid at uniform times add up to a Dirichlet process. Its mass on an interval of length l is
// split at the middle by a beta of shapes alpha l / 2, twice, whatever happens elsewhere (Ferguson,
// "A Bayesian Analysis of Some Nonparametric Problems", 1973). So F at the boundaries of 2^levels
// cells is a binary tree of independent symmetric betas, and any boundary is reached from the root in
// `levels` splits. With steps no power of two, 2^levels is the next one, and boundary m of the steps
// is boundary floor(m * 2^levels / steps) of the cells.
#pragma once

#include "pyxai_fast/config.h"
#include "pyxai_fast/dtype.h"
#include "pyxai_fast/layout.h"
#include "pyxai_fast/normal.h"

namespace pyxai_fast {

constexpr int kMaxLevels = 16;
constexpr int64_t kMaxSteps = int64_t{1} << kMaxLevels;

// Which paths, and how fine. Rows are [paths, batch]; steps are counted from the path's start.
struct DirichletPaths {
  const int64_t* key;       // seed and stream
  const int64_t* examples;  // [batch], what stands for each example in the counter; null: 0, 1, ...
  double concentration;     // alpha
  int64_t steps;            // of the whole path
  int64_t first_step;
  int64_t count;  // steps handled
  int64_t first_path;
  int64_t paths;
  int64_t batch;
  // Elements of a row: the features, or the pixels, each with `channels.count` features.
  int64_t elements;
  bool per_pixel;
  Channels channels;  // of the features in memory, as everywhere
};

// Arguments of dirichlet_points. Features are counted in the memory order of `points`; `inputs` has
// the same order. position, scale and shift are double and are rounded once to the type computed in.
struct DirichletPoints {
  static constexpr const char* kName = "dirichlet_points";
  DirichletPaths path;
  const void* inputs;     // [batch, features], dtype
  const void* baselines;  // [batch, features] through baseline_strides, dtype
  const double* scale;    // [channels] or null
  const double* shift;    // [channels] or null (null together with scale)
  void* points;           // [count, paths, batch, features], point_dtype
  double position;
  int64_t features;
  Strides2 baseline_strides;
  DType dtype;
  DType point_dtype;
};

// Arguments of dirichlet_accumulate. Sums are double, added in the order of the steps, so splitting
// the steps over several calls that continue the same `total` gives the same bits as one call.
// Exactly one of `total` and `attributions` is given.
struct DirichletAccumulate {
  static constexpr const char* kName = "dirichlet_accumulate";
  DirichletPaths path;
  const void* grads;      // [count, paths, batch, features], grad_dtype
  double* total;          // [paths, batch, features], added to
  void* attributions;     // [paths, batch, features], attribution_dtype, written
  const void* inputs;     // [batch, features], dtype; null: the sum is not multiplied by the step
  const void* baselines;  // as in DirichletPoints (null together with inputs)
  const double* scale;    // [channels] or null
  int64_t features;
  Strides2 baseline_strides;
  DType grad_dtype;
  DType dtype;
  DType attribution_dtype;  // kFloat32 or kFloat64
};

// --- the tree ------------------------------------------------------------------------------------
//
// Nodes are numbered as in a heap: the root is 1, the children of n are 2n and 2n + 1. A node at
// depth d has 2^-d of the time. One block of random words serves the two nodes 2 * block and
// 2 * block + 1: words 0 and 1 the first, words 2 and 3 the second. (Block 0 serves the root.)
//
// Boundaries hold 1 + F, in [1, 2]. There float32 has one spacing, 2^-23, so differences of
// boundaries are exact, steps sum to exactly 1 in any order, and no split leaves its interval.

PYXAI_FAST_INLINE int levels_of(int64_t steps) {
  int levels = 0;
  while (int64_t{1} << levels < steps) ++levels;
  return levels;
}

// The cell at which step m begins.
PYXAI_FAST_INLINE uint32_t boundary_of(int64_t step, int64_t steps, int levels) {
  return static_cast<uint32_t>((step << levels) / steps);
}

// The depth of the node whose middle an inner boundary is.
PYXAI_FAST_INLINE int depth_of(uint32_t boundary, int levels) {
  int depth = levels - 1;
  for (; (boundary & 1u) == 0; boundary >>= 1) --depth;
  return depth;
}

// The block that serves the node at `depth` whose time holds an inner boundary.
PYXAI_FAST_INLINE uint32_t block_on_way(uint32_t boundary, int depth, int levels) {
  return ((1u << depth) + (boundary >> (levels - depth))) >> 1;
}

// Boundaries are kept while a path is walked: the two ends, and at every depth the middles of the
// two nodes that were split there last. These are the places of any boundary that is kept.
constexpr int kPlaces = 2 + 2 * kMaxLevels;
constexpr int kStart = 0, kEnd = 1;

PYXAI_FAST_INLINE int boundary_place(uint32_t boundary, int levels) {
  if (boundary == 0) return kStart;
  if (boundary >> levels != 0) return kEnd;
  const int depth = depth_of(boundary, levels);
  return 2 + 2 * depth + static_cast<int>((1u << depth | boundary >> (levels - depth)) & 1u);
}

// One over the shape of the beta at a depth. The bound keeps it finite; past it, betas are 0 or 1.
PYXAI_FAST_INLINE float inverse_shape(double concentration, int depth) {
  const double inverse = static_cast<double>(int64_t{2} << depth) / concentration;
  return static_cast<float>(inverse < 1e30 ? inverse : 1e30);
}

// How much of a node's mass lies in its first half: Beta(a, a) from two words. Bailey, "Polar
// Generation of Random Variates with the t-Distribution" (1994), gives Student's t of 2a degrees as
// sqrt(2a (u^(-1/a) - 1)) cos(2 pi v), and (1 + t / sqrt(2a + t^2)) / 2 is the beta. u^(-1/a) - 1
// is e^x - 1 with x = -ln(u) / a: never 0 / 0 or infinity, however small or large a is. Of the cosine
// only the square and the sign are needed, which are independent.
template <typename Lanes>
PYXAI_FAST_INLINE typename Lanes::Float symmetric_beta(typename Lanes::Word a,
                                                       typename Lanes::Word b, float inverse) {
  using Float = typename Lanes::Float;
  // Taken from zero rather than negated: -0 has the bits of a large number.
  const Float x = 0.0f - natural_log<Lanes>(uniform<Lanes>(a)) * inverse;
  const Float ratio = exponential_minus_one<Lanes>(at_most<Lanes>(x, 64.0f)) *
                      squared_sine_of_quarter<Lanes>(uniform<Lanes>(b));
  const Float half = Lanes::square_root(ratio / (ratio + 1.0f)) * 0.5f;
  return Lanes::from_bits(Lanes::bits(half) ^ b << 31) + 0.5f;
}

template <typename Lanes>
PYXAI_FAST_INLINE void stick_words(RandomKey key, uint32_t block, typename Lanes::Word element,
                                   uint32_t example, uint32_t path, typename Lanes::Word* words) {
  random_words<Lanes>(key, kStickTag + block, element, example, path, words);
}

// The element that a feature belongs to, as the counter knows it: in the order of [channels, pixels],
// whatever the order in memory.
PYXAI_FAST_INLINE uint32_t element_of(const DirichletPaths& path, int64_t features,
                                      int64_t feature) {
  const int64_t pixels = features / path.channels.count;
  if (path.channels.inner != 1 || pixels == 1) {  // memory has the order of the counter
    return static_cast<uint32_t>(path.per_pixel ? feature % pixels : feature);
  }
  const int64_t pixel = feature / path.channels.count;
  const int64_t channel = feature % path.channels.count;
  return static_cast<uint32_t>(path.per_pixel ? pixel : channel * pixels + pixel);
}

PYXAI_FAST_API Work work_of(const DirichletPoints& args);
PYXAI_FAST_API void run_cpu(const DirichletPoints& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const DirichletPoints& args, void* stream);

PYXAI_FAST_API Work work_of(const DirichletAccumulate& args);
PYXAI_FAST_API void run_cpu(const DirichletAccumulate& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const DirichletAccumulate& args, void* stream);

}  // namespace pyxai_fast
