// The rank ops on tensors, for any device.
#pragma once

#include <utility>

#include "pyxai_fast/rank.h"
#include "select.h"

namespace pyxai_fast::torch_ops {

template <typename Backend>
struct RankOps {
  static SelectCall call(const Tensor& inputs, const Tensor& base, const Tensor& ranks,
                         const Tensor& steps, const std::optional<Tensor>& scale,
                         const std::optional<Tensor>& shift) {
    const char* op = RankMask::kName;
    const SelectCall call{op,     inputs, base,
                          "base", ranks,  "ranks",
                          scale,  shift,  steps.dim() == 0 ? 0 : steps.size(0)};
    call.check_dims();
    check_same_device(steps, inputs, op, "steps");
    const int64_t dims = steps.dim();
    if (steps.scalar_type() != ScalarType::Long || dims < 1 || dims > 2 ||
        (dims == 2 && steps.size(1) != inputs.size(0))) {
      fail(op, ": steps must be int64 of shape [S] or [S, B] with B = ", inputs.size(0), ", got ",
           text_of(steps));
    }
    return call;
  }

  static void write(const SelectCall& call, const Tensor& steps, const Tensor& out,
                    MemoryFormat format) {
    const Selection selection = call.into(out, format);
    const Tensor ends = dense(steps, MemoryFormat::Contiguous);
    check_apart(out, ends, call.op, "out");
    RankMask args{};
    args.select = selection.args;
    std::swap(args.select.chosen, args.select.other);
    args.ends = static_cast<const int64_t*>(ends.const_data_ptr());
    const bool per_example = ends.dim() == 2;
    args.end_strides = {per_example ? call.inputs.size(0) : 1, per_example ? 1 : 0};
    if (!selection.empty()) Backend::run(args, call.inputs);
  }

  static Tensor mask(const Tensor& inputs, const Tensor& base, const Tensor& ranks,
                     const Tensor& steps, const std::optional<Tensor>& scale,
                     const std::optional<Tensor>& shift, std::optional<ScalarType> dtype,
                     std::optional<MemoryFormat> memory_format) {
    const SelectCall made = call(inputs, base, ranks, steps, scale, shift);
    const MemoryFormat format = memory_format.value_or(MemoryFormat::Contiguous);
    const Tensor result = made.empty(dtype, format);
    write(made, steps, result, format);
    return result;
  }

  static void mask_out(const Tensor& inputs, const Tensor& base, const Tensor& ranks,
                       const Tensor& steps, const std::optional<Tensor>& scale,
                       const std::optional<Tensor>& shift, Tensor out) {
    const SelectCall made = call(inputs, base, ranks, steps, scale, shift);
    made.check_out(out);
    write(made, steps, out, format_written(out, made.op, "out"));
  }
};

template <typename Backend, typename Library>
void register_rank_ops(Library& library) {
  using Ops = RankOps<Backend>;
  library.impl("rank_mask", TORCH_BOX(&Ops::mask));
  library.impl("rank_mask.out", TORCH_BOX(&Ops::mask_out));
}

}  // namespace pyxai_fast::torch_ops
