// 32 registers: 16 sums, two vectors of pixels, a weight; the rest for the ends of tiles.
#define EDGE_X86_NAMESPACE avx512vnni
#include "kernels/int8/avx2/linear.h"
#include "kernels/int8/table.h"

namespace edge {
namespace avx512vnni {

// Vectors of 16 pixels. The dot product takes unsigned bytes: q + 128.
struct Int8Vec16 {
  using Sum = __m512i;
  using Quads = __m512i;
  using Real = __m512;
  static constexpr int kLanes = 16;
  static constexpr __mmask16 kAll = 0xffff;  // see conv/avx512/vec.h

  struct Dots {
    using Pixels = __m512i;
    static EDGE_INLINE Pixels Load(const Quad* p) {
      return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128));
    }
    template <int B>
    struct Weights {
      explicit EDGE_INLINE Weights(const int8_t* w) : p(w) {}
      template <int b>
      EDGE_INLINE Sum Dot(Pixels x, Sum sum) const {
        int32_t w;
        __builtin_memcpy(&w, p + 4 * b, sizeof(w));
        return _mm512_dpbusd_epi32(sum, x, _mm512_set1_epi32(w));
      }
      const int8_t* p;
    };
  };
  template <int B, int NV>
  static EDGE_INLINE void Accumulate(const Int8ConvJob& job, const Quad* in, Sum (&sums)[B][NV]) {
    AccumulateInt8<Dots, kLanes>(job, 0, job.n_entries, in, sums);
  }

  static EDGE_INLINE __mmask16 First(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static EDGE_INLINE Sum SetSum(int32_t x) { return _mm512_set1_epi32(x); }
  static EDGE_INLINE Sum AddSum(Sum a, Sum b) { return _mm512_add_epi32(a, b); }
  static EDGE_INLINE Real ToReal(Sum x) { return _mm512_maskz_cvtepi32_ps(kAll, x); }
  static EDGE_INLINE Sum Round(Real x) { return _mm512_maskz_cvtps_epi32(kAll, x); }
  static EDGE_INLINE Real SetReal(float x) { return _mm512_set1_ps(x); }
  static EDGE_INLINE Real Mul(Real a, Real b) { return _mm512_mul_ps(a, b); }
  static EDGE_INLINE Real Add(Real a, Real b) { return _mm512_add_ps(a, b); }
  static EDGE_INLINE Real Max(Real a, Real b) { return _mm512_maskz_max_ps(kAll, a, b); }
  static EDGE_INLINE Real Min(Real a, Real b) { return _mm512_maskz_min_ps(kAll, a, b); }
  template <int bits>
  static EDGE_INLINE __m512i Left(__m512i x) {
    return _mm512_maskz_slli_epi32(kAll, x, bits);
  }
  static EDGE_INLINE Quads Pack(Sum s0, Sum s1, Sum s2, Sum s3) {
    constexpr __mmask32 kOdd = 0xaaaaaaaau;
    const __m512i low = _mm512_mask_blend_epi16(kOdd, s0, Left<16>(s1));
    const __m512i high = _mm512_mask_blend_epi16(kOdd, s2, Left<16>(s3));
    const __m512i order = _mm512_maskz_broadcast_i32x4(
        kAll, _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    return _mm512_shuffle_epi8(_mm512_packs_epi16(low, high), order);
  }
  template <int j>
  static EDGE_INLINE Sum Channel(Quads x) {
    return _mm512_maskz_srai_epi32(kAll, j == 3 ? x : Left<24 - 8 * j>(x), 24);
  }
  static EDGE_INLINE Quads Load(const Quad* p) { return _mm512_loadu_si512(p); }
  static EDGE_INLINE void Store(Quad* p, Quads x) { _mm512_storeu_si512(p, x); }
  static EDGE_INLINE void StorePart(Quad* p, Quads x, int n) {
    _mm512_mask_storeu_epi32(p, First(n), x);
  }
  static EDGE_INLINE Real LoadReal(const float* p) { return _mm512_loadu_ps(p); }
  static EDGE_INLINE Real LoadPartReal(const float* p, int n) {
    return _mm512_maskz_loadu_ps(First(n), p);
  }
  static EDGE_INLINE void StoreReal(float* p, Real x) { _mm512_storeu_ps(p, x); }
  static EDGE_INLINE void StorePartReal(float* p, Real x, int n) {
    _mm512_mask_storeu_ps(p, First(n), x);
  }
  static EDGE_INLINE Quads TakeEven(const Quad* p) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_epi32(Load(p), even, Load(p + 16));
  }
  static EDGE_INLINE Quads MaxBytes(Quads a, Quads b) { return _mm512_max_epi8(a, b); }

  // As two of 8 pixels.
  template <int K, int S>
  class Depthwise {
   public:
    explicit EDGE_INLINE Depthwise(const Int8DepthwiseJob& job) : half_(job) {}
    EDGE_INLINE Quads Run(const Quad* in, int64_t in_h) const {
      const __m256i low = half_.Run(in, in_h), high = half_.Run(in + 8 * S, in_h);
      return _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(low), high, 1);
    }

   private:
    typename Int8Vec8::template Depthwise<K, S> half_;
  };
};

}  // namespace avx512vnni

// The linear kernels of AVX2 take signed pixels.
const Int8Kernels kAvx512VnniInt8 = Int8Table<avx512vnni::Int8Vec16, 4, 8, 2>(
    "avx512vnni", Shifted::kAll, avx512vnni::RunLinearInt8, avx512vnni::RunLinearInt8Codes,
    avx512vnni::RunLinearInt8SmallCodes);

}  // namespace edge
