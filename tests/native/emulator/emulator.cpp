#include "emulator.h"

#include <link.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cfenv>
#if defined(EMULATOR_SANITISED)
#include <sanitizer/common_interface_defs.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <sstream>
#include <vector>

#include "include/cuda_runtime.h"

namespace emulator {
namespace {

// --- fibres: stacks that take turns --------------------------------------------------------------

struct Fibre {
  ucontext_t context;
  void* mapped = nullptr;
  char* stack = nullptr;  // its lowest address
  size_t size = 0;

  Fibre() = default;  // for the stack that the process came with
  explicit Fibre(void (*entry)());
  ~Fibre();
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;
};

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

Fibre::Fibre(void (*entry)()) : size(size_t{256} << 10) {
  // A page that may not be touched lies below: a stack that overflows stops the process at once.
  mapped = mmap(nullptr, kPage + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  mprotect(mapped, kPage, PROT_NONE);
  stack = static_cast<char*>(mapped) + kPage;
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = size;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}

Fibre::~Fibre() {
  if (mapped != nullptr) munmap(mapped, kPage + size);
}

// The address sanitiser must know which stack is in use.
void arrived(void* fake_stack, Fibre* from) {
#if defined(EMULATOR_SANITISED)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &size);
  if (from != nullptr) {
    from->stack = static_cast<char*>(const_cast<void*>(bottom));
    from->size = size;
  }
#else
  static_cast<void>(fake_stack), static_cast<void>(from);
#endif
}

void switch_to(Fibre& from, Fibre& to) {
  void* fake_stack = nullptr;
#if defined(EMULATOR_SANITISED)
  __sanitizer_start_switch_fiber(&fake_stack, to.stack, to.size);
#endif
  swapcontext(&from.context, &to.context);
  arrived(fake_stack, nullptr);
}

// --- the machine: one block at a time ------------------------------------------------------------

enum class State { kRuns, kWaitsForBlock, kWaitsForWarp, kExited };

struct Thread {
  State state;
  Fibre* fibre;    // on whose stack it waits
  Place place;     // where it waits
  uint32_t mask;   // with whom (kWaitsForWarp)
  uint64_t value;  // what it brings there
  Lanes lanes;     // what it finds there
};

Order order = Order::kForward;
unsigned grid_limit = kMaxGridX;
std::mt19937 random_bits;

std::string failed;  // empty: nothing has
int error = cudaSuccess;
int64_t blocks = 0;

const std::function<void()>* body = nullptr;
std::vector<Thread> threads;  // of the block, by thread index
std::vector<int> queue;       // the order in which they run
size_t started = 0;           // how many of the queue have begun
int current = 0;              // the one that runs
std::unique_ptr<unsigned char[]> shared;
size_t shared_size = 0;

std::vector<std::unique_ptr<Fibre>> fibres;
std::vector<Fibre*> idle;  // those that carry no thread
Fibre scheduler;           // the stack of the caller of launch()
Fibre* running = nullptr;
// The launcher's rounding and treatment of subnormals: a fibre keeps those of its first launch.
std::fenv_t floating_point;

template <typename Index>
std::vector<Index> arranged(size_t count) {
  std::vector<Index> indices(count);
  std::iota(indices.begin(), indices.end(), Index{0});
  if (order == Order::kReversed) std::reverse(indices.begin(), indices.end());
  if (order == Order::kShuffled) std::shuffle(indices.begin(), indices.end(), random_bits);
  return indices;
}

Dim3 unravel(size_t index, const Dim3& size) {
  return Dim3(static_cast<unsigned>(index % size.x), static_cast<unsigned>(index / size.x % size.y),
              static_cast<unsigned>(index / size.x / size.y));
}

void become(int thread) {
  current = thread;
  threadIdx = unravel(static_cast<size_t>(thread), blockDim);
}

// A fibre carries threads one after the other, until one of them has to wait and keeps the fibre;
// the scheduler then lets another fibre start the rest. Kernels without barriers use one fibre.
void carry_threads() {
  arrived(nullptr, &scheduler);
  for (;;) {
    std::fesetenv(&floating_point);
    while (started < queue.size() && failed.empty()) {
      become(queue[started++]);
      (*body)();
      threads[current].state = State::kExited;
    }
    idle.push_back(running);
    switch_to(*running, scheduler);
  }
}

void run(Fibre* fibre) {
  running = fibre;
  switch_to(scheduler, *fibre);
}

Fibre* idle_fibre() {
  if (idle.empty()) {
    fibres.push_back(std::make_unique<Fibre>(&carry_threads));
    return fibres.back().get();
  }
  Fibre* fibre = idle.back();
  idle.pop_back();
  return fibre;
}

// What the calling thread does to wait: lets the others run.
void wait(State state, Place place) {
  Thread& self = threads[current];
  self.state = state;
  self.place = place;
  self.fibre = running;
  switch_to(*running, scheduler);
}

// --- barriers: which of the waiting threads may go on --------------------------------------------

bool same_place(const Place& a, const Place& b) {
  return a.line == b.line && strcmp(a.word, b.word) == 0 && strcmp(a.file, b.file) == 0;
}

// Exited threads count as missing: CUDA promises nothing for a barrier that some never reach.
bool release_block() {
  for (const Thread& t : threads) {
    if (t.state != State::kWaitsForBlock || !same_place(t.place, threads[0].place)) return false;
  }
  for (Thread& t : threads) t.state = State::kRuns;
  return true;
}

// Lanes that have exited are not waited for, which is CUDA's rule for warps.
bool release_warp(Thread* warp, int lanes, int first) {
  const uint32_t mask = warp[first].mask;
  Lanes found{0, {}};
  for (int i = 0; i < lanes; ++i) {
    const Thread& t = warp[i];
    if ((mask >> i & 1u) == 0 || t.state == State::kExited) continue;
    if (t.state != State::kWaitsForWarp || t.mask != mask) return false;
    if (!same_place(t.place, warp[first].place)) return false;
    found.present |= 1u << i;
    found.value[i] = t.value;
  }
  for (int i = 0; i < lanes; ++i) {
    if ((found.present >> i & 1u) == 0) continue;
    warp[i].lanes = found;
    warp[i].state = State::kRuns;
  }
  return true;
}

bool release() {
  bool any = release_block();
  const int count = static_cast<int>(threads.size());
  for (int begin = 0; begin < count; begin += kWarp) {
    const int lanes = std::min(kWarp, count - begin);
    for (int i = 0; i < lanes; ++i) {
      if (threads[begin + i].state != State::kWaitsForWarp) continue;
      any |= release_warp(&threads[begin], lanes, i);
    }
  }
  return any;
}

std::string text_of(const Place& place) {
  const char* slash = strrchr(place.file, '/');
  std::ostringstream text;
  text << place.word << " (" << (slash == nullptr ? place.file : slash + 1) << ":" << place.line
       << ")";
  return text.str();
}

// "threads 0-15 wait at __syncthreads (path.cu:7); threads 16-31 have exited"
std::string deadlock() {
  std::map<std::string, std::string> who;  // by what they do
  const int count = static_cast<int>(threads.size());
  const auto doing = [](const Thread& t) {
    return t.state == State::kExited ? std::string("have exited") : "wait at " + text_of(t.place);
  };
  for (int begin = 0, end = 0; begin < count; begin = end) {
    const std::string what = doing(threads[begin]);
    while (end < count && doing(threads[end]) == what) ++end;
    std::string& list = who[what];
    list += (list.empty() ? "threads " : ", ") + std::to_string(begin);
    if (end > begin + 1) list += "-" + std::to_string(end - 1);
  }
  std::string text;
  for (const auto& [what, list] : who) text += (text.empty() ? "" : "; ") + list + " " + what;
  return "deadlock: " + text;
}

// --- blocks --------------------------------------------------------------------------------------

#if !defined(EMULATOR_SANITISED)
thread_local char among_the_shared = 0;

// Fills the thread-local variables of this library: those that kernels declare __shared__.
void forget_static_shared() {
  const auto fill = [](dl_phdr_info* library, size_t, void* address) {
    for (int i = 0; i < library->dlpi_phnum; ++i) {
      const auto& part = library->dlpi_phdr[i];
      char* begin = static_cast<char*>(library->dlpi_tls_data);
      if (part.p_type != PT_TLS || begin == nullptr) continue;
      if (address < begin || address >= begin + part.p_memsz) continue;
      memset(begin, 0xff, part.p_memsz);
      return 1;
    }
    return 0;
  };
  dl_iterate_phdr(fill, &among_the_shared);
}
#else
void forget_static_shared() {}
#endif

void run_block() {
  // All ones: NaN to whoever reads shared memory that nobody has written.
  forget_static_shared();
  memset(shared.get(), 0xff, shared_size);
  for (Thread& t : threads) t.state = State::kRuns;
  queue = arranged<int>(threads.size());
  started = 0;
  while (started < queue.size() && failed.empty()) run(idle_fibre());
  const auto exited = [](const Thread& t) { return t.state == State::kExited; };
  while (failed.empty() && !std::all_of(threads.begin(), threads.end(), exited)) {
    if (!release()) {
      failed = deadlock();
      return;
    }
    for (const int thread : queue = arranged<int>(threads.size())) {
      if (threads[thread].state != State::kRuns || !failed.empty()) continue;
      become(thread);
      run(threads[thread].fibre);
    }
  }
}

// The limits of every GPU since compute capability 3.0.
bool is_launchable(const Dim3& grid, const Dim3& block, size_t shared_bytes) {
  const uint64_t block_threads = uint64_t{block.x} * block.y * block.z;
  return grid.x >= 1 && grid.x <= kMaxGridX && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 &&
         grid.z <= 65535 && block_threads >= 1 && block_threads <= 1024 && block.z <= 64 &&
         shared_bytes <= (size_t{48} << 10);
}

}  // namespace

void launch(const char* kernel, Dim3 grid, Dim3 block, size_t shared_bytes,
            const std::function<void()>& thread) {
  failed.clear();
  if (!is_launchable(grid, block, shared_bytes)) {
    failed = std::string(kernel) + ": no GPU takes this grid, block or shared memory";
    error = cudaErrorInvalidConfiguration;
    return;
  }
  grid.x = std::min(grid.x, grid_limit);
  body = &thread;
  std::fegetenv(&floating_point);
  gridDim = grid;
  blockDim = block;
  threads.resize(size_t{block.x} * block.y * block.z);
  // As large as was asked for, to the byte: the address sanitiser guards its ends.
  shared = std::make_unique<unsigned char[]>(shared_bytes);
  shared_size = shared_bytes;
  for (const uint64_t index : arranged<uint64_t>(uint64_t{grid.x} * grid.y * grid.z)) {
    blockIdx = unravel(index, grid);
    ++blocks;
    run_block();
    if (failed.empty()) continue;
    std::ostringstream where;
    where << kernel << ", block (" << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z
          << "): " << failed;
    failed = where.str();
    error = cudaErrorLaunchFailure;
    // Threads that still wait never end; their stacks go.
    idle.clear();
    fibres.clear();
    return;
  }
}

int last_error() {
  const int last = error;
  error = cudaSuccess;
  return last;
}

void set_order(Order wanted, unsigned seed) {
  order = wanted;
  random_bits.seed(seed);
}

void limit_grid(unsigned limit) { grid_limit = limit; }

const std::string& failure() { return failed; }

int64_t blocks_run() { return blocks; }

void* dynamic_shared() { return shared.get(); }

int lane() { return current % kWarp; }

void meet_block(Place place) { wait(State::kWaitsForBlock, place); }

const Lanes& meet_warp(uint32_t mask, uint64_t value, Place place) {
  if ((mask >> lane() & 1u) == 0) fail("waits with a mask that leaves itself out", place);
  threads[current].mask = mask;
  threads[current].value = value;
  wait(State::kWaitsForWarp, place);
  return threads[current].lanes;
}

void fail(const std::string& reason, Place place) {
  failed = "thread " + std::to_string(current) + ", " + text_of(place) + ": " + reason;
  switch_to(*running, scheduler);
  std::abort();  // the scheduler does not come back
}

}  // namespace emulator
