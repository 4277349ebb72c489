// pyxai_fast._native._C: the CPU kernels for NumPy arrays, without torch. pyxai_fast.arrays is its
// typed face; here every function of csrc/torch takes the number of threads first, then the op's
// arguments in the order of its schema.
#include "all_ops.h"
#include "pyxai_fast/cpu_isa.h"

namespace pyxai_fast::torch_ops {
namespace {

namespace py = pybind11;

struct Cpu {
  template <typename Op>
  static void run(const Op& args, const Tensor&) {
    const Work work = work_of(args);
    const py::gil_scoped_release release;
    torch::in_threads(work, [&](int64_t begin, int64_t end) { run_cpu(args, begin, end); });
  }
};

void translate(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const std::runtime_error& wrong) {  // `fail`: an argument that does not fit
    py::set_error(PyExc_ValueError, wrong.what());
  }
}

PYBIND11_MODULE(_C, module) {
  py::register_local_exception_translator(&translate);

  py::dict info;
  info["version"] = PYXAI_FAST_VERSION;
  info["compiler"] = PYXAI_FAST_COMPILER;
  module.attr("build_info") = info;
  module.def("cpu_isa", &cpu_isa);
  module.def("best_cpu_isa", &best_cpu_isa);
  module.def("set_cpu_isa", [](const std::string& name) { return set_cpu_isa(name.c_str()); });

  py::module_ ops = module.def_submodule("ops");
  torch::Library library{ops};
  register_all_ops<Cpu>(library);
}

}  // namespace
}  // namespace pyxai_fast::torch_ops
