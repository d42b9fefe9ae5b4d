// Keeps the halo around every channel plane.
#pragma once
#include "edge/plan_format.h"
#include "edge/thread_pool.h"
#include "kernels/view.h"

namespace edge {

// An element of the halo of `t`, as a float of the same bits.
float FillOf(const TensorRec& t);

// Fills the halo of `t` beside its rows [y, y + view.h), which are `view`; above them too where
// they are the first ones, and below where they are the last. Touches no element of the tensor.
// T: float, or Half with zeros as fill.
template <class T>
void FillHalo(const TensorRec& t, const BasicView<T>& view, int64_t y, ThreadPool* pool);

}  // namespace edge
