// Which memory an op touches, and whether two such ranges meet.
#pragma once
#include <cstdint>

#include "edge/plan_format.h"

namespace edge {

// n images of `length` bytes, `step` apart, the first at `begin` (bytes from the start of the
// storage).
struct Range {
  uint32_t storage;
  uint32_t io_index;
  int64_t begin;
  int64_t length;
  int64_t n;
  int64_t step;
};

// The elements of a tensor, without its halo.
Range ElementsOf(const TensorRec& t);

// False when the two may share an element. Exact for whole tensors and for channel slices of one
// batch.
bool Disjoint(const Range& a, const Range& b);

// The same view of the same bytes.
bool SameView(const TensorRec& a, const TensorRec& b);

}  // namespace edge
