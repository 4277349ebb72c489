// What every op does with its tensors before a kernel runs: check them, bring them into the memory
// order of the kernel, and describe broadcast ones by strides of zero.
//
// Everything here is torch's stable ABI, so one library serves every torch from 2.11 on. The NumPy
// module compiles the same files with the few names they use defined for arrays.
#pragma once

#if defined(PYXAI_FAST_NUMPY)
#include "numpy_tensors.h"
#else
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#endif

#include <optional>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "pyxai_fast/dtype.h"
#include "pyxai_fast/layout.h"

namespace pyxai_fast::torch_ops {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// "float32 [2, 3]": what an error says it got.
inline std::string text_of(const Tensor& tensor) {
  std::ostringstream text;
  text << torch::headeronly::toString(tensor.scalar_type()) << " [";
  for (int64_t d = 0; d < tensor.dim(); ++d) text << (d > 0 ? ", " : "") << tensor.size(d);
  text << "]";
  return text.str();
}

#if defined(PYXAI_FAST_NUMPY)
using Text = std::string;
inline const std::string& string_of(const Text& text) { return text; }
#else
// A string that a call hands over. Taken as std::string, torch's headers (2.11 to 2.13) would lose a
// copy of it with every call.
struct Text {
  StringHandle handle;
};

// To be asked once: the handle is gone then.
inline std::string string_of(Text text) {
  const char* data = nullptr;
  size_t length = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(text.handle, &length));
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(text.handle, &data));
  std::string held(data, length);
  STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(text.handle));
  return held;
}
#endif

inline DType dtype_of(const Tensor& tensor, const char* op, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      fail(op, ": ", name, " must be float16, bfloat16, float32 or float64, got ", text_of(tensor));
  }
}

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  std::vector<int64_t> sizes(tensor.dim());
  for (int64_t d = 0; d < tensor.dim(); ++d) sizes[d] = tensor.size(d);
  return sizes;
}

// Whether a tensor lies in memory without gaps in the order of a format. Sizes of one leave their
// stride free, as in torch.
inline bool is_dense(const Tensor& tensor, MemoryFormat format) {
  if (format == MemoryFormat::Contiguous) return tensor.is_contiguous();
  const int64_t dims = tensor.dim();
  if (dims != (format == MemoryFormat::ChannelsLast ? 4 : 5)) return false;
  if (tensor.numel() == 0) return true;
  int64_t expected = 1;
  for (int64_t i = 0; i < dims; ++i) {
    // Innermost first: the channels, then the spatial dimensions backwards, then the batch.
    const int64_t d = i == 0 ? 1 : i == dims - 1 ? 0 : dims - i;
    if (tensor.size(d) != 1 && tensor.stride(d) != expected) return false;
    expected *= tensor.size(d);
  }
  return true;
}

// The tensor in a format: itself where it has it already, without a call through the dispatcher.
inline Tensor dense(const Tensor& tensor, MemoryFormat format) {
  return is_dense(tensor, format) ? tensor : torch::stable::contiguous(tensor, format);
}

