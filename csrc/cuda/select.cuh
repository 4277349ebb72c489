// Select on CUDA. A family brings the rule that tells whether labels are in a set:
//
//   struct Rule {
//     using Label = ...;
//     Label label(const void* labels, bool wide, int64_t place) const;
//     Set set(int64_t row, int64_t step) const;
//     static bool holds(const Set& set, Label label);
//   };
//
// A thread converts a few features of both sources once, keeps them and their labels in registers, and
// writes those features of every step. The kernels are few, as the type of the inputs is no parameter.
#pragma once

#include "launch.cuh"
#include "pyxai_fast/select.h"
#include "sources.cuh"

namespace pyxai_fast {

template <typename Storage, typename Out, int Vector>
__device__ void convert_as(const Select& args, const Source& source, int64_t row, int64_t feature,
                           Out* to) {
  typename ComputeOf<Storage>::type values[Vector];
  load_row<Storage, Vector>(source, row, feature, values);
  if (args.scale != nullptr) {
    using Compute = typename ComputeOf<Storage>::type;
    Places channel(args.channels, feature);
    for (int i = 0; i < Vector; ++i, channel.next()) {
      values[i] = values[i] * static_cast<Compute>(args.scale[channel.place]) +
                  static_cast<Compute>(args.shift[channel.place]);
    }
  }
  for (int i = 0; i < Vector; ++i) narrow_to(values[i], to[i]);
}

template <typename Out, int Vector>
__device__ void convert(const Select& args, const Source& source, int64_t row, int64_t feature,
                        Out* to) {
  switch (args.dtype) {
    case DType::kFloat16:
      return convert_as<Float16, Out, Vector>(args, source, row, feature, to);
    case DType::kBFloat16:
      return convert_as<BFloat16, Out, Vector>(args, source, row, feature, to);
    case DType::kFloat32:
      return convert_as<float, Out, Vector>(args, source, row, feature, to);
    default:
      return convert_as<double, Out, Vector>(args, source, row, feature, to);
  }
}

template <typename Out, int Vector, typename Rule>
__global__ void select_kernel(Select args, Rule rule) {
  const int64_t per_row = args.features / Vector;
  const int64_t vectors = args.batch * per_row;
  for (int64_t v = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; v < vectors;
       v += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = v / per_row;
    const int64_t feature = v % per_row * Vector;
    Out chosen[Vector], other[Vector];
    convert<Out, Vector>(args, args.chosen, row, feature, chosen);
    convert<Out, Vector>(args, args.other, row, feature, other);
    typename Rule::Label labels[Vector];
    Places place(args.labels.repeats, feature);
    for (int i = 0; i < Vector; ++i, place.next()) {
      labels[i] =
          rule.label(args.labels.data, args.wide_labels, row * args.labels.row + place.place);
    }
    for (int64_t s = blockIdx.y; s < args.steps; s += gridDim.y) {
      const auto set = rule.set(row, s);
      Vec<Out, Vector> out;
      for (int i = 0; i < Vector; ++i) {
        const auto mask = mask_of<WordOf<Out>>(Rule::holds(set, labels[i]));
        out.value[i] = select_bits(chosen[i], other[i], mask);
      }
      Out* to = static_cast<Out*>(args.out) + (s * args.batch + row) * args.features;
      *reinterpret_cast<Vec<Out, Vector>*>(to + feature) = out;
    }
  }
}

template <typename Out, int Vector, typename Rule>
void launch_select(const Select& args, const Rule& rule, void* stream) {
  const int64_t threads = args.batch * (args.features / Vector);
  const dim3 grid(blocks_for(threads), step_groups(threads, args.steps));
  PYXAI_FAST_LAUNCH((select_kernel<Out, Vector, Rule>), grid, kThreads, stream, args, rule);
}

template <typename Rule>
int select_on_cuda(const Select& args, const Rule& rule, void* stream) {
  with_dtype(args.out_dtype, [&](auto out) {
    using Out = decltype(out);
    constexpr int kVector = 16 / static_cast<int>(sizeof(Out));
    const bool whole =
        args.features % kVector == 0 && loads_are_aligned<kVector>(args.chosen, args.dtype) &&
        loads_are_aligned<kVector>(args.other, args.dtype) && is_aligned(args.out, 16);
    if (whole) {
      launch_select<Out, kVector>(args, rule, stream);
    } else {
      launch_select<Out, 1>(args, rule, stream);
    }
  });
  return cudaGetLastError();
}

}  // namespace pyxai_fast
