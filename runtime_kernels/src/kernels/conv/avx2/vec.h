// Vectors of 4 and 8 floats for AVX2 with FMA. EDGE_X86_NAMESPACE: whose copy this is (the AVX-512
// kernels have their own).
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "kernels/conv/simd.h"

namespace edge::EDGE_X86_NAMESPACE {

struct Vec8 {
  using Reg = __m256;
  static constexpr int kLanes = 8, kEntries = 2;
  static constexpr bool kMerges = false;

  static EDGE_INLINE Reg Load(const float* p) { return _mm256_loadu_ps(p); }
  static EDGE_INLINE void Store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static EDGE_INLINE void Keep(Reg& x) { asm("" : "+x"(x)); }
  static EDGE_INLINE __m256i First(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static EDGE_INLINE Reg LoadPart(const float* p, int n) { return _mm256_maskload_ps(p, First(n)); }
  // Not maskstore, which is microcoded on AMD.
  static EDGE_INLINE void StorePart(float* p, Reg x, int n) {
    if (n & 8) return Store(p, x);
    __m128 rest = _mm256_castps256_ps128(x);
    if (n & 4) {
      _mm_storeu_ps(p, rest);
      rest = _mm256_extractf128_ps(x, 1);
      p += 4;
    }
    if (n & 2) {
      _mm_storel_pi(reinterpret_cast<__m64*>(p), rest);
      rest = _mm_movehl_ps(rest, rest);
      p += 2;
    }
    if (n & 1) _mm_store_ss(p, rest);
  }
  static EDGE_INLINE Reg Set(float x) { return _mm256_set1_ps(x); }
  static EDGE_INLINE Reg Add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static EDGE_INLINE Reg Sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static EDGE_INLINE Reg Mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static EDGE_INLINE Reg Div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static EDGE_INLINE Reg Fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static EDGE_INLINE Reg Max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static EDGE_INLINE Reg Min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static EDGE_INLINE Reg Round(Reg x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static EDGE_INLINE Reg PowerOfTwo(Reg n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  }
  // Not the gather instruction: on Zen 3 that made the layer up to three times slower.
  static EDGE_INLINE Reg Gather(const float* p, const int32_t* o) {
    return _mm256_setr_ps(p[o[0]], p[o[1]], p[o[2]], p[o[3]], p[o[4]], p[o[5]], p[o[6]], p[o[7]]);
  }
  static EDGE_INLINE Reg GatherPairs(const float* p, const int32_t* o) {
    const __m128 four = _mm_setr_ps(p[o[0]], p[o[1]], p[o[2]], p[o[3]]);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(four),
                                    _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
  }

  template <int B>
  struct Weights {
    explicit EDGE_INLINE Weights(const float* w) : p(w) {}
    template <int b>
    EDGE_INLINE Reg Fma(Reg x, Reg acc) const {
      return Vec8::Fma(x, _mm256_broadcast_ss(p + b), acc);
    }
    const float* p;
  };
};

// What the linear kernel of 4 filters needs.
struct Vec4 {
  using Reg = __m128;
  static constexpr int kLanes = 4;

  static EDGE_INLINE Reg Load(const float* p) { return _mm_loadu_ps(p); }
  static EDGE_INLINE void Store(float* p, Reg x) { _mm_storeu_ps(p, x); }
  static EDGE_INLINE Reg Set(float x) { return _mm_set1_ps(x); }
  static EDGE_INLINE Reg Add(Reg a, Reg b) { return _mm_add_ps(a, b); }
  static EDGE_INLINE Reg Sub(Reg a, Reg b) { return _mm_sub_ps(a, b); }
  static EDGE_INLINE Reg Mul(Reg a, Reg b) { return _mm_mul_ps(a, b); }
  static EDGE_INLINE Reg Div(Reg a, Reg b) { return _mm_div_ps(a, b); }
  static EDGE_INLINE Reg Fma(Reg a, Reg b, Reg c) { return _mm_fmadd_ps(a, b, c); }
  static EDGE_INLINE Reg Max(Reg a, Reg b) { return _mm_max_ps(a, b); }
  static EDGE_INLINE Reg Min(Reg a, Reg b) { return _mm_min_ps(a, b); }
  static EDGE_INLINE Reg Round(Reg x) {
    return _mm_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static EDGE_INLINE Reg PowerOfTwo(Reg n) {
    const __m128i biased = _mm_add_epi32(_mm_cvtps_epi32(n), _mm_set1_epi32(127));
    return _mm_castsi128_ps(_mm_slli_epi32(biased, 23));
  }
};

}  // namespace edge::EDGE_X86_NAMESPACE
