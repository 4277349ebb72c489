// Launching kernels: every launch goes through these macros, so that the kernels also compile where
// <<<>>> is not C++ (the emulator of the tests defines them itself).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#ifndef PYXAI_FAST_LAUNCH_SHARED
// With `shared_bytes` of dynamic shared memory, which the kernel names as `T* name`.
#define PYXAI_FAST_LAUNCH_SHARED(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#define PYXAI_FAST_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char pyxai_fast_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(pyxai_fast_dynamic_shared)
#endif

#define PYXAI_FAST_LAUNCH(kernel, grid, block, stream, ...) \
  PYXAI_FAST_LAUNCH_SHARED(kernel, grid, block, 0, stream, __VA_ARGS__)

namespace pyxai_fast {

constexpr int kThreads = 256;

// Blocks go on grid.x, which reaches 2^31 - 1; kernels walk the rest with a grid-sized stride.
inline unsigned blocks_for(int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  const int64_t limit = int64_t{1} << 30;
  return static_cast<unsigned>(blocks < limit ? blocks : limit);
}

// Few features leave most of the device idle, so their steps are spread over grid.y.
inline unsigned step_groups(int64_t threads, int64_t steps) {
  const int64_t wanted = 1 + (int64_t{1} << 17) / (threads + 1);
  const int64_t groups = wanted < steps ? wanted : steps;
  return static_cast<unsigned>(groups < 65535 ? groups : 65535);
}

}  // namespace pyxai_fast
