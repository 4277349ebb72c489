// How kernels step through memory: broadcast arrays, channels, and the size of the work.
#pragma once

#include "pyxai_fast/config.h"

namespace pyxai_fast {

// A [rows, columns] array of which rows, columns or both may be broadcast by a stride of zero.
struct Strides2 {
  int64_t row;
  int64_t column;
};

// Which channel a feature belongs to: (feature / inner) % channels. Contiguous images have
// inner = height * width, channels_last images inner = 1.
struct Channels {
  int64_t count;
  int64_t inner;
};

PYXAI_FAST_INLINE int64_t channel_of(const Channels& channels, int64_t feature) {
  return (feature / channels.inner) % channels.count;
}

// Which element of a shorter array a feature shares, by the same rule: an image that all channels
// share has count = height * width, and inner = the channels where these are innermost, else 1. A
// whole row has count = features, inner = 1; one number has 1 and 1.
using Repeats = Channels;

PYXAI_FAST_INLINE int64_t place_of(const Repeats& repeats, int64_t feature) {
  return (feature / repeats.inner) % repeats.count;
}

// An array of [batch, features] that may repeat one row for all examples (row = 0) and values within
// a row: feature f of example b is data[b * row + place_of(repeats, f)]. Every repeat is whole:
// count * inner divides the features.
struct Source {
  const void* data;
  int64_t row;
  Repeats repeats;
};

PYXAI_FAST_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Every op is a struct of arguments, and three functions that take it:
//
//   Work work_of(const Op& args)
//   void run_cpu(const Op& args, int64_t begin, int64_t end)
//   int run_cuda(const Op& args, void* stream)
//
// On the CPU the work is cut into independent units; a caller runs [0, units) in any order, on any
// number of threads, and gets the same bits. `grain` is the least number of units worth a thread.
//
// On CUDA the kernels are launched on `stream` (a cudaStream_t) of the current device, nothing is
// synchronised, and the cudaError_t of the launch is returned. All pointers are device pointers.
//
// Each struct holds the op's name in `kName`, for messages.
struct Work {
  int64_t units;
  int64_t grain;
};

}  // namespace pyxai_fast
