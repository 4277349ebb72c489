// The CUDA kernels as torch ops: current stream, device guard, no synchronisation.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "all_ops.h"

namespace pyxai_fast::torch_ops {

struct Cuda {
  template <typename Op>
  static void run(const Op& args, const Tensor& on) {
    const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
    const int error = run_cuda(args, stream);
    if (error != cudaSuccess) {
      fail(Op::kName, ": the kernel could not be launched: ",
           cudaGetErrorString(static_cast<cudaError_t>(error)));
    }
  }
};

STABLE_TORCH_LIBRARY_IMPL(pyxai_fast, CUDA, library) { register_all_ops<Cuda>(library); }

}  // namespace pyxai_fast::torch_ops
