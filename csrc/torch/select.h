// What the ops over Source arrays have in common: tensors described with their repeats, and the
// arguments of Select.
#pragma once

#include "pyxai_fast/select.h"
#include "tensors.h"

namespace pyxai_fast::torch_ops {

// A tensor that is read through a Source, and the Source. The tensor keeps the memory alive.
struct __attribute__((visibility("hidden"))) Held {
  Tensor tensor;
  Source source;
};

// One row where the batch was expanded from one, so that it is not copied for every example.
inline Tensor without_expanded_batch(const Tensor& tensor) {
  if (tensor.dim() == 0 || tensor.size(0) < 2 || tensor.stride(0) != 0) return tensor;
  Tensor all = tensor;
  return torch::stable::narrow(all, 0, 0, 1);
}

inline int64_t features_of(const Tensor& inputs) {
  return inputs.size(0) == 0 ? 0 : inputs.numel() / inputs.size(0);
}

// `tensor` is a scalar, one example [1, ...], or a batch shaped like `like`, in its type.
inline Held held_rows(const Tensor& tensor, const Tensor& like, MemoryFormat format, const char* op,
                      const char* name) {
  const Rows rows = rows_like(without_expanded_batch(tensor), like, format, op, name);
  const bool scalar = rows.strides.column == 0;
  return {rows.tensor,
          {rows.tensor.const_data_ptr(), rows.strides.row, {scalar ? 1 : features_of(like), 1}}};
}

// `tensor` has shape [1 or B, 1 or C, spatial...] for `like` of shape [B, C, spatial...].
inline Held held_pixels(const Tensor& tensor, const Tensor& like, MemoryFormat format,
                        const char* op, const char* name) {
  check_same_device(tensor, like, op, name);
  bool fits = tensor.dim() == like.dim();
  for (int64_t d = 0; fits && d < like.dim(); ++d) {
    fits = tensor.size(d) == like.size(d) || (d < 2 && tensor.size(d) == 1);
  }
  if (!fits) {
    fail(op, ": ", name, " must have the shape of the inputs ", text_of(like),
         ", or 1 in place of the batch or the channels, got ", text_of(tensor));
  }
  const int64_t features = features_of(like);
  const int64_t shared = like.dim() > 1 && tensor.size(1) == 1 ? like.size(1) : 1;
  const int64_t own = shared == 0 ? 0 : features / shared;
  const Tensor rows = without_expanded_batch(tensor);
  // One channel alone has the same memory in every format.
  const Tensor laid = dense(rows, shared == 1 ? format : MemoryFormat::Contiguous);
  const int64_t inner = shared > 1 && format != MemoryFormat::Contiguous ? shared : 1;
  return {laid, {laid.const_data_ptr(), laid.size(0) == 1 ? 0 : own, {own, inner}}};
}

// Checks the numbers that tell features apart: segments and ranks.
inline bool is_wide(const Tensor& labels, const char* op, const char* name) {
  if (labels.scalar_type() == ScalarType::Long) return true;
  if (labels.scalar_type() == ScalarType::Int) return false;
  fail(op, ": ", name, " must be int32 or int64, got ", text_of(labels));
}

// The arguments of Select, and the tensors that they point into.
struct __attribute__((visibility("hidden"))) Selection {
  Select args{};
  std::vector<Tensor> held;

  bool empty() const { return args.steps * args.batch * args.features == 0; }
};

// What an op of Select was called with.
struct __attribute__((visibility("hidden"))) SelectCall {
  const char* op;
  const Tensor& inputs;
  const Tensor& other;
  const char* other_name;
  const Tensor& labels;
  const char* labels_name;
  const std::optional<Tensor>& scale;
  const std::optional<Tensor>& shift;
  int64_t steps;

  void check_dims() const {
    if (inputs.dim() == 0) fail(op, ": inputs must have shape [B, ...], got a scalar");
  }

  // `args.chosen` are the inputs, `args.other` is the other source.
  Selection into(const Tensor& out, MemoryFormat format) const {
    if (scale.has_value() != shift.has_value())
      fail(op, ": scale and shift must be given together");
    const bool wide = is_wide(labels, op, labels_name);
    const Held x = held_rows(inputs, inputs, format, op, "inputs");
    const Held y = held_rows(other, inputs, format, op, other_name);
    const Held l = held_pixels(labels, inputs, format, op, labels_name);
    Selection selection{};
    selection.held = {x.tensor, y.tensor, l.tensor};
    Select& args = selection.args;
    if (scale.has_value()) {
      const Tensor scales = channel_constants(*scale, inputs, op, "scale");
      const Tensor shifts = channel_constants(*shift, inputs, op, "shift");
      args.scale = static_cast<const double*>(scales.const_data_ptr());
      args.shift = static_cast<const double*>(shifts.const_data_ptr());
      selection.held.insert(selection.held.end(), {scales, shifts});
    }
    for (const Tensor& read : selection.held) check_apart(out, read, op, "out");
    args.chosen = x.source;
    args.other = y.source;
    args.labels = l.source;
    args.wide_labels = wide;
    args.out = out.mutable_data_ptr();
    args.steps = steps;
    args.batch = inputs.size(0);
    args.features = features_of(inputs);
    args.channels = channels_of(inputs, format);
    args.dtype = dtype_of(inputs, op, "inputs");
    args.out_dtype = dtype_of(out, op, "out");
    return selection;
  }

  Tensor empty(std::optional<ScalarType> dtype, MemoryFormat format) const {
    std::vector<int64_t> sizes = sizes_of(inputs);
    sizes[0] *= steps;
    return torch::stable::empty(sizes, dtype.value_or(inputs.scalar_type()), std::nullopt,
                                inputs.device(), std::nullopt, format);
  }

  void check_out(const Tensor& out) const {
    check_same_device(out, inputs, op, "out");
    bool fits = out.dim() == inputs.dim() && out.size(0) == inputs.size(0) * steps;
    for (int64_t d = 1; fits && d < inputs.dim(); ++d) fits = out.size(d) == inputs.size(d);
    if (!fits) {
      fail(op, ": out must have shape [S * B, ...] with the features of the inputs ",
           text_of(inputs), ", got ", text_of(out));
    }
  }
};

}  // namespace pyxai_fast::torch_ops
