// The linear family: the training of linear layers y = x W^T, several of them at once.
//
//   linear_step   grad_inputs[n, r, d]  = sum over o of grads[n, r, o] * weight[n, o, d]
//                 gradient[n, o, d]     = sum over r of grads[n, r, o] * inputs[n, r, d]
//                 velocity[n, o, d]     = momentum * velocity[n, o, d] + gradient[n, o, d]
//                 weight[n, o, d]      -= lr * (gradient[n, o, d] + momentum * velocity[n, o, d])
//
// The backward pass and the step of the optimiser in one pass over the weights, from which the first
// line reads what they were. The gradient of a layer with many inputs is far larger than all that it
// is made of, and is never in memory.
//
// Sums add their products one by one, in the order of o and of r. The step is that of stochastic
// gradient descent with Nesterov's momentum in the form of Sutskever, Martens, Dahl and Hinton, "On
// the importance of initialization and momentum in deep learning" (2013), as torch.optim.SGD has it.
#pragma once

#include "pyxai_fast/config.h"
#include "pyxai_fast/dtype.h"
#include "pyxai_fast/layout.h"

namespace pyxai_fast {

// Arguments of linear_step. lr and momentum are rounded once to the type. No two of the arrays may
// overlap.
struct LinearStep {
  static constexpr const char* kName = "linear_step";
  const void* inputs;  // [layers, rows, features], dtype
  const void* grads;   // [layers, outputs, rows], dtype: transposed, so that an output's are a run
  void* weight;        // [layers, outputs, features], dtype, updated
  void* velocity;      // [layers, outputs, features], dtype, updated
  void* grad_inputs;   // [layers, rows, features], dtype, written; or null: not wanted
  int64_t layers;
  int64_t rows;
  int64_t features;
  int64_t outputs;
  double lr;
  double momentum;
  DType dtype;  // kFloat32 or kFloat64
};

// The optimiser's step of one weight.
template <typename Float>
PYXAI_FAST_INLINE void nesterov_step(Float gradient, Float lr, Float momentum, Float& velocity,
                                     Float& weight) {
  velocity = momentum * velocity + gradient;
  weight -= lr * (gradient + momentum * velocity);
}

PYXAI_FAST_API Work work_of(const LinearStep& args);
PYXAI_FAST_API void run_cpu(const LinearStep& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const LinearStep& args, void* stream);

}  // namespace pyxai_fast
