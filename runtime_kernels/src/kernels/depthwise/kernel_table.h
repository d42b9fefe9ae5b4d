// What an ISA provides to depthwise.cc: rows of a plane at a time.
//
// Files compiled with wider -m flags include this, depthwise_impl.h and conv/ only: see
// conv/kernel_table.h.
#pragma once
#include <cstdint>

#include "kernels/conv/conv.h"

namespace edge {

// A plane of outputs, each from a window of the input that begins where the one before does, and
// `stride` on. T: float, or float16 (half/kernel_table.h).
template <class T>
struct DepthwiseJobOf {
  const T* in;  // the first window's first pixel; vectors may be read beyond the last one's
  int64_t in_h;
  T* out;
  int64_t out_h;
  int64_t rows, cols;    // of the output
  const float* weights;  // the bias, then the kernel row by row
  const Epilogue* epilogue;
};
using DepthwiseJob = DepthwiseJobOf<float>;

// For kernels of 3x3 and 5x5, strides 1 and 2.
struct DepthwiseKernels {
  void (*run[2][2])(const DepthwiseJob& job);
};

extern const DepthwiseKernels kFallbackDepthwise;
extern const DepthwiseKernels kAvx2Depthwise;
extern const DepthwiseKernels kAvx512Depthwise;
extern const DepthwiseKernels kNeonDepthwise;

// The table of a supported ISA.
const DepthwiseKernels& DepthwiseKernelsOf(Isa isa);

}  // namespace edge
