// The CPU kernels as torch ops. Threads are torch's own (torch.set_num_threads).
#include "path.h"

namespace pyxai_fast::torch_ops {

struct Cpu {
  template <typename Kernel>
  static void parallel(Work work, const Kernel& kernel) {
    torch::stable::parallel_for(0, work.units, work.grain, kernel);
  }

  static void run(const PathPoints& args, const Tensor&) {
    parallel(path_points_work(args),
             [&](int64_t begin, int64_t end) { path_points(args, begin, end); });
  }

  static void run(const PathAccumulate& args, const Tensor&) {
    parallel(path_accumulate_work(args),
             [&](int64_t begin, int64_t end) { path_accumulate(args, begin, end); });
  }
};

STABLE_TORCH_LIBRARY_IMPL(pyxai_fast, CPU, library) { PYXAI_FAST_REGISTER_PATH_OPS(library, Cpu); }

}  // namespace pyxai_fast::torch_ops
