// Keeps the band of zeros around every channel plane.
#pragma once
#include "edge/plan_format.h"
#include "edge/thread_pool.h"
#include "kernels/view.h"

namespace edge {

// Zeroes the halo of `t`, whose element (0, 0, 0, 0) is at view.data. Touches no element of the
// tensor.
void ZeroHalo(const TensorRec& t, const View& view, ThreadPool* pool);

}  // namespace edge
