// Ranges of memory and whether they meet.
#include "plan/overlap.h"

#include <algorithm>

#include "plan/validate.h"

namespace edge {

Range ElementsOf(const TensorRec& t) {
  const int64_t size = ElementSize(t);
  return {t.storage, t.io_index,        static_cast<int64_t>(t.offset), size * ImageSpan(Stored(t)),
          t.dims[0], size * t.stride[0]};
}

bool Disjoint(const Range& a, const Range& b) {
  if (a.storage != b.storage) return true;
  if (a.storage != static_cast<uint32_t>(Storage::kArena) && a.io_index != b.io_index) return true;
  const int64_t a_end = a.begin + (a.n - 1) * a.step + a.length,
                b_end = b.begin + (b.n - 1) * b.step + b.length;
  if (a_end <= b.begin || b_end <= a.begin) return true;
  // Slices of the images of one batch: compare them within one step.
  if (a.n < 2 || b.n < 2 || a.step != b.step || a.step <= 0) return false;
  const int64_t shift = ((b.begin - a.begin) % a.step + a.step) % a.step;
  return a.length <= shift && shift + b.length <= a.step;
}

bool SameView(const TensorRec& a, const TensorRec& b) {
  if (a.storage != b.storage || a.offset != b.offset || a.type != b.type || a.window != b.window ||
      !SameDims(a, b))
    return false;
  if (a.storage != static_cast<uint32_t>(Storage::kArena) && a.io_index != b.io_index) return false;
  return std::equal(a.stride, a.stride + 3, b.stride);
}

}  // namespace edge
