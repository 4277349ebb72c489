// The ascend family: uphill from many points at once, keeping the best gradient met on the way.
//
//   ascend_max   g[s, b, d]       = grads[s, b, d] * scale[c]
//                best[b, d]       = the greatest of best[b, d] and g[s, b, d] over s
//                points[s, b, d] += step_sizes[s, b] * (g[s, b, d] * scale[c])
//   with         c = channel of feature d
//
// The inner step of geometrically guided integrated gradients: climb from every point of a path, and
// keep for every feature the greatest gradient instead of the mean. Points are x * scale + shift for
// an x in the caller's units; gradients by x are gradients by the points times scale, and a move of x
// is one of the points times scale.
#pragma once

#include "pyxai_fast/config.h"
#include "pyxai_fast/dtype.h"
#include "pyxai_fast/layout.h"

namespace pyxai_fast {

// Arguments of ascend_max. step_sizes and scale are double and are rounded once to the type computed
// in, which is also that of `best`.
struct AscendMax {
  static constexpr const char* kName = "ascend_max";
  void* points;              // [steps, batch, features], dtype, moved
  const void* grads;         // [steps, batch, features], dtype
  const double* step_sizes;  // [steps, batch] through step_strides
  void* best;                // [batch, features], float, or double for double points
  const double* scale;       // [channels] or null
  int64_t steps;
  int64_t batch;
  int64_t features;
  Strides2 step_strides;
  Channels channels;
  DType dtype;
  bool absolute;  // greatest in magnitude; its sign is kept
};

// The better of two gradients; of equal ones the first, of a NaN and a number the NaN.
template <bool Absolute, typename T>
PYXAI_FAST_INLINE T better_of(T best, T next) {
  const T a = Absolute && best < 0 ? -best : best;
  const T b = Absolute && next < 0 ? -next : next;
  return b <= a || best != best ? best : next;
}

PYXAI_FAST_API Work work_of(const AscendMax& args);
PYXAI_FAST_API void run_cpu(const AscendMax& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const AscendMax& args, void* stream);

}  // namespace pyxai_fast
