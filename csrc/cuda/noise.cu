// The noise kernels on CUDA: noise is drawn in registers and never stored.
//
//   perturb         a thread takes four neighbouring blocks of the counter: for Gaussian noise 4 x 4
//                   features, each four of them neighbours in memory; for signs 32 x 4
//   noise_contract  a thread takes one block, that is 4 features 16 apart (128 for signs, in turn),
//                   and sums over all samples in registers, in their order; no atomics
//
// Blocks of features, and shares of them, are the slow way: every feature asks for its own value.

#include "launch.cuh"
#include "pyxai_fast/noise.h"
#include "vec.cuh"

namespace pyxai_fast {
namespace {

// The noise of features that lie 16 apart, for `Lanes` neighbouring blocks: 4 rows of normals, or 32
// rows of signs.
template <bool Signs, int Lanes>
struct Rows {
  static constexpr int count() { return Signs ? 32 : 4; }

  // Rows start at feature `first`, a multiple of 64 or of 512.
  __device__ void draw(const NoiseArgs& noise, RandomKey key, uint32_t example, const Draw& draw,
                       int64_t first, int lane) {
    if (noise.distribution == Distribution::kOnes) return;
    for (int i = 0; i < Lanes; ++i) {
      if constexpr (Signs) {
        uint32_t found[4];
        const auto block = static_cast<uint32_t>(first / kSignGroup * kGroupBlocks + lane + i);
        random_words<ScalarLanes>(key, kNoiseTag, block, example, draw.sample, found);
        words[i] = found[first / kSignRun % 4];
      } else {
        float found[4];
        const auto block = static_cast<uint32_t>(first / kGroup * kGroupBlocks + lane + i);
        random_normals<ScalarLanes>(key, kNoiseTag, block, example, draw.sample, found);
        for (int row = 0; row < 4; ++row) normals[row][i] = found[row];
      }
    }
  }

  // The value of `feature`, which is first + 16 * row + lane + i.
  __device__ float at(const NoiseArgs& noise, const Draw& draw, int row, int i,
                      int64_t feature) const {
    if (noise.distribution == Distribution::kOnes) return 1.0f;
    if constexpr (Signs) {
      const uint32_t sign =
          (words[i] >> row & 1u) ^ parity_of_common(draw.row, static_cast<uint64_t>(feature));
      return bit_cast<float>(0x3f800000u | sign << 31);
    } else {
      return normals[row][i];
    }
  }

