// Kernels of the emulator's own under the address and undefined-behaviour sanitisers.
//
//   emulated_cuda_checked samples           kernels without a mistake: nothing may be found
//   emulated_cuda_checked misaligned_load   and others, see below: a mistake that must be found
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "emulator.h"

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

// `count` floats, and not a byte after them.
class Buffer {
 public:
  explicit Buffer(int64_t count) : floats_(new float[count]()) {}
  float* get() const { return floats_.get(); }

 private:
  std::unique_ptr<float[]> floats_;
};

void run_samples() {
  const Buffer values(300), sums(3);
  const Buffer reversed(300), words(13 * 64);
  check(sample_block_sums(values.get(), sums.get(), 300, 128));
  check(sample_reverse(values.get(), reversed.get(), 3, 100));
  check(sample_warp_words(reinterpret_cast<int*>(words.get())));
}

}  // namespace

int main(int count, char** arguments) {
  const std::string what = count == 2 ? arguments[1] : "";
  const Buffer values(16), one(1);
  if (what == "samples") {
    run_samples();
  } else if (what == "misaligned_load") {
    check(broken_misaligned_load(values.get(), one.get()));
  } else if (what == "off_by_one") {
    check(broken_off_by_one(values.get(), 16));
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
