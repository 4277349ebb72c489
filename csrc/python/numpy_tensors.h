// The part of torch's stable ABI that the glue in csrc/torch is written with, for NumPy arrays: the
// same names in a namespace of this module, so that the checks, layouts and allocations of every op
// are one source for both. No torch.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace pyxai_fast::torch {

namespace py = pybind11;

namespace headeronly {

enum class ScalarType { Bool, Byte, Char, Short, Int, Long, Half, BFloat16, Float, Double };
enum class MemoryFormat { Contiguous, ChannelsLast, ChannelsLast3d };

struct TypeName {
  char kind;  // NumPy's, with the size in bytes
  int64_t size;
  const char* name;
};

// In the order of ScalarType.
inline constexpr TypeName kTypes[] = {
    {'b', 1, "bool"},    {'u', 1, "uint8"},  {'i', 1, "int8"},    {'i', 2, "int16"},
    {'i', 4, "int32"},   {'i', 8, "int64"},  {'f', 2, "float16"}, {'V', 2, "bfloat16"},
    {'f', 4, "float32"}, {'f', 8, "float64"}};

inline const char* toString(ScalarType type) { return kTypes[static_cast<int>(type)].name; }

}  // namespace headeronly

namespace stable {

using headeronly::MemoryFormat;
using headeronly::ScalarType;

inline std::optional<ScalarType> type_of(const py::dtype& dtype) {
  const char kind = dtype.kind();
  for (int i = 0; i < static_cast<int>(std::size(headeronly::kTypes)); ++i) {
    const headeronly::TypeName& type = headeronly::kTypes[i];
    if (kind != type.kind || dtype.itemsize() != type.size) continue;
    // Kind 'V' is any type of another package.
    if (kind == 'V' && std::string(py::str(dtype.attr("name"))) != type.name) continue;
    return static_cast<ScalarType>(i);
  }
  return std::nullopt;
}

inline py::dtype dtype_of(ScalarType type) {
  // bfloat16 is a type of its own package, which is there if anybody asks for it.
  if (type == ScalarType::BFloat16)
    return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
  return py::dtype(std::string(headeronly::toString(type)));
}

struct Device {
  friend bool operator==(Device, Device) { return true; }
  friend bool operator!=(Device, Device) { return false; }
};

// An array whose bytes are aligned and in this machine's order.
class __attribute__((visibility("hidden"))) Tensor {
 public:
  Tensor() : array_(py::reinterpret_borrow<py::object>(py::none())) {}
  Tensor(py::array array, ScalarType type) : array_(std::move(array)), type_(type) {}

  const py::array& array() const { return static_cast<const py::array&>(array_); }
  ScalarType scalar_type() const { return type_; }
  int64_t dim() const { return array().ndim(); }
  int64_t size(int64_t d) const { return array().shape(d); }
  int64_t numel() const { return array().size(); }
  int64_t element_size() const { return array().itemsize(); }
  Device device() const { return {}; }
  const void* const_data_ptr() const { return array().data(); }
  // An error of its own where the array is read-only.
  void* mutable_data_ptr() const { return const_cast<py::array&>(array()).mutable_data(); }
  bool is_contiguous() const { return (array().flags() & py::array::c_style) != 0; }

  // In elements. Strides that are no whole number of them are no stride of a dense array.
  int64_t stride(int64_t d) const {
    const int64_t bytes = array().strides(d);
    return bytes % element_size() == 0 ? bytes / element_size() : -1;
  }

 private:
  py::object array_;
  ScalarType type_ = ScalarType::Float;
};

inline Tensor empty(const std::vector<int64_t>& sizes, std::optional<ScalarType> type,
                    std::nullopt_t = std::nullopt, Device = {}, std::nullopt_t = std::nullopt,
                    std::optional<MemoryFormat> format = std::nullopt) {
  const ScalarType scalars = type.value_or(ScalarType::Float);
  const py::dtype dtype = dtype_of(scalars);
  if (format.value_or(MemoryFormat::Contiguous) == MemoryFormat::Contiguous)
    return {py::array(dtype, sizes), scalars};
  // Channels innermost: the batch and the spatial dimensions as they are, then dimension 1.
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = dtype.itemsize();
  const int64_t dims = static_cast<int64_t>(sizes.size());
  for (int64_t i = 0; i < dims; ++i) {
    const int64_t d = i == 0 ? 1 : i == dims - 1 ? 0 : dims - i;
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes[d], 1);
  }
  return {py::array(dtype, sizes, strides), scalars};
}

inline Tensor contiguous(const Tensor& tensor, MemoryFormat format = MemoryFormat::Contiguous) {
  std::vector<int64_t> sizes(tensor.array().shape(), tensor.array().shape() + tensor.dim());
  const Tensor copy = empty(sizes, tensor.scalar_type(), std::nullopt, {}, std::nullopt, format);
  py::module_::import("numpy").attr("copyto")(copy.array(), tensor.array());
  return copy;
}

