#include "plan/bands.h"

#include <algorithm>

#include "kernels/div_up.h"

namespace edge {
namespace {

// Input rows of a window `span` rows high that moves `stride` a row of the output.
RowRange Windows(RowRange rows, int64_t stride, int64_t pad, int64_t span) {
  return {rows.begin * stride - pad, (rows.end - 1) * stride - pad + span};
}

}  // namespace

int64_t BeginOf(const Plan& plan, const ChainRec& chain, uint32_t op) {
  return plan.index(chain.bands + op);
}

Band BandOf(const Plan& plan, const ChainRec& chain, uint32_t band, uint32_t op) {
  const uint32_t at = chain.bands + chain.n_ops + 2 * (band * chain.n_ops + op);
  return {plan.index(at), static_cast<int32_t>(plan.index(at + 1))};
}

RowRange InputRows(const OpRec& op, int64_t in_h, int64_t out_h, RowRange rows) {
  const int32_t* p = op.p;
  RowRange read = rows;
  switch (static_cast<OpKind>(op.op)) {
    case OpKind::kCopy:
      read = Windows(rows, p[0], p[1], p[0]);
      break;
    case OpKind::kMaxPool:
      read = Windows(rows, p[2], p[4], (int64_t{p[0]} - 1) * p[6] + 1);
      break;
    case OpKind::kDepthwise:
    case OpKind::kDepthwiseInt8:
      read = Windows(rows, p[1], p[2], p[0]);
      break;
    case OpKind::kPixelShuffle:
      read = {rows.begin / p[0], DivUp(rows.end, p[0])};
      break;
    default:  // row by row, or one row for all
      if (in_h != out_h) read = {0, in_h};
  }
  read.begin = std::clamp<int64_t>(read.begin, 0, in_h);
  read.end = std::clamp<int64_t>(read.end, read.begin, in_h);
  return read;
}

OpRec OpFrom(const OpRec& op, RowRange rows, int64_t first) {
  OpRec part = op;
  const auto moved = [&](int64_t stride, int32_t pad) {
    return static_cast<int32_t>(pad - rows.begin * stride + first);
  };
  if (static_cast<OpKind>(op.op) == OpKind::kCopy) part.p[1] = moved(op.p[0], op.p[1]);
  if (static_cast<OpKind>(op.op) == OpKind::kMaxPool) part.p[4] = moved(op.p[2], op.p[4]);
  return part;
}

TensorRec Stored(const TensorRec& t) {
  TensorRec stored = t;
  if (t.window != 0) {
    stored.dims[2] = t.window;
    stored.halo[0] = stored.halo[1] = 0;
  }
  return stored;
}

}  // namespace edge
