// The ensemble kernels on CUDA.
//
//   ensemble_contract   a thread sums a few features over the particles, in their order, for a few
//                       columns; blocks of the other columns of the same features run beside it
//   ensemble_transform  a block computes kTileRows particles of kTileFeatures features; particles
//                       come centred through shared memory, kTileDepth at a time, in their order
//   guided_step         norms: a warp sums a tile of features, its lanes folded by shuffles; then a
//                       thread for each particle adds the tiles in their order. The step: a thread
//                       takes the four features whose noise is one block of random words
//
// No atomics, so reruns give the same bits; and they are those of the CPU kernels.

#include "launch.cuh"
#include "pyxai_fast/ensemble.h"
#include "vec.cuh"

namespace pyxai_fast {
namespace {

template <typename Float>
__device__ Float row_value(const void* rows, const Strides2& strides, int64_t row,
                           int64_t feature) {
  return static_cast<const Float*>(rows)[row * strides.row + feature * strides.column];
}

// --- ensemble_contract ---------------------------------------------------------------------------

constexpr int kColumnsAtOnce = 5;

template <typename Storage, int Vector, int Columns>
__global__ void ensemble_contract_kernel(EnsembleContract args) {
  using Compute = typename ComputeOf<Storage>::type;
  const int64_t per_row = args.features / Vector;
  const int64_t vectors = args.batch * per_row;
  // Blocks that read the same features are neighbours, so that all but one find them in a cache.
  const int64_t groups = args.columns > Columns ? (args.columns + Columns - 1) / Columns : 1;
  const int64_t blocks = gridDim.x / groups;
  const int64_t column = blockIdx.x % groups * Columns;
  const int columns =
      static_cast<int>(args.columns - column < Columns ? args.columns - column : Columns);
  for (int64_t v = blockIdx.x / groups * blockDim.x + threadIdx.x; v < vectors;
       v += blocks * blockDim.x) {
    const int64_t row = v / per_row;
    const int64_t feature = v % per_row * Vector;
    const Storage* particles =
        static_cast<const Storage*>(args.particles) + row * args.count * args.features + feature;
    Compute center[Vector];
    for (int i = 0; i < Vector; ++i) {
      center[i] = args.center == nullptr
                      ? widen(particles[i])
                      : row_value<Compute>(args.center, args.center_strides, row, feature + i);
    }
    const double* weights = args.weights;
    if (weights != nullptr) weights += (row * args.columns + column) * args.count;
    double sum[Vector] = {}, squares[Vector] = {}, total[Columns][Vector] = {};
    // Unrolled so that several loads are in flight; the additions stay in the particles' order.
#pragma unroll 4
    for (int64_t k = 0; k < args.count; ++k) {
      const auto x = *reinterpret_cast<const Vec<Storage, Vector>*>(particles + k * args.features);
      double d[Vector];
      for (int i = 0; i < Vector; ++i) {
        d[i] = static_cast<double>(widen(x.value[i]) - center[i]);
        sum[i] += d[i];
        squares[i] = add_product<Compute>(d[i], d[i], squares[i]);
      }
#pragma unroll
      for (int c = 0; c < Columns; ++c) {
        if (c >= columns) break;
        const double weight = weights[c * args.count + k];
        for (int i = 0; i < Vector; ++i) {
          total[c][i] = add_product<Compute>(weight, d[i], total[c][i]);
        }
      }
    }
#pragma unroll
    for (int c = 0; c < Columns; ++c) {
      if (c >= columns) break;
      Compute* to = static_cast<Compute*>(args.contraction) +
                    (row * args.columns + column + c) * args.features + feature;
      for (int i = 0; i < Vector; ++i) to[i] = static_cast<Compute>(total[c][i]);
    }
    if (column != 0) continue;
    const int64_t at = row * args.features + feature;
    const double count = static_cast<double>(args.count);
    for (int i = 0; i < Vector; ++i) {
      static_cast<Compute*>(args.variance)[at + i] =
          static_cast<Compute>(variance_of(sum[i], squares[i], count));
      if (args.mean == nullptr) continue;
      static_cast<Compute*>(args.mean)[at + i] =
          static_cast<Compute>(static_cast<double>(center[i]) + sum[i] / count);
    }
  }
}

template <typename Storage, int Vector, int Columns>
void launch_contract(const EnsembleContract& args, void* stream) {
  const int64_t groups = args.columns > Columns ? ceil_div(args.columns, Columns) : 1;
  const int64_t blocks = blocks_for(args.batch * (args.features / Vector));
  const int64_t limit = (int64_t{1} << 30) / groups;
  const int64_t grid = groups * (blocks < limit ? blocks : limit > 0 ? limit : 1);
  PYXAI_FAST_LAUNCH((ensemble_contract_kernel<Storage, Vector, Columns>),
                    static_cast<unsigned>(grid), kThreads, stream, args);
}

// --- ensemble_transform --------------------------------------------------------------------------

constexpr int kTileRows = 64, kTileFeatures = 64, kTileDepth = 16;
constexpr int kPerThread = 4;  // rows and features of a thread
constexpr int kAcross = kTileFeatures / kPerThread;
static_assert(kAcross * (kTileRows / kPerThread) == kThreads, "a thread for every part of a tile");

template <typename Storage>
__global__ void ensemble_transform_kernel(EnsembleTransform args) {
  using Compute = typename ComputeOf<Storage>::type;
  __shared__ Compute centred[kTileDepth][kTileFeatures];
  __shared__ Compute matrix[kTileDepth][kTileRows + 1];
  const int64_t row_tiles = (args.count + kTileRows - 1) / kTileRows;
  const int64_t feature_tiles = (args.features + kTileFeatures - 1) / kTileFeatures;
  const int64_t tiles = args.batch * feature_tiles * row_tiles;
  const int across = static_cast<int>(threadIdx.x) % kAcross;
  const int down = static_cast<int>(threadIdx.x) / kAcross;
  // Tiles of the same features are neighbours: they read the same particles.
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t first_row = tile % row_tiles * kTileRows;
    const int64_t first_feature = tile / row_tiles % feature_tiles * kTileFeatures;
    const int64_t example = tile / row_tiles / feature_tiles;
    const Storage* particles =
        static_cast<const Storage*>(args.particles) + example * args.count * args.features;
    const Compute* coefficients =
        static_cast<const Compute*>(args.matrix) + example * args.count * args.count;
    Compute sum[kPerThread][kPerThread] = {};
    for (int64_t j = 0; j < args.count; j += kTileDepth) {
      for (int i = static_cast<int>(threadIdx.x); i < kTileDepth * kTileFeatures; i += kThreads) {
        const int64_t particle = j + i / kTileFeatures;
        const int64_t feature = first_feature + i % kTileFeatures;
        Compute d = 0;
        if (particle < args.count && feature < args.features) {
          const Compute center =
              args.center == nullptr
                  ? widen(particles[feature])
                  : row_value<Compute>(args.center, args.center_strides, example, feature);
          d = widen(particles[particle * args.features + feature]) - center;
        }
        centred[i / kTileFeatures][i % kTileFeatures] = d;
      }
      for (int i = static_cast<int>(threadIdx.x); i < kTileDepth * kTileRows; i += kThreads) {
        const int64_t particle = j + i % kTileDepth;
        const int64_t row = first_row + i / kTileDepth;
        const bool inside = particle < args.count && row < args.count;
        matrix[i % kTileDepth][i / kTileDepth] =
            inside ? coefficients[row * args.count + particle] : Compute(0);
      }
      __syncthreads();
      const int depth = static_cast<int>(args.count - j < kTileDepth ? args.count - j : kTileDepth);
      for (int p = 0; p < depth; ++p) {
        for (int r = 0; r < kPerThread; ++r) {
          const Compute m = matrix[p][down * kPerThread + r];
          for (int f = 0; f < kPerThread; ++f) sum[r][f] += m * centred[p][across + f * kAcross];
        }
      }
      __syncthreads();
    }
    for (int r = 0; r < kPerThread; ++r) {
      const int64_t row = first_row + down * kPerThread + r;
      for (int f = 0; f < kPerThread; ++f) {
        const int64_t feature = first_feature + across + f * kAcross;
        if (row >= args.count || feature >= args.features) continue;
        Compute value = sum[r][f];
        if (args.taper != nullptr) {
          value *= row_value<Compute>(args.taper, args.taper_strides, example, feature);
        }
        if (args.add_particles) value = widen(particles[row * args.features + feature]) + value;
        narrow_to(value, static_cast<Storage*>(
                             args.out)[(example * args.count + row) * args.features + feature]);
      }
    }
  }
}

// --- guided_step ---------------------------------------------------------------------------------

// guide - center and denoised - origin of one feature.
template <typename Storage, typename Compute>
__device__ void guided_differences(const GuidedArrays& args, int64_t particle, int64_t feature,
                                   Compute denoised, Compute* guide, Compute* away) {
  const int64_t row = particle / args.count;
  const Compute g =
      widen(static_cast<const Storage*>(args.guide)[particle * args.features + feature]);
  *guide = g - row_value<Compute>(args.center, args.center_strides, row, feature);
  *away = denoised - row_value<Compute>(args.origin, args.origin_strides, row, feature);
}

__device__ double folded(double value) {
  for (int half = kNormLanes / 2; half > 0; half /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, half);
  }
  return value;
}

