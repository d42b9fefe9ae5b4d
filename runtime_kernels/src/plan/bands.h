// Bands of rows: what an op of a chain reads for some rows of its output, and where those rows are
// in the memory of a tensor with a window.
#pragma once
#include <cstdint>

#include "edge/plan.h"

namespace edge {

struct RowRange {
  int64_t begin, end;
};

// The rows of a band of a chain: `begin`, `end` and `base` of plan_format.h.
struct Band {
  int64_t end, base;
};
int64_t BeginOf(const Plan& plan, const ChainRec& chain, uint32_t op);
Band BandOf(const Plan& plan, const ChainRec& chain, uint32_t band, uint32_t op);

// The rows of an input with `in_h` rows that an op (not kConv) reads for these rows of its output
// with `out_h`; empty when all of them are padding.
RowRange InputRows(const OpRec& op, int64_t in_h, int64_t out_h, RowRange rows);

// `op` for rows from `rows.begin` on as an op of its own, whose first input begins at row `first`.
OpRec OpFrom(const OpRec& op, RowRange rows, int64_t first);

// The tensor as its memory: the rows of a window, with no halo above and below, in place of the
// tensor's own.
TensorRec Stored(const TensorRec& t);

}  // namespace edge
