// The mask ops on tensors, for any device.
#pragma once

#include "pyxai_fast/mask.h"
#include "select.h"

namespace pyxai_fast::torch_ops {

template <typename Backend>
struct MaskOps {
  static SelectCall call(const Tensor& inputs, const Tensor& segments, const Tensor& coalitions,
                         const Tensor& fill, const std::optional<Tensor>& scale,
                         const std::optional<Tensor>& shift) {
    const char* op = MaskSegments::kName;
    const SelectCall call{op,     inputs,   fill,
                          "fill", segments, "segments",
                          scale,  shift,    coalitions.dim() == 0 ? 0 : coalitions.size(0)};
    call.check_dims();
    check_same_device(coalitions, inputs, op, "coalitions");
    const int64_t dims = coalitions.dim();
    if (coalitions.scalar_type() != ScalarType::Int || dims < 2 || dims > 3 ||
        (dims == 3 && coalitions.size(1) != inputs.size(0))) {
      fail(op, ": coalitions must be int32 of shape [S, W] or [S, B, W] with B = ", inputs.size(0),
           ", got ", text_of(coalitions));
    }
    if (coalitions.size(dims - 1) > kMaxCoalitionWords) {
      fail(op, ": coalitions must have at most ", kMaxCoalitionWords, " words, got ",
           text_of(coalitions));
    }
    return call;
  }

  static void write(const SelectCall& call, const Tensor& coalitions, const Tensor& out,
                    MemoryFormat format) {
    const Selection selection = call.into(out, format);
    const Tensor words = dense(coalitions, MemoryFormat::Contiguous);
    check_apart(out, words, call.op, "out");
    MaskSegments args{};
    args.select = selection.args;
    args.coalitions = static_cast<const uint32_t*>(words.const_data_ptr());
    args.words = words.size(words.dim() - 1);
    const bool per_example = words.dim() == 3;
    args.coalition_strides = {args.words * (per_example ? call.inputs.size(0) : 1),
                              per_example ? args.words : 0};
    if (!selection.empty()) Backend::run(args, call.inputs);
  }

  static Tensor segments(const Tensor& inputs, const Tensor& segments, const Tensor& coalitions,
                         const Tensor& fill, const std::optional<Tensor>& scale,
                         const std::optional<Tensor>& shift, std::optional<ScalarType> dtype,
                         std::optional<MemoryFormat> memory_format) {
    const SelectCall made = call(inputs, segments, coalitions, fill, scale, shift);
    const MemoryFormat format = memory_format.value_or(MemoryFormat::Contiguous);
    const Tensor result = made.empty(dtype, format);
    write(made, coalitions, result, format);
    return result;
  }

  static void segments_out(const Tensor& inputs, const Tensor& segments, const Tensor& coalitions,
                           const Tensor& fill, const std::optional<Tensor>& scale,
                           const std::optional<Tensor>& shift, Tensor out) {
    const SelectCall made = call(inputs, segments, coalitions, fill, scale, shift);
    made.check_out(out);
    write(made, coalitions, out, format_written(out, made.op, "out"));
  }

  static void check_blend(const Tensor& inputs) {
    if (inputs.dim() == 0) fail("mask_blend: inputs must have shape [N, ...], got a scalar");
  }

  static void write_blend(const Tensor& inputs, const Tensor& masks, const Tensor& out,
                          MemoryFormat format) {
    const char* op = MaskBlend::kName;
    MaskBlend args{};
    args.dtype = dtype_of(inputs, op, "inputs");
    args.mask_dtype = dtype_of(masks, op, "masks");
    const Held x = held_rows(inputs, inputs, format, op, "inputs");
    const bool as_given = args.mask_dtype == args.dtype;
    if (!as_given) {
      args.mask_dtype = args.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    }
    const ScalarType computed =
        args.dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
    const Tensor converted = as_given ? masks : as_type(without_expanded_batch(masks), computed);
    const Held m = held_pixels(converted, inputs, format, op, "masks");
    for (const Tensor& read : {x.tensor, m.tensor}) check_apart(out, read, op, "out");
    args.inputs = x.source;
    args.masks = m.source;
    args.out = out.mutable_data_ptr();
    args.batch = inputs.size(0);
    args.features = features_of(inputs);
    if (args.batch * args.features != 0) Backend::run(args, inputs);
  }

  static Tensor blend(const Tensor& inputs, const Tensor& masks) {
    check_blend(inputs);
    const MemoryFormat format = format_of(inputs);
    std::vector<int64_t> sizes = sizes_of(inputs);
    sizes[0] *= 2;
    const Tensor result = torch::stable::empty(sizes, inputs.scalar_type(), std::nullopt,
                                               inputs.device(), std::nullopt, format);
    write_blend(inputs, masks, result, format);
    return result;
  }

  static void blend_out(const Tensor& inputs, const Tensor& masks, Tensor out) {
    const char* op = MaskBlend::kName;
    check_blend(inputs);
    check_same_device(out, inputs, op, "out");
    std::vector<int64_t> sizes = sizes_of(inputs);
    sizes[0] *= 2;
    if (sizes_of(out) != sizes || out.scalar_type() != inputs.scalar_type()) {
      fail(op, ": out must have shape [2 * N, ...] and the type of the inputs ", text_of(inputs),
           ", got ", text_of(out));
    }
    write_blend(inputs, masks, out, format_written(out, op, "out"));
  }
};

template <typename Backend, typename Library>
void register_mask_ops(Library& library) {
  using Ops = MaskOps<Backend>;
  library.impl("mask_segments", TORCH_BOX(&Ops::segments));
  library.impl("mask_segments.out", TORCH_BOX(&Ops::segments_out));
  library.impl("mask_blend", TORCH_BOX(&Ops::blend));
  library.impl("mask_blend.out", TORCH_BOX(&Ops::blend_out));
}

}  // namespace pyxai_fast::torch_ops
