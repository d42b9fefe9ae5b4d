// Vectors of 16 floats for AVX-512 (F, VL, DQ, BW).
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "kernels/conv/simd.h"

namespace edge::avx512 {

struct Vec16 {
  using Reg = __m512;
  static constexpr int kLanes = 16, kEntries = 2;
  static constexpr bool kMerges = true;
  // GCC 12 warns about the undefined operand of the unmasked forms of some intrinsics (its bug
  // 105593); with a full mask they compile to the same instructions.
  static constexpr __mmask16 kAll = 0xffff;

  static EDGE_INLINE Reg Load(const float* p) { return _mm512_loadu_ps(p); }
  static EDGE_INLINE Reg LoadAligned(const float* p) { return _mm512_load_ps(p); }
  static EDGE_INLINE void Store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  static EDGE_INLINE void Keep(Reg& x) { asm("" : "+v"(x)); }
  static EDGE_INLINE __mmask16 First(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static EDGE_INLINE Reg LoadPart(const float* p, int n) {
    return _mm512_maskz_loadu_ps(First(n), p);
  }
  static EDGE_INLINE void StorePart(float* p, Reg x, int n) {
    _mm512_mask_storeu_ps(p, First(n), x);
  }
  static EDGE_INLINE Reg Set(float x) { return _mm512_set1_ps(x); }
  static EDGE_INLINE Reg Add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static EDGE_INLINE Reg Sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static EDGE_INLINE Reg Mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static EDGE_INLINE Reg Div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static EDGE_INLINE Reg Fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static EDGE_INLINE Reg Max(Reg a, Reg b) { return _mm512_maskz_max_ps(kAll, a, b); }
  static EDGE_INLINE Reg Min(Reg a, Reg b) { return _mm512_maskz_min_ps(kAll, a, b); }
  static EDGE_INLINE Reg Round(Reg x) {
    return _mm512_maskz_roundscale_ps(kAll, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static EDGE_INLINE Reg PowerOfTwo(Reg n) {
    const __m512i biased =
        _mm512_add_epi32(_mm512_maskz_cvtps_epi32(kAll, n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, biased, 23));
  }
  static EDGE_INLINE Reg Gather(const float* p, const int32_t* offsets) {
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), kAll, _mm512_loadu_si512(offsets), p, 4);
  }
  static EDGE_INLINE Reg GatherPairs(const float* p, const int32_t* offsets) {
    const __m256i eight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets));
    const __m512i twice = _mm512_maskz_permutexvar_epi32(
        kAll, _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
        _mm512_castsi256_si512(eight));
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), kAll, twice, p, 4);
  }

  static EDGE_INLINE __m512i From(int place) {
    return _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                            _mm512_set1_epi32(place));
  }
  static EDGE_INLINE Reg Merge(Reg a, Reg b, __m512i from) {
    return _mm512_permutex2var_ps(a, from, b);
  }

  template <int B>
  struct Weights {
    explicit EDGE_INLINE Weights(const float* w) : p(w) {}
    template <int b>
    EDGE_INLINE Reg Fma(Reg x, Reg acc) const {
      return Vec16::Fma(x, _mm512_set1_ps(p[b]), acc);
    }
    const float* p;
  };
};

}  // namespace edge::avx512
