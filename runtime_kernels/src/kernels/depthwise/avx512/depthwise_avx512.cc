// Depthwise convolutions for AVX-512.
#include "kernels/conv/avx512/vec.h"
#include "kernels/depthwise/depthwise_impl.h"

namespace edge {
namespace avx512 {

struct UnzippingVec16 : Vec16 {
  static EDGE_INLINE void Unzip(const float* p, Reg* even, Reg* odd) {
    const Reg a = Load(p), b = Load(p + kLanes);
    const __m512i from =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, from, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(from, _mm512_set1_epi32(1)), b);
  }
  static EDGE_INLINE Reg Ordered(Reg x) { return x; }
};

}  // namespace avx512

const DepthwiseKernels kAvx512Depthwise = DepthwiseTable<avx512::UnzippingVec16>();

}  // namespace edge
