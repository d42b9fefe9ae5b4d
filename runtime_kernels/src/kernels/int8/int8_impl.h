// The int8 kernels over a vector type.
//
// A vector type V has: kLanes pixels; Sum (kLanes int32); Real (kLanes floats);
// Accumulate<B, NV>(job, in, sums), which adds the entries' products; SetSum, AddSum; ToReal,
// SetReal, Mul, Add, Max, Min; Round (to the nearest, ties to even); Pack(s0, s1, s2, s3): quads of
// sums in [-128, 127]; Channel<j>(quads): a channel of quads as a Sum; Load, Store, StorePart
// (quads); LoadReal, LoadPartReal, StoreReal, StorePartReal; TakeEven(p): quads p[0], p[2], ...;
// MaxBytes(a, b).
#pragma once
#include "kernels/conv/simd.h"
#include "kernels/conv/tiles.h"
#include "kernels/int8/kernel_table.h"

namespace edge {

// What makes outputs of sums, with its constants in registers.
template <class V>
class Int8Finish {
 public:
  using Sum = typename V::Sum;
  using Real = typename V::Real;

  explicit EDGE_INLINE Int8Finish(const Int8Epilogue& e)
      : act_(e.act),
        after_(e.residual_after_act),
        lo_(V::SetReal(e.lo)),
        hi_(V::SetReal(e.hi)),
        least_(V::SetReal(static_cast<float>(-128 - e.zero))),
        most_(V::SetReal(static_cast<float>(127 - e.zero))),
        zero_(V::SetSum(e.zero)),
        residual_scale_(V::SetReal(e.residual_scale)),
        residual_zero_(V::SetSum(-e.residual_zero)) {}

  // Four channels' sums, their scales, and the quads of a residual or none.
  template <class Scale>
  EDGE_INLINE void Reals(const Sum (&sums)[4], const Scale& scale,
                         const typename V::Quads* residual, Real (&t)[4]) const {
    Unroll<4>([&](auto j)
                  EDGE_INLINE_LAMBDA { t[j.value] = V::Mul(V::ToReal(sums[j.value]), scale(j)); });
    if (residual != nullptr && !after_) AddResidual(*residual, t);
    if (act_ == ActKind::kClamp) {
      Unroll<4>([&](auto j)
                    EDGE_INLINE_LAMBDA { t[j.value] = V::Min(V::Max(t[j.value], lo_), hi_); });
    } else if (act_ == ActKind::kLeakyRelu) {
      const Real none = V::SetReal(0.0f);
      Unroll<4>([&](auto j) EDGE_INLINE_LAMBDA {
        const Real negative = V::Mul(V::Min(t[j.value], none), lo_);
        t[j.value] = V::Add(V::Max(t[j.value], none), negative);
      });
    }
    if (residual != nullptr && after_) AddResidual(*residual, t);
  }

  EDGE_INLINE Sum Level(Real t) const {
    return V::AddSum(V::Round(V::Min(V::Max(t, least_), most_)), zero_);
  }

 private:
  EDGE_INLINE void AddResidual(const typename V::Quads& quads, Real (&t)[4]) const {
    Unroll<4>([&](auto j) EDGE_INLINE_LAMBDA {
      const Sum r = V::AddSum(V::template Channel<j.value>(quads), residual_zero_);
      t[j.value] = V::Add(t[j.value], V::Mul(V::ToReal(r), residual_scale_));
    });
  }

  const ActKind act_;
  const bool after_;
  const Real lo_, hi_, least_, most_;
  const Sum zero_;
  const Real residual_scale_;
  const Sum residual_zero_;
};

// Adds the products of entries [first, last) of a job to the sums. D has: Pixels (a vector of them
// as Dot takes it); Load(p); Weights<B>(w) with Dot<b>(pixels, sum) = sum + the products of four
// weights at w + 4 b with each pixel's channels.
template <class D, int kLanes, int B, int NV, class Sum>
EDGE_INLINE void AccumulateInt8(const Int8ConvJob& job, int64_t first, int64_t last, const Quad* in,
                                Sum (&sums)[B][NV]) {
  const int32_t* const end = job.offsets + last;
  const int64_t stride = job.weights_stride;
  const int8_t* w = job.weights + first * stride;
  asm("" : "+r"(in));  // or GCC adds it to the offset of every entry in two steps
  for (const int32_t* offset = job.offsets + first; offset != end; ++offset, w += stride) {
    const Quad* p = in + *offset;
    const typename D::template Weights<B> weights(w);
    typename D::Pixels pixels[NV];
    Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA { pixels[v.value] = D::Load(p + v.value * kLanes); });
    Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
        Sum& sum = sums[b.value][v.value];
        sum = weights.template Dot<b.value>(pixels[v.value], sum);
      });
    });
  }
}

