// Model inputs chosen, feature by feature, from two sources: what the mask and the rank family share.
//
//   out[s, b, d] = chosen[b, d]  where the label of (b, d) is in the set of (s, b)
//                  other[b, d]   elsewhere
//   both after   value * scale[c] + shift[c],  c = channel of feature d
//
// Labels are whole numbers, one for each pixel or feature; what a set of labels is, is the family's
// own. The map and the rounding to the type of `out` go before the choice, once for all steps, so
// that the choice itself moves bits.
#pragma once

#include "pyxai_fast/config.h"
#include "pyxai_fast/dtype.h"
#include "pyxai_fast/layout.h"

namespace pyxai_fast {

struct Select {
  Source chosen;        // dtype
  Source other;         // dtype
  Source labels;        // int32_t, or int64_t with wide_labels
  const double* scale;  // [channels] or null
  const double* shift;  // [channels] or null (null together with scale)
  void* out;            // [steps, batch, features], out_dtype
  int64_t steps;
  int64_t batch;
  int64_t features;
  Channels channels;
  DType dtype;
  DType out_dtype;
  bool wide_labels;
};

// The unsigned integer of a type's size.
template <int64_t Size>
struct WordOfSize;
template <>
struct WordOfSize<2> {
  using type = uint16_t;
};
template <>
struct WordOfSize<4> {
  using type = uint32_t;
};
template <>
struct WordOfSize<8> {
  using type = uint64_t;
};
template <typename T>
using WordOf = typename WordOfSize<static_cast<int64_t>(sizeof(T))>::type;

// All bits of a word, or none.
template <typename Word>
PYXAI_FAST_INLINE Word mask_of(bool holds) {
  return static_cast<Word>(-static_cast<Word>(holds));
}

// chosen under the ones of the mask, other under its zeros: values are never calculated with, so NaN
// and infinity pass.
template <typename T>
PYXAI_FAST_INLINE T select_bits(T chosen, T other, WordOf<T> mask) {
  using Word = WordOf<T>;
  return bit_cast<T>(static_cast<Word>((bit_cast<Word>(chosen) & mask) |
                                       (bit_cast<Word>(other) & static_cast<Word>(~mask))));
}

}  // namespace pyxai_fast
