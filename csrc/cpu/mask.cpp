#include "pyxai_fast/mask.h"

#include "isa.h"
#include "select.h"

namespace pyxai_fast {
namespace {

// A feature is in the set of a step if the step's coalition keeps its segment. The coalitions of 32
// steps are looked up together: bit j of a feature's word is whether step first + j keeps it, so that
// each step is a shift, without a gather.
struct KeptByCoalition {
  static constexpr int64_t kSteps = 32;
  static constexpr int64_t kTable = 2048;

  const MaskSegments& args;
  Repeats repeats;
  Tile tile;
  Run run;
  int32_t low, high;  // the first and last word that the tile's segments lie in; high < low: none
  alignas(64) int32_t segments[kTile];  // -1: unknown
  alignas(64) uint32_t elements[kTile];
  alignas(64) uint32_t bits[kTile + kRoom];
  alignas(64) uint32_t table[kTable + 1];

  explicit KeptByCoalition(const MaskSegments& args) : args(args) {}

  void enter(const Source& labels, bool wide, Tile given) {
    tile = given;
    repeats = labels.repeats;
    run = elements_of(repeats, tile);
    if (wide) {
      load_segments<int64_t>(labels);
    } else {
      load_segments<int32_t>(labels);
    }
    low = INT32_MAX;
    high = -1;
    for (int64_t i = 0; i < run.count; ++i) {
      const int32_t word = segments[i] >> 5;  // -1 stays -1
      low = word >= 0 && word < low ? word : low;
      high = word > high ? word : high;
    }
  }

  template <typename Label>
  void load_segments(const Source& labels) {
    const int64_t words = args.words;
    load_elements<Label>(labels, tile.row, run, segments,
                         [words](const Label* from, int32_t* to, int64_t count) {
                           for (int64_t i = 0; i < count; ++i)
                             to[i] = known_segment(from[i], words);
                         });
  }

  struct Mask {
    const uint32_t* bits;
    int up;  // moves the step's bit to the sign

    template <typename Word>
    PYXAI_FAST_INLINE Word at(int64_t i) const {
      return static_cast<Word>(static_cast<int32_t>(bits[i] << up) >> 31);
    }
  };

  Mask at_step(int64_t row, int64_t step) {
    const int64_t place = step % kSteps;
    if (place == 0) look_up(row, step);
    return {bits, static_cast<int>(kSteps - 1 - place)};
  }

  void look_up(int64_t row, int64_t first) {
    const int64_t left = args.select.steps - first;
    const int64_t steps = left < kSteps ? left : kSteps;
    const Strides2 strides = args.coalition_strides;
    const uint32_t* coalitions = args.coalitions + first * strides.row + row * strides.column;
    uint32_t* to = repeats.inner == 1 ? bits : elements;
    const int64_t span = 32 * (int64_t{high} - low + 1);
    if (span <= kTable && span <= 2 * run.count + 64) {
      look_up_in_table(coalitions, steps, span, to);
    } else {
      look_up_each(coalitions, steps, to);
    }
    if (repeats.inner != 1) repeat_each(elements, repeats.inner, tile, bits);
  }

  // The transposed coalitions: for each segment the bits of the steps.
  void look_up_in_table(const uint32_t* coalitions, int64_t steps, int64_t span, uint32_t* to) {
    for (int64_t i = 0; i < span; ++i) table[i] = 0;
    for (int64_t j = 0; j < steps; ++j) {
      const uint32_t* words = coalitions + j * args.coalition_strides.row;
      const uint32_t bit = 1u << j;
      for (int64_t w = 0; w < span / 32; ++w) {
        const uint32_t word = words[low + w];
        for (int i = 0; i < 32; ++i) {
          table[32 * w + i] |= (word & 1u << i) != 0 ? bit : 0u;
        }
      }
    }
    const int64_t nowhere = span > 0 ? span : 0;
    table[nowhere] = 0;
    for (int64_t i = 0; i < run.count; ++i) {
      to[i] = table[segments[i] >= 0 ? segments[i] - 32 * int64_t{low} : nowhere];
    }
  }

