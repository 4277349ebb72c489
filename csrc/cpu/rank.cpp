#include "pyxai_fast/rank.h"

#include "isa.h"
#include "select.h"

namespace pyxai_fast {
namespace {

// A feature is in the set of a step if its rank is below the step's end. Label is the type of ranks.
template <typename Label>
struct BelowEnd {
  const RankMask& args;
  alignas(64) Label ranks[kTile + kRoom];

  explicit BelowEnd(const RankMask& args) : args(args) {}

  void enter(const Source& labels, bool, Tile tile) {
    const auto load = [](const Label* from, Label* to, int64_t count) {
      __builtin_memcpy(to, from, sizeof(Label) * static_cast<size_t>(count));
    };
    const Run run = elements_of(labels.repeats, tile);
    if (labels.repeats.inner == 1) return load_elements<Label>(labels, tile.row, run, ranks, load);
    alignas(64) Label elements[kTile];
    load_elements<Label>(labels, tile.row, run, elements, load);
    repeat_each(elements, labels.repeats.inner, tile, ranks);
  }

  template <typename Word>
  void mask(int64_t row, int64_t step, int64_t count, Word* to) const {
    const Strides2 strides = args.end_strides;
    const int64_t end = args.ends[step * strides.row + row * strides.column];
    // Compared in the type of the ranks, which an end may lie beyond.
    const Label last = static_cast<Label>(static_cast<uint64_t>(end) - 1);
    const bool all = sizeof(Label) == 4 && end > INT32_MAX;
    const bool none = sizeof(Label) == 4 ? end <= INT32_MIN : end == INT64_MIN;
    if (all || none) {
      for (int64_t i = 0; i < count; ++i) to[i] = mask_of<Word>(all);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = mask_of<Word>(ranks[i] <= last);
    }
  }
};

template <typename Label>
void run_units(const RankMask& args, int64_t begin, int64_t end) {
  BelowEnd<Label> rule(args);
  select_units(args.select, rule, begin, end);
}

PYXAI_FAST_INLINE bool one_set(const RankMask& args) { return args.end_strides.column == 0; }

}  // namespace

namespace PYXAI_FAST_ISA_NAMESPACE {

void run_cpu(const RankMask& given, int64_t begin, int64_t end) {
  RankMask args = given;
  args.select = select_folded(given.select, one_set(given));
  if (args.select.wide_labels) {
    run_units<int64_t>(args, begin, end);
  } else {
    run_units<int32_t>(args, begin, end);
  }
}

}  // namespace PYXAI_FAST_ISA_NAMESPACE

#if defined(PYXAI_FAST_ISA_BASELINE)

Work work_of(const RankMask& args) { return select_work(args.select, one_set(args)); }

PYXAI_FAST_DEFINE_BY_ISA(RankMask)

#endif

}  // namespace pyxai_fast
