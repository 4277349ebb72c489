// Products of small matrices with rows of features, whose sums add in order.
#pragma once

#include "pyxai_fast/layout.h"
#include "simd.h"

namespace pyxai_fast {
namespace {  // one copy per instruction set

// The vectors of the level, of either Float.
template <typename Float>
struct Register {
  static constexpr int kWidth = static_cast<int>(4 * kLanes / sizeof(Float));
  typedef Float Type __attribute__((vector_size(4 * kLanes)));
};

#if defined(PYXAI_FAST_ISA_AVX512)
constexpr int kVectors = 4;  // 16 accumulators of 32 registers
#else
constexpr int kVectors = 2;  // 8 of 16
#endif
constexpr int kRows = 4;

// Features that go together, at this level.
template <typename Float>
constexpr int64_t kStep = kVectors * Register<Float>::kWidth;

// Tiles are a multiple of this many features for every level, so that all cut the work alike.
constexpr int64_t kStepBytes = 256;
template <typename Float>
constexpr int64_t kStepFeatures = kStepBytes / static_cast<int64_t>(sizeof(Float));
static_assert(kStepFeatures<float> % kStep<float> == 0, "a tile is whole steps");

// sums[r] (+)= sum over j of matrix[r, j] * factors[j] for Rows rows and one step of features.
template <int Rows, typename Float>
PYXAI_FAST_INLINE void multiply_rows(const Float* matrix, Strides2 strides, const Float* factors,
                                     int64_t width, int64_t count, bool continued, Float* sums,
                                     int64_t sum_width) {
  using Vector = typename Register<Float>::Type;
  constexpr int kWidth = Register<Float>::kWidth;
  Vector sum[Rows][kVectors] = {};
  if (continued) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        __builtin_memcpy(&sum[r][v], sums + r * sum_width + v * kWidth, sizeof(Vector));
      }
    }
  }
  for (int64_t j = 0; j < count; ++j) {
    Vector d[kVectors];
    __builtin_memcpy(d, factors + j * width, sizeof(d));
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Float m = matrix[r * strides.row + j * strides.column];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sum[r][v] += d[v] * m;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      __builtin_memcpy(sums + r * sum_width + v * kWidth, &sum[r][v], sizeof(Vector));
    }
  }
}

// The same for any number of rows.
template <typename Float>
PYXAI_FAST_INLINE void multiply(const Float* matrix, Strides2 strides, int64_t rows,
                                const Float* factors, int64_t width, int64_t count, bool continued,
                                Float* sums, int64_t sum_width) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    multiply_rows<kRows>(matrix + r * strides.row, strides, factors, width, count, continued,
                         sums + r * sum_width, sum_width);
  }
  for (; r < rows; ++r) {
    multiply_rows<1>(matrix + r * strides.row, strides, factors, width, count, continued,
                     sums + r * sum_width, sum_width);
  }
}

}  // namespace
}  // namespace pyxai_fast
