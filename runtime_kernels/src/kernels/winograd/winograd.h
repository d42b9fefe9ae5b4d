// 3x3 convolutions by Winograd's minimal filtering (Winograd, 1980; Lavin and Gray, 2015): blocks
// of tiles are transformed, multiplied as a convolution over their coefficients, and transformed
// back.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/conv/conv.h"
#include "kernels/view.h"

namespace edge {

// Floats that a block of `tiles` tiles takes on its way: coefficients of c channels and f filters.
constexpr int64_t WinogradSpace(int64_t m, int64_t c, int64_t f, int64_t tiles) {
  constexpr int64_t kTail = 64;  // vectors may be read beyond the last plane
  return (m + 2) * (m + 2) * (c + f) * tiles + kTail;
}

struct WinogradArgs {
  PackedView packed;
  Epilogue epilogue;
  int32_t m, top, left;  // p of the op
  int32_t tiles;         // a block at most, and the distance of planes of coefficients
  ConstView in;
  View out;
  const ConstView* residual;  // or null
};

// How the tiles of an output are cut into blocks of rows x cols; those at the ends are smaller.
struct WinogradBlocks {
  int64_t tile_rows, tile_cols;  // of the output
  int64_t rows, cols;            // of a block
  int64_t down, across;          // blocks
};
WinogradBlocks CutWinograd(const WinogradArgs& args);

// The convolution over the coefficients of a block of so many tiles, in and out from `space`.
ConvArgs WinogradProduct(const WinogradArgs& args, int64_t tiles, float* space);

// What a block needs while it is computed.
class WinogradSpaces {
 public:
  // `count` of `floats` each; false where there is no memory.
  bool Allocate(size_t count, size_t floats);
  float* Take();
  void Return(float* space);

 private:
  std::unique_ptr<float[]> memory_;
  std::vector<float*> free_;
  std::mutex mutex_;
};

// Schedules of the products of inner blocks and of those at the ends: [in the last row][last
// column].
using WinogradSchedules = std::array<std::array<const ConvSchedule*, 2>, 2>;
int64_t TilesOfBlock(const WinogradBlocks& blocks, bool last_row, bool last_column);

// Many blocks go to the pool's threads whole; of a single one, its channels do.
void Winograd(const WinogradArgs& args, const WinogradSchedules& schedules, WinogradSpaces* spaces,
              ThreadPool* pool, Isa isa);

}  // namespace edge
