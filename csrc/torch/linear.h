// The linear op on tensors, for any device.
#pragma once

#include "pyxai_fast/linear.h"
#include "tensors.h"

namespace pyxai_fast::torch_ops {

template <typename Backend>
struct LinearOps {
  // [N, rows, columns] or, of one layer, [rows, columns].
  static void check_matrices(const Tensor& tensor, const Tensor& weight, int64_t rows,
                             int64_t columns, const char* op, const char* name) {
    check_same_device(tensor, weight, op, name);
    const int64_t dims = weight.dim();
    const bool fits = tensor.dim() == dims && (dims == 2 || tensor.size(0) == weight.size(0)) &&
                      tensor.size(dims - 2) == rows && tensor.size(dims - 1) == columns;
    if (!fits || tensor.scalar_type() != weight.scalar_type()) {
      fail(op, ": ", name, " must have the type and layers of the weight ", text_of(weight),
           ", and shape [", dims == 2 ? "" : "N, ", rows, ", ", columns, "], got ",
           text_of(tensor));
    }
  }

  static void check_dense(const Tensor& tensor, const char* op, const char* name) {
    if (!tensor.is_contiguous()) fail(op, ": ", name, " must be contiguous, got other strides");
  }

  static void step(const Tensor& inputs, const Tensor& grads, const Tensor& weight,
                   const Tensor& velocity, double lr, double momentum, const Tensor* out) {
    const char* op = "linear_step";
    const int64_t dims = weight.dim();
    if (dims != 2 && dims != 3)
      fail(op, ": weight must have shape [O, D] or [N, O, D], got ", text_of(weight));
    LinearStep args{};
    args.dtype = dtype_of(weight, op, "weight");
    if (args.dtype != DType::kFloat32 && args.dtype != DType::kFloat64)
      fail(op, ": weight must be float32 or float64, got ", text_of(weight));
    if (inputs.dim() != dims) {
      fail(op, ": inputs must have as many dimensions as the weight ", text_of(weight), ", got ",
           text_of(inputs));
    }
    args.layers = dims == 3 ? weight.size(0) : 1;
    args.rows = inputs.size(dims - 2);
    args.outputs = weight.size(dims - 2);
    args.features = weight.size(dims - 1);
    args.lr = lr;
    args.momentum = momentum;
    check_matrices(inputs, weight, args.rows, args.features, op, "inputs");
    check_matrices(grads, weight, args.rows, args.outputs, op, "grads");
    check_matrices(velocity, weight, args.outputs, args.features, op, "velocity");
    check_dense(weight, op, "weight");
    check_dense(velocity, op, "velocity");
    const Tensor x = dense(inputs, MemoryFormat::Contiguous);
    const Tensor g =
        dense(torch::stable::transpose(grads, dims - 2, dims - 1), MemoryFormat::Contiguous);
    check_apart(weight, velocity, op, "weight");
    for (const Tensor& read : {x, g}) {
      check_apart(weight, read, op, "weight");
      check_apart(velocity, read, op, "velocity");
    }
    if (out != nullptr) {
      check_matrices(*out, weight, args.rows, args.features, op, "out");
      check_dense(*out, op, "out");
      for (const Tensor& read : {x, g, weight, velocity}) check_apart(*out, read, op, "out");
      args.grad_inputs = out->mutable_data_ptr();
    }
    args.inputs = x.const_data_ptr();
    args.grads = g.const_data_ptr();
    args.weight = weight.mutable_data_ptr();
    args.velocity = velocity.mutable_data_ptr();
    const int64_t written = args.outputs + (out == nullptr ? 0 : args.rows);
    if (args.layers * args.features * written != 0) Backend::run(args, weight);
  }

  static Tensor linear_step(const Tensor& inputs, const Tensor& grads, Tensor weight,
                            Tensor velocity, double lr, double momentum, bool need_grad_inputs) {
    std::vector<int64_t> sizes = sizes_of(inputs);
    if (!need_grad_inputs && sizes.size() > 1) sizes[sizes.size() - 2] = 0;
    const Tensor out =
        torch::stable::empty(sizes, inputs.scalar_type(), std::nullopt, inputs.device());
    step(inputs, grads, weight, velocity, lr, momentum, need_grad_inputs ? &out : nullptr);
    return out;
  }

  static void linear_step_out(const Tensor& inputs, const Tensor& grads, Tensor weight,
                              Tensor velocity, double lr, double momentum, Tensor out) {
    step(inputs, grads, weight, velocity, lr, momentum, &out);
  }
};

template <typename Backend, typename Library>
void register_linear_ops(Library& library) {
  library.impl("linear_step", TORCH_BOX(&LinearOps<Backend>::linear_step));
  library.impl("linear_step.out", TORCH_BOX(&LinearOps<Backend>::linear_step_out));
}

}  // namespace pyxai_fast::torch_ops
