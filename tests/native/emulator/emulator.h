// Runs CUDA kernels on the CPU, so that they are tested where there is no GPU.
//
// The kernels are compiled by an ordinary C++ compiler, unmodified: include/cuda_runtime.h, found
// before CUDA's own, defines the words they use, and each word ends up in one of the functions
// below. Blocks run one after the other. The threads of a block are fibres: a thread runs until it
// has to wait for others, then the next one runs. Nothing is parallel, so what goes wrong goes
// wrong every time; and the order in which threads run can be chosen, so a kernel whose result
// depends on that order is found out by comparing two of them.
//
// What it cannot show: speed, memory coalescing, and races between blocks that overlap in time.
// There is one machine: launch from one thread of the process at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace emulator {

// CUDA's dim3 and uint3.
struct Dim3 {
  unsigned x, y, z;
  constexpr Dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// --- for the tests -------------------------------------------------------------------------------

// The order in which the blocks of a grid, and the threads of a block between two barriers, run.
enum class Order : int { kForward, kReversed, kShuffled };
void set_order(Order order, unsigned seed);

// Launches at most this many blocks along x: kernels that walk their work with a grid-sized stride
// must not notice. No limit but CUDA's to begin with.
constexpr unsigned kMaxGridX = 0x7fffffffu;
void limit_grid(unsigned blocks);

// Why the last launch failed; empty if it did not.
const std::string& failure();

// How many blocks have run since the process began.
int64_t blocks_run();

// --- for include/cuda_runtime.h ------------------------------------------------------------------

constexpr int kWarp = 32;

// Where a thread waits: the word in the kernel, and its line.
struct Place {
  const char* word;
  const char* file;
  int line;
};

// What the lanes of a warp show each other when they meet. Lanes outside `present` show nothing.
struct Lanes {
  uint32_t present;
  uint64_t value[kWarp];
};

// Runs `thread` once for each thread of each block. Does not throw: what goes wrong is in
// failure(), and is the next last_error().
void launch(const char* kernel, Dim3 grid, Dim3 block, size_t shared_bytes,
            const std::function<void()>& thread);

// The cudaError_t of the last launch, cleared by asking, as cudaGetLastError does.
int last_error();

// The block's dynamic shared memory.
void* dynamic_shared();

// Waits until every thread of the block has come to the same place.
void meet_block(Place place);

// Waits until the lanes in `mask` that have not exited have come to the same place, and returns
// what each brought. Every collective operation of a warp is this, and then a choice among values.
const Lanes& meet_warp(uint32_t mask, uint64_t value, Place place);

// The calling thread's lane in its warp.
int lane();

// Gives the launch up: for what no thread may do.
[[noreturn]] void fail(const std::string& reason, Place place);

}  // namespace emulator
