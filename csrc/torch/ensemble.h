// The ensemble ops on tensors, for any device. Particles come with batch and count merged,
// [B * K, ...], so that memory formats are those of ordinary model inputs.
#pragma once

#include <tuple>

#include "pyxai_fast/ensemble.h"
#include "tensors.h"

namespace pyxai_fast::torch_ops {

template <typename Backend>
struct EnsembleOps {
  static ScalarType compute_type(const Tensor& tensor) {
    return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }

  static std::vector<int64_t> sizes_with(const Tensor& tensor, int64_t rows) {
    std::vector<int64_t> sizes = sizes_of(tensor);
    sizes[0] = rows;
    return sizes;
  }

  static Tensor empty(const std::vector<int64_t>& sizes, ScalarType type, const Tensor& like,
                      MemoryFormat format) {
    return torch::stable::empty(sizes, type, std::nullopt, like.device(), std::nullopt, format);
  }

  // The number of examples, of [B * K, ...].
  static int64_t batch_of(const Tensor& particles, int64_t count, const char* op) {
    if (particles.dim() == 0 || count < 1 || particles.size(0) % count != 0) {
      fail(op, ": particles must have shape [B * K, ...] with K = ", count, " >= 1, got ",
           text_of(particles));
    }
    return particles.size(0) / count;
  }

  static int64_t features_of(const Tensor& particles) {
    int64_t features = 1;
    for (int64_t d = 1; d < particles.dim(); ++d) features *= particles.size(d);
    return features;
  }

  // A scalar, one example [1, ...] or a batch [B, ...] with the particles' features, in the type
  // computed in.
  static Rows rows_of(const Tensor& tensor, const Tensor& particles, int64_t batch,
                      MemoryFormat format, const char* op, const char* name) {
    check_same_device(tensor, particles, op, name);
    const Tensor same = as_type(tensor, compute_type(particles));
    if (same.dim() == 0) return {same, {0, 0}};
    bool fits = same.dim() == particles.dim() && (same.size(0) == 1 || same.size(0) == batch);
    for (int64_t d = 1; fits && d < same.dim(); ++d) fits = same.size(d) == particles.size(d);
    if (!fits) {
      fail(op, ": ", name, " must be a scalar, one example or a batch of ", batch,
           " with the features of the particles ", text_of(particles), ", got ", text_of(tensor));
    }
    return {dense(same, format), {same.size(0) == 1 ? 0 : features_of(particles), 1}};
  }

  // A small tensor of the type computed in, contiguous.
  static Tensor coefficients(const Tensor& tensor, const Tensor& like) {
    return dense(as_type(tensor, compute_type(like)), MemoryFormat::Contiguous);
  }

  // --- ensemble_contract and ensemble_moments ----------------------------------------------------

  static std::tuple<Tensor, Tensor> moments_of(const char* op, const Tensor& particles,
                                               int64_t batch, int64_t count,
                                               const std::optional<Tensor>& weights,
                                               const std::optional<Tensor>& center) {
    const MemoryFormat format = format_of(particles);
    const Tensor x = dense(particles, format);
    EnsembleContract args{};
    args.dtype = dtype_of(particles, op, "particles");
    args.batch = batch;
    args.count = count;
    args.features = features_of(particles);
    args.particles = x.const_data_ptr();
    Rows c;
    if (center.has_value()) {
      c = rows_of(*center, particles, batch, format, op, "center");
      args.center = c.tensor.const_data_ptr();
      args.center_strides = c.strides;
    }
    const ScalarType type = compute_type(particles);
    const Tensor variance = empty(sizes_with(particles, batch), type, particles, format);
    args.variance = variance.mutable_data_ptr();
    Tensor w, first;
    if (weights.has_value()) {
      args.columns = weights->size(2);
      // The kernels read one column's weights in a row.
      w = dense_doubles(as_type(torch::stable::transpose(*weights, 1, 2), compute_type(particles)));
      first = empty(sizes_with(particles, batch * args.columns), type, particles, format);
      args.weights = static_cast<const double*>(w.const_data_ptr());
      args.contraction = first.mutable_data_ptr();
    } else {
      first = empty(sizes_with(particles, batch), type, particles, format);
      args.mean = first.mutable_data_ptr();
    }
    if (batch * args.features != 0) Backend::run(args, particles);
    return {first, variance};
  }

  static std::tuple<Tensor, Tensor> contract(const Tensor& particles, const Tensor& weights,
                                             const std::optional<Tensor>& center) {
    const char* op = "ensemble_contract";
    check_same_device(weights, particles, op, "weights");
    if (weights.dim() != 3) fail(op, ": weights must have shape [B, K, n], got ", text_of(weights));
    const int64_t batch = batch_of(particles, weights.size(1), op);
    if (weights.size(0) != batch) {
      fail(op, ": weights must have shape [B, K, n] for particles ", text_of(particles), ", got ",
           text_of(weights));
    }
    return moments_of(op, particles, batch, weights.size(1), weights, center);
  }

