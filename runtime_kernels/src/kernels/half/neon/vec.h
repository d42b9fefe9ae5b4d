// Vectors of 4 floats for AArch64 NEON that float16 in memory is converted to and from.
// EDGE_ARM_NAMESPACE: whose copy this is.
#pragma once
#include "kernels/conv/neon/vec.h"
#include "kernels/half/half_impl.h"

namespace edge::EDGE_ARM_NAMESPACE {

EDGE_INLINE const uint16_t* Bits(const Half* p) { return reinterpret_cast<const uint16_t*>(p); }
EDGE_INLINE uint16_t* Bits(Half* p) { return reinterpret_cast<uint16_t*>(p); }

// The first n of four; the others are zero.
EDGE_INLINE uint16x4_t FirstOfFour(const uint16_t* p, int n) {
  if (n == 4) return vld1_u16(p);
  uint16x4_t x = vdup_n_u16(0);
  if (n > 0) x = vld1_lane_u16(p, x, 0);
  if (n > 1) x = vld1_lane_u16(p + 1, x, 1);
  return n > 2 ? vld1_lane_u16(p + 2, x, 2) : x;
}

EDGE_INLINE void StoreFirstOfFour(uint16_t* p, uint16x4_t x, int n) {
  if (n == 4) return vst1_u16(p, x);
  if (n > 0) vst1_lane_u16(p, x, 0);
  if (n > 1) vst1_lane_u16(p + 1, x, 1);
  if (n > 2) vst1_lane_u16(p + 2, x, 2);
}

EDGE_INLINE float32x4_t Widen(uint16x4_t bits) { return vcvt_f32_f16(vreinterpret_f16_u16(bits)); }
EDGE_INLINE uint16x4_t Narrow(float32x4_t x) { return vreinterpret_u16_f16(vcvt_f16_f32(x)); }

struct Half4 : Vec4 {
  using Floats = Vec4;
  static constexpr bool kHalfSums = false;
  using Vec4::Load;
  using Vec4::Store;

  static EDGE_INLINE Reg Load(const Half* p) { return Widen(vld1_u16(Bits(p))); }
  static EDGE_INLINE Reg LoadPart(const Half* p, int n) { return Widen(FirstOfFour(Bits(p), n)); }
  static EDGE_INLINE void Store(Half* p, Reg x) { vst1_u16(Bits(p), Narrow(x)); }
  static EDGE_INLINE void StorePart(Half* p, Reg x, int n) {
    StoreFirstOfFour(Bits(p), Narrow(x), n);
  }
  static EDGE_INLINE void Unzip(const Half* p, Reg* even, Reg* odd) {
    const uint16x4x2_t both = vld2_u16(Bits(p));
    *even = Widen(both.val[0]), *odd = Widen(both.val[1]);
  }
  static EDGE_INLINE Reg Ordered(Reg x) { return x; }

  template <int B>
  struct Weights {
    explicit EDGE_INLINE Weights(const Half* w) {
      if constexpr (B == 1) {
        four[0] = Widen(vld1_dup_u16(Bits(w)));
      } else if constexpr (B == 2) {
        four[0] = Widen(vld1_lane_u16(Bits(w) + 1, vld1_dup_u16(Bits(w)), 1));
      } else {
        Unroll<B / 4>([&](auto i) EDGE_INLINE_LAMBDA {
          four[i.value] = Widen(vld1_u16(Bits(w) + i.value * 4));
        });
      }
    }
    template <int b>
    EDGE_INLINE Reg Fma(Reg x, Reg acc) const {
      return vfmaq_laneq_f32(acc, x, four[b / 4], b % 4);
    }
    Reg four[B < 4 ? 1 : B / 4];
  };

  static EDGE_INLINE Reg LoadHalf(const Half* p) { return Load(p); }
  static EDGE_INLINE void StoreHalf(Half* p, Reg x) { Store(p, x); }
  static EDGE_INLINE Reg SetHalf(const Half* p) { return Widen(vld1_dup_u16(Bits(p))); }
  static EDGE_INLINE float One(uint16_t bits) { return vgetq_lane_f32(Widen(vdup_n_u16(bits)), 0); }
  static EDGE_INLINE uint16_t OneHalf(float x) { return vget_lane_u16(Narrow(vdupq_n_f32(x)), 0); }
};

}  // namespace edge::EDGE_ARM_NAMESPACE