inline Tensor as_type(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

inline Tensor dense_doubles(const Tensor& tensor) {
  return dense(as_type(tensor, ScalarType::Double), MemoryFormat::Contiguous);
}

// The format that a tensor has; Contiguous where it has none.
inline MemoryFormat format_of(const Tensor& tensor) {
  for (const MemoryFormat format : {MemoryFormat::ChannelsLast, MemoryFormat::ChannelsLast3d}) {
    if (!tensor.is_contiguous() && is_dense(tensor, format)) return format;
  }
  return MemoryFormat::Contiguous;
}

// The same, of a tensor that a kernel writes into.
inline MemoryFormat format_written(const Tensor& tensor, const char* op, const char* name) {
  const MemoryFormat format = format_of(tensor);
  if (!is_dense(tensor, format))
    fail(op, ": ", name, " must be contiguous or channels_last, got other strides");
  return format;
}

// Kernels write while they read, so what they write must not lie under what they read.
inline void check_apart(const Tensor& written, const Tensor& read, const char* op,
                        const char* name) {
  const auto begin = [](const Tensor& t) { return static_cast<const char*>(t.const_data_ptr()); };
  const auto end = [&](const Tensor& t) { return begin(t) + t.numel() * t.element_size(); };
  if (begin(written) < end(read) && begin(read) < end(written)) {
    fail(op, ": ", name, " must not share memory with what is read, got overlapping tensors");
  }
}

inline void check_same_device(const Tensor& tensor, const Tensor& like, const char* op,
                              const char* name) {
  if (tensor.device() != like.device())
    fail(op, ": ", name, " must be on the device of the first argument");
}

// A tensor and how to step through it as [rows, features].
struct __attribute__((visibility("hidden"))) Rows {
  Tensor tensor;
  Strides2 strides;
};

// `tensor` is a scalar, one example [1, ...], or a batch shaped like `like`.
inline Rows rows_like(const Tensor& tensor, const Tensor& like, MemoryFormat format, const char* op,
                      const char* name) {
  check_same_device(tensor, like, op, name);
  const Tensor same = as_type(tensor, like.scalar_type());
  if (same.dim() == 0) return {same, {0, 0}};
  bool fits = same.dim() == like.dim() && (same.size(0) == 1 || same.size(0) == like.size(0));
  for (int64_t d = 1; fits && d < like.dim(); ++d) fits = same.size(d) == like.size(d);
  if (!fits)
    fail(op, ": ", name, " must be a scalar, one example or a batch like the inputs ",
         text_of(like), ", got ", text_of(tensor));
  const int64_t features = like.size(0) == 0 ? 0 : like.numel() / like.size(0);
  return {dense(same, format), {same.size(0) == 1 ? 0 : features, 1}};
}

// Coefficients of the steps, [S] or [S, B], as doubles.
inline Rows steps_by_batch(const Tensor& tensor, int64_t batch, const Tensor& like, const char* op,
                           const char* name) {
  check_same_device(tensor, like, op, name);
  const bool per_example = tensor.dim() == 2;
  if (tensor.dim() != 1 && !(per_example && tensor.size(1) == batch)) {
    fail(op, ": ", name, " must have shape [S] or [S, B] with B = ", batch, ", got ",
         text_of(tensor));
  }
  return {dense_doubles(tensor), {per_example ? batch : 1, per_example ? 1 : 0}};
}

// Whole numbers of any integer type, dense and as `type`.
inline Tensor integers(const Tensor& tensor, ScalarType type, const Tensor& like, const char* op,
                       const char* name) {
  check_same_device(tensor, like, op, name);
  const ScalarType given = tensor.scalar_type();
  if (given != ScalarType::Int && given != ScalarType::Long) {
    fail(op, ": ", name, " must be int32 or int64, got ", text_of(tensor));
  }
  return dense(as_type(tensor, type), MemoryFormat::Contiguous);
}

// Per-channel constants [C] as doubles.
inline Tensor channel_constants(const Tensor& tensor, const Tensor& like, const char* op,
                                const char* name) {
  check_same_device(tensor, like, op, name);
  if (like.dim() < 2 || tensor.dim() != 1 || tensor.size(0) != like.size(1)) {
    fail(op, ": ", name, " must have shape [C], one value for each channel of ", text_of(like),
         ", got ", text_of(tensor));
  }
  return dense_doubles(tensor);
}

inline Channels channels_of(const Tensor& tensor, MemoryFormat format) {
  if (tensor.dim() < 2) return {1, 1};
  int64_t inner = 1;
  if (format == MemoryFormat::Contiguous) {
    for (int64_t d = 2; d < tensor.dim(); ++d) inner *= tensor.size(d);
  }
  return {tensor.size(1), inner > 0 ? inner : 1};
}

}  // namespace pyxai_fast::torch_ops
