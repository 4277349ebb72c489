// The rank family: images with the first features of a ranking replaced.
//
//   rank_mask  out[s, b, d] = base[b, d]    where ranks[b, d] < steps[s, b]
//                             inputs[b, d]  elsewhere
//
// Deletion as it stands, insertion with inputs and base exchanged: Petsiuk, Das and Saenko, "RISE:
// Randomized Input Sampling for Explanation of Black-box Models" (2018), section 4.2.
#pragma once

#include "pyxai_fast/select.h"

namespace pyxai_fast {

struct RankMask {
  static constexpr const char* kName = "rank_mask";
  Select select;        // chosen: base, other: inputs, labels: ranks
  const int64_t* ends;  // the steps: [steps, batch] through end_strides
  Strides2 end_strides;
};

PYXAI_FAST_API Work work_of(const RankMask& args);
PYXAI_FAST_API void run_cpu(const RankMask& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const RankMask& args, void* stream);

}  // namespace pyxai_fast
