// Vectors of 4 pixels for NEON with dot products by lane.
#pragma once
#include <arm_neon.h>

#include "kernels/conv/neon/vec.h"
#include "kernels/int8/int8_impl.h"

namespace edge::EDGE_ARM_NAMESPACE {

struct Int8Vec4 {
  using Sum = int32x4_t;
  using Quads = uint32x4_t;
  using Real = float32x4_t;
  static constexpr int kLanes = 4;

  struct Dots {
    using Pixels = int8x16_t;
    static EDGE_INLINE Pixels Load(const Quad* p) { return vreinterpretq_s8_u32(vld1q_u32(p)); }
    template <int B>
    struct Weights {
      explicit EDGE_INLINE Weights(const int8_t* w) {
        Unroll<B / 4>([&](auto i)
                          EDGE_INLINE_LAMBDA { four[i.value] = vld1q_s8(w + 16 * i.value); });
      }
      template <int b>
      EDGE_INLINE Sum Dot(Pixels x, Sum sum) const {
        return vdotq_laneq_s32(sum, x, four[b / 4], b % 4);
      }
      int8x16_t four[B / 4];
    };
  };
  template <int B, int NV>
  static EDGE_INLINE void Accumulate(const Int8ConvJob& job, const Quad* in, Sum (&sums)[B][NV]) {
    AccumulateInt8<Dots, kLanes>(job, 0, job.n_entries, in, sums);
  }

  static EDGE_INLINE Sum SetSum(int32_t x) { return vdupq_n_s32(x); }
  static EDGE_INLINE Sum AddSum(Sum a, Sum b) { return vaddq_s32(a, b); }
  static EDGE_INLINE Real ToReal(Sum x) { return vcvtq_f32_s32(x); }
  static EDGE_INLINE Sum Round(Real x) { return vcvtnq_s32_f32(x); }
  static EDGE_INLINE Real SetReal(float x) { return vdupq_n_f32(x); }
  static EDGE_INLINE Real Mul(Real a, Real b) { return vmulq_f32(a, b); }
  static EDGE_INLINE Real Add(Real a, Real b) { return vaddq_f32(a, b); }
  // Of NaN and a number, the number, as on x86.
  static EDGE_INLINE Real Max(Real a, Real b) { return vmaxnmq_f32(a, b); }
  static EDGE_INLINE Real Min(Real a, Real b) { return vminnmq_f32(a, b); }
  static EDGE_INLINE Quads Pack(Sum s0, Sum s1, Sum s2, Sum s3) {
    return vreinterpretq_u32_s32(vsliq_n_s32(vsliq_n_s32(vsliq_n_s32(s0, s1, 8), s2, 16), s3, 24));
  }
  template <int j>
  static EDGE_INLINE Sum Channel(Quads x) {
    const int32x4_t quads = vreinterpretq_s32_u32(x);
    if constexpr (j == 3) {
      return vshrq_n_s32(quads, 24);
    } else {
      return vshrq_n_s32(vshlq_n_s32(quads, 24 - 8 * j), 24);
    }
  }
  static EDGE_INLINE Quads Load(const Quad* p) { return vld1q_u32(p); }
  static EDGE_INLINE void Store(Quad* p, Quads x) { vst1q_u32(p, x); }
  static EDGE_INLINE void StorePart(Quad* p, Quads x, int n) {
    StorePartReal(reinterpret_cast<float*>(p), vreinterpretq_f32_u32(x), n);
  }
  static EDGE_INLINE Real LoadReal(const float* p) { return vld1q_f32(p); }
  static EDGE_INLINE Real LoadPartReal(const float* p, int n) { return Floats::LoadPart(p, n); }
  static EDGE_INLINE void StoreReal(float* p, Real x) { vst1q_f32(p, x); }
  static EDGE_INLINE void StorePartReal(float* p, Real x, int n) { Floats::StorePart(p, x, n); }
  static EDGE_INLINE Quads TakeEven(const Quad* p) { return vld2q_u32(p).val[0]; }
  static EDGE_INLINE Quads MaxBytes(Quads a, Quads b) {
    return vreinterpretq_u32_s8(vmaxq_s8(vreinterpretq_s8_u32(a), vreinterpretq_s8_u32(b)));
  }

  // Two taps are summed in 16 bits, which never overflow: |q| <= 128, |w| <= 127.
  template <int K, int S>
  class Depthwise {
   public:
    explicit EDGE_INLINE Depthwise(const Int8DepthwiseJob& job) : e_(*job.epilogue) {
      bias_ = vld1q_s32(reinterpret_cast<const int32_t*>(job.weights));
      scale_ = vld1q_f32(reinterpret_cast<const float*>(job.weights) + 4);
      const auto* taps = reinterpret_cast<const uint32_t*>(job.weights + 32);
      Unroll<K * K>([&](auto i) EDGE_INLINE_LAMBDA {
        taps_[i.value] = vreinterpret_s8_u32(vdup_n_u32(taps[i.value]));
      });
    }

