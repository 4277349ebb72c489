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

// The smaller of two numbers that are not negative.
template <typename Lanes>
PYXAI_FAST_INLINE typename Lanes::Float at_most(typename Lanes::Float x, float limit) {
  // Such numbers are ordered as their bits are, so the difference of the bits has a sign to mask by.
  using Int = typename Lanes::Int;
  const uint32_t bound = bit_cast<uint32_t>(limit);
  const Int over = (Int)(Lanes::bits(x) - bound);
  return Lanes::from_bits((typename Lanes::Word)(over & (over >> 31)) + bound);
}

// e^x - 1 for x in [0, 64]; relative error below 2e-7, also where x is tiny.
template <typename Lanes>
PYXAI_FAST_INLINE typename Lanes::Float exponential_minus_one(typename Lanes::Float x) {
  using Float = typename Lanes::Float;
  using Word = typename Lanes::Word;
  // x = k ln 2 + f with |f| <= ln(2) / 2; adding 3 * 2^22 rounds to a whole number. The first part
  // of ln 2 has 9 bits, so that k times it is exact.
  const Float k = (x * 1.4426950216293335f + 12582912.0f) - 12582912.0f;
  const Float f = (x - k * 0.693359375f) + k * 0.00021219444170128554f;
  Float p = f * 0.0013882521307095885f + 0.008366520516574383f;
  p = p * f + 0.04166720062494278f;
  p = p * f + 0.1666654348373413f;
  p = p * f + 0.4999999701976776f;
  p = p * f * f + f;
  const Float power = Lanes::from_bits((Word)((Lanes::to_int(k) + 127) << 23));
  return p * power + (power - 1.0f);
}

// The square of the sine of a quarter turn times y, for y in (0, 1]; relative error below 3e-7.
template <typename Lanes>
PYXAI_FAST_INLINE typename Lanes::Float squared_sine_of_quarter(typename Lanes::Float y) {
  using Float = typename Lanes::Float;
  const Float z = y * y;
  Float p = z * -0.0008145046303980052f + 0.012731554917991161f;
  p = p * z + -0.11757247149944305f;
  p = p * z + 0.6676082611083984f;
  p = p * z + -2.0293538570404053f;
  p = p * z + 2.4674010276794434f;
  return p * z;
}

}  // namespace pyxai_fast
