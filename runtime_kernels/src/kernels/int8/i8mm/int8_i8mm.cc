// Matrix products of two filters and two pixels, of two entries at once.
#define EDGE_ARM_NAMESPACE i8mm
#include "kernels/int8/dotprod/vec.h"
#include "kernels/int8/table.h"

namespace edge {
namespace i8mm {

struct Int8Matrix4 : Int8Vec4 {
  static constexpr bool kPaired = true;

  // Pixels 0 and 1 (2 and 3) of both entries, and two filters' weights for both: the rows of the
  // matrices. A product is [filter][pixel] of a pair of filters and a pair of pixels.
  template <int B, int NV>
  static EDGE_INLINE void Accumulate(const Int8ConvJob& job, const Quad* in, Sum (&sums)[B][NV]) {
    Sum products[B / 2][NV][2];
    Unroll<B / 2>([&](auto f) EDGE_INLINE_LAMBDA {
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
        const Sum &first = sums[2 * f.value][v.value], &second = sums[2 * f.value + 1][v.value];
        products[f.value][v.value][0] = Low(first, second);
        products[f.value][v.value][1] = Low(first, second);  // all pixels begin alike
      });
    });
    const int8_t* w = job.weights;
    const int32_t* offset = job.offsets;
    int64_t left = job.n_entries;
    for (; left >= 2; left -= 2, offset += 2, w += 8 * B) {
      Pair<B, NV>(
          in + offset[0], in + offset[1], w,
          [&](auto i) EDGE_INLINE_LAMBDA {
            return vld1q_s32(reinterpret_cast<const int32_t*>(w + 4 * B) + 4 * i.value);
          },
          products);
    }
    if (left > 0) {
      Pair<B, NV>(
          in + offset[0], in + offset[0], w, [](auto) EDGE_INLINE_LAMBDA { return vdupq_n_s32(0); },
          products);
    }
    Unroll<B / 2>([&](auto f) EDGE_INLINE_LAMBDA {
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
        const auto& p = products[f.value][v.value];
        sums[2 * f.value][v.value] = Low(p[0], p[1]);
        sums[2 * f.value + 1][v.value] = High(p[0], p[1]);
      });
    });
  }

 private:
  static EDGE_INLINE Sum Low(Sum a, Sum b) {
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
  }
  static EDGE_INLINE Sum High(Sum a, Sum b) {
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
  }

  // `second(i)`: the weights of the second entry for filters 4 i and up.
  template <int B, int NV, class Second>
  static EDGE_INLINE void Pair(const Quad* p, const Quad* q, const int8_t* w, const Second& second,
                               Sum (&products)[B / 2][NV][2]) {
    int8x16_t pixels[NV][2];
    Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
      const uint32x4_t x = Load(p + 4 * v.value), y = Load(q + 4 * v.value);
      pixels[v.value][0] = vreinterpretq_s8_u32(vzip1q_u32(x, y));
      pixels[v.value][1] = vreinterpretq_s8_u32(vzip2q_u32(x, y));
    });
    Unroll<B / 4>([&](auto i) EDGE_INLINE_LAMBDA {
      const Sum a = vld1q_s32(reinterpret_cast<const int32_t*>(w) + 4 * i.value), b = second(i);
      const int8x16_t filters[2] = {vreinterpretq_s8_s32(vzip1q_s32(a, b)),
                                    vreinterpretq_s8_s32(vzip2q_s32(a, b))};
      Unroll<2>([&](auto f) EDGE_INLINE_LAMBDA {
        Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
          Unroll<2>([&](auto half) EDGE_INLINE_LAMBDA {
            Sum& sum = products[2 * i.value + f.value][v.value][half.value];
            sum = vmmlaq_s32(sum, filters[f.value], pixels[v.value][half.value]);
          });
        });
      });
    });
  }
};

}  // namespace i8mm

const Int8Kernels kI8mmInt8 = Int8Table<i8mm::Int8Matrix4, 4, 2>("i8mm", false, i8mm::RunLinearInt8,
                                                                 i8mm::RunLinearInt8Codes);

}  // namespace edge