  float normals[Signs ? 1 : 4][Lanes];
  uint32_t words[Lanes];
};

// What blocks and shares make of the noise of one feature; `value` is its own.
__device__ float with_blocks(const NoiseArgs& noise, RandomKey key, uint32_t example,
                             const Draw& draw, int64_t row, int64_t sample, int64_t feature,
                             float value) {
  int64_t index = feature;
  if (noise.blocks != nullptr) {
    const int64_t block = noise.blocks[row * noise.block_row + feature % noise.block_period];
    if (noise.active != nullptr &&
        block !=
            noise.active[sample * noise.active_strides.row + row * noise.active_strides.column]) {
      return 0.0f;
    }
    if (noise.shared || noise.keep_below < kAlways) {
      if (block < 0 || block >= noise.block_count) return 0.0f;
      index = block;
    }
    if (noise.shared) value = noise_at(noise, key, example, draw, index);
  }
  if (noise.keep_below < kAlways && !kept_at(noise, key, example, draw, index)) return 0.0f;
  return value;
}

__device__ bool has_blocks(const NoiseArgs& noise) {
  return noise.blocks != nullptr || noise.keep_below < kAlways;
}

// --- perturb -------------------------------------------------------------------------------------

constexpr int kLanesPerThread = 4;

template <typename Compute>
__device__ Compute load_as(const void* from, DType dtype, int64_t at) {
  switch (dtype) {
    case DType::kFloat16:
      return static_cast<Compute>(widen(static_cast<const Float16*>(from)[at]));
    case DType::kBFloat16:
      return static_cast<Compute>(widen(static_cast<const BFloat16*>(from)[at]));
    case DType::kFloat32:
      return static_cast<Compute>(static_cast<const float*>(from)[at]);
    default:
      return static_cast<Compute>(static_cast<const double*>(from)[at]);
  }
}

// Four neighbours at once, where `aligned` says that they may be.
template <typename Compute>
__device__ void load_four(const void* from, DType dtype, int64_t at, bool aligned, Compute* to) {
  if (aligned && dtype == DType::kFloat32) {
    const auto four = *reinterpret_cast<const Vec<float, 4>*>(static_cast<const float*>(from) + at);
    for (int i = 0; i < 4; ++i) to[i] = static_cast<Compute>(four.value[i]);
  } else if (aligned && (dtype == DType::kFloat16 || dtype == DType::kBFloat16)) {
    const auto four =
        *reinterpret_cast<const Vec<uint16_t, 4>*>(static_cast<const uint16_t*>(from) + at);
    for (int i = 0; i < 4; ++i) {
      to[i] = static_cast<Compute>(dtype == DType::kFloat16 ? widen(Float16{four.value[i]})
                                                            : widen(BFloat16{four.value[i]}));
    }
  } else {
    for (int i = 0; i < 4; ++i) to[i] = load_as<Compute>(from, dtype, at + i);
  }
}

template <typename Compute, typename Point, bool Signs>
__global__ void perturb_kernel(Perturb args, bool aligned) {
  using Drawn = Rows<Signs, kLanesPerThread>;
  constexpr int kRun =
      Drawn::count() * kGroupBlocks;  // features of the threads of a run: 64 or 512
  constexpr int kQuads = kGroupBlocks / kLanesPerThread;
  const NoiseArgs& noise = args.noise;
  const RandomKey key = random_key(noise.key);
  const int64_t pixels = args.channels.inner == 1 ? args.features / args.channels.count : 1;
  const bool blocky = has_blocks(noise);
  const auto low = static_cast<Compute>(args.low), high = static_cast<Compute>(args.high);
  const int64_t runs = ceil_div(args.features, kRun);
  // In channels_last the channels of a pixel follow each other in memory: where runs do not straddle
  // channels, neighbouring threads take the same pixels of all of them.
  const bool by_pixel = pixels > 1 && pixels % kRun == 0;
  const int64_t threads = args.batch * runs * kQuads;
  for (int64_t t = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; t < threads;
       t += int64_t{gridDim.x} * blockDim.x) {
    const int lane = static_cast<int>(t % kQuads) * kLanesPerThread;
    int64_t run = t / kQuads % runs;
    const int64_t row = t / kQuads / runs;
    if (by_pixel) {
      const int64_t channel = run % args.channels.count;
      run = run / args.channels.count + channel * (pixels / kRun);
    }
    const int64_t first = run * kRun;
    const uint32_t example = example_of(noise, row);
    const auto sigma = static_cast<Compute>(args.sigma[row * args.sigma_stride]);
    for (int64_t sample = blockIdx.y; sample < args.samples; sample += gridDim.y) {
      const Draw draw = draw_of(noise, sample, args.features);
      Drawn drawn;
      if (!noise.shared) drawn.draw(noise, key, example, draw, first, lane);
      Point* points =
          static_cast<Point*>(args.points) + (sample * args.batch + row) * args.features;
#pragma unroll 4
      for (int r = 0; r < Drawn::count(); ++r) {
        const int64_t feature = first + r * kGroupBlocks + lane;
        if (feature >= args.features) break;
        const int count = static_cast<int>(
            args.features - feature < kLanesPerThread ? args.features - feature : kLanesPerThread);
        const bool whole = aligned && count == kLanesPerThread;
        Compute inputs[kLanesPerThread], mask[kLanesPerThread];
        int64_t place[kLanesPerThread];
        for (int i = 0; i < kLanesPerThread; ++i) {
          const int64_t f = feature + i;
          place[i] = pixels == 1 ? f : f % pixels * args.channels.count + f / pixels;
        }
        if (whole) {
          load_four(args.inputs, args.dtype, row * args.features + feature, true, inputs);
        } else {
          for (int i = 0; i < count; ++i) {
            inputs[i] = load_as<Compute>(args.inputs, args.dtype, row * args.features + place[i]);
          }
        }
        if (args.mask != nullptr) {
          for (int i = 0; i < count; ++i) {
            mask[i] =
                load_as<Compute>(args.mask, args.dtype,
                                 row * args.mask_strides.row + place[i] * args.mask_strides.column);
          }
        }
        Vec<Point, kLanesPerThread> out;
        for (int i = 0; i < count; ++i) {
          float value = drawn.at(noise, draw, r, i, feature + i);
          if (blocky) {
            value = with_blocks(noise, key, example, draw, row, sample, feature + i, value);
          }
          value = draw.negated != 0 ? -value : value;
          const Compute step = args.mask == nullptr ? sigma : sigma * mask[i];
          Compute point =
              into_range(inputs[i] + step * static_cast<Compute>(value), low, high, args.reflect);
          if (args.scale != nullptr) {
            const int64_t channel = channel_of(args.channels, place[i]);
            point = point * static_cast<Compute>(args.scale[channel]) +
                    static_cast<Compute>(args.shift[channel]);
          }
          narrow_to(point, out.value[i]);
        }
        if (whole) {
          *reinterpret_cast<Vec<Point, kLanesPerThread>*>(points + feature) = out;
        } else {
          for (int i = 0; i < count; ++i) points[place[i]] = out.value[i];
        }
      }
    }
  }
}

template <typename Compute, typename Point>
void launch_perturb(const Perturb& args, void* stream) {
  const bool contiguous = args.channels.inner > 1 || args.features == args.channels.count;
  const bool aligned = contiguous && args.features % kLanesPerThread == 0 &&
                       is_aligned(args.inputs, size_of(args.dtype) * kLanesPerThread) &&
                       is_aligned(args.points, sizeof(Point) * kLanesPerThread);
  const bool signs = args.noise.distribution == Distribution::kRademacher ||
                     args.noise.distribution == Distribution::kOrthogonal;
  const int64_t quads = kGroupBlocks / kLanesPerThread;
  const int64_t threads = args.batch * ceil_div(args.features, signs ? 512 : 64) * quads;
  const dim3 grid(blocks_for(threads), step_groups(threads, args.samples));
  if (signs) {
    PYXAI_FAST_LAUNCH((perturb_kernel<Compute, Point, true>), grid, kThreads, stream, args,
                      aligned);
  } else {
    PYXAI_FAST_LAUNCH((perturb_kernel<Compute, Point, false>), grid, kThreads, stream, args,
                      aligned);
  }
}

// --- noise_contract ------------------------------------------------------------------------------

// Targets that share a pass over the samples.
template <bool Signs, int Targets>
__global__ void noise_contract_kernel(NoiseContract args, int64_t target) {
  using Drawn = Rows<Signs, 1>;
  constexpr int kRows = 4;  // of a thread's features, 16 apart
  const NoiseArgs& noise = args.noise;
  const RandomKey key = random_key(noise.key);
  const bool blocky = has_blocks(noise);
  const int64_t groups = ceil_div(args.features, kGroup);
  const int64_t threads = args.batch * groups * kGroupBlocks;
  for (int64_t t = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; t < threads;
       t += int64_t{gridDim.x} * blockDim.x) {
    const int lane = static_cast<int>(t % kGroupBlocks);
    const int64_t first = t / kGroupBlocks % groups * kGroup;
    const int64_t row = t / kGroupBlocks / groups;
    const uint32_t example = example_of(noise, row);
    // A word of signs spans 512 features; these are rows row0 to row0 + 3 of them.
    const int row0 = Signs ? static_cast<int>(first % kSignRun / kGroupBlocks) : 0;
    double* total = args.total + (row * args.targets + target) * args.features;
    double sums[Targets][kRows];
    for (int n = 0; n < Targets; ++n) {
      for (int r = 0; r < kRows; ++r) {
        const int64_t feature = first + r * kGroupBlocks + lane;
        sums[n][r] = feature < args.features ? total[n * args.features + feature] : 0.0;
      }
    }
    const double* weights = args.weights + row * args.samples * args.targets + target;
    for (int64_t sample = 0; sample < args.samples; ++sample) {
      const Draw draw = draw_of(noise, sample, args.features);
      Drawn drawn;
      drawn.draw(noise, key, example, draw, Signs ? first - first % kSignRun : first, lane);
      for (int r = 0; r < kRows; ++r) {
        const int64_t feature = first + r * kGroupBlocks + lane;
        float value = drawn.at(noise, draw, row0 + r, 0, feature);
        if (blocky && feature < args.features) {
          value = with_blocks(noise, key, example, draw, row, sample, feature, value);
        }
        double factor = draw.negated != 0 ? -static_cast<double>(value) : value;
        if (args.squared) factor = factor * factor;
        for (int n = 0; n < Targets; ++n) {
          sums[n][r] += weights[sample * args.targets + n] * factor;
        }
      }
    }
    for (int n = 0; n < Targets; ++n) {
      for (int r = 0; r < kRows; ++r) {
        const int64_t feature = first + r * kGroupBlocks + lane;
        if (feature < args.features) total[n * args.features + feature] = sums[n][r];
      }
    }
  }
}

template <int Targets>
void launch_contract(const NoiseContract& args, int64_t target, void* stream) {
  const int64_t threads = args.batch * ceil_div(args.features, kGroup) * kGroupBlocks;
  if (args.noise.distribution == Distribution::kRademacher ||
      args.noise.distribution == Distribution::kOrthogonal) {
    PYXAI_FAST_LAUNCH((noise_contract_kernel<true, Targets>), blocks_for(threads), kThreads, stream,
                      args, target);
  } else {
    PYXAI_FAST_LAUNCH((noise_contract_kernel<false, Targets>), blocks_for(threads), kThreads,
                      stream, args, target);
  }
}

}  // namespace

int run_cuda(const Perturb& args, void* stream) {
  with_dtype(args.point_dtype, [&](auto point) {
    if (args.dtype == DType::kFloat64) {
      launch_perturb<double, decltype(point)>(args, stream);
    } else {
      launch_perturb<float, decltype(point)>(args, stream);
    }
  });
  return cudaGetLastError();
}

int run_cuda(const NoiseContract& args, void* stream) {
  int64_t target = 0;
  for (; target + 4 <= args.targets; target += 4) launch_contract<4>(args, target, stream);
  for (; target < args.targets; ++target) launch_contract<1>(args, target, stream);
  return cudaGetLastError();
}

}  // namespace pyxai_fast