inline Tensor to(const Tensor& tensor, ScalarType type) {
  const bool half = type == ScalarType::Half || type == ScalarType::BFloat16;
  py::object array = tensor.array();
  // By way of float32, as torch: rounding twice is not rounding once.
  if (half && tensor.scalar_type() == ScalarType::Double) array = array.attr("astype")("float32");
  return {py::array(array.attr("astype")(dtype_of(type))), type};
}

inline Tensor zero_(const Tensor& tensor) {
  tensor.array().attr("fill")(0);
  return tensor;
}

// Views.
inline Tensor transpose(const Tensor& tensor, int64_t one, int64_t other) {
  return {py::array(tensor.array().attr("swapaxes")(one, other)), tensor.scalar_type()};
}

inline Tensor narrow(const Tensor& tensor, int64_t dim, int64_t start, int64_t length) {
  py::tuple index(static_cast<size_t>(dim) + 1);
  for (int64_t d = 0; d < dim; ++d) index[d] = py::slice(std::nullopt, std::nullopt, std::nullopt);
  index[dim] = py::slice(start, start + length, 1);
  return {py::array(tensor.array()[index]), tensor.scalar_type()};
}

}  // namespace stable

// The ops' threads. `threads` is what the caller of this thread's op asked for.
inline thread_local int threads = 1;

// Runs f on the units of [0, units), which are independent, each in one piece for each thread.
template <typename Work, typename F>
void in_threads(const Work& work, const F& f) {
  const int64_t grain = std::max<int64_t>(work.grain, 1);
  const int64_t worth = (work.units + grain - 1) / grain;
  const int64_t count = std::min<int64_t>(threads, worth);
  const int64_t share = count > 1 ? (work.units + count - 1) / count : work.units;
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(std::max<int64_t>(count, 1)));
  int64_t left = work.units;  // the units [0, left) stay with this thread
  try {
    for (; left > share; left -= std::min(share, left - share)) {
      const int64_t begin = std::max(share, left - share);
      others.emplace_back([&f, begin, left] { f(begin, left); });
    }
  } catch (const std::system_error&) {  // no more threads to be had
  }
  f(int64_t{0}, left);
  for (std::thread& other : others) other.join();
}

// Ops become functions of the module: "path_points.out" is path_points_out(n_threads, ...).
struct Library {
  py::module_& module;

  template <typename Result, typename... Args>
  void impl(std::string name, Result (*op)(Args...)) {
    std::replace(name.begin(), name.end(), '.', '_');
    module.def(name.c_str(), [op](int n_threads, const std::decay_t<Args>&... args) -> Result {
      threads = n_threads;
      return op(args...);
    });
  }
};

}  // namespace pyxai_fast::torch

#define TORCH_BOX(op) (op)

namespace pybind11::detail {

template <>
struct type_caster<pyxai_fast::torch::stable::Tensor> {
  PYBIND11_TYPE_CASTER(pyxai_fast::torch::stable::Tensor, const_name("numpy.ndarray"));

  // Arrays as they are: nothing is converted, so nothing written is lost in a copy.
  bool load(handle source, bool) {
    if (!isinstance<array>(source)) return false;
    auto given = reinterpret_borrow<array>(source);
    const bool aligned = (given.flags() & npy_api::NPY_ARRAY_ALIGNED_) != 0;
    const auto type = pyxai_fast::torch::stable::type_of(given.dtype());
    if (!type.has_value() || !aligned || !given.dtype().attr("isnative").cast<bool>()) return false;
    value = {std::move(given), *type};
    return true;
  }

  static handle cast(const pyxai_fast::torch::stable::Tensor& tensor, return_value_policy, handle) {
    return tensor.array().inc_ref();
  }
};

template <>
struct type_caster<pyxai_fast::torch::headeronly::ScalarType> {
  PYBIND11_TYPE_CASTER(pyxai_fast::torch::headeronly::ScalarType, const_name("numpy.dtype"));

  bool load(handle source, bool) {
    if (!isinstance<dtype>(source)) return false;
    const auto type = pyxai_fast::torch::stable::type_of(reinterpret_borrow<dtype>(source));
    if (type.has_value()) value = *type;
    return type.has_value();
  }
};

template <>
struct type_caster<pyxai_fast::torch::headeronly::MemoryFormat> {
  PYBIND11_TYPE_CASTER(pyxai_fast::torch::headeronly::MemoryFormat, const_name("str"));

  bool load(handle source, bool) {
    using pyxai_fast::torch::headeronly::MemoryFormat;
    if (!isinstance<str>(source)) return false;
    const auto name = source.cast<std::string>();
    if (name == "contiguous") {
      value = MemoryFormat::Contiguous;
    } else if (name == "channels_last") {
      value = MemoryFormat::ChannelsLast;
    } else if (name == "channels_last_3d") {
      value = MemoryFormat::ChannelsLast3d;
    } else {
      return false;
    }
    return true;
  }
};

}  // namespace pybind11::detail
