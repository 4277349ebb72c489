// What the tests call through ctypes: the launchers of csrc/cuda on host pointers. A launcher of a
// new family is one line here. The structs of the headers pass as they are; their sizes let the
// tests check that both sides mean the same struct.
#include "emulator.h"
#include "pyxai_fast/path.h"

using namespace pyxai_fast;

extern "C" {

PYXAI_FAST_API void emulated_order(int order, unsigned seed) {
  emulator::set_order(static_cast<emulator::Order>(order), seed);
}
PYXAI_FAST_API void emulated_limit_grid(unsigned blocks) { emulator::limit_grid(blocks); }
PYXAI_FAST_API const char* emulated_failure() { return emulator::failure().c_str(); }
PYXAI_FAST_API int64_t emulated_blocks() { return emulator::blocks_run(); }

PYXAI_FAST_API int64_t emulated_path_points_size() { return sizeof(PathPoints); }
PYXAI_FAST_API int64_t emulated_path_accumulate_size() { return sizeof(PathAccumulate); }
PYXAI_FAST_API int emulated_path_points(const PathPoints* args) {
  return path_points_cuda(*args, nullptr);
}
PYXAI_FAST_API int emulated_path_accumulate(const PathAccumulate* args) {
  return path_accumulate_cuda(*args, nullptr);
}

}  // extern "C"
