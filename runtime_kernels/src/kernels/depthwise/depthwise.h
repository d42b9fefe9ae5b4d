// Dense depthwise convolutions, every channel with a filter of its own.
#pragma once
#include <cstdint>

#include "kernels/conv/conv.h"
#include "kernels/view.h"

namespace edge {

// Floats of weights a channel has: the bias, then a kernel of k x k.
constexpr int64_t DepthwiseWeights(int64_t k) { return 1 + k * k; }

struct DepthwiseArgs {
  int32_t k, stride;     // p of the op
  const float* weights;  // [c][DepthwiseWeights(k)]
  Epilogue epilogue;
  ConstView in;  // from the first window's first pixel on: its padding is in memory, as zeros
  View out;
};

void Depthwise(const DepthwiseArgs& args, ThreadPool* pool, Isa isa);

}  // namespace edge
