// The ascend op on tensors, for any device: arguments are checked and described here, and a Backend
// launches the kernel.
#pragma once

#include "pyxai_fast/ascend.h"
#include "tensors.h"

namespace pyxai_fast::torch_ops {

template <typename Backend>
struct AscendOps {
  // Step sizes as doubles: one number, [S * B] or [S, B].
  static Rows sizes_by_row(const Tensor& step_sizes, int64_t steps, int64_t batch,
                           const Tensor& like, const char* op) {
    check_same_device(step_sizes, like, op, "step_sizes");
    const int64_t dims = step_sizes.dim();
    const bool flat = dims == 1 && step_sizes.size(0) == steps * batch;
    const bool by_step =
        dims == 2 && step_sizes.size(1) == batch && step_sizes.numel() == steps * batch;
    if (dims != 0 && !flat && !by_step) {
      fail(op, ": step_sizes must be a scalar or have shape [S * B] or [S, B] with S = ", steps,
           " and B = ", batch, ", got ", text_of(step_sizes));
    }
    const Strides2 strides = dims == 0 ? Strides2{0, 0} : Strides2{batch, 1};
    return {dense_doubles(step_sizes), strides};
  }

  static void ascend_max(Tensor points, const Tensor& grads, const Tensor& step_sizes, Tensor best,
                         const std::optional<Tensor>& scale, bool absolute) {
    const char* op = "ascend_max";
    check_same_device(grads, points, op, "grads");
    check_same_device(best, points, op, "best");
    AscendMax args{};
    args.dtype = dtype_of(points, op, "points");
    if (grads.scalar_type() != points.scalar_type() || sizes_of(grads) != sizes_of(points)) {
      fail(op, ": grads must have the type and shape of the points ", text_of(points), ", got ",
           text_of(grads));
    }
    bool fits = best.dim() > 0 && best.dim() == points.dim() &&
                (best.size(0) == 0 ? points.size(0) == 0 : points.size(0) % best.size(0) == 0);
    for (int64_t d = 1; fits && d < best.dim(); ++d) fits = best.size(d) == points.size(d);
    const ScalarType wide = args.dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
    if (!fits || best.scalar_type() != wide) {
      fail(op, ": best must be ", torch::headeronly::toString(wide),
           " [B, ...] for points [S * B, ...], got ", text_of(best), " and ", text_of(points));
    }
    const MemoryFormat format = format_written(points, op, "points");
    if (!is_dense(best, format)) fail(op, ": best must have the memory format of the points");
    args.batch = best.size(0);
    args.steps = args.batch == 0 ? 0 : points.size(0) / args.batch;
    args.features = args.batch == 0 ? 0 : best.numel() / args.batch;
    const Tensor g = dense(grads, format);
    const Rows sizes = sizes_by_row(step_sizes, args.steps, args.batch, points, op);
    check_apart(points, best, op, "points");
    for (const Tensor& read : {g, sizes.tensor}) {
      check_apart(points, read, op, "points");
      check_apart(best, read, op, "best");
    }
    Tensor scales;
    if (scale.has_value()) {
      scales = channel_constants(*scale, points, op, "scale");
      check_apart(points, scales, op, "points");
      check_apart(best, scales, op, "best");
      args.scale = static_cast<const double*>(scales.const_data_ptr());
    }
    args.points = points.mutable_data_ptr();
    args.grads = g.const_data_ptr();
    args.step_sizes = static_cast<const double*>(sizes.tensor.const_data_ptr());
    args.best = best.mutable_data_ptr();
    args.step_strides = sizes.strides;
    args.channels = channels_of(points, format);
    args.absolute = absolute;
    if (points.numel() != 0) Backend::run(args, points);
  }
};

template <typename Backend, typename Library>
void register_ascend_ops(Library& library) {
  library.impl("ascend_max", TORCH_BOX(&AscendOps<Backend>::ascend_max));
}

}  // namespace pyxai_fast::torch_ops
