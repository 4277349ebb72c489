#include "isa.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace pyxai_fast {
namespace {

const char* const kNames[] = {"baseline", "avx2", "avx512"};

Isa best_isa() {
#if defined(PYXAI_FAST_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) return Isa::kAvx2;
#endif
  return Isa::kBaseline;
}

// -1 when there is no such level, or this processor lacks it.
int level_named(const char* name) {
  for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
    if (std::strcmp(name, kNames[level]) == 0) return level;
  }
  return -1;
}

int initial_level() {
  const int best = static_cast<int>(best_isa());
  const char* wish = std::getenv("PYXAI_FAST_CPU_ISA");
  if (wish == nullptr || *wish == '\0') return best;
  const int level = level_named(wish);
  if (level >= 0) return level;
  std::fprintf(stderr,
               "pyxai_fast: PYXAI_FAST_CPU_ISA must be baseline, avx2 or avx512 and supported by "
               "this processor, got '%s'; using %s\n",
               wish, kNames[best]);
  return best;
}

std::atomic<int>& level() {
  static std::atomic<int> value{initial_level()};
  return value;
}

}  // namespace

Isa active_isa() { return static_cast<Isa>(level().load(std::memory_order_relaxed)); }

}  // namespace pyxai_fast

// A C interface, so that Python reads and sets the level with ctypes.
extern "C" PYXAI_FAST_API const char* pyxai_fast_cpu_isa() {
  return pyxai_fast::kNames[static_cast<int>(pyxai_fast::active_isa())];
}

extern "C" PYXAI_FAST_API const char* pyxai_fast_best_cpu_isa() {
  return pyxai_fast::kNames[static_cast<int>(pyxai_fast::best_isa())];
}

// Returns 0, or -1 and changes nothing when the level is unknown or not supported here.
extern "C" PYXAI_FAST_API int pyxai_fast_set_cpu_isa(const char* name) {
  const int wanted = pyxai_fast::level_named(name);
  if (wanted < 0) return -1;
  pyxai_fast::level().store(wanted, std::memory_order_relaxed);
  return 0;
}
