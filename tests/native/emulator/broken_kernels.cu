// Kernels with the mistakes that the emulator is for: a test that cannot fail proves nothing.
#include "launch.cuh"
#include "pyxai_fast/config.h"
#include "vec.cuh"

namespace pyxai_fast {
namespace {

// Between write and read, threads must wait for each other. Found by: two orders of threads.
__global__ void missing_barrier_kernel(const float* values, float* reversed) {
  __shared__ float tile[64];
  tile[threadIdx.x] = values[threadIdx.x];
  reversed[threadIdx.x] = tile[63 - threadIdx.x];
}

// A barrier that only some threads reach: the others exit, or wait at another one. Found by: the
// scheduler, when nobody can go on.
__global__ void divergent_barrier_kernel(float* values, bool wait_elsewhere) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else if (wait_elsewhere) {
    __syncthreads();
  }
  values[threadIdx.x] = 1.0f;
}

// A shuffle that names all lanes, of which half go past it. Found by: the scheduler.
__global__ void divergent_shuffle_kernel(float* values) {
  if (threadIdx.x < 16) values[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 8);
  __syncthreads();
}

// Reads a lane that the block does not have. Found by: the shuffle.
__global__ void absent_lane_kernel(float* values) {
  values[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, 31);
}

// Four floats at an address that is a multiple of four bytes only. Found by: UBSan.
__global__ void misaligned_load_kernel(const float* values, float* first) {
  *first = reinterpret_cast<const Vec<float, 4>*>(values + 1)->value[0];
}

// One element too many. Found by: ASan.
__global__ void off_by_one_kernel(float* values, int count) {
  for (int i = static_cast<int>(threadIdx.x); i <= count; i += blockDim.x) values[i] = 1.0f;
}

// The same in shared memory, which ends with the block's. Found by: ASan.
__global__ void off_by_one_shared_kernel(bool dynamic) {
  __shared__ float tile[64];
  PYXAI_FAST_DYNAMIC_SHARED(float, dynamic_tile);
  (dynamic ? dynamic_tile : tile)[threadIdx.x + 1] = 1.0f;
}

}  // namespace

extern "C" {

PYXAI_FAST_EXPORT int broken_missing_barrier(const float* values, float* reversed) {
  PYXAI_FAST_LAUNCH(missing_barrier_kernel, 1, 64, nullptr, values, reversed);
  return cudaGetLastError();
}

PYXAI_FAST_EXPORT int broken_divergent_barrier(float* values, int wait_elsewhere) {
  PYXAI_FAST_LAUNCH(divergent_barrier_kernel, 1, 64, nullptr, values, wait_elsewhere != 0);
  return cudaGetLastError();
}

PYXAI_FAST_EXPORT int broken_divergent_shuffle(float* values) {
  PYXAI_FAST_LAUNCH(divergent_shuffle_kernel, 1, 64, nullptr, values);
  return cudaGetLastError();
}

PYXAI_FAST_EXPORT int broken_absent_lane(float* values) {
  PYXAI_FAST_LAUNCH(absent_lane_kernel, 1, 16, nullptr, values);
  return cudaGetLastError();
}

PYXAI_FAST_EXPORT int broken_misaligned_load(const float* values, float* first) {
  PYXAI_FAST_LAUNCH(misaligned_load_kernel, 1, 1, nullptr, values, first);
  return cudaGetLastError();
}

PYXAI_FAST_EXPORT int broken_off_by_one(float* values, int count) {
  PYXAI_FAST_LAUNCH(off_by_one_kernel, 1, 32, nullptr, values, count);
  return cudaGetLastError();
}

PYXAI_FAST_EXPORT int broken_off_by_one_shared(int dynamic) {
  PYXAI_FAST_LAUNCH_SHARED(off_by_one_shared_kernel, 1, 64, 64 * sizeof(float), nullptr,
                           dynamic != 0);
  return cudaGetLastError();
}

}  // extern "C"

}  // namespace pyxai_fast
