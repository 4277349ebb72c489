#include "pyxai_fast/linear.h"

#include "isa.h"
#include "products.h"
#include "tiles.h"

namespace pyxai_fast {
namespace {

// Outputs that are taken together, one step of features at a time: what goes into their products
// stays in the first cache.
constexpr int64_t kOutputs = 16;

// A tile's inputs, and its sums of grad_inputs, stay in the second-level cache while all weights go
// by. Of many rows, the tile is one step wide, and so many of them are there at once.
constexpr int64_t kRowBytes = 65536;
constexpr int64_t kRowsAtOnce = kRowBytes / kStepBytes;

// A tile's part of a weight's row: half a page, since every row of a wide layer is on pages of its
// own. Layers that are not so wide are cut into some tiles all the same, for the threads.
constexpr int64_t kWidestBytes = 2048;
constexpr int64_t kFewestTiles = 8;

PYXAI_FAST_INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

// Features of a tile.
PYXAI_FAST_INLINE int64_t tile_width(const LinearStep& args) {
  const int64_t size = size_of(args.dtype);
  const int64_t fitting = kRowBytes / (args.rows > 0 ? args.rows : 1);
  const int64_t fair = ceil_div(args.features * size, kFewestTiles) + kStepBytes - 1;
  const int64_t steps = at_most(at_most(fitting, fair), kWidestBytes) / kStepBytes;
  return (steps > 0 ? steps : 1) * kStepBytes / size;
}

// --- rows of one step ----------------------------------------------------------------------------

// Rows of memory, `count` features of them, side by side; beyond these is zero. In memory they may
// lie apart by whole pages, and would push each other out of the first cache.
template <typename Float>
PYXAI_FAST_INLINE void gather(const Float* from, int64_t stride, int64_t rows, int64_t count,
                              Float* to) {
  for (int64_t r = 0; r < rows; ++r, from += stride, to += kStep<Float>) {
    if (count == kStep<Float>) {
      __builtin_memcpy(to, from, sizeof(Float) * kStep<Float>);
    } else {
      for (int64_t i = 0; i < kStep<Float>; ++i) to[i] = i < count ? from[i] : Float(0);
    }
  }
}

template <typename Float>
PYXAI_FAST_INLINE void scatter(const Float* from, int64_t rows, int64_t count, int64_t stride,
                               Float* to) {
  for (int64_t r = 0; r < rows; ++r, from += kStep<Float>, to += stride) {
    if (count == kStep<Float>) {
      __builtin_memcpy(to, from, sizeof(Float) * kStep<Float>);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = from[i];
    }
  }
}

// Brings rows of memory into the caches: of rows so far apart no processor foresees the next.
template <typename Float>
PYXAI_FAST_INLINE void foresee(const Float* from, int64_t stride, int64_t rows) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(Float));
  for (int64_t r = 0; r < rows; ++r, from += stride) {
    for (int64_t i = 0; i < kStep<Float>; i += kLine) __builtin_prefetch(from + i);
  }
}

// The optimiser's step of a row; `old` is its weight.
template <typename Float>
PYXAI_FAST_INLINE void update(const Float* __restrict__ gradient, const Float* __restrict__ old,
                              Float lr, Float momentum, int64_t count, Float* __restrict__ velocity,
                              Float* __restrict__ weight) {
  const auto one = [&](int64_t i) {
    Float value = old[i];
    nesterov_step(gradient[i], lr, momentum, velocity[i], value);
    weight[i] = value;
  };
  if (count == kStep<Float>) {
    for (int64_t i = 0; i < kStep<Float>; ++i) one(i);
  } else {
    for (int64_t i = 0; i < count; ++i) one(i);
  }
}

// --- a tile --------------------------------------------------------------------------------------

// Some outputs' weights of one step of features.
struct Block {
  int64_t output;
  int64_t outputs;  // none, or fewer, behind the last
  int64_t feature;  // of the tile
  int64_t features;
  int64_t place;  // in memory, of the first weight
};

// A tile of the features of one layer.
template <typename Float>
struct LayerTile {
  const LinearStep& args;
  const int64_t width;
  const Float lr;
  const Float momentum;
  Tile tile{};
  alignas(64) Float inputs[kRowsAtOnce * kStepFeatures<Float>];  // [steps, rows, kStep]
  alignas(64) Float sums[kRowsAtOnce * kStepFeatures<Float>];    // the same, of grad_inputs
  alignas(64) Float gradient[kOutputs * kStep<Float>];
  alignas(64) Float weights[2][kOutputs * kStep<Float>];  // of a block, and of the next

  PYXAI_FAST_INLINE explicit LayerTile(const LinearStep& given)
      : args(given),
        width(tile_width(given)),
        lr(static_cast<Float>(given.lr)),
        momentum(static_cast<Float>(given.momentum)) {}

  PYXAI_FAST_INLINE const Float* weight() const { return static_cast<const Float*>(args.weight); }
  PYXAI_FAST_INLINE Float* velocity() const { return static_cast<Float*>(args.velocity); }

  PYXAI_FAST_INLINE Block block_of(int64_t output, int64_t feature) const {
    return {output, at_most(kOutputs, args.outputs - output), feature,
            at_most(kStep<Float>, tile.count - feature),
            (tile.row * args.outputs + output) * args.features + tile.begin + feature};
  }

