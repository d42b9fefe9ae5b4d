// Vectors of 8 pixels for AVX2. Products of bytes are summed in pairs in 16 bits, which never
// overflow: |q| <= 128 and |w| <= 127.
#pragma once
#include <immintrin.h>

#include "kernels/conv/avx2/vec.h"
#include "kernels/int8/int8_impl.h"

namespace edge::EDGE_X86_NAMESPACE {

struct Int8Vec8 {
  using Sum = __m256i;
  using Quads = __m256i;
  using Real = __m256;
  static constexpr int kLanes = 8;
  static constexpr bool kPaired = false;

  struct Pixels {
    __m256i value, magnitude;
  };
  static EDGE_INLINE Pixels LoadPixels(const Quad* p) {
    const __m256i value = Load(p);
    return {value, _mm256_abs_epi8(value)};
  }
  // u * w, u being the magnitudes of signed bytes and w with their signs.
  static EDGE_INLINE Sum Products(__m256i magnitude, __m256i w, Sum sum) {
    const __m256i pairs = _mm256_maddubs_epi16(magnitude, w);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  template <int B>
  struct Weights {
    explicit EDGE_INLINE Weights(const int8_t* w) : p(reinterpret_cast<const float*>(w)) {}
    template <int b>
    EDGE_INLINE Sum Dot(const Pixels& x, Sum sum) const {
      const __m256i w = _mm256_castps_si256(_mm256_broadcast_ss(p + b));
      return Products(x.magnitude, _mm256_sign_epi8(w, x.value), sum);
    }
    const float* p;
  };

  static EDGE_INLINE Sum SetSum(int32_t x) { return _mm256_set1_epi32(x); }
  static EDGE_INLINE Sum AddSum(Sum a, Sum b) { return _mm256_add_epi32(a, b); }
  static EDGE_INLINE Real ToReal(Sum x) { return _mm256_cvtepi32_ps(x); }
  static EDGE_INLINE Sum Round(Real x) { return _mm256_cvtps_epi32(x); }
  static EDGE_INLINE Real SetReal(float x) { return _mm256_set1_ps(x); }
  static EDGE_INLINE Real Mul(Real a, Real b) { return _mm256_mul_ps(a, b); }
  static EDGE_INLINE Real Add(Real a, Real b) { return _mm256_add_ps(a, b); }
  static EDGE_INLINE Real Max(Real a, Real b) { return _mm256_max_ps(a, b); }
  static EDGE_INLINE Real Min(Real a, Real b) { return _mm256_min_ps(a, b); }

  static EDGE_INLINE Quads Pack(Sum s0, Sum s1, Sum s2, Sum s3) {
    const __m256i low = _mm256_blend_epi16(s0, _mm256_slli_epi32(s1, 16), 0xaa);
    const __m256i high = _mm256_blend_epi16(s2, _mm256_slli_epi32(s3, 16), 0xaa);
    const __m256i order = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15,  //
                                           0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    return _mm256_shuffle_epi8(_mm256_packs_epi16(low, high), order);
  }
  template <int j>
  static EDGE_INLINE Sum Channel(Quads x) {
    return _mm256_srai_epi32(j == 3 ? x : _mm256_slli_epi32(x, 24 - 8 * j), 24);
  }
  static EDGE_INLINE Quads Load(const Quad* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static EDGE_INLINE void Store(Quad* p, Quads x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
  }
  static EDGE_INLINE void StorePart(Quad* p, Quads x, int n) {
    Vec8::StorePart(reinterpret_cast<float*>(p), _mm256_castsi256_ps(x), n);
  }
  static EDGE_INLINE Real LoadReal(const float* p) { return _mm256_loadu_ps(p); }
  static EDGE_INLINE Real LoadPartReal(const float* p, int n) { return Vec8::LoadPart(p, n); }
  static EDGE_INLINE void StoreReal(float* p, Real x) { _mm256_storeu_ps(p, x); }
  static EDGE_INLINE void StorePartReal(float* p, Real x, int n) { Vec8::StorePart(p, x, n); }
  static EDGE_INLINE Quads TakeEven(const Quad* p) {
    const __m256 even =
        _mm256_shuffle_ps(_mm256_castsi256_ps(Load(p)), _mm256_castsi256_ps(Load(p + 8)), 0x88);
    return _mm256_permute4x64_epi64(_mm256_castps_si256(even), 0xd8);
  }
  static EDGE_INLINE Quads MaxBytes(Quads a, Quads b) { return _mm256_max_epi8(a, b); }

  // Taps in pairs, so that one instruction multiplies and adds both.
  template <int K, int S>
  class Depthwise {
   public:
    explicit EDGE_INLINE Depthwise(const Int8DepthwiseJob& job) : e_(*job.epilogue) {
      const auto* bias = reinterpret_cast<const __m128i*>(job.weights);
      bias_ = _mm256_broadcastsi128_si256(_mm_loadu_si128(bias));
      scale_ = _mm256_castsi256_ps(_mm256_broadcastsi128_si256(_mm_loadu_si128(bias + 1)));
      const Quad* taps = reinterpret_cast<const Quad*>(job.weights + 32);
      Unroll<kPairs>([&](auto i) EDGE_INLINE_LAMBDA {
        const __m128i a = Widen(taps[2 * i.value]);
        const __m128i b = Widen(2 * i.value + 1 < K * K ? taps[2 * i.value + 1] : 0);
        pairs_[i.value] = _mm256_broadcastsi128_si256(_mm_unpacklo_epi16(a, b));
      });
    }

    EDGE_INLINE Quads Run(const Quad* in, int64_t in_h) const {
      __m256i sums[4] = {bias_, bias_, bias_, bias_};
      Unroll<kPairs>([&](auto i) EDGE_INLINE_LAMBDA {
        constexpr int a = 2 * i.value, b = 2 * i.value + 1 < K * K ? 2 * i.value + 1 : a;
        const Halves first = Taps(in + a / K * in_h + a % K);
        const Halves second = Taps(in + b / K * in_h + b % K);
        const __m256i w = pairs_[i.value];
        Unroll<2>([&](auto h) EDGE_INLINE_LAMBDA {
          const __m256i x = first.half[h.value], y = second.half[h.value];
          __m256i &low = sums[2 * h.value], &high = sums[2 * h.value + 1];
          low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(x, y), w));
          high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(x, y), w));
        });
      });
      const Int8Finish<Int8Vec8> finish(e_);
      Real t[4];
      finish.Reals(sums, [&](auto) EDGE_INLINE_LAMBDA { return scale_; }, nullptr, t);
      const __m256i left = _mm256_packs_epi32(finish.Level(t[0]), finish.Level(t[1]));
      const __m256i right = _mm256_packs_epi32(finish.Level(t[2]), finish.Level(t[3]));
      return _mm256_permute4x64_epi64(_mm256_packs_epi16(left, right), 0xd8);
    }

   private:
    static constexpr int kPairs = (K * K + 1) / 2;
    struct Halves {
      __m256i half[2];  // 4 pixels of 4 channels of 16 bits
    };
    static EDGE_INLINE __m128i Widen(Quad w) {
      return _mm_cvtepi8_epi16(_mm_cvtsi32_si128(static_cast<int>(w)));
    }
    static EDGE_INLINE Halves Taps(const Quad* p) {
      if constexpr (S == 1) {
        const auto* at = reinterpret_cast<const __m128i*>(p);
        return {{_mm256_cvtepi8_epi16(_mm_loadu_si128(at)),
                 _mm256_cvtepi8_epi16(_mm_loadu_si128(at + 1))}};
      } else {
        const __m256i x = TakeEven(p);
        return {{_mm256_cvtepi8_epi16(_mm256_castsi256_si128(x)),
                 _mm256_cvtepi8_epi16(_mm256_extracti128_si256(x, 1))}};
      }
    }

    const Int8Epilogue& e_;
    __m256i bias_;
    Real scale_;
    __m256i pairs_[kPairs];
  };
};

}  // namespace edge::EDGE_X86_NAMESPACE
