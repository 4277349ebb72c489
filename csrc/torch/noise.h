// The noise ops on tensors, for any device: arguments are checked and described here, and a Backend
// launches the kernels.
#pragma once

#include <cmath>
#include <string>

#include "pyxai_fast/noise.h"
#include "tensors.h"

namespace pyxai_fast::torch_ops {

// What NoiseArgs points to, kept alive.
struct __attribute__((visibility("hidden"))) NoiseTensors {
  NoiseArgs args{};
  Tensor key, examples, blocks, active;
};

inline Distribution distribution_named(const std::string& name, const char* op) {
  if (name == "gaussian") return Distribution::kGaussian;
  if (name == "rademacher") return Distribution::kRademacher;
  if (name == "orthogonal") return Distribution::kOrthogonal;
  if (name == "ones") return Distribution::kOnes;
  fail(op, ": distribution must be gaussian, rademacher, orthogonal or ones, got ", name);
}

// `sizes` is the shape [B, ...] of what the noise is for.
inline NoiseTensors noise_of(const std::vector<int64_t>& sizes, int64_t samples, const Tensor& like,
                             const Tensor& key, const std::string& distribution, bool antithetic,
                             int64_t first_sample, const std::optional<Tensor>& examples,
                             const std::optional<Tensor>& blocks, int64_t block_count,
                             const std::optional<Tensor>& active, bool shared, double keep,
                             const char* op) {
  const int64_t batch = sizes[0];
  NoiseTensors noise;
  noise.key = integers(key, ScalarType::Long, like, op, "key");
  if (key.dim() != 1 || key.size(0) != 2) {
    fail(op, ": key must be int64 [2], a seed and a stream, got ", text_of(key));
  }
  noise.args.key = static_cast<const int64_t*>(noise.key.const_data_ptr());
  if (examples.has_value()) {
    noise.examples = integers(*examples, ScalarType::Long, like, op, "examples");
    if (examples->dim() != 1 || examples->size(0) != batch) {
      fail(op, ": examples must have shape [B] with B = ", batch, ", got ", text_of(*examples));
    }
    noise.args.examples = static_cast<const int64_t*>(noise.examples.const_data_ptr());
  }
  if (blocks.has_value()) {
    const auto dims = static_cast<int64_t>(sizes.size());
    bool fits = blocks->dim() == dims && (blocks->size(0) == 1 || blocks->size(0) == batch);
    const bool one_map = dims > 2 && fits && blocks->size(1) == 1;
    for (int64_t d = 1; fits && d < dims; ++d) {
      fits = blocks->size(d) == sizes[d] || (d == 1 && one_map);
    }
    if (!fits) {
      fail(op, ": blocks must have shape [1 or B, 1 or C, ...] for ", text_of(like), ", got ",
           text_of(*blocks));
    }
    noise.blocks = integers(*blocks, ScalarType::Int, like, op, "blocks");
    noise.args.blocks = static_cast<const int32_t*>(noise.blocks.const_data_ptr());
    const int64_t each = blocks->size(0) == 0 ? 0 : blocks->numel() / blocks->size(0);
    noise.args.block_row = blocks->size(0) == 1 ? 0 : each;
    noise.args.block_period = each > 0 ? each : 1;
    noise.args.block_count = block_count;
    if (block_count < 1) fail(op, ": n_blocks must be at least 1 with blocks, got ", block_count);
  }
  if (active.has_value()) {
    const bool per_example = active->dim() == 2;
    if (active->dim() < 1 || active->dim() > 2 || active->size(0) != samples ||
        (per_example && active->size(1) != batch)) {
      fail(op, ": active must have shape [K] or [K, B] with K = ", samples, ", B = ", batch,
           ", got ", text_of(*active));
    }
    noise.active = integers(*active, ScalarType::Int, like, op, "active");
    noise.args.active = static_cast<const int32_t*>(noise.active.const_data_ptr());
    noise.args.active_strides = {per_example ? batch : 1, per_example ? 1 : 0};
  }
  if ((shared || active.has_value()) && !blocks.has_value()) {
    fail(op, ": shared and active must come with blocks");
  }
  if (!(keep > 0.0 && keep <= 1.0)) fail(op, ": keep must be in (0, 1], got ", keep);
  if (first_sample < 0) fail(op, ": first_sample must not be negative, got ", first_sample);
  // What the words of the counter can tell apart; an antithetic pair is one.
  const int64_t most = (antithetic ? int64_t{2} : int64_t{1}) << 32;
  if (first_sample > most - samples) {
    fail(op, ": first_sample and the number of samples must add up to at most ", most, ", got ",
         first_sample, " and ", samples);
  }
  int64_t features = 1;
  for (size_t d = 1; d < sizes.size(); ++d) features *= sizes[d];
  if (features > int64_t{1} << 33) {
    fail(op, ": inputs must have at most 2^33 features, got ", features);
  }
  noise.args.first_sample = first_sample;
  noise.args.keep_below = static_cast<uint64_t>(std::llround(keep * 0x1p32));
  noise.args.distribution = distribution_named(distribution, op);
  noise.args.antithetic = antithetic;
  noise.args.shared = shared;
  return noise;
}

// What is optional of what is read.
inline void check_apart_from(const NoiseTensors& noise, const Tensor& written, const char* op,
                             const char* name) {
  if (noise.args.examples != nullptr) check_apart(written, noise.examples, op, name);
  if (noise.args.blocks != nullptr) check_apart(written, noise.blocks, op, name);
  if (noise.args.active != nullptr) check_apart(written, noise.active, op, name);
}

template <typename Backend>
struct NoiseOps {
  // The trailing arguments of both forms of perturb, in the schema's order.
  static void write_points(const Tensor& inputs, int64_t samples, const Tensor& sigma,
                           const NoiseTensors& noise, const std::optional<Tensor>& mask,
                           std::optional<double> low, std::optional<double> high, bool reflect,
                           const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                           const Tensor& points, MemoryFormat format) {
    const char* op = "perturb";
    if (scale.has_value() != shift.has_value())
      fail(op, ": scale and shift must be given together");
    const int64_t batch = inputs.size(0);
    const Tensor x = dense(inputs, format);
    check_same_device(sigma, inputs, op, "sigma");
    if (sigma.dim() > 1 || (sigma.dim() == 1 && sigma.size(0) != batch)) {
      fail(op, ": sigma must be a number or have shape [B] with B = ", batch, ", got ",
           text_of(sigma));
    }
    const Tensor sigmas = dense_doubles(sigma);
    for (const Tensor& read : {x, sigmas, noise.key}) check_apart(points, read, op, "out");
    check_apart_from(noise, points, op, "out");
    Perturb args{};
    Rows m;
    if (mask.has_value()) {
      m = rows_like(*mask, inputs, format, op, "mask");
      check_apart(points, m.tensor, op, "out");
      args.mask = m.tensor.const_data_ptr();
      args.mask_strides = m.strides;
    }
    Tensor scales, shifts;
    if (scale.has_value()) {
      scales = channel_constants(*scale, inputs, op, "scale");
      shifts = channel_constants(*shift, inputs, op, "shift");
      args.scale = static_cast<const double*>(scales.const_data_ptr());
      args.shift = static_cast<const double*>(shifts.const_data_ptr());
    }
    args.inputs = x.const_data_ptr();
    args.sigma = static_cast<const double*>(sigmas.const_data_ptr());
    args.sigma_stride = sigma.dim();
    args.points = points.mutable_data_ptr();
    args.noise = noise.args;
    args.samples = samples;
    args.batch = batch;
    args.features = batch == 0 ? 0 : inputs.numel() / batch;
    args.channels = channels_of(inputs, format);
    args.low = low.value_or(-INFINITY);
    args.high = high.value_or(INFINITY);
    args.reflect = reflect;
    args.dtype = dtype_of(inputs, op, "inputs");
    args.point_dtype = dtype_of(points, op, "points");
    if (args.samples * args.batch * args.features == 0) return;
    Backend::run(args, inputs);
  }

