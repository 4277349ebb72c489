// The widest vectors of the instruction set this file is compiled for, as a Lanes type (lanes.h).
//
// GCC's and clang's vector extension writes most of it; only what it lacks is an intrinsic.
#pragma once

#include "pyxai_fast/lanes.h"

#if defined(PYXAI_FAST_X86)
#include <immintrin.h>
#endif

namespace pyxai_fast {
namespace {  // one copy per instruction set

#if defined(PYXAI_FAST_ISA_AVX512)
constexpr int kLanes = 16;
#elif defined(PYXAI_FAST_ISA_AVX2)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

struct VectorLanes {
  using Word = uint32_t __attribute__((vector_size(4 * kLanes)));
  using Int = int32_t __attribute__((vector_size(4 * kLanes)));
  using Float = float __attribute__((vector_size(4 * kLanes)));

  static PYXAI_FAST_INLINE Word bits(Float value) { return (Word)value; }
  static PYXAI_FAST_INLINE Float from_bits(Word bits) { return (Float)bits; }
  static PYXAI_FAST_INLINE Float to_float(Int value) {
    return __builtin_convertvector(value, Float);
  }
  static PYXAI_FAST_INLINE Int to_int(Float value) { return __builtin_convertvector(value, Int); }
  static PYXAI_FAST_INLINE Word broadcast(uint32_t value) { return Word{} + value; }

  // 0, 1, 2, ...
  static PYXAI_FAST_INLINE Word indices() {
    Word indices;
    for (int i = 0; i < kLanes; ++i) indices[i] = static_cast<uint32_t>(i);
    return indices;
  }

  static PYXAI_FAST_INLINE void store(float* to, Float value) {
    __builtin_memcpy(to, &value, sizeof(value));
  }

#if defined(PYXAI_FAST_ISA_AVX512)
  // Zero-masking forms with a full mask: GCC 12 warns that the plain ones use an undefined value.
  static PYXAI_FAST_INLINE Float square_root(Float value) {
    return (Float)_mm512_maskz_sqrt_ps(0xffff, (__m512)value);
  }
  static PYXAI_FAST_INLINE void multiply(Word a, uint32_t b, Word& high, Word& low) {
    const __m512i factor = _mm512_set1_epi32(static_cast<int>(b));
    const __m512i even = _mm512_maskz_mul_epu32(0xff, (__m512i)a, factor);
    const __m512i odd =
        _mm512_maskz_mul_epu32(0xff, _mm512_maskz_srli_epi64(0xff, (__m512i)a, 32), factor);
    low = (Word)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_maskz_slli_epi64(0xff, odd, 32));
    high = (Word)_mm512_mask_blend_epi32(0xAAAA, _mm512_maskz_srli_epi64(0xff, even, 32), odd);
  }
#elif defined(PYXAI_FAST_ISA_AVX2)
  static PYXAI_FAST_INLINE Float square_root(Float value) {
    return (Float)_mm256_sqrt_ps((__m256)value);
  }
  static PYXAI_FAST_INLINE void multiply(Word a, uint32_t b, Word& high, Word& low) {
    const __m256i factor = _mm256_set1_epi32(static_cast<int>(b));
    const __m256i even = _mm256_mul_epu32((__m256i)a, factor);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), factor);
    low = (Word)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    high = (Word)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  }
#elif defined(PYXAI_FAST_X86)
  static PYXAI_FAST_INLINE Float square_root(Float value) {
    return (Float)_mm_sqrt_ps((__m128)value);
  }
  static PYXAI_FAST_INLINE void multiply(Word a, uint32_t b, Word& high, Word& low) {
    const __m128i factor = _mm_set1_epi32(static_cast<int>(b));
    const __m128i even = _mm_mul_epu32((__m128i)a, factor);
    const __m128i odd = _mm_mul_epu32(_mm_srli_epi64((__m128i)a, 32), factor);
    const __m128i lower = _mm_set1_epi64x(0xffffffff);
    low = (Word)_mm_or_si128(_mm_and_si128(even, lower), _mm_slli_epi64(odd, 32));
    high = (Word)_mm_or_si128(_mm_srli_epi64(even, 32), _mm_andnot_si128(lower, odd));
  }
#else
  static PYXAI_FAST_INLINE Float square_root(Float value) {
    for (int i = 0; i < kLanes; ++i) value[i] = __builtin_sqrtf(value[i]);
    return value;
  }
  static PYXAI_FAST_INLINE void multiply(Word a, uint32_t b, Word& high, Word& low) {
    for (int i = 0; i < kLanes; ++i) {
      uint32_t h, l;
      ScalarLanes::multiply(a[i], b, h, l);
      high[i] = h;
      low[i] = l;
    }
  }
#endif
};

}  // namespace
}  // namespace pyxai_fast
