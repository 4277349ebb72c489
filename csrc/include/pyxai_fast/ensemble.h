// The ensemble family: particles [batch, count, features] around each explained input, contracted
// with what the model answered, moved by a matrix of the ensemble, or moved one diffusion step.
//
//   ensemble_contract    contraction[b, n] = sum over k of weights[b, n, k] * d[b, k]
//                        variance[b]       = mean over k of d[b, k]^2 - (mean over k of d[b, k])^2
//   ensemble_moments     mean[b]           = center[b] + mean over k of d[b, k], and the variance
//   ensemble_transform   out[b, i]         = particle[b, i] +
//                                            taper[b] * sum over j of matrix[b, i, j] * d[b, j]
//   with                 d[b, k]           = particle[b, k] - center[b]
//
//   guided_step          for each particle x with its predicted noise e and guide g,
//     out = signal * x + noise * z + direction * e
//           + (guidance * |e| * w * (g - center) / |w * (g - center)|
//              - proximity * |e| * s / |s|),    s = sgn(x - origin),  z standard normal
//
// Evensen, "The Ensemble Kalman Filter: theoretical formulation and practical implementation"
// (2003); Song, Meng and Ermon, "Denoising Diffusion Implicit Models" (2021), equation 12.
//
// Examples b never mix. Features lie in memory order; a center, taper or origin has the same order.
#pragma once

#include "pyxai_fast/config.h"
#include "pyxai_fast/dtype.h"
#include "pyxai_fast/layout.h"
#include "pyxai_fast/normal.h"

namespace pyxai_fast {

// Arguments of ensemble_contract and, with mean in place of weights and contraction, of
// ensemble_moments. Float means float, or double where dtype is kFloat64.
//
// d is rounded to Float: of values within a factor of two of the center, which is what a center is
// for, it is exact. Sums are double and add the particles in their order.
struct EnsembleContract {
  static constexpr const char* kName = "ensemble_contract";
  const void* particles;  // [batch, count, features], dtype
  const void* center;     // [batch, features] through center_strides, Float; null: first particle
  const double* weights;  // [batch, columns, count], each a Float; null: no contraction
  void* contraction;      // [batch, columns, features], Float
  void* mean;             // [batch, features], Float, or null
  void* variance;         // [batch, features], Float
  int64_t batch;
  int64_t count;
  int64_t columns;
  int64_t features;
  Strides2 center_strides;
  DType dtype;
};

// Arguments of ensemble_transform. Sums are Float, in the order of j, each product rounded.
struct EnsembleTransform {
  static constexpr const char* kName = "ensemble_transform";
  const void* particles;  // [batch, count, features], dtype
  const void* matrix;     // [batch, count, count], Float
  const void* center;     // as in EnsembleContract
  const void* taper;      // [batch, features] through taper_strides, Float, or null
  void* out;              // [batch, count, features], dtype
  int64_t batch;
  int64_t count;
  int64_t features;
  Strides2 center_strides;
  Strides2 taper_strides;
  DType dtype;
  bool add_particles;
};

// What guided_step reads for every particle, and what its two passes share.
struct GuidedArrays {
  const void* denoised;    // [batch, count, features], dtype
  const void* noise_pred;  // the same
  const void* guide;       // the same
  const void* origin;      // [batch, features] through origin_strides, Float
  const void* center;      // [batch, features] through center_strides, Float
  int64_t batch;
  int64_t count;
  int64_t features;
  Strides2 origin_strides;
  Strides2 center_strides;
  DType dtype;
};

// The first pass of guided_step: the factors of g - center and of s for every particle, from
//   |e|^2, |g - center|^2 and |s|^2.
// Sums are double: kNormLanes interleaved ones over each tile of kNormTile features, folded in
// halves; then the tiles in their order.
struct GuidedNorms {
  static constexpr const char* kName = "guided_step";
  GuidedArrays arrays;
  const void* weights;  // [batch, count], Float, or null
  double guidance;
  double proximity;
  double* partial;  // [batch, count, tiles, 3]: scratch of the CUDA kernel
  double* factors;  // [batch, count, 2], written
};

// The second pass. The noise of a feature goes by its place in contiguous order: Channels
// {count, inner} = {1, features} say that memory has this order, {C, 1} that memory is channels_last.
struct GuidedStep {
  static constexpr const char* kName = "guided_step";
  GuidedArrays arrays;
  const double* factors;  // or null: no guidance and no proximity; guide and origin are not read
  const int64_t* key;     // two numbers, or null: no noise
  void* out;              // [batch, count, features], dtype
  double signal;
  double noise;
  double direction;
  Channels channels;
};

constexpr int64_t kNormTile = 1024;
constexpr int kNormLanes = 32;

// a * b + sum of two Floats as doubles. A product of floats is exact in double, so there a fused
// multiply-add, where the processor has one, gives the same bits; doubles are never fused.
template <typename Float>
PYXAI_FAST_INLINE double add_product(double a, double b, double sum) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(Float) == sizeof(float)) return __fma_rn(a, b, sum);
#elif defined(__AVX512F__)
  if constexpr (sizeof(Float) == sizeof(float)) return __builtin_fma(a, b, sum);
#endif
  return a * b + sum;
}

// The population variance from sums of d and d^2; rounding may leave less than zero.
PYXAI_FAST_INLINE double variance_of(double sum, double squares, double count) {
  const double mean = sum / count;
  const double variance = squares / count - mean * mean;
  return variance < 0.0 ? 0.0 : variance;
}

// IEEE 754's square root, as ScalarLanes has it for float.
PYXAI_FAST_INLINE double square_root(double value) {
#if defined(__CUDA_ARCH__)
  return __dsqrt_rn(value);
#else
  return __builtin_sqrt(value);
#endif
}

template <typename T>
PYXAI_FAST_INLINE T sign_of(T value) {
  return static_cast<T>(value > T(0)) - static_cast<T>(value < T(0));
}

// The two factors of a particle. The weight's size cancels, its sign stays; NaN stays NaN.
PYXAI_FAST_INLINE void guided_factors(double noise, double guide, double signs, double weight,
                                      double guidance, double proximity, double* factors) {
  const double sign = weight > 0.0 ? 1.0 : weight < 0.0 ? -1.0 : weight;
  const double length = square_root(noise);
  factors[0] = guide == 0.0 ? 0.0 : guidance * length * sign / square_root(guide);
  factors[1] = signs == 0.0 ? 0.0 : proximity * length / square_root(signs);
}

PYXAI_FAST_API Work work_of(const EnsembleContract& args);
PYXAI_FAST_API void run_cpu(const EnsembleContract& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const EnsembleContract& args, void* stream);

PYXAI_FAST_API Work work_of(const EnsembleTransform& args);
PYXAI_FAST_API void run_cpu(const EnsembleTransform& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const EnsembleTransform& args, void* stream);

PYXAI_FAST_API Work work_of(const GuidedNorms& args);
PYXAI_FAST_API void run_cpu(const GuidedNorms& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const GuidedNorms& args, void* stream);

PYXAI_FAST_API Work work_of(const GuidedStep& args);
PYXAI_FAST_API void run_cpu(const GuidedStep& args, int64_t begin, int64_t end);
PYXAI_FAST_API int run_cuda(const GuidedStep& args, void* stream);

}  // namespace pyxai_fast
