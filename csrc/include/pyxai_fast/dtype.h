// The element types of the kernels, and the conversions between them.
#pragma once

#include <cstring>

#include "pyxai_fast/config.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace pyxai_fast {

enum class DType : int { kFloat16, kBFloat16, kFloat32, kFloat64 };

constexpr int64_t size_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// Storage of the two half-precision types: bits only, arithmetic is done in float.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Calls f with a value of the storage type: the only switch over element types.
template <typename F>
inline __attribute__((always_inline)) auto with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat16:
      return f(Float16{});
    case DType::kBFloat16:
      return f(BFloat16{});
    case DType::kFloat32:
      return f(float{});
    default:
      return f(double{});
  }
}

// The type a kernel computes in: at least float, double for double.
template <typename Storage>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};

template <typename To, typename From>
PYXAI_FAST_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast: sizes must match");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

PYXAI_FAST_INLINE float widen(float value) { return value; }
PYXAI_FAST_INLINE double widen(double value) { return value; }

PYXAI_FAST_INLINE float widen(BFloat16 value) {
  return bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

PYXAI_FAST_INLINE float widen(Float16 value) {
#if defined(__CUDA_ARCH__)
  return __half2float(bit_cast<__half>(value.bits));
#else
  const uint32_t magnitude = value.bits & 0x7fffu;
  // Normal values: the same bits under an exponent that is biased by 112 more.
  const uint32_t normal = (magnitude << 13) + 0x38000000u;
  // Subnormal ones are multiples of 2^-24. No float on the way is subnormal, so the result does not
  // depend on whether the processor flushes those to zero.
  const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  const uint32_t special = 0x7f800000u | (magnitude << 13);  // infinity and NaN
  uint32_t bits = magnitude < 0x0400u ? bit_cast<uint32_t>(subnormal) : normal;
  bits = magnitude >= 0x7c00u ? special : bits;
  return bit_cast<float>(bits | (static_cast<uint32_t>(value.bits & 0x8000u) << 16));
#endif
}

// narrow_to: round to nearest, ties to even; NaN stays a (quiet) NaN.
PYXAI_FAST_INLINE void narrow_to(float value, float& out) { out = value; }
PYXAI_FAST_INLINE void narrow_to(double value, double& out) { out = value; }
PYXAI_FAST_INLINE void narrow_to(double value, float& out) { out = static_cast<float>(value); }

PYXAI_FAST_INLINE void narrow_to(float value, BFloat16& out) {
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out.bits = static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded >> 16);
}

PYXAI_FAST_INLINE void narrow_to(float value, Float16& out) {
#if defined(__CUDA_ARCH__)
  out.bits = bit_cast<uint16_t>(__float2half_rn(value));
#else
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Subnormal results: adding 0.5 puts the half's last bit at the float's last bit, so the
  // processor's own rounding does the work.
  const float shifted = bit_cast<float>(magnitude) + 0.5f;
  const uint32_t subnormal = bit_cast<uint32_t>(shifted) - 0x3f000000u;
  // Normal results: rebias the exponent by -112 and round the 13 lost bits to nearest even.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // 65520 is halfway from the largest half, 65504, to the next one that does not exist.
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  out.bits = static_cast<uint16_t>(half | sign);
#endif
}

PYXAI_FAST_INLINE void narrow_to(double value, Float16& out) {
  narrow_to(static_cast<float>(value), out);
}
PYXAI_FAST_INLINE void narrow_to(double value, BFloat16& out) {
  narrow_to(static_cast<float>(value), out);
}

}  // namespace pyxai_fast