  static void check_samples(const Tensor& inputs, int64_t samples) {
    if (inputs.dim() == 0) fail("perturb: inputs must have shape [B, ...], got a scalar");
    if (samples < 0) fail("perturb: n_samples must not be negative, got ", samples);
  }

  static Tensor perturb(const Tensor& inputs, int64_t samples, const Tensor& sigma,
                        const Tensor& key, Text distribution, bool antithetic, int64_t first_sample,
                        const std::optional<Tensor>& examples, const std::optional<Tensor>& mask,
                        const std::optional<Tensor>& blocks, int64_t block_count,
                        const std::optional<Tensor>& active, bool shared, double keep,
                        std::optional<double> low, std::optional<double> high, bool reflect,
                        const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                        std::optional<ScalarType> dtype,
                        std::optional<MemoryFormat> memory_format) {
    check_samples(inputs, samples);
    std::vector<int64_t> sizes = sizes_of(inputs);
    const NoiseTensors noise =
        noise_of(sizes, samples, inputs, key, string_of(distribution), antithetic, first_sample,
                 examples, blocks, block_count, active, shared, keep, "perturb");
    const MemoryFormat format = memory_format.value_or(MemoryFormat::Contiguous);
    sizes[0] *= samples;
    const Tensor result = torch::stable::empty(sizes, dtype.value_or(inputs.scalar_type()),
                                               std::nullopt, inputs.device(), std::nullopt, format);
    write_points(inputs, samples, sigma, noise, mask, low, high, reflect, scale, shift, result,
                 format);
    return result;
  }

  static void perturb_out(const Tensor& inputs, int64_t samples, const Tensor& sigma,
                          const Tensor& key, Text distribution, bool antithetic,
                          int64_t first_sample, const std::optional<Tensor>& examples,
                          const std::optional<Tensor>& mask, const std::optional<Tensor>& blocks,
                          int64_t block_count, const std::optional<Tensor>& active, bool shared,
                          double keep, std::optional<double> low, std::optional<double> high,
                          bool reflect, const std::optional<Tensor>& scale,
                          const std::optional<Tensor>& shift, Tensor out) {
    const char* op = "perturb";
    check_samples(inputs, samples);
    check_same_device(out, inputs, op, "out");
    std::vector<int64_t> sizes = sizes_of(inputs);
    const NoiseTensors noise =
        noise_of(sizes, samples, inputs, key, string_of(distribution), antithetic, first_sample,
                 examples, blocks, block_count, active, shared, keep, op);
    sizes[0] *= samples;
    if (sizes_of(out) != sizes) {
      fail(op, ": out must have shape [K * B, ...] with the features of the inputs ",
           text_of(inputs), ", got ", text_of(out));
    }
    write_points(inputs, samples, sigma, noise, mask, low, high, reflect, scale, shift, out,
                 format_written(out, op, "out"));
  }