  // The next step of the same outputs, or else the first of the next outputs.
  PYXAI_FAST_INLINE Block after(const Block& block) const {
    const int64_t feature = block.feature + kStep<Float>;
    if (feature < tile.count) return block_of(block.output, feature);
    return block_of(block.output + kOutputs, 0);
  }

  // The part of a block that some rows have in the sums of grad_inputs.
  PYXAI_FAST_INLINE void add_to_sums(const Block& block, const Float* old, int64_t row,
                                     int64_t rows, bool stay) {
    const int64_t at = (tile.row * args.rows + row) * args.features + tile.begin + block.feature;
    Float* grad_inputs = static_cast<Float*>(args.grad_inputs) + at;
    Float* sum = sums + block.feature * rows;
    const Float* grads = static_cast<const Float*>(args.grads) +
                         (tile.row * args.outputs + block.output) * args.rows + row;
    const bool first = block.output == 0, last = block.output + kOutputs >= args.outputs;
    if (!first && !stay) gather(grad_inputs, args.features, rows, block.features, sum);
    multiply(grads, {1, args.rows}, rows, old, kStep<Float>, block.outputs, !first, sum,
             kStep<Float>);
    if (last || !stay) scatter(sum, rows, block.features, args.features, grad_inputs);
  }

  // All that there is to do with a block, whose weights are `old`; the next block's go to `next`. A
  // few outputs at a time, so that the processor computes while it waits for memory.
  PYXAI_FAST_INLINE void step(const Block& block, const Float* old, Float* next) {
    const int64_t stride = args.features;
    const bool stay = args.rows <= kRowsAtOnce;  // inputs and sums, until the tile is done
    const Block second = after(block), third = after(second);
    const Float* all_grads = static_cast<const Float*>(args.grads) +
                             (tile.row * args.outputs + block.output) * args.rows;
    int64_t row = 0;
    do {  // once without any rows too, for gradients of nothing
      const int64_t rows = at_most(kRowsAtOnce, args.rows - row);
      Float* x = inputs + block.feature * rows;
      if (block.output == 0 || !stay) {
        const int64_t at = (tile.row * args.rows + row) * stride + tile.begin + block.feature;
        gather(static_cast<const Float*>(args.inputs) + at, stride, rows, block.features, x);
      }
      if (args.grad_inputs != nullptr) add_to_sums(block, old, row, rows, stay);
      for (int64_t j = 0; j < block.outputs; j += kRows) {
        const int64_t few = at_most(kRows, block.outputs - j);
        const int64_t at = j * stride, held = j * kStep<Float>;
        foresee(weight() + third.place + at, stride, at_most(few, third.outputs - j));
        foresee(velocity() + second.place + at, stride, at_most(few, second.outputs - j));
        multiply(all_grads + j * args.rows + row, {args.rows, 1}, few, x, kStep<Float>, rows,
                 row > 0, gradient + held, kStep<Float>);
        if (row + rows < args.rows) continue;
        for (int64_t i = j; i < j + few; ++i) {
          const int64_t place = block.place + i * stride;
          update(gradient + i * kStep<Float>, old + i * kStep<Float>, lr, momentum, block.features,
                 velocity() + place, static_cast<Float*>(args.weight) + place);
        }
        gather(weight() + second.place + at, stride, at_most(few, second.outputs - j),
               second.features, next + held);
      }
      row += rows;
    } while (row < args.rows);
  }

  PYXAI_FAST_INLINE void run() {
    Block block = block_of(0, 0);
    gather(weight() + block.place, args.features, block.outputs, block.features, weights[0]);
    // Without any outputs there are sums of nothing.
    for (int held = 0; block.output == 0 || block.output < args.outputs; held = 1 - held) {
      step(block, weights[held], weights[1 - held]);
      block = after(block);
    }
  }
};

template <typename Float>
void step_units(const LinearStep& args, int64_t begin, int64_t end) {
  LayerTile<Float> layer(args);
  for (int64_t unit = begin; unit < end; ++unit) {
    layer.tile = tile_of(unit, args.features, layer.width);
    layer.run();
  }
}

}  // namespace

namespace PYXAI_FAST_ISA_NAMESPACE {

void run_cpu(const LinearStep& args, int64_t begin, int64_t end) {
  args.dtype == DType::kFloat64 ? step_units<double>(args, begin, end)
                                : step_units<float>(args, begin, end);
}

}  // namespace PYXAI_FAST_ISA_NAMESPACE

#if defined(PYXAI_FAST_ISA_BASELINE)

// Products that are worth waking a thread for.
constexpr int64_t kProductsPerThread = int64_t{1} << 18;

Work work_of(const LinearStep& args) {
  const int64_t width = tile_width(args);
  const int64_t products = at_most(width, args.features) * args.outputs * (args.rows + 1);
  return {args.layers * ceil_div(args.features, width),
          products > 0 ? ceil_div(kProductsPerThread, products) : 1};
}

PYXAI_FAST_DEFINE_BY_ISA(LinearStep)

#endif

}  // namespace pyxai_fast
