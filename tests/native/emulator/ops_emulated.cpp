// The CUDA kernels, run by the emulator, as torch ops on CPU tensors: the namespace
// pyxai_fast_emulated has every op of pyxai_fast. What the tests call through ctypes is below.
#include "all_ops.h"
#include "emulator.h"

namespace pyxai_fast::torch_ops {

struct Emulated {
  template <typename Op>
  static void run(const Op& args, const Tensor&) {
    if (run_cuda(args, nullptr) != 0) fail(Op::kName, ": ", emulator::failure());
  }
};

STABLE_TORCH_LIBRARY_IMPL(pyxai_fast_emulated, CPU, library) {
  register_all_ops<Emulated>(library);
}

}  // namespace pyxai_fast::torch_ops

extern "C" {

PYXAI_FAST_EXPORT void emulated_order(int order, unsigned seed) {
  emulator::set_order(static_cast<emulator::Order>(order), seed);
}
PYXAI_FAST_EXPORT void emulated_limit_grid(unsigned blocks) { emulator::limit_grid(blocks); }
PYXAI_FAST_EXPORT const char* emulated_failure() { return emulator::failure().c_str(); }
PYXAI_FAST_EXPORT int64_t emulated_blocks() { return emulator::blocks_run(); }

}  // extern "C"
