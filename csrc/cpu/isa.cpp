#include "isa.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "pyxai_fast/cpu_isa.h"

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

const char* cpu_isa() { return kNames[static_cast<int>(active_isa())]; }

const char* best_cpu_isa() { return kNames[static_cast<int>(best_isa())]; }

bool set_cpu_isa(const char* name) {
  const int wanted = level_named(name);
  if (wanted < 0) return false;
  level().store(wanted, std::memory_order_relaxed);
  return true;
}

}  // namespace pyxai_fast
