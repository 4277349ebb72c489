// Vectors of features of arrays that repeat values: see Source in layout.h.
#pragma once

#include "pyxai_fast/layout.h"
#include "vec.cuh"

namespace pyxai_fast {

// The places of consecutive features: one division for the first, none for the others.
struct Places {
  Repeats repeats;
  int64_t place;
  int64_t within;  // the features before that share the place

  __device__ Places(const Repeats& repeats, int64_t feature)
      : repeats(repeats),
        place(place_of(repeats, feature)),
        within(repeats.inner == 1 ? 0 : feature % repeats.inner) {}

  __device__ void next() {
    if (++within < repeats.inner) return;
    within = 0;
    if (++place == repeats.count) place = 0;
  }
};

// Elements that one load of up to 16 bytes brings, of a vector that may need several.
template <typename T, int Vector>
constexpr int per_load() {
  return static_cast<int>(sizeof(T)) * Vector <= 16 ? Vector : 16 / static_cast<int>(sizeof(T));
}

// Whether rows of a whole number of vectors can be loaded so.
template <int Vector>
bool loads_are_aligned(const Source& source, DType dtype) {
  if (source.repeats.count == 1) return true;
  const int64_t bytes = size_of(dtype) * Vector;
  return is_aligned(source.data, bytes < 16 ? bytes : 16);
}

// Features of a source that is one number or whole rows, as inputs and what replaces them are.
template <typename Storage, int Vector, typename Compute>
__device__ void load_row(const Source& source, int64_t row, int64_t feature, Compute* to) {
  const Storage* from = static_cast<const Storage*>(source.data) + row * source.row;
  if (source.repeats.count == 1) {
    for (int i = 0; i < Vector; ++i) to[i] = widen(from[0]);
    return;
  }
  constexpr int kPerLoad = per_load<Storage, Vector>();
  for (int i = 0; i < Vector; i += kPerLoad) {
    const auto part = *reinterpret_cast<const Vec<Storage, kPerLoad>*>(from + feature + i);
    for (int j = 0; j < kPerLoad; ++j) to[i + j] = widen(part.value[j]);
  }
}

}  // namespace pyxai_fast
