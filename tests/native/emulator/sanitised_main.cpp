// The emulated kernels under the address and undefined-behaviour sanitisers.
//
//   emulated_cuda_checked path              the kernels of csrc/cuda, on buffers as large as needed
//                                           and no larger: nothing may be found
//   emulated_cuda_checked samples           the emulator's own: the same
//   emulated_cuda_checked misaligned_load   and others, see below: a mistake that must be found
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "emulator.h"
#include "pyxai_fast/path.h"

using namespace pyxai_fast;

extern "C" {
int sample_block_sums(const float* values, float* sums, int count, int threads);
int sample_reverse(const float* values, float* reversed, int blocks, int threads);
int sample_warp_words(int* found);
int broken_misaligned_load(const float* values, float* first);
int broken_off_by_one(float* values, int count);
int broken_off_by_one_shared(int dynamic);
}

namespace {

void check(int error) {
  if (error == 0) return;
  std::fprintf(stderr, "%s\n", emulator::failure().c_str());
  std::exit(1);
}

// `count` elements `skip` elements behind an aligned address, and not a byte after them.
class Buffer {
 public:
  Buffer(int64_t count, DType dtype, int64_t skip = 0)
      : skip_(skip * size_of(dtype)), bytes_(new char[skip_ + count * size_of(dtype)]()) {}
  void* get() const { return bytes_.get() + skip_; }

 private:
  int64_t skip_;
  std::unique_ptr<char[]> bytes_;
};

struct Case {
  int64_t steps, batch, features, channels, inner;
  int64_t skip, other_skip;  // by which the inputs, and the points and grads, miss alignment
  Strides2 baseline_strides;
  bool per_example;
};

// Baselines of a batch, one example, a number; features that go by vectors, and that do not.
const Case kCases[] = {
    {1, 1, 1, 1, 1, 0, 0, {1, 1}, false},   {3, 2, 16, 1, 16, 0, 0, {16, 1}, true},
    {3, 2, 16, 1, 16, 1, 0, {0, 1}, false}, {3, 2, 16, 1, 16, 0, 1, {0, 0}, true},
    {5, 3, 63, 3, 21, 0, 0, {0, 0}, true},  {2, 2, 2052, 3, 1, 0, 0, {2052, 1}, true},
};

void run_path(const Case& c, DType dtype, DType other) {
  const int64_t elements = c.batch * c.features;
  const int64_t coefficients = c.steps * (c.per_example ? c.batch : 1);
  const Strides2 by_step = {c.per_example ? c.batch : 1, c.per_example ? 1 : 0};
  const int64_t baselines = c.baseline_strides.row != 0      ? elements
                            : c.baseline_strides.column != 0 ? c.features
                                                             : 1;
  const Buffer x(elements, dtype, c.skip), b(baselines, dtype);
  const Buffer alphas(coefficients, DType::kFloat64), constants(c.channels, DType::kFloat64);
  const Buffer many(c.steps * elements, other, c.other_skip);
  const Buffer total(elements, DType::kFloat64), attributions(elements, DType::kFloat32);

  PathPoints points{};
  points.inputs = x.get();
  points.baselines = b.get();
  points.alphas = static_cast<const double*>(alphas.get());
  points.points = many.get();
  points.steps = c.steps;
  points.batch = c.batch;
  points.features = c.features;
  points.baseline_strides = c.baseline_strides;
  points.alpha_strides = by_step;
  points.channels = {c.channels, c.inner};
  points.dtype = dtype;
  points.point_dtype = other;
  check(path_points_cuda(points, nullptr));
  points.scale = points.shift = static_cast<const double*>(constants.get());
  check(path_points_cuda(points, nullptr));

  PathAccumulate sums{};
  sums.grads = many.get();
  sums.weights = static_cast<const double*>(alphas.get());
  sums.total = static_cast<double*>(total.get());
  sums.steps = c.steps;
  sums.batch = c.batch;
  sums.features = c.features;
  sums.weight_strides = by_step;
  sums.channels = points.channels;
  sums.grad_dtype = other;
  check(path_accumulate_cuda(sums, nullptr));
  sums.total = nullptr;
  sums.attributions = attributions.get();
  sums.attribution_dtype = DType::kFloat32;
  check(path_accumulate_cuda(sums, nullptr));
  sums.inputs = x.get();
  sums.baselines = b.get();
  sums.baseline_strides = c.baseline_strides;
  sums.scale = points.scale;
  sums.dtype = dtype;
  check(path_accumulate_cuda(sums, nullptr));
}

void run_samples() {
  const Buffer values(300, DType::kFloat32), sums(3, DType::kFloat32);
  const Buffer reversed(300, DType::kFloat32), words(13 * 64, DType::kFloat32);
  check(sample_block_sums(static_cast<const float*>(values.get()), static_cast<float*>(sums.get()),
                          300, 128));
  check(sample_reverse(static_cast<const float*>(values.get()), static_cast<float*>(reversed.get()),
                       3, 100));
  check(sample_warp_words(static_cast<int*>(words.get())));
}

}  // namespace

int main(int count, char** arguments) {
  const std::string what = count == 2 ? arguments[1] : "";
  const Buffer values(16, DType::kFloat32), one(1, DType::kFloat32);
  if (what == "path") {
    for (const Case& c : kCases) {
      for (const DType dtype : {DType::kFloat16, DType::kFloat32, DType::kFloat64}) {
        for (const DType other : {DType::kBFloat16, DType::kFloat32}) run_path(c, dtype, other);
      }
    }
  } else if (what == "samples") {
    run_samples();
  } else if (what == "misaligned_load") {
    check(broken_misaligned_load(static_cast<const float*>(values.get()),
                                 static_cast<float*>(one.get())));
  } else if (what == "off_by_one") {
    check(broken_off_by_one(static_cast<float*>(values.get()), 16));
  } else if (what == "off_by_one_shared") {
    check(broken_off_by_one_shared(0));
  } else if (what == "off_by_one_dynamic_shared") {
    check(broken_off_by_one_shared(1));
  } else {
    std::fprintf(stderr, "emulated_cuda_checked: must be told what to run, got '%s'\n",
                 what.c_str());
    return 2;
  }
  std::puts("clean");
  return 0;
}
