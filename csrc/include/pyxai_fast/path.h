// The path family: points along straight paths as model inputs, and gradients contracted back.
//
//   path_points      point[s, b, d]   = baselines[b, d] + alphas[s, b] * step[b, d]
//                    points           = point[s, b, d] * scale[c] + shift[c]
//   path_accumulate  sum[b, d]        = sum over s of weights[s, b] * grads[s, b, d]
//                    attributions     = sum[b, d] * (step[b, d] * scale[c])
//   with               step[b, d]     = inputs[b, d] - baselines[b, d],  c = channel of feature d
//
// Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017), section 3 and
// equation 3. Each is the transpose of the other: what path_points spreads over the steps,
// path_accumulate gathers.
#pragma once

#include "pyxai_fast/config.h"
#include "pyxai_fast/dtype.h"
#include "pyxai_fast/layout.h"

namespace pyxai_fast {

// Arguments of path_points. Features are counted in the memory order of `points`; `inputs` has the
// same order. alphas, scale and shift are double and are rounded once to the type computed in.
struct PathPoints {
  static constexpr const char* kName = "path_points";
  const void* inputs;     // [batch, features], dtype
  const void* baselines;  // [batch, features] through baseline_strides, dtype
  const double* alphas;   // [steps, batch] through alpha_strides
  const double* scale;    // [channels] or null
  const double* shift;    // [channels] or null (null together with scale)
  void* points;           // [steps, batch, features], point_dtype
  int64_t steps;
  int64_t batch;
  int64_t features;
  Strides2 baseline_strides;
  Strides2 alpha_strides;
  Channels channels;
  DType dtype;
  DType point_dtype;
};

// Arguments of path_accumulate. Sums are double, added in the order of the steps, so splitting the
// steps over several calls that continue the same `total` gives the same bits as one call.
// Exactly one of `total` and `attributions` is given.
struct PathAccumulate {
  static constexpr const char* kName = "path_accumulate";
  const void* grads;      // [steps, batch, features], grad_dtype
  const double* weights;  // [steps, batch] through weight_strides
  double* total;          // [batch, features], added to
  void* attributions;     // [batch, features], attribution_dtype, written
  const void* inputs;     // [batch, features], dtype; null: the sum is not multiplied by the step
  const void* baselines;  // as in PathPoints (null together with inputs)
  const double* scale;    // [channels] or null
  int64_t steps;
  int64_t batch;
  int64_t features;
  Strides2 weight_strides;
  Strides2 baseline_strides;
  Channels channels;
  DType grad_dtype;
  DType dtype;
  DType attribution_dtype;  // kFloat32 or kFloat64
};

template <typename T>
PYXAI_FAST_INLINE T path_point(T baseline, T step, T alpha) {
  return baseline + alpha * step;
}

PYXAI_FAST_API Work work_of(const PathPoints& args);
PYXAI_FAST_API void run_cpu(const PathPoints& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const PathPoints& args, void* stream);

PYXAI_FAST_API Work work_of(const PathAccumulate& args);
PYXAI_FAST_API void run_cpu(const PathAccumulate& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const PathAccumulate& args, void* stream);

}  // namespace pyxai_fast
