// The mask family: segments of the inputs kept or replaced, and inputs blended with masks.
//
//   mask_segments  out[s, b, d]  = inputs[b, d]  where segment g = segments[b, d] is kept by (s, b)
//                                  fill[b, d]    elsewhere
//                  kept:           bit g % 32 of word g / 32 of coalitions[s, b]; no segment beyond
//                                  the words, and no negative one, is kept
//   mask_blend     out[0, b, d]  = inputs[b, d] * masks[b, d]
//                  out[1, b, d]  = inputs[b, d] * (1 - masks[b, d])
//
// Segments and masks may be shared by the channels of a pixel, and by the examples.
#pragma once

#include "pyxai_fast/select.h"

namespace pyxai_fast {

struct MaskSegments {
  static constexpr const char* kName = "mask_segments";
  Select select;               // chosen: inputs, other: fill, labels: segments
  const uint32_t* coalitions;  // [steps, batch] through coalition_strides, each of `words` words
  Strides2 coalition_strides;
  int64_t words;  // at most 2^26, so that int32_t numbers every segment
};

constexpr int64_t kMaxCoalitionWords = int64_t{1} << 26;

// The segment's number where the words of a coalition have a bit for it, and -1 elsewhere.
PYXAI_FAST_INLINE int32_t known_segment(int64_t segment, int64_t words) {
  return static_cast<uint64_t>(segment) < static_cast<uint64_t>(32 * words)
             ? static_cast<int32_t>(segment)
             : -1;
}

// Whether a known segment is kept.
PYXAI_FAST_INLINE bool is_kept(const uint32_t* coalition, int32_t segment) {
  return segment >= 0 && (coalition[segment >> 5] >> (segment & 31) & 1u) != 0;
}

// Computed in the type of inputs (at least float), rounded once to dtype.
struct MaskBlend {
  static constexpr const char* kName = "mask_blend";
  Source inputs;  // dtype
  Source masks;   // mask_dtype
  void* out;      // [2, batch, features], dtype
  int64_t batch;
  int64_t features;
  DType dtype;
  DType mask_dtype;  // dtype, or the type that dtype is computed in
};

PYXAI_FAST_API Work work_of(const MaskSegments& args);
PYXAI_FAST_API void run_cpu(const MaskSegments& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const MaskSegments& args, void* stream);

PYXAI_FAST_API Work work_of(const MaskBlend& args);
PYXAI_FAST_API void run_cpu(const MaskBlend& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const MaskBlend& args, void* stream);

}  // namespace pyxai_fast
