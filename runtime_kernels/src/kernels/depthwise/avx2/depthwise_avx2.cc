// Depthwise convolutions for AVX2.
#define EDGE_X86_NAMESPACE avx2
#include "kernels/conv/avx2/vec.h"
#include "kernels/depthwise/depthwise_impl.h"

namespace edge {
namespace avx2 {

struct UnzippingVec8 : Vec8 {
  static EDGE_INLINE void Unzip(const float* p, Reg* even, Reg* odd) {
    const Reg a = Load(p), b = Load(p + kLanes);
    *even = _mm256_shuffle_ps(a, b, 0x88);
    *odd = _mm256_shuffle_ps(a, b, 0xdd);
  }
  static EDGE_INLINE Reg Ordered(Reg x) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8));
  }
};

}  // namespace avx2

const DepthwiseKernels kAvx2Depthwise = DepthwiseTable<avx2::UnzippingVec8>();

}  // namespace edge