  static void add(const Tensor& weights, const std::vector<int64_t>& sizes,
                  const NoiseTensors& noise, bool squared, const Tensor& total) {
    NoiseContract args{};
    const Tensor w = dense_doubles(weights);
    for (const Tensor& read : {w, noise.key}) {
      check_apart(total, read, "noise_contract", "total");
    }
    check_apart_from(noise, total, "noise_contract", "total");
    args.weights = static_cast<const double*>(w.const_data_ptr());
    args.total = static_cast<double*>(total.mutable_data_ptr());
    args.noise = noise.args;
    args.batch = weights.size(0);
    args.samples = weights.size(1);
    args.targets = weights.dim() == 3 ? weights.size(2) : 1;
    args.features = 1;
    for (size_t d = 1; d < sizes.size(); ++d) args.features *= sizes[d];
    args.squared = squared;
    if (args.batch * args.samples * args.targets * args.features == 0) return;
    Backend::run(args, weights);
  }

  // [B, *shape], for weights [B, K] or [B, K, n].
  static std::vector<int64_t> noise_sizes(const Tensor& weights,
                                          const std::vector<int64_t>& shape) {
    if (weights.dim() != 2 && weights.dim() != 3) {
      fail("noise_contract: weights must have shape [B, K] or [B, K, n], got ", text_of(weights));
    }
    std::vector<int64_t> sizes{weights.size(0)};
    sizes.insert(sizes.end(), shape.begin(), shape.end());
    return sizes;
  }

  static Tensor contract(const Tensor& weights, std::vector<int64_t> shape, const Tensor& key,
                         Text distribution, bool antithetic, int64_t first_sample,
                         const std::optional<Tensor>& examples, const std::optional<Tensor>& blocks,
                         int64_t block_count, const std::optional<Tensor>& active, double keep,
                         bool squared) {
    const std::vector<int64_t> sizes = noise_sizes(weights, shape);
    dtype_of(weights, "noise_contract", "weights");
    const NoiseTensors noise = noise_of(sizes, weights.size(1), weights, key,
                                        string_of(distribution), antithetic, first_sample, examples,
                                        blocks, block_count, active, false, keep, "noise_contract");
    std::vector<int64_t> result = sizes;
    if (weights.dim() == 3) result.insert(result.begin() + 1, weights.size(2));
    Tensor total = torch::stable::empty(result, ScalarType::Double, std::nullopt, weights.device());
    torch::stable::zero_(total);
    add(weights, sizes, noise, squared, total);
    return weights.scalar_type() == ScalarType::Double ? total : as_type(total, ScalarType::Float);
  }

  static void contract_out(const Tensor& weights, const Tensor& key, Text distribution,
                           bool antithetic, int64_t first_sample,
                           const std::optional<Tensor>& examples,
                           const std::optional<Tensor>& blocks, int64_t block_count,
                           const std::optional<Tensor>& active, double keep, bool squared,
                           Tensor total) {
    const char* op = "noise_contract";
    const int64_t lead = weights.dim() == 3 ? 2 : 1;
    std::vector<int64_t> shape = sizes_of(total);
    bool fits = total.scalar_type() == ScalarType::Double && total.dim() >= lead &&
                weights.dim() >= 2 && total.size(0) == weights.size(0) &&
                (lead == 1 || total.size(1) == weights.size(2));
    if (!fits || !total.is_contiguous()) {
      fail(op, ": total must be float64, contiguous, [B, ...] or [B, n, ...] for weights ",
           text_of(weights), ", got ", text_of(total));
    }
    check_same_device(total, weights, op, "total");
    dtype_of(weights, op, "weights");
    shape.erase(shape.begin(), shape.begin() + lead);
    const std::vector<int64_t> sizes = noise_sizes(weights, shape);
    const NoiseTensors noise =
        noise_of(sizes, weights.size(1), weights, key, string_of(distribution), antithetic,
                 first_sample, examples, blocks, block_count, active, false, keep, op);
    add(weights, sizes, noise, squared, total);
  }
};

template <typename Backend, typename Library>
void register_noise_ops(Library& library) {
  using Ops = NoiseOps<Backend>;
  library.impl("perturb", TORCH_BOX(&Ops::perturb));
  library.impl("perturb.out", TORCH_BOX(&Ops::perturb_out));
  library.impl("noise_contract", TORCH_BOX(&Ops::contract));
  library.impl("noise_contract.out", TORCH_BOX(&Ops::contract_out));
}

}  // namespace pyxai_fast::torch_ops
