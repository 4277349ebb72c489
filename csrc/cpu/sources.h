// Tiles of arrays that repeat values: see Source in layout.h.
#pragma once

#include "tiles.h"

namespace pyxai_fast {
namespace {  // one copy per instruction set

// Elements that repeat_each may write behind a tile.
constexpr int64_t kRoom = 8;

// Makes the batch part of the row, if the array has one row for all examples, or the rows lie behind
// each other. Short rows are then as good as long ones.
PYXAI_FAST_INLINE bool fold_batch(Source& source, int64_t batch, int64_t features) {
  if (source.row == 0) return true;
  Repeats& repeats = source.repeats;
  if (source.row != repeats.count || repeats.count * repeats.inner != features) return batch == 1;
  repeats.count *= batch;
  source.row = 0;
  return true;
}

// The different elements of a tile: features that share one lie side by side.
struct Run {
  int64_t first;  // before it is wrapped around at repeats.count
  int64_t count;
};

PYXAI_FAST_INLINE Run elements_of(const Repeats& repeats, Tile tile) {
  const int64_t first = tile.begin / repeats.inner;
  return {first, (tile.begin + tile.count - 1) / repeats.inner - first + 1};
}

// Calls load(from, to, count) for the pieces of a run that lie in memory without a break.
template <typename Storage, typename To, typename F>
PYXAI_FAST_INLINE void load_elements(const Source& source, int64_t row, Run run, To* to, F&& load) {
  const Storage* from = static_cast<const Storage*>(source.data) + row * source.row;
  int64_t at = run.first % source.repeats.count;
  for (int64_t i = 0; i < run.count; at = 0) {
    const int64_t left = source.repeats.count - at;
    const int64_t piece = left < run.count - i ? left : run.count - i;
    load(from + at, to + i, piece);
    i += piece;
  }
}

// The elements of a tile, one for every feature. It may write kRoom elements behind the tile.
template <typename T>
PYXAI_FAST_INLINE void repeat_each(const T* elements, int64_t inner, Tile tile, T* to) {
  // Whole vectors, each of which overwrites what the one before wrote too much.
  constexpr int64_t kLanes = 16 / static_cast<int64_t>(sizeof(T));
  static_assert(kLanes <= kRoom, "a vector ends within the room behind a tile");
  int64_t end = inner - tile.begin % inner;
  for (int64_t i = 0; i < tile.count; ++elements) {
    const T value = *elements;
    const int64_t stop = end < tile.count ? end : tile.count;
    for (; i < stop; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) to[i + lane] = value;
    }
    i = end;
    end += inner;
  }
}

// Copied, or widened to the type computed in.
template <typename Storage, typename To>
PYXAI_FAST_INLINE void load_as(const Storage* from, To* to, int64_t count) {
  if constexpr (__is_same(Storage, To)) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  } else {
    load_run(from, to, count);
  }
}

// A tile of any source; `to` has room for kRoom elements more.
template <typename Storage, typename To>
PYXAI_FAST_INLINE void load_source(const Source& source, Tile tile, To* to) {
  const Repeats repeats = source.repeats;
  if (repeats.count == 1) {
    To value;
    load_as(static_cast<const Storage*>(source.data) + tile.row * source.row, &value, 1);
    for (int64_t i = 0; i < tile.count; ++i) to[i] = value;
    return;
  }
  const auto load = [](const Storage* from, To* into, int64_t count) {
    load_as(from, into, count);
  };
  const Run run = elements_of(repeats, tile);
  if (repeats.inner == 1) return load_elements<Storage>(source, tile.row, run, to, load);
  alignas(64) To elements[kTile];
  load_elements<Storage>(source, tile.row, run, elements, load);
  repeat_each(elements, repeats.inner, tile, to);
}

// A tile of a source: where it lies, if it lies there as it is wanted, or brought into `buffer`.
template <typename Storage, typename To>
PYXAI_FAST_INLINE const To* source_tile(const Source& source, Tile tile, To* buffer) {
  if constexpr (__is_same(Storage, To)) {
    const Repeats repeats = source.repeats;
    const int64_t at = tile.begin % repeats.count;
    if (repeats.inner == 1 && at + tile.count <= repeats.count) {
      return static_cast<const To*>(source.data) + tile.row * source.row + at;
    }
  }
  load_source<Storage>(source, tile, buffer);
  return buffer;
}

}  // namespace
}  // namespace pyxai_fast
