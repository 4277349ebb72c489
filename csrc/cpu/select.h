// The tiles of Select. A family brings the rule that turns labels into masks:
//
//   struct Rule {
//     void enter(const Source& labels, bool wide, Tile tile);  // every step of a tile comes next
//     Mask at_step(int64_t row, int64_t step);                 // steps come in their order
//   };
//
// where Mask has `template <typename Word> Word at(int64_t i) const`: all ones where feature i of the
// tile is in the set, else zero. Both sources are converted to the type of `out` once per tile; each
// step is then a choice between them, in all planes (channels of contiguous images) with these labels.
#pragma once

#include "pyxai_fast/select.h"
#include "sources.h"
#include "stream.h"

namespace pyxai_fast {
namespace {  // one copy per instruction set

// Planes of a unit: together with their labels they stay in a first-level cache.
constexpr int64_t kMaxPlanes = 8;
// Shorter planes are not worth a loop each; their labels are repeated instead.
constexpr int64_t kLeastPlane = 256;

// How the features of a row are cut: into planes that share their labels, and these into tiles.
struct Planes {
  int64_t count;
  int64_t features;  // of each
  int64_t per_unit;
  int64_t units_per_row;
};

PYXAI_FAST_INLINE Planes planes_of(const Select& args) {
  const Repeats labels = args.labels.repeats;
  const bool shared = labels.inner == 1 && labels.count >= kLeastPlane;
  const int64_t features = shared ? labels.count : args.features;
  const int64_t count = args.features / features;
  const int64_t room = kMaxPlanes / size_of(args.out_dtype) * 2;  // 8, 4 or 2
  const int64_t per_unit = count < room ? count : room;
  return {count, features, per_unit, ceil_div(count, per_unit) * ceil_div(features, kTile)};
}

// The batch becomes part of the row where all examples have the sets of one.
PYXAI_FAST_INLINE Select select_folded(const Select& given, bool one_set) {
  Select args = given;
  if (one_set && fold_batch(args.chosen, args.batch, args.features) &&
      fold_batch(args.other, args.batch, args.features) &&
      fold_batch(args.labels, args.batch, args.features)) {
    args.features *= args.batch;
    args.batch = 1;
    return args;
  }
  return given;
}

[[maybe_unused]] Work select_work(const Select& given, bool one_set) {
  const Select args = select_folded(given, one_set);
  const Planes planes = planes_of(args);
  const int64_t units = args.batch * planes.units_per_row;
  const int64_t elements = args.steps * args.batch * args.features;
  return {units, elements > 0 ? ceil_div(kElementsPerThread * units, elements) : 1};
}

// A tile of a source in the type of `out`.
template <typename Storage, typename Out>
const Out* converted(const Select& args, const Source& source, Tile tile, Out* buffer) {
  using Compute = typename ComputeOf<Storage>::type;
  alignas(64) Compute values[kTile + kRoom];
  if constexpr (__is_same(Storage, Out)) {
    if (args.scale == nullptr) return source_tile<Storage>(source, tile, buffer);
  }
  load_source<Storage>(source, tile, values);
  if (args.scale != nullptr) {
    alignas(64) Compute scale[kTile];
    alignas(64) Compute shift[kTile];
    spread_channels(args.scale, args.channels, tile, scale);
    spread_channels(args.shift, args.channels, tile, shift);
    for (int64_t i = 0; i < tile.count; ++i) values[i] = values[i] * scale[i] + shift[i];
  }
  store_run(values, buffer, tile.count);
  return buffer;
}

template <typename Out>
const Out* converted(const Select& args, const Source& source, Tile tile, Out* buffer) {
  return with_dtype(args.dtype, [&](auto storage) -> const Out* {
    return converted<decltype(storage), Out>(args, source, tile, buffer);
  });
}

template <typename Out, typename Mask>
PYXAI_FAST_INLINE void select_run(const Out* __restrict__ chosen, const Out* __restrict__ other,
                                  const Mask mask, int64_t count, Out* __restrict__ out) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = select_bits(chosen[i], other[i], mask.template at<WordOf<Out>>(i));
  }
}

template <typename Out, typename Rule>
void select_units(const Select& args, Rule& rule, int64_t begin, int64_t end) {
  constexpr int64_t kPlanes = kMaxPlanes * 2 / static_cast<int64_t>(sizeof(Out));
  const Planes planes = planes_of(args);
  const int64_t tiles = ceil_div(planes.features, kTile);
  alignas(64) Out chosen_buffer[kPlanes * kTile + kRoom];
  alignas(64) Out other_buffer[kPlanes * kTile + kRoom];
  alignas(64) Out row_buffer[kTile];
  const Out* chosen[kPlanes];
  const Out* other[kPlanes];
  const int64_t elements = args.steps * args.batch * args.features;
  const bool streamed = elements * static_cast<int64_t>(sizeof(Out)) >= kStreamedBytes;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t row = unit / planes.units_per_row;
    const int64_t in_row = unit % planes.units_per_row;
    const int64_t at = in_row % tiles * kTile;
    const int64_t left = planes.features - at;
    const int64_t count = left < kTile ? left : kTile;
    const int64_t first = in_row / tiles * planes.per_unit;
    const int64_t rest = planes.count - first;
    const int64_t many = rest < planes.per_unit ? rest : planes.per_unit;
    for (int64_t p = 0; p < many; ++p) {
      const Tile tile{row, (first + p) * planes.features + at, count};
      chosen[p] = converted(args, args.chosen, tile, chosen_buffer + p * kTile);
      other[p] = converted(args, args.other, tile, other_buffer + p * kTile);
    }
    rule.enter(args.labels, args.wide_labels, Tile{row, at, count});
    Out* out = static_cast<Out*>(args.out) + row * args.features + first * planes.features + at;
    for (int64_t s = 0; s < args.steps; ++s) {
      const auto mask = rule.at_step(row, s);
      for (int64_t p = 0; p < many; ++p) {
        Out* to = out + p * planes.features;
        select_run(chosen[p], other[p], mask, count, streamed ? row_buffer : to);
        if (streamed) stream(row_buffer, to, count * static_cast<int64_t>(sizeof(Out)));
      }
      out += args.batch * args.features;
    }
  }
  if (streamed) stream_end();
}

template <typename Rule>
void select_units(const Select& args, Rule& rule, int64_t begin, int64_t end) {
  with_dtype(args.out_dtype,
             [&](auto out) { select_units<decltype(out)>(args, rule, begin, end); });
}

}  // namespace
}  // namespace pyxai_fast
