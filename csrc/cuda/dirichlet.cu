// The dirichlet kernels on CUDA. A thread walks the path of one element and keeps the few boundaries
// it needs; drawing them takes more time than the memory. It serves one feature, or up to four
// channels of a pixel.
//
//   dirichlet_points      grid.y divides the steps where elements are few: any boundary is reached
//                         from the root
//   dirichlet_accumulate  a thread sums over all steps in registers, in the order of the steps; no
//                         atomics, so reruns give the same bits

#include "launch.cuh"
#include "pyxai_fast/dirichlet.h"

namespace pyxai_fast {
namespace {

constexpr int kChannels = 4;  // of a pixel that share a thread

struct Walk {
  float places[kPlaces];
  uint32_t served[kMaxLevels];  // by depth: the block that served it last, plus one
  RandomKey key;
  uint32_t element;
  uint32_t example;
  uint32_t path;
};

// Splits the two nodes at `depth` that a block serves.
__device__ void split(Walk& walk, double concentration, int levels, int depth, uint32_t block) {
  const float inverse = inverse_shape(concentration, depth);
  float low = 1.0f, middle = 1.0f, high = 2.0f;
  if (depth > 0) {  // the two halves of the node above
    const uint32_t node = block - (1u << (depth - 1));
    low = walk.places[boundary_place(node << (levels - depth + 1), levels)];
    middle = walk.places[boundary_place((2 * node + 1) << (levels - depth), levels)];
    high = walk.places[boundary_place((node + 1) << (levels - depth + 1), levels)];
  }
  uint32_t words[4];
  stick_words<ScalarLanes>(walk.key, block, walk.element, walk.example, walk.path, words);
  const float beta = symmetric_beta<ScalarLanes>(words[0], words[1], inverse);
  walk.places[2 + 2 * depth] = low + beta * (middle - low);
  const float other = symmetric_beta<ScalarLanes>(words[2], words[3], inverse);
  walk.places[3 + 2 * depth] = middle + other * (high - middle);
}

__device__ float reach(Walk& walk, const DirichletPaths& path, int levels, int64_t step) {
  const uint32_t boundary = boundary_of(step, path.steps, levels);
  const int place = boundary_place(boundary, levels);
  if (place > kEnd) {
    const int last = depth_of(boundary, levels);
    for (int depth = 0; depth <= last; ++depth) {
      const uint32_t block = block_on_way(boundary, depth, levels);
      if (walk.served[depth] == block + 1) continue;
      split(walk, path.concentration, levels, depth, block);
      walk.served[depth] = block + 1;
    }
  }
  return walk.places[place];
}

// What a thread works on: an element of a path of an example, and its features in memory, which are
// `stride` apart.
struct Item {
  int64_t path;
  int64_t example;
  int64_t feature;
  int64_t stride;
  int channels;
};

__host__ __device__ int64_t groups_of(const DirichletPaths& path) {
  return path.per_pixel ? ceil_div(path.channels.count, kChannels) : 1;
}

__host__ __device__ int64_t items_of(const DirichletPaths& path) {
  return path.paths * path.batch * groups_of(path) * path.elements;
}

__device__ Item item_of(const DirichletPaths& path, int64_t index) {
  const int64_t element = index % path.elements;
  const int64_t group = index / path.elements % groups_of(path);
  const int64_t row = index / path.elements / groups_of(path);
  Item item{row / path.batch, row % path.batch, element, 0, 1};
  if (path.per_pixel) {
    const int64_t first = group * kChannels;
    const int64_t left = path.channels.count - first;
    const bool together = path.channels.inner == 1;
    item.channels = static_cast<int>(left < kChannels ? left : kChannels);
    item.stride = together ? 1 : path.elements;
    item.feature =
        together ? element * path.channels.count + first : first * path.elements + element;
  }
  return item;
}

__device__ Walk walk_of(const DirichletPaths& path, int64_t features, const Item& item) {
  Walk walk;
  for (int depth = 0; depth < kMaxLevels; ++depth) walk.served[depth] = 0;
  walk.places[kStart] = 1.0f;
  walk.places[kEnd] = 2.0f;
  walk.key = random_key(path.key);
  walk.element = element_of(path, features, item.feature);
  walk.example =
      static_cast<uint32_t>(path.examples == nullptr ? item.example : path.examples[item.example]);
  walk.path = static_cast<uint32_t>(path.first_path + item.path);
  return walk;
}

// An element of an array of any type.
template <typename Compute>
__device__ Compute load_as(const void* from, DType dtype, int64_t at) {
  switch (dtype) {
    case DType::kFloat16:
      return widen(static_cast<const Float16*>(from)[at]);
    case DType::kBFloat16:
      return widen(static_cast<const BFloat16*>(from)[at]);
    case DType::kFloat32:
      return static_cast<const float*>(from)[at];
    default:
      return static_cast<Compute>(static_cast<const double*>(from)[at]);
  }
}

template <typename Compute, typename Point>
__global__ void dirichlet_points_kernel(DirichletPoints args) {
  const DirichletPaths& path = args.path;
  const int levels = levels_of(path.steps);
  const int64_t items = items_of(path);
  const float position = static_cast<float>(args.position);
  const int64_t per_group = ceil_div(path.count, gridDim.y);
  const int64_t begin = blockIdx.y * per_group;
  const int64_t end = begin + per_group < path.count ? begin + per_group : path.count;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < items;
       i += int64_t{gridDim.x} * blockDim.x) {
    const Item item = item_of(path, i);
    Compute baseline[kChannels], step[kChannels], scale[kChannels], shift[kChannels];
    for (int c = 0; c < kChannels; ++c) {
      if (c >= item.channels) break;
      const int64_t feature = item.feature + c * item.stride;
      const Strides2& strides = args.baseline_strides;
      baseline[c] = load_as<Compute>(args.baselines, args.dtype,
                                     item.example * strides.row + feature * strides.column);
      step[c] = load_as<Compute>(args.inputs, args.dtype, item.example * args.features + feature) -
                baseline[c];
      if (args.scale != nullptr) {
        const int64_t channel = channel_of(path.channels, feature);
        scale[c] = static_cast<Compute>(args.scale[channel]);
        shift[c] = static_cast<Compute>(args.shift[channel]);
      }
    }
    Walk walk = walk_of(path, args.features, item);
    float low = reach(walk, path, levels, path.first_step + begin);
    for (int64_t s = begin; s < end; ++s) {
      const float high = reach(walk, path, levels, path.first_step + s + 1);
      const Compute at = (low - 1.0f) + position * (high - low);
      low = high;
      const int64_t row = (s * path.paths + item.path) * path.batch + item.example;
      Point* out = static_cast<Point*>(args.points) + row * args.features + item.feature;
      for (int c = 0; c < kChannels; ++c) {
        if (c >= item.channels) break;
        Compute point = baseline[c] + at * step[c];
        if (args.scale != nullptr) point = point * scale[c] + shift[c];
        narrow_to(point, out[c * item.stride]);
      }
    }
  }
}

// (inputs - baselines) * scale, computed in the inputs' own type.
template <typename Compute>
__device__ double step_of(const DirichletAccumulate& args, int64_t example, int64_t feature) {
  const Strides2& strides = args.baseline_strides;
  Compute step = load_as<Compute>(args.inputs, args.dtype, example * args.features + feature) -
                 load_as<Compute>(args.baselines, args.dtype,
                                  example * strides.row + feature * strides.column);
  if (args.scale != nullptr)
    step *= static_cast<Compute>(args.scale[channel_of(args.path.channels, feature)]);
  return static_cast<double>(step);
}

template <typename Grad>
__global__ void dirichlet_accumulate_kernel(DirichletAccumulate args) {
  const DirichletPaths& path = args.path;
  const int levels = levels_of(path.steps);
  const int64_t items = items_of(path);
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < items;
       i += int64_t{gridDim.x} * blockDim.x) {
    const Item item = item_of(path, i);
    const int64_t row = item.path * path.batch + item.example;
    const int64_t at = row * args.features + item.feature;
    double sum[kChannels];
    for (int c = 0; c < kChannels; ++c) {
      const bool given = args.total != nullptr && c < item.channels;
      sum[c] = given ? args.total[at + c * item.stride] : 0.0;
    }
    Walk walk = walk_of(path, args.features, item);
    float low = reach(walk, path, levels, path.first_step);
    for (int64_t s = 0; s < path.count; ++s) {
      const float high = reach(walk, path, levels, path.first_step + s + 1);
      const double weight = high - low;
      low = high;
      const Grad* grads =
          static_cast<const Grad*>(args.grads) + s * path.paths * path.batch * args.features + at;
      for (int c = 0; c < kChannels; ++c) {
        if (c >= item.channels) break;
        sum[c] += weight * static_cast<double>(widen(grads[c * item.stride]));
      }
    }
    for (int c = 0; c < kChannels; ++c) {
      if (c >= item.channels) break;
      const int64_t feature = item.feature + c * item.stride;
      const int64_t to = at + c * item.stride;
      if (args.total != nullptr) {
        args.total[to] = sum[c];
        continue;
      }
      if (args.inputs != nullptr) {
        sum[c] *= args.dtype == DType::kFloat64 ? step_of<double>(args, item.example, feature)
                                                : step_of<float>(args, item.example, feature);
      }
      if (args.attribution_dtype == DType::kFloat64) {
        static_cast<double*>(args.attributions)[to] = sum[c];
      } else {
        static_cast<float*>(args.attributions)[to] = static_cast<float>(sum[c]);
      }
    }
  }
}

template <typename Compute>
void launch_points(const DirichletPoints& args, void* stream) {
  with_dtype(args.point_dtype, [&](auto point) {
    using Point = decltype(point);
    const int64_t items = items_of(args.path);
    const dim3 grid(blocks_for(items), step_groups(items, args.path.count));
    PYXAI_FAST_LAUNCH((dirichlet_points_kernel<Compute, Point>), grid, kThreads, stream, args);
  });
}

}  // namespace

int run_cuda(const DirichletPoints& args, void* stream) {
  if (args.dtype == DType::kFloat64) {
    launch_points<double>(args, stream);
  } else {
    launch_points<float>(args, stream);
  }
  return cudaGetLastError();
}

int run_cuda(const DirichletAccumulate& args, void* stream) {
  with_dtype(args.grad_dtype, [&](auto grad) {
    PYXAI_FAST_LAUNCH((dirichlet_accumulate_kernel<decltype(grad)>),
                      blocks_for(items_of(args.path)), kThreads, stream, args);
  });
  return cudaGetLastError();
}

}  // namespace pyxai_fast
