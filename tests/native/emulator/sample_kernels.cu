// Kernels that test the emulator: each uses words of CUDA whose results are known beforehand.
#include "launch.cuh"
#include "pyxai_fast/config.h"

namespace pyxai_fast {
namespace {

// sums[block] = sum of the block's values: shuffles within warps, shared memory between them.
__global__ void block_sums_kernel(const float* values, float* sums, int count) {
  __shared__ float warp_sums[32];
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  float sum = i < count ? values[i] : 0.0f;
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(0xffffffffu, sum, delta);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  sum = threadIdx.x < blockDim.x / 32 ? warp_sums[threadIdx.x] : 0.0f;
  for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bits);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Reverses each block's values in dynamic shared memory.
__global__ void reverse_kernel(const float* values, float* reversed) {
  PYXAI_FAST_DYNAMIC_SHARED(float, tile);
  const int64_t begin = int64_t{blockIdx.x} * blockDim.x;
  tile[threadIdx.x] = values[begin + threadIdx.x];
  __syncthreads();
  reversed[begin + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// found[word][thread]: what each word of a warp returns. Two dimensions, to test the numbering.
__global__ void warp_words_kernel(int* found) {
  const int count = static_cast<int>(blockDim.x * blockDim.y);
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const unsigned all = 0xffffffffu;
  int word = 0;
  const auto store = [&](int value) { found[count * word++ + thread] = value; };
  store(__shfl_sync(all, thread, 5));
  store(__shfl_sync(all, thread, 5, 8));
  store(__shfl_up_sync(all, thread, 3));
  store(__shfl_up_sync(all, thread, 3, 8));
  store(__shfl_down_sync(all, thread, 3));
  store(__shfl_down_sync(all, thread, 3, 8));
  store(__shfl_xor_sync(all, thread, 12));
  store(__shfl_xor_sync(all, thread, 12, 8));
  store(static_cast<int>(__ballot_sync(all, thread % 3 == 0)));
  store(__any_sync(all, thread == 40));
  store(__all_sync(all, thread < 40));
  // Odd and even lanes apart, which meet in different orders.
  const unsigned half = thread % 2 == 0 ? 0x55555555u : 0xaaaaaaaau;
  store(static_cast<int>(__ballot_sync(half, 1)));
  __syncwarp();
  store(static_cast<int>(__shfl_xor_sync(half, int64_t{thread} << 32, 2) >> 32));
}

// Reads shared memory that it has not written.
__global__ void unwritten_shared_kernel(float* found) {
  __shared__ float tile[64];
  found[threadIdx.x] = tile[threadIdx.x];
  tile[threadIdx.x] = 1.0f;
}

// Counts how often each thread of each block runs, in three dimensions.
__global__ void indices_kernel(unsigned* found) {
  const uint64_t block = blockIdx.x + uint64_t{gridDim.x} * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  found[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1;
}

}  // namespace

extern "C" {

PYXAI_FAST_EXPORT int sample_block_sums(const float* values, float* sums, int count, int threads) {
  const unsigned blocks = static_cast<unsigned>((count + threads - 1) / threads);
  PYXAI_FAST_LAUNCH(block_sums_kernel, blocks, threads, nullptr, values, sums, count);
  return cudaGetLastError();
}

PYXAI_FAST_EXPORT int sample_reverse(const float* values, float* reversed, int blocks,
                                     int threads) {
  PYXAI_FAST_LAUNCH_SHARED(reverse_kernel, blocks, threads, threads * sizeof(float), nullptr,
                           values, reversed);
  return cudaGetLastError();
}

PYXAI_FAST_EXPORT int sample_warp_words(int* found) {
  PYXAI_FAST_LAUNCH(warp_words_kernel, 1, dim3(16, 4), nullptr, found);
  return cudaGetLastError();
}

PYXAI_FAST_EXPORT int sample_unwritten_shared(float* found) {
  PYXAI_FAST_LAUNCH(unwritten_shared_kernel, 1, 64, nullptr, found);
  return cudaGetLastError();
}

PYXAI_FAST_EXPORT int sample_indices(unsigned* found, const unsigned* grid, const unsigned* block) {
  PYXAI_FAST_LAUNCH(indices_kernel, dim3(grid[0], grid[1], grid[2]),
                    dim3(block[0], block[1], block[2]), nullptr, found);
  return cudaGetLastError();
}

}  // extern "C"

}  // namespace pyxai_fast
