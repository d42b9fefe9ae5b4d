// kWinograd: cuts an output into blocks of tiles and runs them.
#include "kernels/winograd/winograd.h"

#include <algorithm>
#include <new>

#include "kernels/conv/schedule.h"
#include "kernels/div_up.h"
#include "kernels/nest.h"
#include "kernels/winograd/kernel_table.h"

namespace edge {
namespace {

// One block: rows x cols tiles from tile (row, col) of image n on.
struct Block {
  int64_t n, row, col, rows, cols;
};

class WinogradRun {
 public:
  WinogradRun(const WinogradArgs& args, ThreadPool* pool, Isa isa)
      : a_(args), blocks_(CutWinograd(args)), pool_(pool), isa_(isa) {}

  size_t blocks() const { return static_cast<size_t>(a_.out.n * blocks_.down * blocks_.across); }

  void Run(size_t index, const WinogradSchedules& schedules, float* space) const {
    const WinogradBlocks& b = blocks_;
    const int64_t i = static_cast<int64_t>(index), row = i / b.across % b.down * b.rows,
                  col = i % b.across * b.cols;
    const Block block = {i / b.across / b.down, row, col, std::min(b.rows, b.tile_rows - row),
                         std::min(b.cols, b.tile_cols - col)};
    const int64_t tiles = block.rows * block.cols, size = (a_.m + 2) * (a_.m + 2);
    float* products = space + size * a_.in.c * a_.tiles;
    Each(a_.in.c, tiles, [&](int64_t c) { In(block, c, space + c * a_.tiles); });
    const ConvSchedule& schedule =
        *schedules[row + b.rows >= b.tile_rows][col + b.cols >= b.tile_cols];
    Conv(WinogradProduct(a_, tiles, space), schedule, pool_, isa_);
    Each(a_.out.c, tiles, [&](int64_t f) { Out(block, f, products + f * a_.tiles); });
  }

 private:
  // Calls body(i) for channels or filters i < n, on the pool's threads unless blocks are.
  template <class F>
  void Each(int64_t n, int64_t tiles, const F& body) const {
    const size_t floats = static_cast<size_t>((a_.m + 2) * (a_.m + 2) * tiles);
    pool_->ParallelFor(static_cast<size_t>(n), std::max<size_t>(1, kGrainFloats / floats),
                       [&body](size_t begin, size_t end) {
                         for (size_t i = begin; i < end; ++i) body(static_cast<int64_t>(i));
                       });
  }

  void In(const Block& block, int64_t c, float* coefficients) const {
    WinogradInJob job = {};
    job.in = a_.in.Plane(block.n, c);
    job.in_h = a_.in.sh, job.h = a_.in.h, job.w = a_.in.w;
    job.top = a_.top - block.row * a_.m, job.left = a_.left - block.col * a_.m;
    job.tile_rows = block.rows, job.tiles = block.cols;
    job.out = coefficients;
    job.out_k = a_.in.c * int64_t{a_.tiles}, job.out_h = block.cols;
    WinogradKernelsOf(isa_).in[a_.m / 4](job);
  }

  void Out(const Block& block, int64_t f, const float* coefficients) const {
    const int64_t y = block.row * a_.m, x = block.col * a_.m;
    WinogradOutJob job = {};
    job.in = coefficients;
    job.in_k = a_.out.c * int64_t{a_.tiles}, job.in_h = block.cols;
    job.tile_rows = block.rows, job.tiles = block.cols;
    job.out = a_.out.Row(block.n, f, y) + x;
    job.out_h = a_.out.sh;
    job.h = std::min(a_.out.h - y, block.rows * a_.m);
    job.w = std::min(a_.out.w - x, block.cols * a_.m);
    if (a_.residual != nullptr) {
      job.residual = a_.residual->Row(block.n, f, y) + x;
      job.res_h = a_.residual->sh;
    }
    job.epilogue = &a_.epilogue;
    WinogradKernelsOf(isa_).out[a_.m / 4](job);
  }

  const WinogradArgs& a_;
  const WinogradBlocks blocks_;
  ThreadPool* const pool_;
  const Isa isa_;
};

}  // namespace

const WinogradKernels& WinogradKernelsOf(Isa isa) {
  switch (FloatIsa(isa)) {
#ifdef EDGE_HAVE_AVX2
    case Isa::kAvx2:
      return kAvx2Winograd;
#endif
#ifdef EDGE_HAVE_AVX512
    case Isa::kAvx512:
      return kAvx512Winograd;
#endif
#ifdef EDGE_HAVE_NEON
    case Isa::kNeon:
      return kNeonWinograd;
#endif
    default:
      return kFallbackWinograd;
  }
}

WinogradBlocks CutWinograd(const WinogradArgs& a) {
  WinogradBlocks b;
  b.tile_rows = DivUp(a.out.h, a.m), b.tile_cols = DivUp(a.out.w, a.m);
  b.across = DivUp(b.tile_cols, a.tiles);
  b.cols = DivUp(b.tile_cols, b.across);
  b.rows = std::min(b.tile_rows, a.tiles / b.cols);
  b.down = DivUp(b.tile_rows, b.rows);
  return b;
}

ConvArgs WinogradProduct(const WinogradArgs& a, int64_t tiles, float* space) {
  ConvArgs product = {};
  product.packed = a.packed;
  product.in = space;
  product.in_h = a.tiles;
  product.out = space + (a.m + 2) * (a.m + 2) * int64_t{a.in.c} * a.tiles;
  product.out_c = product.out_h = a.tiles;
  product.n = product.h = 1;
  product.w = static_cast<int32_t>(tiles);
  return product;
}

int64_t TilesOfBlock(const WinogradBlocks& b, bool last_row, bool last_column) {
  const int64_t rows = last_row ? b.tile_rows - (b.down - 1) * b.rows : b.rows;
  return rows * (last_column ? b.tile_cols - (b.across - 1) * b.cols : b.cols);
}

bool WinogradSpaces::Allocate(size_t count, size_t floats) {
  if (floats == 0) return true;
  // Whole cache lines, so that a vector of coefficients is in one.
  constexpr size_t kLine = 64 / sizeof(float);
  const size_t size = (floats + kLine - 1) / kLine * kLine;
  memory_.reset(new (std::nothrow) float[count * size + kLine - 1]());
  if (memory_ == nullptr) return false;
  const size_t past = reinterpret_cast<uintptr_t>(memory_.get()) / sizeof(float) % kLine;
  float* const first = memory_.get() + (kLine - past) % kLine;
  for (size_t i = 0; i < count; ++i) free_.push_back(first + i * size);
  return true;
}

float* WinogradSpaces::Take() {
  const std::lock_guard<std::mutex> lock(mutex_);
  float* space = free_.back();
  free_.pop_back();
  return space;
}

void WinogradSpaces::Return(float* space) {
  const std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(space);
}

void Winograd(const WinogradArgs& args, const WinogradSchedules& schedules, WinogradSpaces* spaces,
              ThreadPool* pool, Isa isa) {
  const WinogradRun run(args, pool, isa);
  pool->ParallelFor(run.blocks(), 1, [&](size_t begin, size_t end) {
    float* space = spaces->Take();
    for (size_t i = begin; i < end; ++i) run.Run(i, schedules, space);
    spaces->Return(space);
  });
}

}  // namespace edge
