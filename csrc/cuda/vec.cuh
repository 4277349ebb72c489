// Vectors of elements that move with one load or store of up to 16 bytes.
#pragma once

#include "pyxai_fast/dtype.h"

namespace pyxai_fast {

template <typename T, int N>
struct alignas(sizeof(T) * N) Vec {
  T value[N];
};

// Features that move together: 16 bytes of the wider of two types.
template <typename A, typename B>
constexpr int vector_width() {
  return 16 / static_cast<int>(sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));
}

inline bool is_aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

}  // namespace pyxai_fast
