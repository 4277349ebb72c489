// Elementary functions from +, -, * and bit operations alone, so that every compiler, instruction
// set and device gives the same bits. Nothing may be fused: see -ffp-contract=off and -fmad=false.
//
// The polynomials are minimax fits in float64 with coefficients rounded to float32; errors are the
// largest observed over all float32 arguments of the ranges named.
#pragma once

#include "pyxai_fast/lanes.h"

namespace pyxai_fast {

// The natural logarithm of a positive normal number, to 4e-6 of its value on (0, 1).
template <typename Lanes>
PYXAI_FAST_INLINE typename Lanes::Float natural_log(typename Lanes::Float x) {
  using Float = typename Lanes::Float;
  using Int = typename Lanes::Int;
  using Word = typename Lanes::Word;
  // x = m * 2^e with m in [sqrt(1/2), sqrt(2)): the bits of sqrt(1/2) are where e begins to count.
  const Int offset = (Int)(Lanes::bits(x) - 0x3f3504f3u);
  const Float e = Lanes::to_float(offset >> 23);
  const Float f = Lanes::from_bits((Word)(offset & 0x007fffff) + 0x3f3504f3u) - 1.0f;
  Float p = f * 0.118286311626434326f + -0.189004555344581604f;
  p = p * f + 0.206037193536758423f;
  p = p * f + -0.248815149068832397f;
  p = p * f + 0.33303394913673401f;
  p = p * f + -0.50001960992813110f;
  p = p * f + 1.00000321865081787f;
  return e * 0.6931471805599453f + p * f;
}

// Cosine and sine of 2 pi (word / 2^32), the word's low 8 bits ignored; absolute error below 1e-7.
template <typename Lanes>
PYXAI_FAST_INLINE void cosine_and_sine_of_turn(typename Lanes::Word word,
                                               typename Lanes::Float& cosine,
                                               typename Lanes::Float& sine) {
  using Float = typename Lanes::Float;
  using Int = typename Lanes::Int;
  using Word = typename Lanes::Word;
  // The top two bits choose a quarter; the rest is an angle from the quarter's middle.
  const Word quarter = word >> 30;
  const Float part = Lanes::to_float((Int)(word >> 8 & 0x003fffffu));
  const Float x = part * 3.74507038714000367e-07f + -0.785398163397448310f;
  const Float z = x * x;
  const Float s =
      ((z * -0.0001950396253960207f + 0.008332036435604095f) * z + -0.16666650772094727f) * z * x +
      x;
  const Float c =
      (((z * 2.4379880414926447e-05f + -0.0013886619126424193f) * z + 0.04166661575436592f) * z +
       -0.5f) *
          z +
      1.0f;
  // Odd quarters swap the two, and signs follow the quarter. Selected by masks of bits.
  const Word swap = 0u - (quarter & 1u);
  const Word a = Lanes::bits(c), b = Lanes::bits(s);
  cosine = Lanes::from_bits(((a & ~swap) | (b & swap)) ^ (((quarter + 1u) & 2u) << 30));
  sine = Lanes::from_bits(((b & ~swap) | (a & swap)) ^ ((quarter & 2u) << 30));
}

}  // namespace pyxai_fast
