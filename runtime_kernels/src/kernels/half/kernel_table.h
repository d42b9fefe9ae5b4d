// What an ISA provides for float16 tensors: see conv/kernel_table.h, whose rule for what may be
// included holds here too.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/conv/kernel_table.h"
#include "kernels/depthwise/kernel_table.h"
#include "kernels/half/half.h"

namespace edge {

// Like ConvJob, with all entries in one pass.
struct HalfConvJob {
  const PackedView* packed;
  const Half* weights;
  int64_t first_unit, units;
  const Half* in;  // the rectangle's first pixel, before an entry's offset
  int64_t in_h;
  Half* out;  // the rectangle's first pixel in channel 0
  int64_t out_c, out_h;
  const Half* residual;  // the same, or null
  int64_t res_c, res_h;
  int32_t rows, cols;
  bool may_overlap;
  const Epilogue* epilogue;
};

// The sums, bias included, of one block of filters for one input: sums[lanes].
struct HalfLinearJob {
  const int32_t* offsets;
  int64_t n_entries;
  const Half* weights;  // [n_entries * lanes]
  const float* bias;    // [lanes]
  const Half* in;
  float* sums;
};

using HalfDepthwiseJob = DepthwiseJobOf<Half>;

struct HalfConvKernel {  // see ConvKernel
  const char* name;      // f16-bsconv-FILTERSxPIXELS-ISA
  int32_t lanes, tile, vector;
  void (*run)(const HalfConvJob& job);
};

struct HalfKernels {
  HalfConvKernel conv[kBlockSizes];  // by log2 of the block size
  void (*linear[kBlockSizes])(const HalfLinearJob& job);
  void (*depthwise[2][2])(const HalfDepthwiseJob& job);      // as in DepthwiseKernels
  void (*activate)(float* x, int count, const Epilogue& e);  // in place, multiples of 16 floats
  void (*widen)(float* y, const Half* x, size_t n);
  void (*narrow)(Half* y, const float* x, size_t n);
};

extern const HalfKernels kFallbackHalf;
extern const HalfKernels kAvx2Half;
extern const HalfKernels kNeonHalf;
extern const HalfKernels kFp16Half;

// The table of a supported ISA.
const HalfKernels& HalfKernelsOf(Isa isa);

// Convolutions and linear layers (half.h) with the kernels of a given table.
void ConvHalfWith(const HalfConvArgs& args, ThreadPool* pool, const HalfKernels& kernels);
void LinearHalfWith(const HalfLinearArgs& args, ThreadPool* pool, const HalfKernels& kernels);

}  // namespace edge
