// Every op but the convolutions, as functions of views. Shapes and parameters have been validated
// when they are called.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "edge/plan_format.h"
#include "edge/thread_pool.h"
#include "kernels/rows/rows.h"
#include "kernels/view.h"

namespace edge {

struct OpCall {
  const OpRec& op;
  const ConstView* in;  // [op.n_inputs]
  View out;
  const RowOps& rows;
  ThreadPool* pool;
  float fill = 0;  // what lies outside of the input: the bits of the output's `fill`
};

void RunCopy(const OpCall& call);
void RunUnary(const OpCall& call);
void RunAdd(const OpCall& call);
void RunMul(const OpCall& call);
void RunConcat(const OpCall& call);
void RunMaxPool(const OpCall& call);
void RunAvgPool(const OpCall& call);
void RunAdaptiveAvgPool(const OpCall& call);
void RunUpsampleNearest(const OpCall& call);
void RunUpsampleBilinear(const OpCall& call);
void RunPixelShuffle(const OpCall& call);
void RunSoftmax(const OpCall& call);

// The row or column that kUpsampleNearest takes for `dst`. Compared as floats: a huge product has
// no integer.
inline int64_t NearestSource(int64_t dst, float ratio, int32_t size) {
  const float src = std::floor(static_cast<float>(dst) * ratio);
  return src < static_cast<float>(size - 1) ? static_cast<int64_t>(src) : size - 1;
}

// out = in, element by element; the dims are equal.
void CopyElements(const ConstView& in, const View& out, ThreadPool* pool);

}  // namespace edge
