// The widest vectors of the instruction set this file is compiled for, as a Lanes type (lanes.h).
//
// GCC's and clang's vector extension writes most of it; only what it lacks is an intrinsic.
#pragma once

#include "pyxai_fast/philox.h"

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
  using Wide = uint64_t __attribute__((vector_size(4 * kLanes)));  // half as many lanes

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

  static PYXAI_FAST_INLINE Float load(const float* from) {
    Float value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
  }
  static PYXAI_FAST_INLINE Word load(const uint32_t* from) {
    Word value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
  }
  static PYXAI_FAST_INLINE void store(float* to, Float value) {
    __builtin_memcpy(to, &value, sizeof(value));
  }
  static PYXAI_FAST_INLINE void store(uint32_t* to, Word value) {
    __builtin_memcpy(to, &value, sizeof(value));
  }

#if defined(PYXAI_FAST_ISA_AVX512)
  // Zero-masking forms with a full mask: GCC 12 warns that the plain ones use an undefined value.
  static PYXAI_FAST_INLINE Float square_root(Float value) {
    return (Float)_mm512_maskz_sqrt_ps(0xffff, (__m512)value);
  }
  static PYXAI_FAST_INLINE Wide multiply_low(Wide a, Wide b) {
    return (Wide)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
  }
#elif defined(PYXAI_FAST_ISA_AVX2)
  static PYXAI_FAST_INLINE Float square_root(Float value) {
    return (Float)_mm256_sqrt_ps((__m256)value);
  }
  static PYXAI_FAST_INLINE Wide multiply_low(Wide a, Wide b) {
    return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)b);
  }
#elif defined(PYXAI_FAST_X86)
  static PYXAI_FAST_INLINE Float square_root(Float value) {
    return (Float)_mm_sqrt_ps((__m128)value);
  }
  static PYXAI_FAST_INLINE Wide multiply_low(Wide a, Wide b) {
    return (Wide)_mm_mul_epu32((__m128i)a, (__m128i)b);
  }
#else
  static PYXAI_FAST_INLINE Float square_root(Float value) {
    for (int i = 0; i < kLanes; ++i) value[i] = __builtin_sqrtf(value[i]);
    return value;
  }
  static PYXAI_FAST_INLINE Wide multiply_low(Wide a, Wide b) {
    return (a & 0xffffffffu) * (b & 0xffffffffu);
  }
#endif
};

// Processors multiply 32-bit words to 64-bit products in every other lane only. So even and odd lanes
// go through the rounds apart, a word in the low half of 64 bits; what the high halves hold does not
// matter, as only low halves are multiplied, and nothing has to be moved between the rounds.
PYXAI_FAST_INLINE void philox_rounds(VectorLanes, VectorLanes::Word c0, VectorLanes::Word c1,
                                     VectorLanes::Word c2, VectorLanes::Word c3, uint64_t seed,
                                     VectorLanes::Word* words) {
  using Wide = VectorLanes::Wide;
  const Wide m0 = Wide{} + uint64_t{kPhiloxM0}, m1 = Wide{} + uint64_t{kPhiloxM1};
  const Wide low_half = Wide{} + uint64_t{0xffffffff};
  const Wide given[4] = {(Wide)c0, (Wide)c1, (Wide)c2, (Wide)c3};
  Wide found[2][4];
  for (int odd = 0; odd < 2; ++odd) {
    Wide w0 = given[0] >> (32 * odd), w1 = given[1] >> (32 * odd);
    Wide w2 = given[2] >> (32 * odd), w3 = given[3] >> (32 * odd);
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const Wide p0 = VectorLanes::multiply_low(w0, m0), p1 = VectorLanes::multiply_low(w2, m1);
      w0 = (p1 >> 32) ^ w1 ^ uint64_t{key0};
      w2 = (p0 >> 32) ^ w3 ^ uint64_t{key1};
      w1 = p1;
      w3 = p0;
      key0 += kPhiloxW0;
      key1 += kPhiloxW1;
    }
    found[odd][0] = w0;
    found[odd][1] = w1;
    found[odd][2] = w2;
    found[odd][3] = w3;
  }
  for (int i = 0; i < 4; ++i) {
    words[i] = (VectorLanes::Word)((found[0][i] & low_half) | (found[1][i] << 32));
  }
}

}  // namespace
}  // namespace pyxai_fast
