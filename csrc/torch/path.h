// The path ops on tensors, for any device: arguments are checked and described here, and a
// Backend launches the kernels.
#pragma once

#include "pyxai_fast/path.h"
#include "tensors.h"

namespace pyxai_fast::torch_ops {

template <typename Backend>
struct PathOps {
  static void check_dims(const Tensor& inputs, const Tensor& alphas) {
    if (inputs.dim() == 0) fail("path_points: inputs must have shape [B, ...], got a scalar");
    if (alphas.dim() == 0) fail("path_points: alphas must have shape [S] or [S, B], got a scalar");
  }

  static void write_points(const Tensor& inputs, const Tensor& baselines, const Tensor& alphas,
                           const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                           const Tensor& points, MemoryFormat format) {
    const char* op = "path_points";
    if (scale.has_value() != shift.has_value())
      fail(op, ": scale and shift must be given together");
    const int64_t batch = inputs.size(0);
    const Tensor x = dense(inputs, format);
    const Rows b = rows_like(baselines, inputs, format, op, "baselines");
    const Rows a = steps_by_batch(alphas, batch, inputs, op, "alphas");
    for (const Tensor& read : {x, b.tensor, a.tensor}) check_apart(points, read, op, "out");
    PathPoints args{};
    Tensor scales, shifts;
    if (scale.has_value()) {
      scales = channel_constants(*scale, inputs, op, "scale");
      shifts = channel_constants(*shift, inputs, op, "shift");
      args.scale = static_cast<const double*>(scales.const_data_ptr());
      args.shift = static_cast<const double*>(shifts.const_data_ptr());
    }
    args.inputs = x.const_data_ptr();
    args.baselines = b.tensor.const_data_ptr();
    args.alphas = static_cast<const double*>(a.tensor.const_data_ptr());
    args.points = points.mutable_data_ptr();
    args.steps = alphas.size(0);
    args.batch = batch;
    args.features = batch == 0 ? 0 : inputs.numel() / batch;
    args.baseline_strides = b.strides;
    args.alpha_strides = a.strides;
    args.channels = channels_of(inputs, format);
    args.dtype = dtype_of(inputs, op, "inputs");
    args.point_dtype = dtype_of(points, op, "points");
    if (args.steps * args.batch * args.features == 0) return;
    Backend::run(args, inputs);
  }

  static Tensor points(const Tensor& inputs, const Tensor& baselines, const Tensor& alphas,
                       const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                       std::optional<ScalarType> dtype, std::optional<MemoryFormat> memory_format) {
    check_dims(inputs, alphas);
    const MemoryFormat format = memory_format.value_or(MemoryFormat::Contiguous);
    std::vector<int64_t> sizes = sizes_of(inputs);
    sizes[0] *= alphas.size(0);
    const Tensor result = torch::stable::empty(sizes, dtype.value_or(inputs.scalar_type()),
                                               std::nullopt, inputs.device(), std::nullopt, format);
    write_points(inputs, baselines, alphas, scale, shift, result, format);
    return result;
  }

  static void points_out(const Tensor& inputs, const Tensor& baselines, const Tensor& alphas,
                         const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                         Tensor out) {
    const char* op = "path_points";
    check_dims(inputs, alphas);
    check_same_device(out, inputs, op, "out");
    bool fits = out.dim() == inputs.dim() && out.size(0) == inputs.size(0) * alphas.size(0);
    for (int64_t d = 1; fits && d < inputs.dim(); ++d) fits = out.size(d) == inputs.size(d);
    if (!fits) {
      fail(op, ": out must have shape [S * B, ...] with the features of the inputs ",
           text_of(inputs), ", got ", text_of(out));
    }
    write_points(inputs, baselines, alphas, scale, shift, out, format_written(out, op, "out"));
  }

  // The arguments that both forms of path_accumulate share.
  static PathAccumulate sum_args(const Tensor& grads, const Rows& weights, int64_t steps,
                                 int64_t batch) {
    PathAccumulate args{};
    args.grads = grads.const_data_ptr();
    args.weights = static_cast<const double*>(weights.tensor.const_data_ptr());
    args.steps = steps;
    args.batch = batch;
    args.features = steps * batch == 0 ? 0 : grads.numel() / (steps * batch);
    args.weight_strides = weights.strides;
    args.grad_dtype = dtype_of(grads, "path_accumulate", "grads");
    return args;
  }

