// The linear kernels on CUDA. Neighbouring threads have neighbouring features, so all of memory is
// read and written in whole lines; what the features of an output have in common, the gradients of
// its rows, comes through shared memory.
//
//   linear_step         of few rows: a thread keeps its feature's inputs and sums in registers while
//                       all weights go by, each of which is read and written once
//   linear_grad_inputs, linear_update
//                       the same in two passes, of any number of rows: a thread has some rows of a
//                       feature, or some of its weights

#include "launch.cuh"
#include "pyxai_fast/linear.h"

namespace pyxai_fast {
namespace {

constexpr int kFeatures = 128;  // a thread each
constexpr int kMostRows = 32;   // in registers
constexpr int kOutputs = 32;    // whose gradients are in shared memory at once
constexpr int kAhead = 4;       // weights read before they are needed
constexpr int kUpdated = 8;     // weights of a thread of linear_update

// What a thread has to do: a feature of a layer and, of what goes by parts of a few, the first.
struct Place {
  int64_t layer;
  int64_t first;
  int64_t feature;
};

__device__ Place place_of(const LinearStep& args, int64_t block, int64_t parts, int64_t size) {
  const int64_t per_row = (args.features + kFeatures - 1) / kFeatures;
  const int64_t row = block / per_row;
  return {row / parts, row % parts * size, block % per_row * kFeatures + threadIdx.x};
}

// Gradients of `Outputs` outputs from `output` on and `Rows` rows from `row` on; zeros beyond the
// last, which change no sum.
template <int Outputs, int Rows, typename Float>
__device__ void stage(const LinearStep& args, int64_t layer, int64_t output, int64_t row,
                      Float (*grads)[Rows]) {
  const Float* given = static_cast<const Float*>(args.grads) + layer * args.outputs * args.rows;
  for (int i = static_cast<int>(threadIdx.x); i < Outputs * Rows; i += kFeatures) {
    const int64_t o = output + i / Rows, r = row + i % Rows;
    const bool inside = o < args.outputs && r < args.rows;
    grads[i / Rows][i % Rows] = inside ? given[o * args.rows + r] : Float(0);
  }
}

template <typename Float, int Rows>
__global__ void linear_step_kernel(LinearStep args, int64_t blocks) {
  __shared__ Float grads[kOutputs][Rows];
  const Float lr = static_cast<Float>(args.lr), momentum = static_cast<Float>(args.momentum);
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const Place place = place_of(args, block, 1, 0);
    const bool inside = place.feature < args.features;
    const int64_t first_row = place.layer * args.rows * args.features + place.feature;
    const int64_t first_weight = place.layer * args.outputs * args.features + place.feature;
    const Float* inputs = static_cast<const Float*>(args.inputs) + first_row;
    Float x[Rows], sum[Rows];
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      x[r] = inside && r < args.rows ? inputs[r * args.features] : Float(0);
      sum[r] = 0;
    }
    for (int64_t o = 0; o < args.outputs; o += kOutputs) {
      stage<kOutputs>(args, place.layer, o, 0, grads);
      __syncthreads();
      const int count = static_cast<int>(args.outputs - o < kOutputs ? args.outputs - o : kOutputs);
      for (int j = 0; inside && j < count; j += kAhead) {
        Float* w = static_cast<Float*>(args.weight) + first_weight + (o + j) * args.features;
        Float* v = static_cast<Float*>(args.velocity) + first_weight + (o + j) * args.features;
        Float weight[kAhead], velocity[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (j + i >= count) break;
          weight[i] = w[i * args.features];
          velocity[i] = v[i * args.features];
        }
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (j + i >= count) break;
          Float gradient = 0;
#pragma unroll
          for (int r = 0; r < Rows; ++r) {
            sum[r] += grads[j + i][r] * weight[i];
            gradient += grads[j + i][r] * x[r];
          }
          nesterov_step(gradient, lr, momentum, velocity[i], weight[i]);
          w[i * args.features] = weight[i];
          v[i * args.features] = velocity[i];
        }
      }
      __syncthreads();
    }
    Float* grad_inputs = static_cast<Float*>(args.grad_inputs) + first_row;
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      if (inside && r < args.rows) grad_inputs[r * args.features] = sum[r];
    }
  }
}

