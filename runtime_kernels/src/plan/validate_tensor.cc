// What makes a tensor record sound.
#include <algorithm>

#include "plan/limits.h"
#include "plan/validate.h"

namespace edge {
namespace {

bool IsDense(const TensorRec& t) {
  int64_t expected = t.dims[3];
  for (int d = 2; d >= 0; --d) {
    if (t.dims[d] > 1 && t.stride[d] != expected) return false;
    expected *= t.dims[d];
  }
  return true;
}

// Inputs and outputs are dense, and every record of one has as many elements as the plan's own.
Status CheckEnd(const Plan& plan, const TensorRec& t) {
  const bool is_input = t.storage == static_cast<uint32_t>(Storage::kInput);
  if (t.io_index >= (is_input ? plan.header().n_inputs : plan.header().n_outputs))
    return Status::kBadOffset;
  const TensorRec& own = is_input ? plan.input(t.io_index) : plan.output(t.io_index);
  return t.offset == 0 && IsDense(t) && Elements(t) == Elements(own) ? Status::kOk
                                                                     : Status::kBadValue;
}

// Every element, halo included, lies in [0, bytes).
Status CheckPlace(const TensorRec& t, uint64_t bytes) {
  const auto size = static_cast<uint64_t>(ElementSize(t));
  if (t.offset % size != 0 || t.offset > bytes) return Status::kBadOffset;
  const int64_t first = static_cast<int64_t>(t.offset / size);
  const int64_t begin = first - t.halo[0] * t.stride[2] - t.halo[2];
  const int64_t last = first + (t.dims[0] - 1) * t.stride[0] + (t.dims[1] - 1) * t.stride[1] +
                       (t.dims[2] - 1 + t.halo[1]) * t.stride[2] + t.dims[3] - 1 + t.halo[3];
  return begin >= 0 && last < static_cast<int64_t>(bytes / size) ? Status::kOk : Status::kBadOffset;
}

}  // namespace

Status ValidateTensor(const Plan& plan, const TensorRec& t) {
  double elements = 1;
  for (int32_t dim : t.dims) {
    if (dim < 1 || dim > kMaxDim) return Status::kBadValue;
    elements *= dim;
  }
  if (elements > static_cast<double>(kMaxElements)) return Status::kBadValue;
  for (int64_t stride : t.stride) {
    if (stride < 0 || stride > kMaxElements) return Status::kBadValue;
  }
  const bool in_arena = t.storage == static_cast<uint32_t>(Storage::kArena);
  if (t.type > static_cast<uint32_t>(ElementType::kFloat16)) return Status::kBadValue;
  if ((IsInt8(t) || IsHalf(t)) && !in_arena) return Status::kBadValue;
  if (!IsInt8(t) && t.fill != 0) return Status::kBadValue;
  for (int32_t halo : t.halo) {
    if (halo < 0 || halo > kMaxHalo || (halo != 0 && !in_arena)) return Status::kBadValue;
  }
  const bool windowed = t.window != 0;
  if (windowed && (!in_arena || t.window < 1 || t.window > t.dims[2] + t.halo[0] + t.halo[1]))
    return Status::kBadValue;
  switch (static_cast<Storage>(t.storage)) {
    case Storage::kArena:
      return CheckPlace(Stored(t), plan.header().arena_size);
    case Storage::kInput:
    case Storage::kOutput:
      return CheckEnd(plan, t);
    case Storage::kConst:
      return CheckPlace(t, plan.header().data_size);
  }
  return Status::kBadValue;
}

Status ValidateWritten(const TensorRec& t) {
  const int64_t w = t.dims[3], row = t.stride[2], h = t.dims[2];
  const int64_t top = t.halo[0], bottom = t.halo[1], left = t.halo[2], right = t.halo[3];
  if ((h > 1 || top > 0 || bottom > 0) && row < w + std::max(left, right)) return Status::kBadValue;
  // A plane with the halo below it, and one with the halo above it: the next plane's elements start
  // after both.
  const int64_t plane =
      std::max((h - 1 + bottom) * row + w + right, (h - 1 + top) * row + w + left);
  if (t.dims[1] > 1 && t.stride[1] < plane) return Status::kBadValue;
  if (t.dims[0] > 1 && t.stride[0] < (t.dims[1] - 1) * t.stride[1] + plane)
    return Status::kBadValue;
  return Status::kOk;
}

}  // namespace edge