  // Segments that are far apart, or more than there are features.
  void look_up_each(const uint32_t* coalitions, int64_t steps, uint32_t* to) const {
    for (int64_t i = 0; i < run.count; ++i) to[i] = 0;
    for (int64_t j = 0; j < steps; ++j) {
      const uint32_t* words = coalitions + j * args.coalition_strides.row;
      for (int64_t i = 0; i < run.count; ++i) {
        to[i] |= static_cast<uint32_t>(is_kept(words, segments[i])) << j;
      }
    }
  }
};

template <typename Compute>
PYXAI_FAST_INLINE void blend_run(const Compute* values, const Compute* masks, int64_t count,
                                 Compute* __restrict__ kept, Compute* __restrict__ rest) {
  for (int64_t i = 0; i < count; ++i) {
    kept[i] = values[i] * masks[i];
    rest[i] = values[i] * (Compute{1} - masks[i]);
  }
}

template <typename Storage, typename Mask>
void blend_units(const MaskBlend& args, int64_t begin, int64_t end) {
  using Compute = typename ComputeOf<Storage>::type;
  alignas(64) Compute value_buffer[kTile + kRoom];
  alignas(64) Compute mask_buffer[kTile + kRoom];
  alignas(64) Storage kept_buffer[kTile];
  alignas(64) Storage rest_buffer[kTile];
  const int64_t elements = 2 * args.batch * args.features;
  const bool streamed = elements * static_cast<int64_t>(sizeof(Storage)) >= kStreamedBytes;
  for (int64_t unit = begin; unit < end; ++unit) {
    const Tile tile = tile_of(unit, args.features);
    const Compute* values = source_tile<Storage>(args.inputs, tile, value_buffer);
    const Compute* masks = source_tile<Mask>(args.masks, tile, mask_buffer);
    Storage* kept = static_cast<Storage*>(args.out) + tile.row * args.features + tile.begin;
    Storage* rest = kept + args.batch * args.features;
    Storage* kept_to = streamed ? kept_buffer : kept;
    Storage* rest_to = streamed ? rest_buffer : rest;
    if constexpr (__is_same(Storage, Compute)) {
      blend_run(values, masks, tile.count, kept_to, rest_to);
    } else {
      alignas(64) Compute wide[2 * kTile];
      blend_run(values, masks, tile.count, wide, wide + kTile);
      store_run(wide, kept_to, tile.count);
      store_run(wide + kTile, rest_to, tile.count);
    }
    if (streamed) {
      const int64_t bytes = tile.count * static_cast<int64_t>(sizeof(Storage));
      stream(kept_buffer, kept, bytes);
      stream(rest_buffer, rest, bytes);
    }
  }
  if (streamed) stream_end();
}

// The batch as one row; and then planes that share one mask as rows, so that no tile reaches into two.
PYXAI_FAST_INLINE MaskBlend blend_folded(const MaskBlend& given) {
  MaskBlend args = given;
  if (!fold_batch(args.inputs, args.batch, args.features) ||
      !fold_batch(args.masks, args.batch, args.features)) {
    return given;
  }
  args.features *= args.batch;
  args.batch = 1;
  const int64_t plane = args.masks.repeats.count;
  const bool shared = args.masks.repeats.inner == 1 && plane >= kLeastPlane;
  if (shared && args.inputs.repeats.count == args.features) {
    args.batch = args.features / plane;
    args.features = plane;
    args.inputs.row = plane;
    args.inputs.repeats.count = plane;
  }
  return args;
}

PYXAI_FAST_INLINE bool one_set(const MaskSegments& args) {
  return args.coalition_strides.column == 0;
}

}  // namespace

namespace PYXAI_FAST_ISA_NAMESPACE {

void run_cpu(const MaskSegments& given, int64_t begin, int64_t end) {
  MaskSegments args = given;
  args.select = select_folded(given.select, one_set(given));
  KeptByCoalition rule(args);
  select_units(args.select, rule, begin, end);
}

void run_cpu(const MaskBlend& given, int64_t begin, int64_t end) {
  const MaskBlend args = blend_folded(given);
  with_dtype(args.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    using Compute = typename ComputeOf<Storage>::type;
    if (args.mask_dtype == args.dtype) {
      blend_units<Storage, Storage>(args, begin, end);
    } else {
      blend_units<Storage, Compute>(args, begin, end);
    }
  });
}

}  // namespace PYXAI_FAST_ISA_NAMESPACE

#if defined(PYXAI_FAST_ISA_BASELINE)

Work work_of(const MaskSegments& args) { return select_work(args.select, one_set(args)); }

Work work_of(const MaskBlend& given) {
  const MaskBlend args = blend_folded(given);
  return tiled_work(2, args.batch, args.features);
}

PYXAI_FAST_DEFINE_BY_ISA(MaskSegments)
PYXAI_FAST_DEFINE_BY_ISA(MaskBlend)

#endif

}  // namespace pyxai_fast
