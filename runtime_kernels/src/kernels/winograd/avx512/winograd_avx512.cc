// Winograd's transforms for AVX-512.
#include "kernels/conv/avx512/vec.h"
#include "kernels/winograd/winograd_impl.h"

namespace edge {
namespace avx512 {

struct SplittingVec16 : Vec16 {
  // Elements first, first + step, ... of a and then b in the lower half, and from first + 1 in the
  // upper one.
  static EDGE_INLINE Reg Pick(Reg a, Reg b, int first) {
    const __m512i from =
        _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    return _mm512_permutex2var_ps(a, _mm512_add_epi32(from, _mm512_set1_epi32(first)), b);
  }
  // a[0], b[0], a[1], b[1], ... from element `first` on.
  static EDGE_INLINE Reg Zip(Reg a, Reg b, int first) {
    const __m512i from = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a, _mm512_add_epi32(from, _mm512_set1_epi32(first)), b);
  }
  // The same with pairs of elements.
  static EDGE_INLINE Reg ZipPairs(Reg a, Reg b, int first) {
    const __m512i from = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    return _mm512_castpd_ps(_mm512_permutex2var_pd(_mm512_castps_pd(a),
                                                   _mm512_add_epi64(from, _mm512_set1_epi64(first)),
                                                   _mm512_castps_pd(b)));
  }

  template <int M>
  static EDGE_INLINE void Split(const float* p, Reg* x) {
    if constexpr (M == 2) {
      const Reg a = Load(p), b = Load(p + 16);
      const __m512i even =
          _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      x[0] = _mm512_permutex2var_ps(a, even, b);
      x[1] = _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
    } else {
      const Reg a = Load(p), b = Load(p + 16), c = Load(p + 32), d = Load(p + 48);
      Unroll<2>([&](auto i) EDGE_INLINE_LAMBDA {
        const Reg low = Pick(a, b, 2 * i.value), high = Pick(c, d, 2 * i.value);
        x[2 * i.value] = _mm512_maskz_shuffle_f32x4(kAll, low, high, 0x44);
        x[2 * i.value + 1] = _mm512_maskz_shuffle_f32x4(kAll, low, high, 0xee);
      });
    }
  }

  template <int M>
  static EDGE_INLINE void Join(float* p, const Reg* x) {
    if constexpr (M == 2) {
      Store(p, Zip(x[0], x[1], 0));
      Store(p + 16, Zip(x[0], x[1], 8));
    } else {
      Unroll<2>([&](auto i) EDGE_INLINE_LAMBDA {
        const Reg a = Zip(x[0], x[1], 8 * i.value), b = Zip(x[2], x[3], 8 * i.value);
        Store(p + 32 * i.value, ZipPairs(a, b, 0));
        Store(p + 32 * i.value + 16, ZipPairs(a, b, 4));
      });
    }
  }
};

}  // namespace avx512

const WinogradKernels kAvx512Winograd = WinogradTable<avx512::SplittingVec16>();

}  // namespace edge
