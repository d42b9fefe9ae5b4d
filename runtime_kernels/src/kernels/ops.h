// Every op but the convolutions, as functions of views. Shapes and parameters have been validated
// when they are called.
#pragma once
#include <cstddef>
#include <cstdint>

#include "edge/plan_format.h"
#include "edge/thread_pool.h"
#include "kernels/conv/conv.h"
#include "kernels/rows/rows.h"
#include "kernels/view.h"

namespace edge {

struct OpCall {
  const OpRec& op;
  const ConstView* in;  // [op.n_inputs], then the residual if there is one
  View out;
  const RowOps& rows;
  ThreadPool* pool;
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
void RunWinogradIn(const OpCall& call);
void RunWinogradOut(const OpCall& call);

inline Epilogue EpilogueOf(const OpRec& op) {
  return {static_cast<ActKind>(op.act), op.act_param[0], op.act_param[1],
          op.residual_after_act != 0};
}

// out = in, element by element; the dims are equal.
void CopyElements(const ConstView& in, const View& out, ThreadPool* pool);

}  // namespace edge
