#include "pyxai_fast/path.h"

#include "isa.h"
#include "stream.h"
#include "tiles.h"
#include "weighted_sum.h"

namespace pyxai_fast {
namespace {

// Where nothing depends on the example but the data, the batch is one long row: tiles of short rows
// would be too short for the vector units, and too many.
template <typename Args>
PYXAI_FAST_INLINE Args as_one_row(Args args, Strides2 coefficients) {
  const Strides2 strides = args.baseline_strides;
  const bool one_baseline = strides.row == 0 && strides.column == 0;
  const bool dense = strides.row == args.features && strides.column == 1;
  if (coefficients.column == 0 && (args.baselines == nullptr || one_baseline || dense)) {
    args.features *= args.batch;
    args.batch = 1;
  }
  return args;
}

template <typename Storage, typename Point>
void points_of_units(const PathPoints& args, int64_t begin, int64_t end) {
  using Compute = typename ComputeOf<Storage>::type;
  constexpr bool kDirect = __is_same(Compute, Point);
  alignas(64) Compute baseline[kTile];
  alignas(64) Compute step[kTile];
  alignas(64) Compute scale[kTile];
  alignas(64) Compute shift[kTile];
  alignas(64) Compute computed[kTile];
  alignas(64) Point narrowed[kTile];
  const int64_t bytes = args.steps * args.batch * args.features * size_of(args.point_dtype);
  const bool streamed = bytes >= kStreamedBytes;
  for (int64_t unit = begin; unit < end; ++unit) {
    const Tile tile = tile_of(unit, args.features);
    const int64_t first = tile.row * args.features + tile.begin;
    load_run(static_cast<const Storage*>(args.inputs) + first, step, tile.count);
    load_rows<Storage>(args.baselines, args.baseline_strides, tile, baseline);
    for (int64_t i = 0; i < tile.count; ++i) step[i] -= baseline[i];
    if (args.scale != nullptr) {
      spread_channels(args.scale, args.channels, tile, scale);
      spread_channels(args.shift, args.channels, tile, shift);
    }
    for (int64_t s = 0; s < args.steps; ++s) {
      const Compute alpha = static_cast<Compute>(
          args.alphas[s * args.alpha_strides.row + tile.row * args.alpha_strides.column]);
      Point* out = static_cast<Point*>(args.points) + s * args.batch * args.features + first;
      Point* const target = streamed ? narrowed : out;
      Compute* points;
      if constexpr (kDirect) {
        points = target;
      } else {
        points = computed;
      }
      if (args.scale == nullptr) {
        for (int64_t i = 0; i < tile.count; ++i)
          points[i] = path_point(baseline[i], step[i], alpha);
      } else {
        for (int64_t i = 0; i < tile.count; ++i) {
          points[i] = path_point(baseline[i], step[i], alpha) * scale[i] + shift[i];
        }
      }
      if constexpr (!kDirect) store_run(computed, target, tile.count);
      if (streamed) stream(narrowed, out, tile.count * static_cast<int64_t>(sizeof(Point)));
    }
  }
  if (streamed) stream_end();
}

template <typename Grad>
void sum_steps(const PathAccumulate& args, Tile tile, double* total) {
  const int64_t stride = args.batch * args.features;
  const Grad* grads = static_cast<const Grad*>(args.grads) + tile.row * args.features + tile.begin;
  const double* weights = args.weights + tile.row * args.weight_strides.column;
  int64_t s = 0;
  for (; s + kStepsPerPass <= args.steps; s += kStepsPerPass) {
    double pass[kStepsPerPass];
    for (int i = 0; i < kStepsPerPass; ++i) pass[i] = weights[(s + i) * args.weight_strides.row];
    add_steps<kStepsPerPass>(grads + s * stride, stride, pass, tile.count, total);
  }
  for (; s < args.steps; ++s) {
    add_steps<1>(grads + s * stride, stride, weights + s * args.weight_strides.row, tile.count,
                 total);
  }
}

// total *= (inputs - baselines) * scale
template <typename Storage>
void times_step(const PathAccumulate& args, Tile tile, double* total) {
  using Compute = typename ComputeOf<Storage>::type;
  alignas(64) Compute baseline[kTile];
  alignas(64) Compute step[kTile];
  const Storage* inputs =
      static_cast<const Storage*>(args.inputs) + tile.row * args.features + tile.begin;
  load_run(inputs, step, tile.count);
  load_rows<Storage>(args.baselines, args.baseline_strides, tile, baseline);
  for (int64_t i = 0; i < tile.count; ++i) step[i] -= baseline[i];
  if (args.scale != nullptr) {
    alignas(64) Compute scale[kTile];
    spread_channels(args.scale, args.channels, tile, scale);
    for (int64_t i = 0; i < tile.count; ++i) step[i] *= scale[i];
  }
  for (int64_t i = 0; i < tile.count; ++i) total[i] *= static_cast<double>(step[i]);
}

}  // namespace

namespace PYXAI_FAST_ISA_NAMESPACE {

void run_cpu(const PathPoints& given, int64_t begin, int64_t end) {
  const PathPoints args = as_one_row(given, given.alpha_strides);
  with_dtype(args.dtype, [&](auto storage) {
    with_dtype(args.point_dtype, [&](auto point) {
      points_of_units<decltype(storage), decltype(point)>(args, begin, end);
    });
  });
}

void run_cpu(const PathAccumulate& given, int64_t begin, int64_t end) {
  const PathAccumulate args = as_one_row(given, given.weight_strides);
  alignas(64) double buffer[kTile];
  for (int64_t unit = begin; unit < end; ++unit) {
    const Tile tile = tile_of(unit, args.features);
    const int64_t first = tile.row * args.features + tile.begin;
    double* total = args.total != nullptr ? args.total + first : buffer;
    if (args.total == nullptr) {
      for (int64_t i = 0; i < tile.count; ++i) total[i] = 0.0;
    }
    with_dtype(args.grad_dtype, [&](auto grad) { sum_steps<decltype(grad)>(args, tile, total); });
    if (args.attributions == nullptr) continue;
    if (args.inputs != nullptr) {
      with_dtype(args.dtype,
                 [&](auto storage) { times_step<decltype(storage)>(args, tile, total); });
    }
    if (args.attribution_dtype == DType::kFloat64) {
      store_run(total, static_cast<double*>(args.attributions) + first, tile.count);
    } else {
      store_run(total, static_cast<float*>(args.attributions) + first, tile.count);
    }
  }
}

}  // namespace PYXAI_FAST_ISA_NAMESPACE

#if defined(PYXAI_FAST_ISA_BASELINE)

Work work_of(const PathPoints& given) {
  const PathPoints args = as_one_row(given, given.alpha_strides);
  return tiled_work(args.steps, args.batch, args.features);
}

Work work_of(const PathAccumulate& given) {
  const PathAccumulate args = as_one_row(given, given.weight_strides);
  return tiled_work(args.steps, args.batch, args.features);
}

PYXAI_FAST_DEFINE_BY_ISA(PathPoints)
PYXAI_FAST_DEFINE_BY_ISA(PathAccumulate)

#endif

}  // namespace pyxai_fast
