// Which instruction set the CPU kernels run with: "baseline", "avx2" or "avx512". Every level gives
// the same bits. At first it is the best that this processor has, or the one that
// PYXAI_FAST_CPU_ISA names.
#pragma once

#include "pyxai_fast/config.h"

namespace pyxai_fast {

PYXAI_FAST_API const char* cpu_isa();
PYXAI_FAST_API const char* best_cpu_isa();

// False, and nothing changes, when the level is unknown or this processor lacks it.
PYXAI_FAST_API bool set_cpu_isa(const char* name);

}  // namespace pyxai_fast
