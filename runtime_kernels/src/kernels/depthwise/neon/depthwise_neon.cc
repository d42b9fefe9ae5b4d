// Depthwise convolutions for AArch64 NEON.
#define EDGE_ARM_NAMESPACE neon
#include "kernels/conv/neon/vec.h"
#include "kernels/depthwise/depthwise_impl.h"

namespace edge {
namespace neon {

struct UnzippingVec4 : Vec4 {
  static EDGE_INLINE void Unzip(const float* p, Reg* even, Reg* odd) {
    const float32x4x2_t both = vld2q_f32(p);
    *even = both.val[0], *odd = both.val[1];
  }
  static EDGE_INLINE Reg Ordered(Reg x) { return x; }
};

}  // namespace neon

const DepthwiseKernels kNeonDepthwise = DepthwiseTable<neon::UnzippingVec4>();

}  // namespace edge
