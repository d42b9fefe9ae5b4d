// Vectors of 4 floats for AArch64 NEON, with multiply-add by lane. EDGE_ARM_NAMESPACE: whose copy
// this is.
#pragma once
#include <arm_neon.h>

#include <cstdint>

#include "kernels/conv/simd.h"

namespace edge::EDGE_ARM_NAMESPACE {

struct Vec4 {
  using Reg = float32x4_t;
  static constexpr int kLanes = 4, kEntries = 1;  // two would spill
  static constexpr bool kMerges = false;

  static EDGE_INLINE Reg Load(const float* p) { return vld1q_f32(p); }
  static EDGE_INLINE void Store(float* p, Reg x) { vst1q_f32(p, x); }
  static EDGE_INLINE void Keep(Reg&) {}  // there are no multiply-adds on memory
  static EDGE_INLINE Reg LoadPart(const float* p, int n) {
    if (n == 4) return Load(p);
    if (n == 1) return vsetq_lane_f32(p[0], vdupq_n_f32(0), 0);
    const Reg two = vcombine_f32(vld1_f32(p), vdup_n_f32(0));
    return n == 3 ? vsetq_lane_f32(p[2], two, 2) : two;
  }
  static EDGE_INLINE void StorePart(float* p, Reg x, int n) {
    if (n & 4) return Store(p, x);
    if (n & 2) vst1_f32(p, vget_low_f32(x));
    if (n == 1) vst1q_lane_f32(p, x, 0);
    if (n == 3) vst1q_lane_f32(p + 2, x, 2);
  }
  static EDGE_INLINE Reg Set(float x) { return vdupq_n_f32(x); }
  static EDGE_INLINE Reg Add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static EDGE_INLINE Reg Sub(Reg a, Reg b) { return vsubq_f32(a, b); }
  static EDGE_INLINE Reg Mul(Reg a, Reg b) { return vmulq_f32(a, b); }
  static EDGE_INLINE Reg Div(Reg a, Reg b) { return vdivq_f32(a, b); }
  static EDGE_INLINE Reg Fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  static EDGE_INLINE Reg Max(Reg a, Reg b) { return vmaxq_f32(a, b); }
  static EDGE_INLINE Reg Min(Reg a, Reg b) { return vminq_f32(a, b); }
  static EDGE_INLINE Reg Round(Reg x) { return vrndnq_f32(x); }
  static EDGE_INLINE Reg PowerOfTwo(Reg n) {
    const int32x4_t biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
  }
  static EDGE_INLINE Reg Gather(const float* p, const int32_t* offsets) {
    Reg x = vld1q_dup_f32(p + offsets[0]);
    x = vld1q_lane_f32(p + offsets[1], x, 1);
    x = vld1q_lane_f32(p + offsets[2], x, 2);
    return vld1q_lane_f32(p + offsets[3], x, 3);
  }
  static EDGE_INLINE Reg GatherPairs(const float* p, const int32_t* offsets) {
    return vcombine_f32(vld1_dup_f32(p + offsets[0]), vld1_dup_f32(p + offsets[1]));
  }

  template <int B>
  struct Weights {
    explicit EDGE_INLINE Weights(const float* w) {
      if constexpr (B == 1) {
        pair = vld1_dup_f32(w);
      } else if constexpr (B == 2) {
        pair = vld1_f32(w);
      } else {
        Unroll<B / 4>([&](auto i)
                          EDGE_INLINE_LAMBDA { four[i.value] = vld1q_f32(w + i.value * 4); });
      }
    }
    template <int b>
    EDGE_INLINE Reg Fma(Reg x, Reg acc) const {
      if constexpr (B <= 2) {
        return vfmaq_lane_f32(acc, x, pair, b);
      } else {
        return vfmaq_laneq_f32(acc, x, four[b / 4], b % 4);
      }
    }
    float32x2_t pair;
    float32x4_t four[B < 4 ? 1 : B / 4];
  };
};

}  // namespace edge::EDGE_ARM_NAMESPACE
