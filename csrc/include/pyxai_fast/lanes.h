// Numbers that a formula is written for once: one at a time here, a vector of them in cpu/simd.h.
//
// A `Lanes` type names Word (uint32), Int (int32) and Float (float32), alike in lanes, and what C++
// cannot write for all of them in the same way. Arithmetic, shifts and bitwise operators mean the
// same for all; a constant may stand on either side. Comparisons do not, so formulas use none.
#pragma once

#include "pyxai_fast/config.h"
#include "pyxai_fast/dtype.h"

namespace pyxai_fast {

struct ScalarLanes {
  using Word = uint32_t;
  using Int = int32_t;
  using Float = float;

  static PYXAI_FAST_INLINE Word bits(Float value) { return bit_cast<Word>(value); }
  static PYXAI_FAST_INLINE Float from_bits(Word bits) { return bit_cast<Float>(bits); }
  static PYXAI_FAST_INLINE Float to_float(Int value) { return static_cast<Float>(value); }
  static PYXAI_FAST_INLINE Int to_int(Float value) { return static_cast<Int>(value); }

  // IEEE 754's square root: the same bits everywhere.
  static PYXAI_FAST_INLINE Float square_root(Float value) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(value);
#else
    return __builtin_sqrtf(value);
#endif
  }

  static PYXAI_FAST_INLINE Word broadcast(uint32_t value) { return value; }
};

}  // namespace pyxai_fast
