// Float16 tensors on AArch64 with float16 arithmetic (Armv8.2 +fp16): 8 pixels a vector, and the
// tiles of the float32 kernels (conv/neon/conv_neon.cc) twice as wide.
#define EDGE_ARM_NAMESPACE fp16
#include "kernels/half/neon/vec.h"

namespace edge {
namespace fp16 {

struct Half8 {
  using Reg = float16x8_t;
  using Floats = Vec4;
  static constexpr int kLanes = 8;
  static constexpr bool kHalfSums = true;

  static EDGE_INLINE Reg Load(const Half* p) { return vreinterpretq_f16_u16(vld1q_u16(Bits(p))); }
  static EDGE_INLINE Reg LoadPart(const Half* p, int n) {
    const uint16_t* bits = Bits(p);
    const uint16x4_t low = FirstOfFour(bits, n < 4 ? n : 4),
                     high = n > 4 ? FirstOfFour(bits + 4, n - 4) : vdup_n_u16(0);
    return vreinterpretq_f16_u16(vcombine_u16(low, high));
  }
  static EDGE_INLINE void Store(Half* p, Reg x) { vst1q_u16(Bits(p), vreinterpretq_u16_f16(x)); }
  static EDGE_INLINE void StorePart(Half* p, Reg x, int n) {
    if (n & 8) return Store(p, x);
    uint16_t* bits = Bits(p);
    const uint16x8_t all = vreinterpretq_u16_f16(x);
    uint16x4_t rest = vget_low_u16(all);
    if (n & 4) {
      vst1_u16(bits, rest);
      rest = vget_high_u16(all);
      bits += 4;
    }
    StoreFirstOfFour(bits, rest, n & 3);
  }
  static EDGE_INLINE Reg Load(const float* p) {
    return vcvt_high_f16_f32(vcvt_f16_f32(vld1q_f32(p)), vld1q_f32(p + 4));
  }
  static EDGE_INLINE void Store(float* p, Reg x) {
    vst1q_f32(p, vcvt_f32_f16(vget_low_f16(x)));
    vst1q_f32(p + 4, vcvt_high_f32_f16(x));
  }
  static EDGE_INLINE void AddTo(float* p, Reg x, bool first) {
    if (first) return Store(p, x);
    vst1q_f32(p, vaddq_f32(vld1q_f32(p), vcvt_f32_f16(vget_low_f16(x))));
    vst1q_f32(p + 4, vaddq_f32(vld1q_f32(p + 4), vcvt_high_f32_f16(x)));
  }
  static EDGE_INLINE void Keep(Reg&) {}
  static EDGE_INLINE Reg Set(float x) { return vdupq_n_f16(static_cast<float16_t>(x)); }
  static EDGE_INLINE Reg Add(Reg a, Reg b) { return vaddq_f16(a, b); }
  static EDGE_INLINE Reg Fma(Reg a, Reg b, Reg c) { return vfmaq_f16(c, a, b); }
  static EDGE_INLINE Reg Max(Reg a, Reg b) { return vmaxq_f16(a, b); }
  static EDGE_INLINE Reg Min(Reg a, Reg b) { return vminq_f16(a, b); }
  static EDGE_INLINE void Unzip(const Half* p, Reg* even, Reg* odd) {
    const uint16x8x2_t both = vld2q_u16(Bits(p));
    *even = vreinterpretq_f16_u16(both.val[0]), *odd = vreinterpretq_f16_u16(both.val[1]);
  }
  static EDGE_INLINE Reg Ordered(Reg x) { return x; }
  static EDGE_INLINE Reg LoadRow(const Half* p) { return Load(p); }
  static EDGE_INLINE Reg SetRow(const Half* p) {
    return vreinterpretq_f16_u16(vld1q_dup_u16(Bits(p)));
  }

  template <int B>
  struct Weights {
    explicit EDGE_INLINE Weights(const Half* w) {
      // Not to all lanes, which would take a port of the multiply-adds. The register is a local,
      // or GCC stores it; and a whole one, since Clang has no name for the lower 16 of the others.
      const auto& memory = *reinterpret_cast<const Half(*)[B]>(w);
      float16x8_t loaded;
      if constexpr (B == 8) {
        loaded = vreinterpretq_f16_u16(vld1q_u16(Bits(w)));
      } else if constexpr (B == 4) {
        asm("ldr %d0, %1" : "=w"(loaded) : "m"(memory));
      } else if constexpr (B == 2) {
        asm("ldr %s0, %1" : "=w"(loaded) : "m"(memory));
      } else {
        asm("ldr %h0, %1" : "=w"(loaded) : "m"(memory));
      }
      all = loaded;
    }
    template <int b>
    EDGE_INLINE Reg Fma(Reg x, Reg acc) const {
      // GCC 12 would copy the weight into all lanes of a register first.
      asm("fmla %0.8h, %1.8h, %2.h[%3]" : "+w"(acc) : "w"(x), "x"(all), "i"(b));
      return acc;
    }
    float16x8_t all;
  };
};

// What the linear kernel of 4 filters needs.
struct Half4Sums {
  using Reg = float16x4_t;
  static constexpr int kLanes = 4;
  static EDGE_INLINE Reg Set(float x) { return vdup_n_f16(static_cast<float16_t>(x)); }
  static EDGE_INLINE Reg Add(Reg a, Reg b) { return vadd_f16(a, b); }
  static EDGE_INLINE Reg Fma(Reg a, Reg b, Reg c) { return vfma_f16(c, a, b); }
  static EDGE_INLINE Reg LoadRow(const Half* p) { return vreinterpret_f16_u16(vld1_u16(Bits(p))); }
  static EDGE_INLINE Reg SetRow(const Half* p) {
    return vreinterpret_f16_u16(vld1_dup_u16(Bits(p)));
  }
  static EDGE_INLINE void AddTo(float* p, Reg x, bool) {
    vst1q_f32(p, vaddq_f32(vld1q_f32(p), vcvt_f32_f16(x)));
  }
};

}  // namespace fp16

using fp16::Half4;
using fp16::Half4Sums;
using fp16::Half8;

const HalfKernels kFp16Half = {
    {{"f16-bsconv-1x160-fp16", 1, 160, 8, RunConvHalf<Half8, 1, 20>},
     {"f16-bsconv-2x80-fp16", 2, 80, 8, RunConvHalf<Half8, 2, 10>},
     {"f16-bsconv-4x48-fp16", 4, 48, 8, RunConvHalf<Half8, 4, 6>},
     {"f16-bsconv-8x24-fp16", 8, 24, 8, RunConvHalf<Half8, 8, 3>},
     {"f16-bsconv-8x24-fp16", 8, 24, 8, RunConvHalf<Half8, 8, 3>}},
    {RunLinearHalfScalar<Half4, 1>, RunLinearHalfScalar<Half4, 2>, RunLinearSums<Half4Sums, 4>,
     RunLinearSums<Half8, 8>, RunLinearSums<Half8, 16>},
    {{DepthwisePlane<Half8, 3, 1, Half>::Run, DepthwisePlane<Half8, 3, 2, Half>::Run},
     {DepthwisePlane<Half8, 5, 1, Half>::Run, DepthwisePlane<Half8, 5, 2, Half>::Run}},
    ActivateFloats<Half4>,
    WidenHalves<Half4>,
    NarrowHalves<Half4>};

}  // namespace edge
