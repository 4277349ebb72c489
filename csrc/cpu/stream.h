// Results too large for the caches, written past them.
//
// A processor reads a line of memory before it writes a part of it, and what is written pushes out
// what the caches hold. Results larger than the caches are gone from them before anybody reads them
// anyway; written in whole lines, without being read first, they take a third of the time.
#pragma once

#include "pyxai_fast/config.h"

#if defined(PYXAI_FAST_X86)
#include <immintrin.h>
#endif

namespace pyxai_fast {
namespace {  // one copy per instruction set

constexpr int64_t kStreamedBytes = int64_t{16} << 20;  // of a whole result

// Copies bytes past the caches. Other threads see them after stream_end.
[[maybe_unused]] void stream(const void* source, void* target, int64_t bytes) {
  const char* from = static_cast<const char*>(source);
  char* to = static_cast<char*>(target);
#if defined(PYXAI_FAST_X86)
  constexpr int64_t kLine = 64;
  const int64_t ahead = -static_cast<int64_t>(reinterpret_cast<uintptr_t>(to)) & (kLine - 1);
  if (ahead < bytes) {
    __builtin_memcpy(to, from, static_cast<size_t>(ahead));
    for (from += ahead, to += ahead, bytes -= ahead; bytes >= kLine;
         from += kLine, to += kLine, bytes -= kLine) {
#if defined(PYXAI_FAST_ISA_AVX512)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
#else
      for (int64_t i = 0; i < kLine; i += 16) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
      }
#endif
    }
  }
#endif
  __builtin_memcpy(to, from, static_cast<size_t>(bytes));
}

[[maybe_unused]] void stream_end() {
#if defined(PYXAI_FAST_X86)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace pyxai_fast
