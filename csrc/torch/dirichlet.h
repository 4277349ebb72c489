// The dirichlet ops on tensors, for any device: arguments are checked and described here, and a
// Backend launches the kernels.
#pragma once

#include "pyxai_fast/dirichlet.h"
#include "tensors.h"

namespace pyxai_fast::torch_ops {

template <typename Backend>
struct DirichletOps {
  // Which paths: the arguments that both ops share, and the tensors among them.
  struct __attribute__((visibility("hidden"))) Paths {
    DirichletPaths args;
    Tensor key, examples;
  };

  static Paths paths_of(const char* op, const Tensor& like, const Tensor& key,
                        const std::optional<Tensor>& examples, double concentration,
                        int64_t n_steps, int64_t first_step, int64_t count, int64_t n_paths,
                        int64_t first_path, bool per_pixel, int64_t batch, MemoryFormat format) {
    if (!(concentration > 0.0)) fail(op, ": concentration must be positive, got ", concentration);
    if (n_steps < 1 || n_steps > kMaxSteps)
      fail(op, ": n_steps must be in [1, ", kMaxSteps, "], got ", n_steps);
    if (first_step < 0 || count < 1 || count > n_steps || first_step > n_steps - count) {
      fail(op, ": first_step and count must choose steps of ", n_steps, ", got ", first_step,
           " and ", count);
    }
    constexpr int64_t kWord = int64_t{1} << 32;  // what the counter can tell apart
    if (n_paths < 1 || first_path < 0 || n_paths > kWord || first_path > kWord - n_paths) {
      fail(op, ": first_path and n_paths must choose paths of 2^32, got ", first_path, " and ",
           n_paths);
    }
    Paths p{};
    p.key = integers(key, ScalarType::Long, like, op, "key");
    if (key.dim() != 1 || key.size(0) != 2)
      fail(op, ": key must be int64 [2], a seed and a stream, got ", text_of(key));
    p.args.key = static_cast<const int64_t*>(p.key.const_data_ptr());
    if (examples.has_value()) {
      p.examples = integers(*examples, ScalarType::Long, like, op, "examples");
      if (examples->dim() != 1 || examples->size(0) != batch)
        fail(op, ": examples must have shape [", batch, "], got ", text_of(*examples));
      p.args.examples = static_cast<const int64_t*>(p.examples.const_data_ptr());
    }
    if (per_pixel && like.dim() < 2)
      fail(op, ": paths per pixel need shape [B, C, ...], got ", text_of(like));
    int64_t features = 1;
    for (int64_t d = 1; d < like.dim(); ++d) features *= like.size(d);
    if (features > kWord) fail(op, ": features must be at most 2^32, got ", features);
    p.args.concentration = concentration;
    p.args.steps = n_steps;
    p.args.first_step = first_step;
    p.args.count = count;
    p.args.first_path = first_path;
    p.args.paths = n_paths;
    p.args.batch = batch;
    p.args.channels = channels_of(like, format);
    p.args.per_pixel = per_pixel;
    p.args.elements = per_pixel && features > 0 ? features / p.args.channels.count : features;
    return p;
  }

  static std::vector<int64_t> point_sizes(const Tensor& inputs, int64_t count, int64_t n_paths) {
    std::vector<int64_t> sizes = sizes_of(inputs);
    if (__builtin_mul_overflow(sizes[0], count * n_paths, &sizes[0]))
      fail("dirichlet_points: points must be fewer than 2^63, got more");
    return sizes;
  }

