// Winograd's transforms for AVX2.
#define EDGE_X86_NAMESPACE avx2
#include "kernels/conv/avx2/vec.h"
#include "kernels/winograd/winograd_impl.h"

namespace edge {
namespace avx2 {

struct SplittingVec8 : Vec8 {
  // The four elements at p and the four at q.
  static EDGE_INLINE Reg Halves(const float* p, const float* q) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(q), 1);
  }
  // In each half, x becomes the columns of the matrix with the rows x[0], ..., x[3].
  static EDGE_INLINE void Transpose(Reg* x) {
    const Reg a = _mm256_unpacklo_ps(x[0], x[1]), b = _mm256_unpackhi_ps(x[0], x[1]);
    const Reg c = _mm256_unpacklo_ps(x[2], x[3]), d = _mm256_unpackhi_ps(x[2], x[3]);
    x[0] = _mm256_shuffle_ps(a, c, 0x44);
    x[1] = _mm256_shuffle_ps(a, c, 0xee);
    x[2] = _mm256_shuffle_ps(b, d, 0x44);
    x[3] = _mm256_shuffle_ps(b, d, 0xee);
  }
  static EDGE_INLINE void StoreHalves(float* low, float* high, Reg x) {
    _mm_storeu_ps(low, _mm256_castps256_ps128(x));
    _mm_storeu_ps(high, _mm256_extractf128_ps(x, 1));
  }

  template <int M>
  static EDGE_INLINE void Split(const float* p, Reg* x) {
    if constexpr (M == 2) {
      const Reg a = Halves(p, p + 8), b = Halves(p + 4, p + 12);
      x[0] = _mm256_shuffle_ps(a, b, 0x88);
      x[1] = _mm256_shuffle_ps(a, b, 0xdd);
    } else {
      Unroll<4>([&](auto i) EDGE_INLINE_LAMBDA {
        x[i.value] = Halves(p + 4 * i.value, p + 16 + 4 * i.value);
      });
      Transpose(x);
    }
  }

  template <int M>
  static EDGE_INLINE void Join(float* p, const Reg* x) {
    if constexpr (M == 2) {
      StoreHalves(p, p + 8, _mm256_unpacklo_ps(x[0], x[1]));
      StoreHalves(p + 4, p + 12, _mm256_unpackhi_ps(x[0], x[1]));
    } else {
      Reg y[4] = {x[0], x[1], x[2], x[3]};
      Transpose(y);
      Unroll<4>([&](auto i) EDGE_INLINE_LAMBDA {
        StoreHalves(p + 4 * i.value, p + 16 + 4 * i.value, y[i.value]);
      });
    }
  }
};

}  // namespace avx2

const WinogradKernels kAvx2Winograd = WinogradTable<avx2::SplittingVec8>();

}  // namespace edge