template <typename Storage>
__global__ void guided_partial_kernel(GuidedNorms args) {
  using Compute = typename ComputeOf<Storage>::type;
  const GuidedArrays& arrays = args.arrays;
  const int64_t tiles = (arrays.features + kNormTile - 1) / kNormTile;
  const int64_t all = arrays.batch * arrays.count * tiles;
  const int lane = static_cast<int>(threadIdx.x) % kNormLanes;
  const int64_t warps = int64_t{gridDim.x} * (kThreads / kNormLanes);
  for (int64_t tile = int64_t{blockIdx.x} * (kThreads / kNormLanes) + threadIdx.x / kNormLanes;
       tile < all; tile += warps) {
    const int64_t particle = tile / tiles;
    const int64_t begin = tile % tiles * kNormTile;
    const int64_t left = arrays.features - begin;
    const int64_t count = left < kNormTile ? left : kNormTile;
    double noise = 0.0, guide = 0.0, signs = 0.0;
#pragma unroll 4
    for (int64_t i = lane; i < count; i += kNormLanes) {
      const int64_t at = particle * arrays.features + begin + i;
      const double e =
          static_cast<double>(widen(static_cast<const Storage*>(arrays.noise_pred)[at]));
      Compute toward, away;
      guided_differences<Storage>(arrays, particle, begin + i,
                                  widen(static_cast<const Storage*>(arrays.denoised)[at]), &toward,
                                  &away);
      noise = add_product<Compute>(e, e, noise);
      guide = add_product<Compute>(static_cast<double>(toward), static_cast<double>(toward), guide);
      signs += sign_of(away) != Compute(0) ? 1.0 : 0.0;
    }
    noise = folded(noise);
    guide = folded(guide);
    signs = folded(signs);
    if (lane != 0) continue;
    args.partial[3 * tile] = noise;
    args.partial[3 * tile + 1] = guide;
    args.partial[3 * tile + 2] = signs;
  }
}