    EDGE_INLINE Quads Run(const Quad* in, int64_t in_h) const {
      Sum sums[4] = {bias_, bias_, bias_, bias_};  // of the pixels
      Unroll<(K * K + 1) / 2>([&](auto i) EDGE_INLINE_LAMBDA {
        constexpr int a = 2 * i.value, b = a + 1;
        const int8x16_t x = Taps(in + a / K * in_h + a % K);
        int16x8_t low = vmull_s8(vget_low_s8(x), taps_[a]);
        int16x8_t high = vmull_s8(vget_high_s8(x), taps_[a]);
        if constexpr (b < K * K) {
          const int8x16_t y = Taps(in + b / K * in_h + b % K);
          low = vmlal_s8(low, vget_low_s8(y), taps_[b]);
          high = vmlal_s8(high, vget_high_s8(y), taps_[b]);
        }
        sums[0] = vaddw_s16(sums[0], vget_low_s16(low));
        sums[1] = vaddw_high_s16(sums[1], low);
        sums[2] = vaddw_s16(sums[2], vget_low_s16(high));
        sums[3] = vaddw_high_s16(sums[3], high);
      });
      const Int8Finish<Int8Vec4> finish(e_);
      Real t[4];
      finish.Reals(sums, [&](auto) EDGE_INLINE_LAMBDA { return scale_; }, nullptr, t);
      const int16x8_t left =
          vcombine_s16(vmovn_s32(finish.Level(t[0])), vmovn_s32(finish.Level(t[1])));
      const int16x8_t right =
          vcombine_s16(vmovn_s32(finish.Level(t[2])), vmovn_s32(finish.Level(t[3])));
      return vreinterpretq_u32_s8(vcombine_s8(vmovn_s16(left), vmovn_s16(right)));
    }

   private:
    static EDGE_INLINE int8x16_t Taps(const Quad* p) {
      return vreinterpretq_s8_u32(S == 1 ? Load(p) : TakeEven(p));
    }

    const Int8Epilogue& e_;
    Sum bias_;
    Real scale_;
    int8x8_t taps_[K * K];
  };

 private:
  using Floats = EDGE_ARM_NAMESPACE::Vec4;
};

// A vector holds four weights of each of 4 filters; levels(i, half) are half of those of entry i.
template <class Levels>
EDGE_INLINE void LinearAll(const Int8LinearJob& job, const Levels& levels) {
  const auto rows = [&](auto count, int64_t row) EDGE_INLINE_LAMBDA {
    constexpr int R = count.value;
    int32x4_t sums[R][2];
    Unroll<R>([&](auto r)
                  EDGE_INLINE_LAMBDA { sums[r.value][0] = sums[r.value][1] = vdupq_n_s32(0); });
    const Quad* in = job.in + row * job.in_n;
    for (int64_t i = 0; i < job.n_entries; ++i) {
      const int8x16_t low = levels(i, Index<0>{}), high = levels(i, Index<1>{});
      const Quad* p = in + job.offsets[i];
      Unroll<R>([&](auto r) EDGE_INLINE_LAMBDA {
        const int8x16_t x = vreinterpretq_s8_u32(vld1q_dup_u32(p + r.value * job.in_n));
        sums[r.value][0] = vdotq_s32(sums[r.value][0], low, x);
        sums[r.value][1] = vdotq_s32(sums[r.value][1], high, x);
      });
    }
    Unroll<R>([&](auto r) EDGE_INLINE_LAMBDA {
      vst1q_s32(job.sums + 8 * (row + r.value), sums[r.value][0]);
      vst1q_s32(job.sums + 8 * (row + r.value) + 4, sums[r.value][1]);
    });
  };
  int64_t row = 0;
  for (; row + 4 <= job.rows; row += 4) rows(Index<4>{}, row);
  for (; row < job.rows; ++row) rows(Index<1>{}, row);
}

inline void RunLinearInt8(const Int8LinearJob& job) {
  LinearAll(job, [&](int64_t i, auto half) EDGE_INLINE_LAMBDA {
    return vld1q_s8(reinterpret_cast<const int8_t*>(job.weights) + 32 * i + 16 * half.value);
  });
}

inline void RunLinearInt8Codes(const Int8LinearJob& job) {
  // Codes of the second book look 16 further into both tables.
  const int8x16x2_t tables = {{vld1q_s8(job.tables), vld1q_s8(job.tables + 16)}};
  const uint8x8_t books = vld1_u8(job.codebooks);
  uint8x16_t shift[2];
  Unroll<2>([&](auto half) EDGE_INLINE_LAMBDA {
    static constexpr uint8_t kLanes[2][16] = {{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3},
                                              {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7}};
    const uint8x16_t lanes = vld1q_u8(kLanes[half.value]);
    shift[half.value] = vshlq_n_u8(vqtbl1q_u8(vcombine_u8(books, books), lanes), 4);
  });
  LinearAll(job, [&](int64_t i, auto half) EDGE_INLINE_LAMBDA {
    const uint8x16_t two = vld1q_u8(job.weights + i / 2 * 32 + 16 * half.value);
    const uint8x16_t codes = i % 2 == 0 ? vandq_u8(two, vdupq_n_u8(15)) : vshrq_n_u8(two, 4);
    return vqtbl2q_s8(tables, vorrq_u8(codes, shift[half.value]));
  });
}

}  // namespace edge::EDGE_ARM_NAMESPACE
