// The rank kernels on CUDA: see select.cuh.

#include "pyxai_fast/rank.h"
#include "select.cuh"

namespace pyxai_fast {
namespace {

struct BelowEnd {
  using Label = int64_t;
  const int64_t* ends;
  Strides2 strides;

  __device__ Label label(const void* ranks, bool wide, int64_t place) const {
    return wide ? static_cast<const int64_t*>(ranks)[place]
                : static_cast<const int32_t*>(ranks)[place];
  }
  __device__ int64_t set(int64_t row, int64_t step) const {
    return ends[step * strides.row + row * strides.column];
  }
  static __device__ bool holds(int64_t end, Label rank) { return rank < end; }
};

}  // namespace

int run_cuda(const RankMask& args, void* stream) {
  return select_on_cuda(args.select, BelowEnd{args.ends, args.end_strides}, stream);
}

}  // namespace pyxai_fast
