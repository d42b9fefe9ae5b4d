// kDepthwise: hands the planes of an output to the threads.
#include "kernels/depthwise/depthwise.h"

#include "kernels/depthwise/kernel_table.h"
#include "kernels/depthwise/planes.h"

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
  RunPlanes(a, pool, DepthwiseKernelsOf(isa).run[a.k / 5][a.stride - 1]);
}

}  // namespace edge
