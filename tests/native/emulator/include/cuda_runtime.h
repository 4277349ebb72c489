// Stands in for CUDA's header of this name: the words of CUDA C++ that the kernels use, for a C++
// compiler and the emulator. A word that is missing here has not been needed yet: add it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../emulator.h"

// --- where things live ---------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// One copy serves every block, as blocks run one after the other. Variables of a thread (there is
// only one) lie side by side, and the emulator fills them with NaN before each block: shared memory
// has no value until it is written. The address sanitiser guards ordinary variables only.
#if !defined(EMULATOR_SANITISED)
#define __shared__ static thread_local
#else
#define __shared__ static
#endif

// --- launches ------------------------------------------------------------------------------------

using dim3 = emulator::Dim3;
using uint3 = emulator::Dim3;
using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};

inline cudaError_t cudaGetLastError() { return static_cast<cudaError_t>(emulator::last_error()); }

#define PYXAI_FAST_LAUNCH_SHARED(kernel, grid, block, shared_bytes, stream, ...) \
  (static_cast<void>(stream),                                                    \
   ::emulator::launch(#kernel, grid, block, shared_bytes, [&] { kernel(__VA_ARGS__); }))

#define PYXAI_FAST_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(::emulator::dynamic_shared())

// The emulator sets these before it runs a thread.
inline dim3 gridDim, blockDim;
inline uint3 blockIdx, threadIdx;
constexpr int warpSize = emulator::kWarp;

// --- barriers ------------------------------------------------------------------------------------

// The caller's file and line: the default of a parameter is evaluated where the function is called.
#define EMULATOR_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATOR_CALLER) { emulator::meet_block({"__syncthreads", file, line}); }

inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_CALLER) {
  emulator::meet_warp(mask, 0, {"__syncwarp", file, line});
}

inline void __threadfence_block() {}
inline void __threadfence() {}

// --- votes ---------------------------------------------------------------------------------------

namespace emulator {

// A bit for each lane of the mask whose predicate holds.
inline unsigned vote(uint32_t mask, bool predicate, Place place) {
  const Lanes& lanes = meet_warp(mask, predicate, place);
  unsigned votes = 0;
  for (int i = 0; i < kWarp; ++i) {
    if ((lanes.present >> i & 1u) != 0 && lanes.value[i] != 0) votes |= 1u << i;
  }
  return votes;
}

}  // namespace emulator

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
  return emulator::vote(mask, predicate != 0, {"__ballot_sync", file, line});
}

inline int __any_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
  return emulator::vote(mask, predicate != 0, {"__any_sync", file, line}) != 0;
}

inline int __all_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
  return emulator::vote(mask, predicate == 0, {"__all_sync", file, line}) == 0;
}

// --- shuffles ------------------------------------------------------------------------------------

namespace emulator {

// What `source` shows, once all lanes of the mask have met.
template <typename T>
T shuffle(uint32_t mask, T value, int source, Place place) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  const Lanes& lanes = meet_warp(mask, bits, place);
  if ((lanes.present >> source & 1u) == 0) {
    fail("reads lane " + std::to_string(source) + ", which does not take part", place);
  }
  memcpy(&value, &lanes.value[source], sizeof(T));
  return value;
}

// The first lane of the calling thread's segment: `width` lanes shuffle among themselves.
inline int segment(int width) { return lane() & ~(width - 1); }

}  // namespace emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_CALLER) {
  return emulator::shuffle(mask, value, emulator::segment(width) + (source & (width - 1)),
                           {"__shfl_sync", file, line});
}

// The others keep their own value where the source lies outside the segment.
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_CALLER) {
  const int source = emulator::lane() - static_cast<int>(delta);
  const bool inside = source >= emulator::segment(width);
  return emulator::shuffle(mask, value, inside ? source : emulator::lane(),
                           {"__shfl_up_sync", file, line});
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_CALLER) {
  const int source = emulator::lane() + static_cast<int>(delta);
  const bool inside = source < emulator::segment(width) + width;
  return emulator::shuffle(mask, value, inside ? source : emulator::lane(),
                           {"__shfl_down_sync", file, line});
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMULATOR_CALLER) {
  const int source = emulator::lane() ^ bits;
  const bool inside = source < emulator::segment(width) + width;
  return emulator::shuffle(mask, value, inside ? source : emulator::lane(),
                           {"__shfl_xor_sync", file, line});
}

// --- arithmetic ----------------------------------------------------------------------------------
// Only what IEEE 754 defines to the last bit. The compiler must not contract (-ffp-contract=off).

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

// --- memory --------------------------------------------------------------------------------------

// Loads and stores that advise the cache.
template <typename T>
T __ldg(const T* from) {
  return *from;
}
template <typename T>
T __ldcs(const T* from) {
  return *from;
}
template <typename T>
void __stcs(T* to, T value) {
  *to = value;
}

template <typename T>
T atomicAdd(T* to, T value) {
  static_assert(std::is_integral<T>::value,
                "the order of float atomics changes from run to run, and so would the result");
  const T before = *to;
  *to += value;
  return before;
}
