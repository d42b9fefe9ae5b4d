// What an ISA provides to dispatch.cc: one microkernel for every block size, called on one piece of
// work at a time.
//
// Files compiled with wider -m flags include this and conv.h only, use nothing of std::, and keep
// everything else in their own namespace: an inline function shared with them might be linked in
// its wider form and fault on an older CPU.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/conv/conv.h"

namespace edge {

// Units of the packed weights over a rectangle of pixels. A unit is as many filters of a block,
// which share one list of entries, as the kernel computes together.
struct ConvJob {
  const PackedView* packed;
  // Block b runs the entries [ranges[b * range_stride], ranges[b * range_stride + 1]).
  const uint32_t* ranges;
  int64_t range_stride;
  int64_t first_unit, units;
  int32_t
      lanes;  // filters a unit; those that are kNone are computed, their place is that of lane 0
  const float* in;  // the rectangle's first pixel, before an entry's offset
  int64_t in_h;
  float* out;  // the rectangle's first pixel in channel 0
  int64_t out_c, out_h;
  const float* residual;  // the same, or null
  int64_t res_c, res_h;
  int32_t rows, cols;
  // The last tile of a row may start earlier and compute pixels again (false where the residual is
  // the output itself).
  bool may_overlap;
  const Epilogue* epilogue;
  // Sums of the entries of earlier passes over this rectangle: pixel (y, x) of a lane of the i-th
  // unit at ((i * lanes + lane) * rows + y) * sums_h + x, with room for whole vectors. Null when
  // there is a single pass; then there is a bias to begin with and outputs to store at once.
  float* sums;
  int64_t sums_h;
  bool first_pass, last_pass;
  // Entries of a block at the same place in a vector follow each other, and whole vectors around
  // what they read may be read: kernels of one filter load only aligned vectors then.
  bool aligned;
};

// One block of filters over `rows` inputs.
struct LinearJob {
  const int32_t* offsets;
  int64_t n_entries;
  const float* weights;     // [n_entries * lanes]
  const float* bias;        // [lanes]
  const uint32_t* filters;  // [lanes]
  int32_t lanes;
  const float* in;
  int64_t in_n;
  float* out;
  int64_t out_n, out_c;
  const float* residual;  // or null
  int64_t res_n, res_c;
  int32_t rows;
  const Epilogue* epilogue;
};

struct ConvKernel {
  const char* name;  // in XNNPACK's style: f32-bsconv-FILTERSxPIXELS-ISA
  int32_t lanes;     // filters computed together: divides the block size it is listed for
  int32_t tile;      // pixels computed together
  int32_t vector;    // pixels a vector register
  void (*run)(const ConvJob& job);
};

struct LinearKernel {
  const char* name;
  void (*run)(const LinearJob& job);
};

constexpr int kBlockSizes = 5;  // 1, 2, 4, 8, 16

struct KernelTable {
  ConvKernel conv[kBlockSizes];  // indexed by log2 of the block size
  LinearKernel linear[kBlockSizes];
};

extern const KernelTable kFallbackKernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kNeonKernels;

// The table of a supported ISA, and of a block size in {1, 2, 4, 8, 16} its index there.
const KernelTable& KernelsOf(Isa isa);
int BlockIndex(uint32_t block);

// Conv and Linear (conv.h) with the kernels of a given table.
void ConvWith(const ConvArgs& args, ThreadPool* pool, const KernelTable& kernels);
void LinearWith(const LinearArgs& args, ThreadPool* pool, const KernelTable& kernels);

}  // namespace edge