template <class V, int B, int NV>
class Int8Tile {
 public:
  static constexpr int kPixels = NV * V::kLanes;

  // `tiles` tiles from pixel x of a row on; the last vector of the last one has `last` pixels.
  static EDGE_NOINLINE void Run(const Int8ConvJob& job, const Quad* in, int64_t row, int64_t x,
                                int64_t tiles, int last) {
    for (; tiles > 0; --tiles, x += kPixels) {
      Sum sums[B][NV];
      Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
        const Sum bias = V::SetSum(job.bias[b.value]);
        Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA { sums[b.value][v.value] = bias; });
      });
      V::template Accumulate<B, NV>(job, in + x, sums);
      Finish(job, row, x, tiles > 1 ? V::kLanes : last, sums);
    }
  }

 private:
  using Sum = typename V::Sum;

  static EDGE_INLINE void Finish(const Int8ConvJob& job, int64_t row, int64_t x, int last,
                                 const Sum (&sums)[B][NV]) {
    const Int8Epilogue& e = *job.epilogue;
    const Int8Finish<V> finish(e);
    Unroll<B / 4>([&](auto g) EDGE_INLINE_LAMBDA {
      const uint32_t group = job.groups[g.value];
      if (group == kNone) return;
      const Quad* residual = job.residual == nullptr
                                 ? nullptr
                                 : job.residual + group * job.res_c + row * job.res_h + x;
      typename V::Real scale[4];
      Unroll<4>([&](auto j) EDGE_INLINE_LAMBDA {
        scale[j.value] = V::SetReal(job.scale[4 * g.value + j.value]);
      });
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
        const int n = v.value < NV - 1 ? V::kLanes : last;
        const int64_t at = v.value * V::kLanes;
        const Sum four[4] = {sums[4 * g.value][v.value], sums[4 * g.value + 1][v.value],
                             sums[4 * g.value + 2][v.value], sums[4 * g.value + 3][v.value]};
        typename V::Quads added;
        if (residual != nullptr) added = V::Load(residual + at);
        typename V::Real t[4];
        finish.Reals(
            four, [&](auto j) EDGE_INLINE_LAMBDA { return scale[j.value]; },
            residual != nullptr ? &added : nullptr, t);
        if (e.to_float) {
          StoreFloats(job, 4 * group, row * job.out_h + x + at, n, t);
        } else {
          Quad* out = static_cast<Quad*>(job.out) + group * job.out_c + row * job.out_h + x + at;
          const auto quads = V::Pack(finish.Level(t[0]), finish.Level(t[1]), finish.Level(t[2]),
                                     finish.Level(t[3]));
          if (n == V::kLanes) {
            V::Store(out, quads);
          } else {
            V::StorePart(out, quads, n);
          }
        }
      });
    });
  }

  static EDGE_INLINE void StoreFloats(const Int8ConvJob& job, int64_t filter, int64_t at, int n,
                                      const typename V::Real (&t)[4]) {
    float* out = static_cast<float*>(job.out) + filter * job.out_c + at;
    Unroll<4>([&](auto j) EDGE_INLINE_LAMBDA {
      if (filter + j.value >= job.n_filters) return;
      float* p = out + j.value * job.out_c;
      if (n == V::kLanes) {
        V::StoreReal(p, t[j.value]);
      } else {
        V::StorePartReal(p, t[j.value], n);
      }
    });
  }
};

