// Which instruction set the CPU kernels run with.
#pragma once

#include "pyxai_fast/config.h"

namespace pyxai_fast {

enum class Isa : int { kBaseline, kAvx2, kAvx512 };

// The level in use: the best this processor has, lowered by
// PYXAI_FAST_CPU_ISA=baseline|avx2|avx512.
Isa active_isa();

}  // namespace pyxai_fast

// Every source of kernels is compiled once per level, into a namespace of its own. All levels give
// the same bits: the loops are elementwise or add in a fixed order, and -ffp-contract=off keeps
// multiplication and addition apart.
#if defined(PYXAI_FAST_ISA_AVX512)
#define PYXAI_FAST_ISA_NAMESPACE avx512
#elif defined(PYXAI_FAST_ISA_AVX2)
#define PYXAI_FAST_ISA_NAMESPACE avx2
#else
#define PYXAI_FAST_ISA_NAMESPACE baseline
#define PYXAI_FAST_ISA_BASELINE
#endif

// Defines run_cpu of an op as a call of the active level's run_cpu. Used once per op, in the baseline
// compilation.
#if defined(PYXAI_FAST_X86)
#define PYXAI_FAST_DEFINE_BY_ISA(OP)                         \
  namespace avx2 {                                           \
  void run_cpu(const OP& args, int64_t begin, int64_t end);  \
  }                                                          \
  namespace avx512 {                                         \
  void run_cpu(const OP& args, int64_t begin, int64_t end);  \
  }                                                          \
  void run_cpu(const OP& args, int64_t begin, int64_t end) { \
    switch (active_isa()) {                                  \
      case Isa::kAvx512:                                     \
        return avx512::run_cpu(args, begin, end);            \
      case Isa::kAvx2:                                       \
        return avx2::run_cpu(args, begin, end);              \
      default:                                               \
        return baseline::run_cpu(args, begin, end);          \
    }                                                        \
  }
#else
#define PYXAI_FAST_DEFINE_BY_ISA(OP) \
  void run_cpu(const OP& args, int64_t begin, int64_t end) { baseline::run_cpu(args, begin, end); }
#endif
