// The CPU kernels as torch ops. Threads are torch's own (torch.set_num_threads).
#include "all_ops.h"
#include "pyxai_fast/cpu_isa.h"

namespace pyxai_fast::torch_ops {

struct Cpu {
  template <typename Op>
  static void run(const Op& args, const Tensor&) {
    const Work work = work_of(args);
    torch::stable::parallel_for(0, work.units, work.grain,
                                [&](int64_t begin, int64_t end) { run_cpu(args, begin, end); });
  }
};

STABLE_TORCH_LIBRARY_IMPL(pyxai_fast, CPU, library) { register_all_ops<Cpu>(library); }

}  // namespace pyxai_fast::torch_ops

// The instruction set, for ctypes.
extern "C" {

PYXAI_FAST_EXPORT const char* pyxai_fast_cpu_isa() { return pyxai_fast::cpu_isa(); }

PYXAI_FAST_EXPORT const char* pyxai_fast_best_cpu_isa() { return pyxai_fast::best_cpu_isa(); }

PYXAI_FAST_EXPORT int pyxai_fast_set_cpu_isa(const char* name) {
  return pyxai_fast::set_cpu_isa(name) ? 0 : -1;
}

}  // extern "C"
