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

  void enter(const Source& labels, bool, Tile tile) { load_source<Label>(labels, tile, ranks); }

  struct Mask {
    const Label* ranks;
    Label last;
    bool any;

    template <typename Word>
    PYXAI_FAST_INLINE Word at(int64_t i) const {
      return mask_of<Word>(ranks[i] <= last) & mask_of<Word>(any);
    }
  };

  // Compared in the type of the ranks, which an end may lie beyond.
  Mask at_step(int64_t row, int64_t step) const {
    const Strides2 strides = args.end_strides;
    const int64_t end = args.ends[step * strides.row + row * strides.column];
    const int64_t least = sizeof(Label) == 4 ? INT32_MIN : INT64_MIN;
    if (end <= least) return {ranks, 0, false};
    const bool all = sizeof(Label) == 4 && end > INT32_MAX;
    return {ranks, static_cast<Label>(all ? INT32_MAX : end - 1), true};
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
