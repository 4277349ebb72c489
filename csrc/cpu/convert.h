// Runs of elements between their storage type and the type computed in.
//
// The half conversions use the processor's instructions where a level has them; dtype.h is the
// portable form and gives the same values.
#pragma once

#include "pyxai_fast/dtype.h"

#if defined(PYXAI_FAST_ISA_AVX2) || defined(PYXAI_FAST_ISA_AVX512)
#define PYXAI_FAST_HAS_F16C
#include <immintrin.h>
#endif

namespace pyxai_fast {
namespace {  // one copy per instruction set

template <typename Storage, typename Compute>
PYXAI_FAST_INLINE void load_run(const Storage* from, Compute* to, int64_t count) {
  int64_t i = 0;
#if defined(PYXAI_FAST_HAS_F16C)
  if constexpr (__is_same(Storage, Float16) && __is_same(Compute, float)) {
    for (; i + 8 <= count; i += 8) {
      const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(half));
    }
  }
#endif
  for (; i < count; ++i) to[i] = widen(from[i]);
}

template <typename Storage, typename Compute>
PYXAI_FAST_INLINE void store_run(const Compute* from, Storage* to, int64_t count) {
  int64_t i = 0;
#if defined(PYXAI_FAST_HAS_F16C)
  if constexpr (__is_same(Storage, Float16) && __is_same(Compute, float)) {
    for (; i + 8 <= count; i += 8) {
      const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
    }
  }
#endif
  for (; i < count; ++i) narrow_to(from[i], to[i]);
}

}  // namespace
}  // namespace pyxai_fast
