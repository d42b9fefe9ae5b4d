// What an ISA provides to winograd.cc: the transforms of a plane at a time.
//
// Files compiled with wider -m flags include this, winograd_impl.h and conv/ only: see
// conv/kernel_table.h.
#pragma once
#include <cstdint>

#include "kernels/conv/conv.h"

namespace edge {

// V = B^T d B for the patches d of one channel. A tile of m x m outputs needs a patch of a x a
// inputs, a = m + 2; patches begin m rows and columns after each other. Vectors at the end of a row
// of tiles may be written into the next one before it is.
struct WinogradInJob {
  const float* in;  // h x w; everything around it is zeros
  int64_t in_h, h, w;
  int64_t top, left;  // the first patch begins at row -top, column -left
  int64_t tile_rows, tiles;
  float* out;  // coefficient k = ky * a + kx of a tile: out[k * out_k + row * out_h + tile]
  int64_t out_k, out_h;
};

// Y = A^T M A for the tiles of one filter, with residual and activation as in a convolution.
struct WinogradOutJob {
  const float* in;  // coefficient k of a tile: in[k * in_k + row * in_h + tile]
  int64_t in_k, in_h;
  int64_t tile_rows, tiles;
  float* out;  // h x w, at most m rows and columns for a tile
  int64_t out_h, h, w;
  const float* residual;  // or null; may be `out`
  int64_t res_h;
  const Epilogue* epilogue;
};

// For m = 2 and m = 4.
struct WinogradKernels {
  void (*in[2])(const WinogradInJob& job);
  void (*out[2])(const WinogradOutJob& job);
};

extern const WinogradKernels kFallbackWinograd;
extern const WinogradKernels kAvx2Winograd;
extern const WinogradKernels kAvx512Winograd;
extern const WinogradKernels kNeonWinograd;

// The table of a supported ISA.
const WinogradKernels& WinogradKernelsOf(Isa isa);

}  // namespace edge