template <typename Float>
__global__ void linear_grad_inputs_kernel(LinearStep args, int64_t blocks) {
  __shared__ Float grads[kOutputs][kMostRows];
  const int64_t parts = (args.rows + kMostRows - 1) / kMostRows;
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const Place place = place_of(args, block, parts, kMostRows);
    const bool inside = place.feature < args.features;
    const Float* weights = static_cast<const Float*>(args.weight) +
                           place.layer * args.outputs * args.features + place.feature;
    Float sum[kMostRows] = {};
    for (int64_t o = 0; o < args.outputs; o += kOutputs) {
      stage<kOutputs>(args, place.layer, o, place.first, grads);
      __syncthreads();
      const int count = static_cast<int>(args.outputs - o < kOutputs ? args.outputs - o : kOutputs);
#pragma unroll 4
      for (int j = 0; inside && j < count; ++j) {
        const Float weight = weights[(o + j) * args.features];
#pragma unroll
        for (int r = 0; r < kMostRows; ++r) sum[r] += grads[j][r] * weight;
      }
      __syncthreads();
    }
    Float* grad_inputs = static_cast<Float*>(args.grad_inputs) +
                         (place.layer * args.rows + place.first) * args.features + place.feature;
#pragma unroll
    for (int r = 0; r < kMostRows; ++r) {
      if (inside && place.first + r < args.rows) grad_inputs[r * args.features] = sum[r];
    }
  }
}

template <typename Float>
__global__ void linear_update_kernel(LinearStep args, int64_t blocks) {
  __shared__ Float grads[kUpdated][kMostRows];
  const Float lr = static_cast<Float>(args.lr), momentum = static_cast<Float>(args.momentum);
  const int64_t parts = (args.outputs + kUpdated - 1) / kUpdated;
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const Place place = place_of(args, block, parts, kUpdated);
    const bool inside = place.feature < args.features;
    const Float* inputs = static_cast<const Float*>(args.inputs) +
                          place.layer * args.rows * args.features + place.feature;
    Float gradient[kUpdated] = {};
    for (int64_t r = 0; r < args.rows; r += kMostRows) {
      stage<kUpdated>(args, place.layer, place.first, r, grads);
      __syncthreads();
      const int count = static_cast<int>(args.rows - r < kMostRows ? args.rows - r : kMostRows);
#pragma unroll 4
      for (int i = 0; inside && i < count; ++i) {
        const Float x = inputs[(r + i) * args.features];
#pragma unroll
        for (int j = 0; j < kUpdated; ++j) gradient[j] += grads[j][i] * x;
      }
      __syncthreads();
    }
    const int64_t first =
        (place.layer * args.outputs + place.first) * args.features + place.feature;
    Float* weight = static_cast<Float*>(args.weight) + first;
    Float* velocity = static_cast<Float*>(args.velocity) + first;
#pragma unroll
    for (int j = 0; j < kUpdated; ++j) {
      if (!inside || place.first + j >= args.outputs) continue;
      const int64_t at = j * args.features;
      nesterov_step(gradient[j], lr, momentum, velocity[at], weight[at]);
    }
  }
}

// Blocks of kFeatures threads for every feature of so many rows, and their grid.
struct Blocks {
  int64_t count;
  unsigned grid;
};

Blocks blocks_of(const LinearStep& args, int64_t rows) {
  const int64_t count = rows * ceil_div(args.features, kFeatures);
  const int64_t limit = int64_t{1} << 30;
  return {count, static_cast<unsigned>(count < limit ? count : limit)};
}

template <typename Float>
void launch(const LinearStep& args, void* stream) {
  const bool wanted = args.grad_inputs != nullptr;
  if (wanted && args.rows <= kMostRows) {
    const Blocks blocks = blocks_of(args, args.layers);
    if (args.rows <= kMostRows / 2) {
      PYXAI_FAST_LAUNCH((linear_step_kernel<Float, kMostRows / 2>), blocks.grid, kFeatures, stream,
                        args, blocks.count);
    } else {
      PYXAI_FAST_LAUNCH((linear_step_kernel<Float, kMostRows>), blocks.grid, kFeatures, stream,
                        args, blocks.count);
    }
    return;
  }
  if (wanted) {
    const Blocks blocks = blocks_of(args, args.layers * ceil_div(args.rows, kMostRows));
    PYXAI_FAST_LAUNCH((linear_grad_inputs_kernel<Float>), blocks.grid, kFeatures, stream, args,
                      blocks.count);
  }
  const Blocks blocks = blocks_of(args, args.layers * ceil_div(args.outputs, kUpdated));
  if (blocks.count == 0) return;  // no outputs
  PYXAI_FAST_LAUNCH((linear_update_kernel<Float>), blocks.grid, kFeatures, stream, args,
                    blocks.count);
}

}  // namespace

int run_cuda(const LinearStep& args, void* stream) {
  args.dtype == DType::kFloat64 ? launch<double>(args, stream) : launch<float>(args, stream);
  return cudaGetLastError();
}

}  // namespace pyxai_fast