  static void write_points(const Tensor& inputs, const Tensor& baselines, const Paths& paths,
                           double position, const std::optional<Tensor>& scale,
                           const std::optional<Tensor>& shift, const Tensor& points,
                           MemoryFormat format) {
    const char* op = "dirichlet_points";
    if (scale.has_value() != shift.has_value())
      fail(op, ": scale and shift must be given together");
    const Tensor x = dense(inputs, format);
    const Rows b = rows_like(baselines, inputs, format, op, "baselines");
    for (const Tensor& read : {x, b.tensor, paths.key}) check_apart(points, read, op, "out");
    if (paths.args.examples != nullptr) check_apart(points, paths.examples, op, "out");
    DirichletPoints args{};
    args.path = paths.args;
    Tensor scales, shifts;
    if (scale.has_value()) {
      scales = channel_constants(*scale, inputs, op, "scale");
      shifts = channel_constants(*shift, inputs, op, "shift");
      args.scale = static_cast<const double*>(scales.const_data_ptr());
      args.shift = static_cast<const double*>(shifts.const_data_ptr());
    }
    args.inputs = x.const_data_ptr();
    args.baselines = b.tensor.const_data_ptr();
    args.points = points.mutable_data_ptr();
    args.position = position;
    args.features = inputs.size(0) == 0 ? 0 : inputs.numel() / inputs.size(0);
    args.baseline_strides = b.strides;
    args.dtype = dtype_of(inputs, op, "inputs");
    args.point_dtype = dtype_of(points, op, "points");
    if (points.numel() != 0) Backend::run(args, inputs);
  }

  static Paths point_paths(const Tensor& inputs, const Tensor& key,
                           const std::optional<Tensor>& examples, double concentration,
                           int64_t n_steps, int64_t first_step, int64_t count, int64_t n_paths,
                           int64_t first_path, bool per_pixel, MemoryFormat format) {
    const char* op = "dirichlet_points";
    if (inputs.dim() == 0) fail(op, ": inputs must have shape [B, ...], got a scalar");
    return paths_of(op, inputs, key, examples, concentration, n_steps, first_step, count, n_paths,
                    first_path, per_pixel, inputs.size(0), format);
  }

  static Tensor points(const Tensor& inputs, const Tensor& baselines, const Tensor& key,
                       const std::optional<Tensor>& examples, double concentration, int64_t n_steps,
                       int64_t first_step, int64_t count, int64_t n_paths, int64_t first_path,
                       double position, bool per_pixel, const std::optional<Tensor>& scale,
                       const std::optional<Tensor>& shift, std::optional<ScalarType> dtype,
                       std::optional<MemoryFormat> memory_format) {
    const MemoryFormat format = memory_format.value_or(MemoryFormat::Contiguous);
    const Paths paths = point_paths(inputs, key, examples, concentration, n_steps, first_step,
                                    count, n_paths, first_path, per_pixel, format);
    const std::vector<int64_t> sizes = point_sizes(inputs, count, n_paths);
    const Tensor result = torch::stable::empty(sizes, dtype.value_or(inputs.scalar_type()),
                                               std::nullopt, inputs.device(), std::nullopt, format);
    write_points(inputs, baselines, paths, position, scale, shift, result, format);
    return result;
  }

  static void points_out(const Tensor& inputs, const Tensor& baselines, const Tensor& key,
                         const std::optional<Tensor>& examples, double concentration,
                         int64_t n_steps, int64_t first_step, int64_t count, int64_t n_paths,
                         int64_t first_path, double position, bool per_pixel,
                         const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                         Tensor out) {
    const char* op = "dirichlet_points";
    const MemoryFormat format = format_written(out, op, "out");
    const Paths paths = point_paths(inputs, key, examples, concentration, n_steps, first_step,
                                    count, n_paths, first_path, per_pixel, format);
    check_same_device(out, inputs, op, "out");
    const std::vector<int64_t> sizes = point_sizes(inputs, count, n_paths);
    if (sizes_of(out) != sizes) {
      fail(op, ": out must have shape [count * n_paths * B, ...] with the features of the inputs ",
           text_of(inputs), ", got ", text_of(out));
    }
    write_points(inputs, baselines, paths, position, scale, shift, out, format);
  }

  // The shape of a sum of gradients: [n_paths * B, ...]. Each is a count * n_paths * B-th of them.
  static std::vector<int64_t> sum_sizes(const Tensor& grads, int64_t count, int64_t n_paths) {
    const char* op = "dirichlet_accumulate";
    if (count < 1 || n_paths < 1 || grads.dim() == 0 || grads.size(0) % count != 0 ||
        grads.size(0) / count % n_paths != 0) {
      fail(op, ": grads must have shape [count * n_paths * B, ...] with count = ", count,
           " and n_paths = ", n_paths, ", got ", text_of(grads));
    }
    std::vector<int64_t> sizes = sizes_of(grads);
    sizes[0] /= count;
    return sizes;
  }