  static std::tuple<Tensor, Tensor> moments(const Tensor& particles, int64_t count,
                                            const std::optional<Tensor>& center) {
    const char* op = "ensemble_moments";
    const int64_t batch = batch_of(particles, count, op);
    return moments_of(op, particles, batch, count, std::nullopt, center);
  }

  // --- ensemble_transform ------------------------------------------------------------------------

  static void write_transformed(const Tensor& particles, const Tensor& matrix,
                                const std::optional<Tensor>& center,
                                const std::optional<Tensor>& taper, bool add_particles,
                                const Tensor& out, MemoryFormat format) {
    const char* op = "ensemble_transform";
    check_same_device(matrix, particles, op, "matrix");
    if (matrix.dim() != 3 || matrix.size(1) != matrix.size(2))
      fail(op, ": matrix must have shape [B, K, K], got ", text_of(matrix));
    EnsembleTransform args{};
    args.count = matrix.size(1);
    args.batch = batch_of(particles, args.count, op);
    if (matrix.size(0) != args.batch) {
      fail(op, ": matrix must have shape [B, K, K] for particles ", text_of(particles), ", got ",
           text_of(matrix));
    }
    args.features = features_of(particles);
    args.dtype = dtype_of(particles, op, "particles");
    args.add_particles = add_particles;
    const Tensor x = dense(particles, format);
    const Tensor m = coefficients(matrix, particles);
    Rows c, t;
    if (center.has_value()) {
      c = rows_of(*center, particles, args.batch, format, op, "center");
      check_apart(out, c.tensor, op, "out");
      args.center = c.tensor.const_data_ptr();
      args.center_strides = c.strides;
    }
    if (taper.has_value()) {
      t = rows_of(*taper, particles, args.batch, format, op, "taper");
      check_apart(out, t.tensor, op, "out");
      args.taper = t.tensor.const_data_ptr();
      args.taper_strides = t.strides;
    }
    for (const Tensor& read : {x, m}) check_apart(out, read, op, "out");
    args.particles = x.const_data_ptr();
    args.matrix = m.const_data_ptr();
    args.out = out.mutable_data_ptr();
    if (args.batch * args.features != 0) Backend::run(args, particles);
  }

  static Tensor transform(const Tensor& particles, const Tensor& matrix,
                          const std::optional<Tensor>& center, const std::optional<Tensor>& taper,
                          bool add_particles) {
    const MemoryFormat format = format_of(particles);
    const Tensor result = empty(sizes_of(particles), particles.scalar_type(), particles, format);
    write_transformed(particles, matrix, center, taper, add_particles, result, format);
    return result;
  }

  // What is written must be like the particles but for its memory format.
  static MemoryFormat checked_out(const Tensor& out, const Tensor& particles, const char* op) {
    check_same_device(out, particles, op, "out");
    if (out.scalar_type() != particles.scalar_type() || sizes_of(out) != sizes_of(particles)) {
      fail(op, ": out must be like the particles ", text_of(particles), ", got ", text_of(out));
    }
    return format_written(out, op, "out");
  }

  static void transform_out(const Tensor& particles, const Tensor& matrix,
                            const std::optional<Tensor>& center, const std::optional<Tensor>& taper,
                            bool add_particles, Tensor out) {
    const MemoryFormat format = checked_out(out, particles, "ensemble_transform");
    write_transformed(particles, matrix, center, taper, add_particles, out, format);
  }

  // --- guided_step -------------------------------------------------------------------------------

