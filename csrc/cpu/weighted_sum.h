// Sums over steps or samples, in their order.
#pragma once

#include "tiles.h"

namespace pyxai_fast {
namespace {  // one copy per instruction set

// Steps added in one pass over a tile's sums, which otherwise are loaded and stored for every step.
constexpr int kStepsPerPass = 8;

// total = (...(total + weights[0] * values[0]) + weights[1] * values[1]...), in the steps' order.
template <int Steps, typename Value>
PYXAI_FAST_INLINE void add_steps(const Value* values, int64_t stride, const double* weights,
                                 int64_t count, double* total) {
  if constexpr (__is_same(Value, Float16) || __is_same(Value, BFloat16)) {
    alignas(64) float wide[Steps * kTile];
    for (int s = 0; s < Steps; ++s) load_run(values + s * stride, wide + s * kTile, count);
    add_steps<Steps>(wide, kTile, weights, count, total);
  } else {
    for (int64_t i = 0; i < count; ++i) {
      double sum = total[i];
      for (int s = 0; s < Steps; ++s)
        sum += weights[s] * static_cast<double>(values[s * stride + i]);
      total[i] = sum;
    }
  }
}

}  // namespace
}  // namespace pyxai_fast