template <typename Compute>
__global__ void guided_factors_kernel(GuidedNorms args) {
  const int64_t particles = args.arrays.batch * args.arrays.count;
  const int64_t tiles = (args.arrays.features + kNormTile - 1) / kNormTile;
  for (int64_t p = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; p < particles;
       p += int64_t{gridDim.x} * blockDim.x) {
    double noise = 0.0, guide = 0.0, signs = 0.0;
#pragma unroll 4
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const double* from = args.partial + 3 * (p * tiles + tile);
      noise += from[0];
      guide += from[1];
      signs += from[2];
    }
    const double weight = args.weights == nullptr
                              ? 1.0
                              : static_cast<double>(static_cast<const Compute*>(args.weights)[p]);
    guided_factors(noise, guide, signs, weight, args.guidance, args.proximity,
                   args.factors + 2 * p);
  }
}

template <typename Storage>
__global__ void guided_step_kernel(GuidedStep args) {
  using Compute = typename ComputeOf<Storage>::type;
  const GuidedArrays& arrays = args.arrays;
  const int64_t blocks = (arrays.features + kGroup - 1) / kGroup * kGroupBlocks;
  const int64_t all = arrays.batch * arrays.count * blocks;
  const int64_t pixels = arrays.features / args.channels.count;
  const Compute signal = static_cast<Compute>(args.signal);
  const Compute scale = static_cast<Compute>(args.noise);
  const Compute direction = static_cast<Compute>(args.direction);
  for (int64_t b = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; b < all;
       b += int64_t{gridDim.x} * blockDim.x) {
    const int64_t particle = b / blocks;
    const int64_t block = b % blocks;
    float drawn[4] = {};
    if (args.key != nullptr) {
      random_normals<ScalarLanes>(random_key(args.key), kNoiseTag, static_cast<uint32_t>(block),
                                  static_cast<uint32_t>(particle / arrays.count),
                                  static_cast<uint32_t>(particle % arrays.count), drawn);
    }
    Compute guidance = 0, proximity = 0;
    if (args.factors != nullptr) {
      guidance = static_cast<Compute>(args.factors[2 * particle]);
      proximity = static_cast<Compute>(args.factors[2 * particle + 1]);
    }
    for (int word = 0; word < 4; ++word) {
      const int64_t ordinal =
          block / kGroupBlocks * kGroup + word * kGroupBlocks + block % kGroupBlocks;
      if (ordinal >= arrays.features) continue;
      const int64_t feature = args.channels.count == 1
                                  ? ordinal
                                  : ordinal % pixels * args.channels.count + ordinal / pixels;
      const int64_t at = particle * arrays.features + feature;
      const Compute denoised = widen(static_cast<const Storage*>(arrays.denoised)[at]);
      Compute next = signal * denoised;
      if (args.key != nullptr) next += scale * static_cast<Compute>(drawn[word]);
      next += direction * widen(static_cast<const Storage*>(arrays.noise_pred)[at]);
      if (args.factors != nullptr) {
        Compute toward, away;
        guided_differences<Storage>(arrays, particle, feature, denoised, &toward, &away);
        next += guidance * toward - proximity * sign_of(away);
      }
      narrow_to(next, static_cast<Storage*>(args.out)[at]);
    }
  }
}

}  // namespace

