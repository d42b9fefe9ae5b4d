// Float16 tensors on AVX2 with F16C, which all such CPUs have: sums are float32.
#define EDGE_X86_NAMESPACE half_avx2
#include "kernels/conv/avx2/vec.h"
#include "kernels/half/half_impl.h"

namespace edge {
namespace half_avx2 {

EDGE_INLINE const __m128i* Bits(const Half* p) { return reinterpret_cast<const __m128i*>(p); }

// Four and eight floats, and float16 in memory.
struct Half4 : Vec4 {
  static EDGE_INLINE Reg LoadHalf(const Half* p) { return _mm_cvtph_ps(_mm_loadl_epi64(Bits(p))); }
  static EDGE_INLINE Reg SetHalf(const Half* p) {
    return _mm_cvtph_ps(_mm_set1_epi16(static_cast<int16_t>(p->bits)));
  }
};

struct Half8 : Vec8 {
  using Floats = Vec8;
  static constexpr bool kHalfSums = false;
  using Vec8::Load;
  using Vec8::Store;

  static EDGE_INLINE Reg Load(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(Bits(p))); }
  static EDGE_INLINE Reg LoadPart(const Half* p, int n) {
    alignas(16) Half part[8] = {};
    for (int i = 0; i < n; ++i) part[i] = p[i];
    return Load(part);
  }
  static EDGE_INLINE void Store(Half* p, Reg x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static EDGE_INLINE void StorePart(Half* p, Reg x, int n) {
    alignas(16) Half whole[8];
    Store(whole, x);
    for (int i = 0; i < n; ++i) p[i] = whole[i];
  }
  static EDGE_INLINE void Unzip(const Half* p, Reg* even, Reg* odd) {
    const __m256 a = Load(p), b = Load(p + 8);
    *even = _mm256_shuffle_ps(a, b, 0x88);
    *odd = _mm256_shuffle_ps(a, b, 0xdd);
  }
  static EDGE_INLINE Reg Ordered(Reg x) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8));
  }

  template <int B>
  struct Weights {
    explicit EDGE_INLINE Weights(const Half* w) {
      Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
        x[b.value] = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<int16_t>(w[b.value].bits)));
      });
    }
    template <int b>
    EDGE_INLINE Reg Fma(Reg pixels, Reg acc) const {
      return Vec8::Fma(pixels, x[b], acc);
    }
    Reg x[B];
  };

  static EDGE_INLINE Reg LoadHalf(const Half* p) { return Load(p); }
  static EDGE_INLINE void StoreHalf(Half* p, Reg x) { Store(p, x); }
  static EDGE_INLINE Reg SetHalf(const Half* p) {
    return _mm256_cvtph_ps(_mm_set1_epi16(static_cast<int16_t>(p->bits)));
  }
  static EDGE_INLINE float One(uint16_t bits) { return _cvtsh_ss(bits); }
  static EDGE_INLINE uint16_t OneHalf(float x) {
    return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

}  // namespace half_avx2

using half_avx2::Half4;
using half_avx2::Half8;

const HalfKernels kAvx2Half = {
    {{"f16-bsconv-1x96-avx2", 1, 96, 8, RunConvHalf<Half8, 1, 12>},
     {"f16-bsconv-2x48-avx2", 2, 48, 8, RunConvHalf<Half8, 2, 6>},
     {"f16-bsconv-4x16-avx2", 4, 16, 8, RunConvHalf<Half8, 4, 2>},
     {"f16-bsconv-4x16-avx2", 4, 16, 8, RunConvHalf<Half8, 4, 2>},
     {"f16-bsconv-4x16-avx2", 4, 16, 8, RunConvHalf<Half8, 4, 2>}},
    {RunLinearHalfScalar<Half8, 1>, RunLinearHalfScalar<Half8, 2>, RunLinearHalf<Half4, 4>,
     RunLinearHalf<Half8, 8>, RunLinearHalf<Half8, 16>},
    {{DepthwisePlane<Half8, 3, 1, Half>::Run, DepthwisePlane<Half8, 3, 2, Half>::Run},
     {DepthwisePlane<Half8, 5, 1, Half>::Run, DepthwisePlane<Half8, 5, 2, Half>::Run}},
    ActivateFloats<Half8>,
    WidenHalves<Half8>,
    NarrowHalves<Half8>};

}  // namespace edge
