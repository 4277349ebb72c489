// The ascend kernel on CUDA. Memory decides its speed: a thread goes through all points of a few
// features, and keeps their best gradients in registers.

#include "launch.cuh"
#include "pyxai_fast/ascend.h"
#include "vec.cuh"

namespace pyxai_fast {
namespace {

template <typename Storage, int Vector>
__global__ void ascend_max_kernel(AscendMax args) {
  using Compute = typename ComputeOf<Storage>::type;
  const int64_t per_row = args.features / Vector;
  const int64_t vectors = args.batch * per_row;
  for (int64_t v = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; v < vectors;
       v += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = v / per_row;
    const int64_t feature = v % per_row * Vector;
    const int64_t first = row * args.features + feature;
    Compute* best = static_cast<Compute*>(args.best) + first;
    Compute kept[Vector], scale[Vector];
    for (int i = 0; i < Vector; ++i) {
      kept[i] = best[i];
      scale[i] = args.scale == nullptr
                     ? Compute{1}
                     : static_cast<Compute>(args.scale[channel_of(args.channels, feature + i)]);
    }
    const double* sizes = args.step_sizes + row * args.step_strides.column;
#pragma unroll 2
    for (int64_t s = 0; s < args.steps; ++s) {
      const int64_t at = s * args.batch * args.features + first;
      auto* points =
          reinterpret_cast<Vec<Storage, Vector>*>(static_cast<Storage*>(args.points) + at);
      const auto grad = *reinterpret_cast<const Vec<Storage, Vector>*>(
          static_cast<const Storage*>(args.grads) + at);
      auto point = *points;
      const Compute size = static_cast<Compute>(sizes[s * args.step_strides.row]);
      for (int i = 0; i < Vector; ++i) {
        const Compute g = widen(grad.value[i]) * scale[i];
        kept[i] = args.absolute ? better_of<true>(kept[i], g) : better_of<false>(kept[i], g);
        narrow_to(widen(point.value[i]) + size * (g * scale[i]), point.value[i]);
      }
      *points = point;
    }
    for (int i = 0; i < Vector; ++i) best[i] = kept[i];
  }
}

template <typename Storage, int Vector>
void launch_ascend(const AscendMax& args, void* stream) {
  const int64_t threads = args.batch * (args.features / Vector);
  PYXAI_FAST_LAUNCH((ascend_max_kernel<Storage, Vector>), blocks_for(threads), kThreads, stream,
                    args);
}

}  // namespace

int run_cuda(const AscendMax& args, void* stream) {
  with_dtype(args.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    constexpr int kVector = vector_width<Storage, Storage>();
    const bool whole = args.features % kVector == 0 &&
                       is_aligned(args.points, sizeof(Storage) * kVector) &&
                       is_aligned(args.grads, sizeof(Storage) * kVector);
    if (whole) {
      launch_ascend<Storage, kVector>(args, stream);
    } else {
      launch_ascend<Storage, 1>(args, stream);
    }
  });
  return cudaGetLastError();
}

}  // namespace pyxai_fast