  static void write_step(const Tensor& denoised, const Tensor& noise_pred, const Tensor& guide,
                         const Tensor& origin, const Tensor& center,
                         const std::optional<Tensor>& weights, const std::optional<Tensor>& key,
                         int64_t count, double signal, double noise, double direction,
                         double guidance, double proximity, const Tensor& out,
                         MemoryFormat format) {
    const char* op = "guided_step";
    const int64_t batch = batch_of(denoised, count, op);
    const auto like_denoised = [&](const Tensor& tensor, const char* name) {
      check_same_device(tensor, denoised, op, name);
      if (sizes_of(tensor) != sizes_of(denoised)) {
        fail(op, ": ", name, " must have the shape of denoised ", text_of(denoised), ", got ",
             text_of(tensor));
      }
      return dense(as_type(tensor, denoised.scalar_type()), format);
    };
    const DType dtype = dtype_of(denoised, op, "denoised");
    const Tensor x = dense(denoised, format);
    const Tensor e = like_denoised(noise_pred, "noise_pred");
    const Tensor g = like_denoised(guide, "guide");
    const Rows o = rows_of(origin, denoised, batch, format, op, "origin");
    const Rows c = rows_of(center, denoised, batch, format, op, "center");
    for (const Tensor& read : {x, e, g, o.tensor, c.tensor}) check_apart(out, read, op, "out");
    GuidedStep step{};
    step.arrays.denoised = x.const_data_ptr();
    step.arrays.noise_pred = e.const_data_ptr();
    step.arrays.guide = g.const_data_ptr();
    step.arrays.origin = o.tensor.const_data_ptr();
    step.arrays.center = c.tensor.const_data_ptr();
    step.arrays.batch = batch;
    step.arrays.count = count;
    step.arrays.features = features_of(denoised);
    step.arrays.origin_strides = o.strides;
    step.arrays.center_strides = c.strides;
    step.arrays.dtype = dtype;
    step.out = out.mutable_data_ptr();
    step.signal = signal;
    step.noise = noise;
    step.direction = direction;
    step.channels = format == MemoryFormat::Contiguous ? Channels{1, step.arrays.features}
                                                       : channels_of(denoised, format);
    Tensor k, w, factors, partial;
    if (noise != 0.0) {
      if (!key.has_value()) fail(op, ": key must be given where there is noise, got None");
      check_same_device(*key, denoised, op, "key");
      if (key->scalar_type() != ScalarType::Long || key->numel() != 2 || key->dim() != 1)
        fail(op, ": key must be int64 [2], got ", text_of(*key));
      k = dense(*key, MemoryFormat::Contiguous);
      check_apart(out, k, op, "out");
      step.key = static_cast<const int64_t*>(k.const_data_ptr());
    }
    if (weights.has_value()) {
      check_same_device(*weights, denoised, op, "weights");
      if (weights->dim() != 2 || weights->size(0) != batch || weights->size(1) != count) {
        fail(op, ": weights must have shape [", batch, ", ", count, "], got ", text_of(*weights));
      }
      w = coefficients(*weights, denoised);
      check_apart(out, w, op, "out");
    }
    if (batch * step.arrays.features == 0) return;
    if (guidance != 0.0 || proximity != 0.0) {
      const int64_t rows = batch * count;
      const int64_t tiles = ceil_div(step.arrays.features, kNormTile);
      factors = empty({rows, 2}, ScalarType::Double, denoised, MemoryFormat::Contiguous);
      partial = empty({rows, tiles, 3}, ScalarType::Double, denoised, MemoryFormat::Contiguous);
      GuidedNorms norms{};
      norms.arrays = step.arrays;
      norms.weights = weights.has_value() ? w.const_data_ptr() : nullptr;
      norms.guidance = guidance;
      norms.proximity = proximity;
      norms.partial = static_cast<double*>(partial.mutable_data_ptr());
      norms.factors = static_cast<double*>(factors.mutable_data_ptr());
      Backend::run(norms, denoised);
      step.factors = norms.factors;
    }
    Backend::run(step, denoised);
  }

  static Tensor step(const Tensor& denoised, const Tensor& noise_pred, const Tensor& guide,
                     const Tensor& origin, const Tensor& center,
                     const std::optional<Tensor>& weights, const std::optional<Tensor>& key,
                     int64_t count, double signal, double noise, double direction, double guidance,
                     double proximity) {
    const MemoryFormat format = format_of(denoised);
    const Tensor result = empty(sizes_of(denoised), denoised.scalar_type(), denoised, format);
    write_step(denoised, noise_pred, guide, origin, center, weights, key, count, signal, noise,
               direction, guidance, proximity, result, format);
    return result;
  }

  static void step_out(const Tensor& denoised, const Tensor& noise_pred, const Tensor& guide,
                       const Tensor& origin, const Tensor& center,
                       const std::optional<Tensor>& weights, const std::optional<Tensor>& key,
                       int64_t count, double signal, double noise, double direction,
                       double guidance, double proximity, Tensor out) {
    const MemoryFormat format = checked_out(out, denoised, "guided_step");
    write_step(denoised, noise_pred, guide, origin, center, weights, key, count, signal, noise,
               direction, guidance, proximity, out, format);
  }
};

template <typename Backend, typename Library>
void register_ensemble_ops(Library& library) {
  using Ops = EnsembleOps<Backend>;
  library.impl("ensemble_contract", TORCH_BOX(&Ops::contract));
  library.impl("ensemble_moments", TORCH_BOX(&Ops::moments));
  library.impl("ensemble_transform", TORCH_BOX(&Ops::transform));
  library.impl("ensemble_transform.out", TORCH_BOX(&Ops::transform_out));
  library.impl("guided_step", TORCH_BOX(&Ops::step));
  library.impl("guided_step.out", TORCH_BOX(&Ops::step_out));
}

}  // namespace pyxai_fast::torch_ops
