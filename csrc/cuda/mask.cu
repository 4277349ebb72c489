// The mask kernels on CUDA. mask_segments is a rule for select.cuh; mask_blend reads each input and
// mask once and writes both products.

#include "pyxai_fast/mask.h"
#include "select.cuh"

namespace pyxai_fast {
namespace {

struct KeptByCoalition {
  using Label = int32_t;
  const uint32_t* coalitions;
  Strides2 strides;
  int64_t words;

  __device__ Label label(const void* segments, bool wide, int64_t place) const {
    return known_segment(wide ? static_cast<const int64_t*>(segments)[place]
                              : static_cast<const int32_t*>(segments)[place],
                         words);
  }
  __device__ const uint32_t* set(int64_t row, int64_t step) const {
    return coalitions + step * strides.row + row * strides.column;
  }
  static __device__ bool holds(const uint32_t* coalition, Label segment) {
    return is_kept(coalition, segment);
  }
};

template <typename Storage, typename Mask, int Vector>
__global__ void mask_blend_kernel(MaskBlend args) {
  using Compute = typename ComputeOf<Storage>::type;
  const int64_t per_row = args.features / Vector;
  const int64_t vectors = args.batch * per_row;
  for (int64_t v = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; v < vectors;
       v += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = v / per_row;
    const int64_t feature = v % per_row * Vector;
    Compute values[Vector];
    load_row<Storage, Vector>(args.inputs, row, feature, values);
    const Mask* masks = static_cast<const Mask*>(args.masks.data) + row * args.masks.row;
    Places place(args.masks.repeats, feature);
    Vec<Storage, Vector> kept, rest;
    for (int i = 0; i < Vector; ++i, place.next()) {
      const Compute mask = widen(masks[place.place]);
      narrow_to(values[i] * mask, kept.value[i]);
      narrow_to(values[i] * (Compute{1} - mask), rest.value[i]);
    }
    Storage* out = static_cast<Storage*>(args.out) + row * args.features + feature;
    *reinterpret_cast<Vec<Storage, Vector>*>(out) = kept;
    *reinterpret_cast<Vec<Storage, Vector>*>(out + args.batch * args.features) = rest;
  }
}

template <typename Storage, typename Mask>
void launch_blend(const MaskBlend& args, void* stream) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(Storage));
  const int64_t features = args.batch * args.features;
  if (args.features % kVector == 0 && loads_are_aligned<kVector>(args.inputs, args.dtype) &&
      is_aligned(args.out, 16)) {
    PYXAI_FAST_LAUNCH((mask_blend_kernel<Storage, Mask, kVector>), blocks_for(features / kVector),
                      kThreads, stream, args);
  } else {
    PYXAI_FAST_LAUNCH((mask_blend_kernel<Storage, Mask, 1>), blocks_for(features), kThreads, stream,
                      args);
  }
}

}  // namespace

int run_cuda(const MaskSegments& args, void* stream) {
  const KeptByCoalition rule{args.coalitions, args.coalition_strides, args.words};
  return select_on_cuda(args.select, rule, stream);
}

int run_cuda(const MaskBlend& args, void* stream) {
  with_dtype(args.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    if (args.mask_dtype == args.dtype) {
      launch_blend<Storage, Storage>(args, stream);
    } else {
      launch_blend<Storage, typename ComputeOf<Storage>::type>(args, stream);
    }
  });
  return cudaGetLastError();
}

}  // namespace pyxai_fast
