#include "pyxai_fast/ascend.h"

#include "isa.h"
#include "tiles.h"

namespace pyxai_fast {
namespace {

// Where no step size depends on the example, the batch is one long row.
PYXAI_FAST_INLINE AscendMax as_one_row(AscendMax args) {
  if (args.step_strides.column == 0) {
    args.features *= args.batch;
    args.batch = 1;
  }
  return args;
}

template <bool Absolute, bool Scaled, typename Storage, typename Compute>
PYXAI_FAST_INLINE void ascend(const Storage* __restrict__ grads, const Compute* __restrict__ scale,
                              Compute step, int64_t count, Storage* __restrict__ points,
                              Compute* __restrict__ best) {
  for (int64_t i = 0; i < count; ++i) {
    Compute g = widen(grads[i]);
    if constexpr (Scaled) g *= scale[i];
    best[i] = better_of<Absolute>(best[i], g);
    if constexpr (Scaled) g *= scale[i];
    narrow_to(widen(points[i]) + step * g, points[i]);
  }
}

template <typename Storage, bool Absolute, bool Scaled>
void ascend_tile(const AscendMax& args, Tile tile) {
  using Compute = typename ComputeOf<Storage>::type;
  constexpr bool kDirect = !__is_same(Storage, Float16);  // which is converted by runs
  alignas(64) Compute scale[kTile];
  if constexpr (Scaled) spread_channels(args.scale, args.channels, tile, scale);
  const int64_t first = tile.row * args.features + tile.begin;
  Compute* best = static_cast<Compute*>(args.best) + first;
  for (int64_t s = 0; s < args.steps; ++s) {
    const int64_t at = s * args.batch * args.features + first;
    Storage* points = static_cast<Storage*>(args.points) + at;
    const Storage* grads = static_cast<const Storage*>(args.grads) + at;
    const Compute step = static_cast<Compute>(
        args.step_sizes[s * args.step_strides.row + tile.row * args.step_strides.column]);
    if constexpr (kDirect) {
      ascend<Absolute, Scaled>(grads, scale, step, tile.count, points, best);
    } else {
      alignas(64) Compute wide_points[kTile];
      alignas(64) Compute wide_grads[kTile];
      load_run(points, wide_points, tile.count);
      load_run(grads, wide_grads, tile.count);
      ascend<Absolute, Scaled>(wide_grads, scale, step, tile.count, wide_points, best);
      store_run(wide_points, points, tile.count);
    }
  }
}

template <typename Storage>
void ascend_units(const AscendMax& args, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const Tile tile = tile_of(unit, args.features);
    if (args.scale != nullptr) {
      args.absolute ? ascend_tile<Storage, true, true>(args, tile)
                    : ascend_tile<Storage, false, true>(args, tile);
    } else {
      args.absolute ? ascend_tile<Storage, true, false>(args, tile)
                    : ascend_tile<Storage, false, false>(args, tile);
    }
  }
}

}  // namespace

namespace PYXAI_FAST_ISA_NAMESPACE {

void run_cpu(const AscendMax& given, int64_t begin, int64_t end) {
  const AscendMax args = as_one_row(given);
  with_dtype(args.dtype, [&](auto storage) { ascend_units<decltype(storage)>(args, begin, end); });
}

}  // namespace PYXAI_FAST_ISA_NAMESPACE

#if defined(PYXAI_FAST_ISA_BASELINE)

Work work_of(const AscendMax& given) {
  const AscendMax args = as_one_row(given);
  return tiled_work(2 * args.steps, args.batch, args.features);
}

PYXAI_FAST_DEFINE_BY_ISA(AscendMax)

#endif

}  // namespace pyxai_fast
