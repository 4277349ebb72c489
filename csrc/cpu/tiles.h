// The units of work of elementwise kernels: tiles of features, small enough for the first cache.
#pragma once

#include "convert.h"
#include "pyxai_fast/layout.h"

namespace pyxai_fast {
namespace {  // one copy per instruction set

// Features a unit of work covers: the buffers of a unit, up to five, take half of a first-level cache
// of 48 KB at most, and a unit's share of each step is one page of floats.
constexpr int64_t kTile = 1024;

// The tile of one example that a unit stands for.
struct Tile {
  int64_t row;
  int64_t begin;
  int64_t count;
};

PYXAI_FAST_INLINE Tile tile_of(int64_t unit, int64_t features, int64_t width = kTile) {
  const int64_t per_row = ceil_div(features, width);
  const int64_t begin = unit % per_row * width;
  const int64_t left = features - begin;
  return {unit / per_row, begin, left < width ? left : width};
}

// A tile of rows that may be broadcast.
template <typename Storage, typename Compute>
PYXAI_FAST_INLINE void load_rows(const void* rows, Strides2 strides, Tile tile, Compute* to) {
  const Storage* from = static_cast<const Storage*>(rows) + tile.row * strides.row;
  if (strides.column == 1) return load_run(from + tile.begin, to, tile.count);
  const Compute value = widen(*from);
  for (int64_t i = 0; i < tile.count; ++i) to[i] = value;
}

// One channel's constant for every feature of a tile.
template <typename Compute>
PYXAI_FAST_INLINE void spread_channels(const double* constants, Channels channels, Tile tile,
                                       Compute* to) {
  int64_t channel = channel_of(channels, tile.begin);
  if (channels.inner == 1) {  // channels_last: one period, then copies of all that is there
    const int64_t period = channels.count < tile.count ? channels.count : tile.count;
    for (int64_t i = 0; i < period; ++i) {
      to[i] = static_cast<Compute>(constants[channel]);
      channel = channel + 1 == channels.count ? 0 : channel + 1;
    }
    for (int64_t filled = period; filled < tile.count; filled *= 2) {
      const int64_t left = tile.count - filled;
      __builtin_memcpy(to + filled, to, sizeof(Compute) * (left < filled ? left : filled));
    }
    return;
  }
  int64_t left = channels.inner - tile.begin % channels.inner;
  for (int64_t i = 0; i < tile.count;) {
    const int64_t run = left < tile.count - i ? left : tile.count - i;
    const Compute value = static_cast<Compute>(constants[channel]);
    for (int64_t j = 0; j < run; ++j) to[i + j] = value;
    i += run;
    left = channels.inner;
    channel = channel + 1 == channels.count ? 0 : channel + 1;
  }
}

// The work of a kernel that goes through `steps` elements of memory for every feature.
constexpr int64_t kElementsPerThread = 32768;  // to be worth waking a thread for

[[maybe_unused]] Work tiled_work(int64_t steps, int64_t batch, int64_t features) {
  const int64_t width = features < kTile ? features : kTile;
  const int64_t per_unit = steps * width;
  return {batch * ceil_div(features, kTile),
          per_unit > 0 ? ceil_div(kElementsPerThread, per_unit) : 1};
}

}  // namespace
}  // namespace pyxai_fast