// Runs a job of B lanes in tiles of at most NV vectors.
template <class V, int B, int NV>
void RunConvInt8(const Int8ConvJob& job) {
  for (int64_t y = 0; y < job.rows; ++y) {
    const Quad* in = job.in + y * job.in_h;
    CutRow<NV, V::kLanes>(job.cols, job.may_overlap,
                          [&](auto nv, int64_t x, int64_t tiles, int last) EDGE_INLINE_LAMBDA {
                            Int8Tile<V, B, nv.value>::Run(job, in, y, x, tiles, last);
                          });
  }
}

template <class V>
void RunQuantize(const float* const* channels, Quad* out, int64_t n, float inverse, int32_t zero) {
  const auto factor = V::SetReal(inverse);
  const Int8Finish<V> finish({ActKind::kNone, 0, 0, false, 0, 0, zero, false});
  for (int64_t x = 0; x < n; x += V::kLanes) {
    const int left = static_cast<int>(n - x < V::kLanes ? n - x : V::kLanes);
    typename V::Sum level[4];
    Unroll<4>([&](auto j) EDGE_INLINE_LAMBDA {
      const float* p = channels[j.value];
      auto t = V::SetReal(0.0f);
      if (p != nullptr) t = left == V::kLanes ? V::LoadReal(p + x) : V::LoadPartReal(p + x, left);
      level[j.value] = finish.Level(V::Mul(t, factor));
    });
    const auto quads = V::Pack(level[0], level[1], level[2], level[3]);
    if (left == V::kLanes) {
      V::Store(out + x, quads);
    } else {
      V::StorePart(out + x, quads, left);
    }
  }
}

template <class V>
void RunDequantize(const Quad* in, float* const* channels, int64_t n, float scale, int32_t zero) {
  const auto factor = V::SetReal(scale);
  const auto shift = V::SetSum(-zero);
  for (int64_t x = 0; x < n; x += V::kLanes) {
    const int left = static_cast<int>(n - x < V::kLanes ? n - x : V::kLanes);
    const auto quads = V::Load(in + x);  // whole: it lies in the arena
    Unroll<4>([&](auto j) EDGE_INLINE_LAMBDA {
      float* p = channels[j.value];
      if (p == nullptr) return;
      const auto t =
          V::Mul(V::ToReal(V::AddSum(V::template Channel<j.value>(quads), shift)), factor);
      if (left == V::kLanes) {
        V::StoreReal(p + x, t);
      } else {
        V::StorePartReal(p + x, t, left);
      }
    });
  }
}

template <class V>
void RunMax(Quad* out, const Quad* in, int64_t n, int64_t stride) {
  if (stride > 2) {
    for (int64_t x = 0; x < n; ++x) {
      const auto most = V::MaxBytes(V::Load(out + x), V::Load(in + x * stride));
      V::StorePart(out + x, most, 1);
    }
    return;
  }
  for (int64_t x = 0; x < n; x += V::kLanes) {
    const auto more = stride == 1 ? V::Load(in + x) : V::TakeEven(in + 2 * x);
    const auto most = V::MaxBytes(V::Load(out + x), more);
    if (n - x >= V::kLanes) {
      V::Store(out + x, most);
    } else {
      V::StorePart(out + x, most, static_cast<int>(n - x));
    }
  }
}

// V::Depthwise<K, S>(job).Run(in, in_h): the outputs of kLanes pixels, whose first tap is at in.
template <class V, int K, int S>
void RunDepthwiseInt8(const Int8DepthwiseJob& job) {
  typename V::template Depthwise<K, S> kernel(job);
  for (int64_t y = 0; y < job.rows; ++y) {
    const Quad* in = job.in + y * S * job.in_h;
    Quad* out = job.out + y * job.out_h;
    for (int64_t x = 0; x < job.cols; x += V::kLanes) {
      if (x + V::kLanes > job.cols && job.cols >= V::kLanes) x = job.cols - V::kLanes;
      const auto quads = kernel.Run(in + x * S, job.in_h);
      if (x + V::kLanes <= job.cols) {
        V::Store(out + x, quads);
      } else {
        V::StorePart(out + x, quads, static_cast<int>(job.cols - x));
      }
    }
  }
}

}  // namespace edge
