// Launching kernels: every launch goes through PYXAI_FAST_LAUNCH, so that the kernels also compile
// where <<<>>> is not C++ (an emulator on the host defines the macro itself).
#pragma once

#include <cstdint>

#ifndef PYXAI_FAST_LAUNCH
#include <cuda_runtime.h>
#define PYXAI_FAST_LAUNCH(kernel, grid, block, stream, ...) \
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#endif

namespace pyxai_fast {

constexpr int kThreads = 256;

// Blocks go on grid.x, which reaches 2^31 - 1; kernels walk the rest with a grid-sized stride.
inline unsigned blocks_for(int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  const int64_t limit = int64_t{1} << 30;
  return static_cast<unsigned>(blocks < limit ? blocks : limit);
}

}  // namespace pyxai_fast
