// kDepthwise: hands the planes of an output to the threads.
#include "kernels/depthwise/depthwise.h"

#include "kernels/depthwise/kernel_table.h"
#include "kernels/nest.h"

namespace edge {

const DepthwiseKernels& DepthwiseKernelsOf(Isa isa) {
  switch (FloatIsa(isa)) {
#ifdef EDGE_HAVE_AVX2
    case Isa::kAvx2:
      return kAvx2Depthwise;
#endif
#ifdef EDGE_HAVE_AVX512
    case Isa::kAvx512:
      return kAvx512Depthwise;
#endif
#ifdef EDGE_HAVE_NEON
    case Isa::kNeon:
      return kNeonDepthwise;
#endif
    default:
      return kFallbackDepthwise;
  }
}

void Depthwise(const DepthwiseArgs& a, ThreadPool* pool, Isa isa) {
  const auto run = DepthwiseKernelsOf(isa).run[a.k / 5][a.stride - 1];
  const auto cost = static_cast<size_t>(a.out.w * a.k);
  ForEachRun(a.out, cost, pool, [&](int64_t n, int64_t c, int64_t begin, int64_t end) {
    DepthwiseJob job = {};
    job.in = a.in.Row(n, c, begin * a.stride), job.in_h = a.in.sh;
    job.out = a.out.Row(n, c, begin), job.out_h = a.out.sh;
    job.rows = end - begin, job.cols = a.out.w;
    job.weights = a.weights + c * DepthwiseWeights(a.k);
    job.epilogue = &a.epilogue;
    run(job);
  });
}

}  // namespace edge
