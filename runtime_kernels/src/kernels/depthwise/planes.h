// Hands the planes of a depthwise convolution's output to the threads, whatever its elements are.
#pragma once
#include <cstddef>
#include <cstdint>

#include "edge/thread_pool.h"
#include "kernels/depthwise/depthwise.h"
#include "kernels/nest.h"

namespace edge {

// run(job) for runs of rows of the planes of `a`, a DepthwiseArgs or its like of other elements.
template <class Job, class Args>
void RunPlanes(const Args& a, ThreadPool* pool, void (*run)(const Job& job)) {
  const auto cost = static_cast<size_t>(a.out.w * a.k);
  ForEachRun(a.out, cost, pool, [&](int64_t n, int64_t c, int64_t begin, int64_t end) {
    Job job = {};
    job.in = a.in.Row(n, c, begin * a.stride), job.in_h = a.in.sh;
    job.out = a.out.Row(n, c, begin), job.out_h = a.out.sh;
    job.rows = end - begin, job.cols = a.out.w;
    job.weights = a.weights + c * DepthwiseWeights(a.k);
    job.epilogue = &a.epilogue;
    run(job);
  });
}

}  // namespace edge
