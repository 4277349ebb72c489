// Macros shared by host and device code. No torch, no CUDA headers.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define PYXAI_FAST_HD __host__ __device__
#else
#define PYXAI_FAST_HD
#endif

// Every function below a kernel is forced inline. The same header is compiled once per instruction
// set; an ordinary inline function would be emitted by each of those objects, and the linker would
// keep one copy for all of them, possibly the one that older processors cannot execute.
#define PYXAI_FAST_INLINE PYXAI_FAST_HD inline __attribute__((always_inline))

// What the static libraries offer. A shared library that links them keeps it to itself, so two
// such libraries in one process never call each other's kernels.
#define PYXAI_FAST_API __attribute__((visibility("hidden")))

// What a shared library shows, to be called through ctypes.
#define PYXAI_FAST_EXPORT __attribute__((visibility("default")))