  static DirichletAccumulate sum_args(const Tensor& grads, const Paths& paths) {
    DirichletAccumulate args{};
    args.path = paths.args;
    args.grads = grads.const_data_ptr();
    args.features = grads.size(0) == 0 ? 0 : grads.numel() / grads.size(0);
    args.grad_dtype = dtype_of(grads, "dirichlet_accumulate", "grads");
    return args;
  }

  static Tensor accumulate(const Tensor& grads, const Tensor& key,
                           const std::optional<Tensor>& examples, double concentration,
                           int64_t n_steps, int64_t first_step, int64_t count, int64_t n_paths,
                           int64_t first_path, bool per_pixel, const std::optional<Tensor>& inputs,
                           const std::optional<Tensor>& baselines,
                           const std::optional<Tensor>& scale) {
    const char* op = "dirichlet_accumulate";
    if (inputs.has_value() != baselines.has_value())
      fail(op, ": inputs and baselines must be given together");
    if (scale.has_value() && !inputs.has_value())
      fail(op, ": scale must come with inputs and baselines");
    std::vector<int64_t> sizes = sum_sizes(grads, count, n_paths);
    const MemoryFormat format = format_of(grads);
    const Paths paths = paths_of(op, grads, key, examples, concentration, n_steps, first_step,
                                 count, n_paths, first_path, per_pixel, sizes[0] / n_paths, format);
    const Tensor g = dense(grads, format);
    DirichletAccumulate args = sum_args(g, paths);
    const bool wide = args.grad_dtype == DType::kFloat64;
    args.attribution_dtype = wide ? DType::kFloat64 : DType::kFloat32;
    const Tensor result = torch::stable::empty(sizes, wide ? ScalarType::Double : ScalarType::Float,
                                               std::nullopt, grads.device(), std::nullopt, format);
    args.attributions = result.mutable_data_ptr();
    Tensor x, scales;
    Rows b;
    if (inputs.has_value()) {
      check_same_device(*inputs, grads, op, "inputs");
      sizes[0] /= n_paths;
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
      if (scale.has_value()) {
        scales = channel_constants(*scale, *inputs, op, "scale");
        args.scale = static_cast<const double*>(scales.const_data_ptr());
      }
    }
    if (result.numel() != 0) Backend::run(args, grads);
    return result;
  }

  static void accumulate_out(const Tensor& grads, const Tensor& key,
                             const std::optional<Tensor>& examples, double concentration,
                             int64_t n_steps, int64_t first_step, int64_t count, int64_t n_paths,
                             int64_t first_path, bool per_pixel, Tensor total) {
    const char* op = "dirichlet_accumulate";
    check_same_device(total, grads, op, "total");
    const std::vector<int64_t> sizes = sum_sizes(grads, count, n_paths);
    if (total.scalar_type() != ScalarType::Double || sizes_of(total) != sizes) {
      fail(op, ": total must be float64 [n_paths * B, ...] with the features of the grads ",
           text_of(grads), ", got ", text_of(total));
    }
    const MemoryFormat format = format_written(total, op, "total");
    const Paths paths = paths_of(op, grads, key, examples, concentration, n_steps, first_step,
                                 count, n_paths, first_path, per_pixel, sizes[0] / n_paths, format);
    const Tensor g = dense(grads, format);
    for (const Tensor& read : {g, paths.key}) check_apart(total, read, op, "total");
    if (paths.args.examples != nullptr) check_apart(total, paths.examples, op, "total");
    DirichletAccumulate args = sum_args(g, paths);
    args.total = static_cast<double*>(total.mutable_data_ptr());
    if (total.numel() != 0) Backend::run(args, grads);
  }
};

template <typename Backend, typename Library>
void register_dirichlet_ops(Library& library) {
  using Ops = DirichletOps<Backend>;
  library.impl("dirichlet_points", TORCH_BOX(&Ops::points));
  library.impl("dirichlet_points.out", TORCH_BOX(&Ops::points_out));
  library.impl("dirichlet_accumulate", TORCH_BOX(&Ops::accumulate));
  library.impl("dirichlet_accumulate.out", TORCH_BOX(&Ops::accumulate_out));
}

}  // namespace pyxai_fast::torch_ops
