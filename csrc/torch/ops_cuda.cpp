// The CUDA kernels as torch ops: current stream, device guard, no synchronisation.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "path.h"

namespace pyxai_fast::torch_ops {

struct Cuda {
  template <typename Args>
  static void launch(int (*kernel)(const Args&, void*), const Args& args, const Tensor& on,
                     const char* op) {
    const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
    const int error = kernel(args, stream);
    if (error != cudaSuccess) {
      fail(op, ": the kernel could not be launched: ",
           cudaGetErrorString(static_cast<cudaError_t>(error)));
    }
  }

  static void run(const PathPoints& args, const Tensor& on) {
    launch(&path_points_cuda, args, on, "path_points");
  }

  static void run(const PathAccumulate& args, const Tensor& on) {
    launch(&path_accumulate_cuda, args, on, "path_accumulate");
  }
};

STABLE_TORCH_LIBRARY_IMPL(pyxai_fast, CUDA, library) {
  PYXAI_FAST_REGISTER_PATH_OPS(library, Cuda);
}

}  // namespace pyxai_fast::torch_ops
