// The path kernels on CUDA. Memory decides their speed: each reads and writes every element once.
//
//   path_points      a thread keeps baseline and step of a few features in registers and writes
//                    those features of every step
//   path_accumulate  a thread sums a few features over all steps in registers, in the order of the
//                    steps; no atomics, so reruns give the same bits
//
// `Vector` features go with one access. Where features or pointers are not a multiple of it, the
// launch falls back to one feature a thread.

#include "launch.cuh"
#include "pyxai_fast/path.h"
#include "vec.cuh"

namespace pyxai_fast {
namespace {

template <typename Storage, int Vector>
__device__ void load_step(const Storage* inputs, const Storage* baselines, const Strides2& strides,
                          int64_t row, int64_t feature, int64_t features,
                          typename ComputeOf<Storage>::type* baseline,
                          typename ComputeOf<Storage>::type* step) {
  const auto x = *reinterpret_cast<const Vec<Storage, Vector>*>(inputs + row * features + feature);
  const Storage* b = baselines + row * strides.row;
  for (int i = 0; i < Vector; ++i) {
    baseline[i] = widen(strides.column == 0 ? b[0] : b[feature + i]);
    step[i] = widen(x.value[i]) - baseline[i];
  }
}

template <typename Storage, typename Point, int Vector>
__global__ void path_points_kernel(PathPoints args) {
  using Compute = typename ComputeOf<Storage>::type;
  const int64_t per_row = args.features / Vector;
  const int64_t vectors = args.batch * per_row;
  for (int64_t v = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; v < vectors;
       v += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = v / per_row;
    const int64_t feature = v % per_row * Vector;
    Compute baseline[Vector], step[Vector], scale[Vector], shift[Vector];
    load_step<Storage, Vector>(static_cast<const Storage*>(args.inputs),
                               static_cast<const Storage*>(args.baselines), args.baseline_strides,
                               row, feature, args.features, baseline, step);
    if (args.scale != nullptr) {
      for (int i = 0; i < Vector; ++i) {
        const int64_t channel = channel_of(args.channels, feature + i);
        scale[i] = static_cast<Compute>(args.scale[channel]);
        shift[i] = static_cast<Compute>(args.shift[channel]);
      }
    }
    for (int64_t s = blockIdx.y; s < args.steps; s += gridDim.y) {
      const Compute alpha = static_cast<Compute>(
          args.alphas[s * args.alpha_strides.row + row * args.alpha_strides.column]);
      Vec<Point, Vector> out;
      for (int i = 0; i < Vector; ++i) {
        Compute point = path_point(baseline[i], step[i], alpha);
        if (args.scale != nullptr) point = point * scale[i] + shift[i];
        narrow_to(point, out.value[i]);
      }
      Point* points = static_cast<Point*>(args.points) + (s * args.batch + row) * args.features;
      *reinterpret_cast<Vec<Point, Vector>*>(points + feature) = out;
    }
  }
}

template <typename Grad, typename Storage, int Vector>
__global__ void path_accumulate_kernel(PathAccumulate args) {
  const int64_t per_row = args.features / Vector;
  const int64_t vectors = args.batch * per_row;
  for (int64_t v = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; v < vectors;
       v += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = v / per_row;
    const int64_t feature = v % per_row * Vector;
    const int64_t at = row * args.features + feature;
    double sum[Vector];
    for (int i = 0; i < Vector; ++i) sum[i] = args.total != nullptr ? args.total[at + i] : 0.0;
    const double* weights = args.weights + row * args.weight_strides.column;
    // Unrolled so that several loads are in flight; the additions stay in the order of the steps.
#pragma unroll 4
    for (int64_t s = 0; s < args.steps; ++s) {
      const Grad* grads =
          static_cast<const Grad*>(args.grads) + s * args.batch * args.features + at;
      const auto grad = *reinterpret_cast<const Vec<Grad, Vector>*>(grads);
      const double weight = weights[s * args.weight_strides.row];
      for (int i = 0; i < Vector; ++i) sum[i] += weight * static_cast<double>(widen(grad.value[i]));
    }
    if (args.total != nullptr) {
      for (int i = 0; i < Vector; ++i) args.total[at + i] = sum[i];
      continue;
    }
    if (args.inputs != nullptr) {
      using Compute = typename ComputeOf<Storage>::type;
      Compute baseline[Vector], step[Vector];
      load_step<Storage, Vector>(static_cast<const Storage*>(args.inputs),
                                 static_cast<const Storage*>(args.baselines), args.baseline_strides,
                                 row, feature, args.features, baseline, step);
      for (int i = 0; i < Vector; ++i) {
        if (args.scale != nullptr) {
          step[i] *= static_cast<Compute>(args.scale[channel_of(args.channels, feature + i)]);
        }
        sum[i] *= static_cast<double>(step[i]);
      }
    }
    for (int i = 0; i < Vector; ++i) {
      if (args.attribution_dtype == DType::kFloat64) {
        static_cast<double*>(args.attributions)[at + i] = sum[i];
      } else {
        static_cast<float*>(args.attributions)[at + i] = static_cast<float>(sum[i]);
      }
    }
  }
}

template <typename Storage, typename Point, int Vector>
void launch_points(const PathPoints& args, void* stream) {
  const int64_t threads = args.batch * (args.features / Vector);
  const dim3 grid(blocks_for(threads), step_groups(threads, args.steps));
  PYXAI_FAST_LAUNCH((path_points_kernel<Storage, Point, Vector>), grid, kThreads, stream, args);
}

template <typename Grad, typename Storage, int Vector>
void launch_accumulate(const PathAccumulate& args, void* stream) {
  const int64_t threads = args.batch * (args.features / Vector);
  PYXAI_FAST_LAUNCH((path_accumulate_kernel<Grad, Storage, Vector>), blocks_for(threads), kThreads,
                    stream, args);
}

}  // namespace

int run_cuda(const PathPoints& args, void* stream) {
  with_dtype(args.dtype, [&](auto storage) {
    with_dtype(args.point_dtype, [&](auto point) {
      using Storage = decltype(storage);
      using Point = decltype(point);
      constexpr int kVector = vector_width<Storage, Point>();
      const bool whole = args.features % kVector == 0 &&
                         is_aligned(args.inputs, sizeof(Storage) * kVector) &&
                         is_aligned(args.points, sizeof(Point) * kVector);
      if (whole) {
        launch_points<Storage, Point, kVector>(args, stream);
      } else {
        launch_points<Storage, Point, 1>(args, stream);
      }
    });
  });
  return cudaGetLastError();
}

int run_cuda(const PathAccumulate& args, void* stream) {
  with_dtype(args.grad_dtype, [&](auto grad) {
    with_dtype(args.dtype, [&](auto storage) {
      using Grad = decltype(grad);
      using Storage = decltype(storage);
      constexpr int kVector = vector_width<Grad, Storage>();
      const bool whole = args.features % kVector == 0 &&
                         is_aligned(args.grads, sizeof(Grad) * kVector) &&
                         is_aligned(args.inputs, sizeof(Storage) * kVector);
      if (whole) {
        launch_accumulate<Grad, Storage, kVector>(args, stream);
      } else {
        launch_accumulate<Grad, Storage, 1>(args, stream);
      }
    });
  });
  return cudaGetLastError();
}

}  // namespace pyxai_fast