  static int64_t batch_of(const Tensor& grads, const Tensor& weights) {
    const char* op = "path_accumulate";
    const int64_t steps = weights.dim() == 0 ? 0 : weights.size(0);
    if (grads.dim() == 0 || steps == 0 || grads.size(0) % steps != 0) {
      fail(op,
           ": grads must have shape [S * B, ...] for weights of shape [S] or [S, B], S >= 1, got ",
           text_of(grads), " and ", text_of(weights));
    }
    return grads.size(0) / steps;
  }

  static Tensor accumulate(const Tensor& grads, const Tensor& weights,
                           const std::optional<Tensor>& inputs,
                           const std::optional<Tensor>& baselines,
                           const std::optional<Tensor>& scale) {
    const char* op = "path_accumulate";
    if (inputs.has_value() != baselines.has_value())
      fail(op, ": inputs and baselines must be given together");
    if (scale.has_value() && !inputs.has_value())
      fail(op, ": scale must come with inputs and baselines");
    const int64_t batch = batch_of(grads, weights);
    const MemoryFormat format = format_of(grads);
    const Tensor g = dense(grads, format);
    const Rows w = steps_by_batch(weights, batch, grads, op, "weights");
    PathAccumulate args = sum_args(g, w, weights.size(0), batch);
    std::vector<int64_t> sizes = sizes_of(grads);
    sizes[0] = batch;
    args.attribution_dtype = args.grad_dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    const Tensor result = torch::stable::empty(
        sizes, args.grad_dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float,
        std::nullopt, grads.device(), std::nullopt, format);
    args.attributions = result.mutable_data_ptr();
    Tensor x, scales;
    Rows b;
    if (inputs.has_value()) {
      check_same_device(*inputs, grads, op, "inputs");
      if (sizes_of(*inputs) != sizes) {
        fail(op, ": inputs must have shape [B, ...] with the features of the grads ",
             text_of(grads), ", got ", text_of(*inputs));
      }
      x = dense(*inputs, format);
      b = rows_like(*baselines, *inputs, format, op, "baselines");
      args.inputs = x.const_data_ptr();
      args.baselines = b.tensor.const_data_ptr();
      args.baseline_strides = b.strides;
      args.dtype = dtype_of(*inputs, op, "inputs");
      args.channels = channels_of(*inputs, format);
      if (scale.has_value()) {
        scales = channel_constants(*scale, *inputs, op, "scale");
        args.scale = static_cast<const double*>(scales.const_data_ptr());
      }
    }
    if (batch * args.features != 0) Backend::run(args, grads);
    return result;
  }

  static void accumulate_out(const Tensor& grads, const Tensor& weights, Tensor total) {
    const char* op = "path_accumulate";
    check_same_device(total, grads, op, "total");
    const int64_t batch = batch_of(grads, weights);
    std::vector<int64_t> sizes = sizes_of(grads);
    sizes[0] = batch;
    if (total.scalar_type() != ScalarType::Double || sizes_of(total) != sizes) {
      fail(op, ": total must be float64 [B, ...] with the features of the grads ", text_of(grads),
           ", got ", text_of(total));
    }
    const Tensor g = dense(grads, format_written(total, op, "total"));
    const Rows w = steps_by_batch(weights, batch, grads, op, "weights");
    for (const Tensor& read : {g, w.tensor}) check_apart(total, read, op, "total");
    PathAccumulate args = sum_args(g, w, weights.size(0), batch);
    args.total = static_cast<double*>(total.mutable_data_ptr());
    if (batch * args.features != 0) Backend::run(args, grads);
  }
};

template <typename Backend, typename Library>
void register_path_ops(Library& library) {
  using Ops = PathOps<Backend>;
  library.impl("path_points", TORCH_BOX(&Ops::points));
  library.impl("path_points.out", TORCH_BOX(&Ops::points_out));
  library.impl("path_accumulate", TORCH_BOX(&Ops::accumulate));
  library.impl("path_accumulate.out", TORCH_BOX(&Ops::accumulate_out));
}

}  // namespace pyxai_fast::torch_ops