int run_cuda(const EnsembleContract& args, void* stream) {
  with_dtype(args.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    constexpr int kVector = sizeof(Storage) == 8 ? 2 : 4;
    const bool whole =
        args.features % kVector == 0 && is_aligned(args.particles, sizeof(Storage) * kVector);
    if (args.columns > 1) {
      if (whole) {
        launch_contract<Storage, kVector, kColumnsAtOnce>(args, stream);
      } else {
        launch_contract<Storage, 1, kColumnsAtOnce>(args, stream);
      }
    } else {
      if (whole) {
        launch_contract<Storage, kVector, 1>(args, stream);
      } else {
        launch_contract<Storage, 1, 1>(args, stream);
      }
    }
  });
  return cudaGetLastError();
}

int run_cuda(const EnsembleTransform& args, void* stream) {
  const int64_t tiles =
      args.batch * ceil_div(args.features, kTileFeatures) * ceil_div(args.count, kTileRows);
  with_dtype(args.dtype, [&](auto storage) {
    PYXAI_FAST_LAUNCH((ensemble_transform_kernel<decltype(storage)>), blocks_for(tiles * kThreads),
                      kThreads, stream, args);
  });
  return cudaGetLastError();
}

int run_cuda(const GuidedNorms& args, void* stream) {
  const int64_t particles = args.arrays.batch * args.arrays.count;
  const int64_t tiles = particles * ceil_div(args.arrays.features, kNormTile);
  with_dtype(args.arrays.dtype, [&](auto storage) {
    PYXAI_FAST_LAUNCH((guided_partial_kernel<decltype(storage)>), blocks_for(tiles * kNormLanes),
                      kThreads, stream, args);
  });
  if (args.arrays.dtype == DType::kFloat64) {
    PYXAI_FAST_LAUNCH((guided_factors_kernel<double>), blocks_for(particles), kThreads, stream,
                      args);
  } else {
    PYXAI_FAST_LAUNCH((guided_factors_kernel<float>), blocks_for(particles), kThreads, stream,
                      args);
  }
  return cudaGetLastError();
}

int run_cuda(const GuidedStep& args, void* stream) {
  const int64_t particles = args.arrays.batch * args.arrays.count;
  const int64_t blocks = particles * ceil_div(args.arrays.features, kGroup) * kGroupBlocks;
  with_dtype(args.arrays.dtype, [&](auto storage) {
    PYXAI_FAST_LAUNCH((guided_step_kernel<decltype(storage)>), blocks_for(blocks), kThreads, stream,
                      args);
  });
  return cudaGetLastError();
}

}  // namespace pyxai_fast
