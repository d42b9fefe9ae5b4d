// The depthwise kernels over a vector type: a vector of pixels in each of several rows at once, so
// that a pixel, once loaded, is used for all the rows whose windows it is in.
//
// Beyond simd.h, V has Unzip(p, even, odd): the elements p[0], p[2], ... and p[1], p[3], ... of two
// vectors, in an order of its own that Ordered(x) undoes.
#pragma once
#include "kernels/conv/activation_impl.h"
#include "kernels/conv/simd.h"
#include "kernels/depthwise/kernel_table.h"

namespace edge {

template <class V, int K, int S, class T = float>
class DepthwisePlane {
 public:
  using Job = DepthwiseJobOf<T>;

  static void Run(const Job& job) {
    if (job.cols < kLanes) {
      RunRows<true>(job);
    } else {
      RunRows<false>(job);
    }
  }

 private:
  using Reg = typename V::Reg;
  static constexpr int kLanes = V::kLanes;

  template <bool narrow>
  static EDGE_INLINE void RunRows(const Job& job) {
    constexpr int kRows = 4;
    if (job.rows < kRows) {
      Rows<1, narrow>(job);
    } else {
      Rows<kRows, narrow>(job);
    }
  }

  // R rows at a time, the last ones again where they are no multiple of R. So are the last pixels
  // of a row, unless it is narrow: less than a vector. The job is copied, since stores might change
  // it.
  template <int R, bool narrow>
  static EDGE_NOINLINE void Rows(const Job job) {
    const Epilogue e = *job.epilogue;
    Reg w[K * K];
    Unroll<K * K>([&](auto i)
                      EDGE_INLINE_LAMBDA { w[i.value] = V::Set(job.weights[1 + i.value]); });
    const Reg bias = V::Set(job.weights[0]);
    for (int64_t top = 0; top < job.rows; top += R) {
      if (top + R > job.rows) top = job.rows - R;
      const T* in = job.in + top * S * job.in_h;
      T* out = job.out + top * job.out_h;
      for (int64_t x = 0; x < job.cols; x += kLanes) {
        if (!narrow && x + kLanes > job.cols) x = job.cols - kLanes;
        Reg sum[R];
        Unroll<R>([&](auto r) EDGE_INLINE_LAMBDA { sum[r.value] = bias; });
        Accumulate<R>(in + x * S, job.in_h, w, sum);
        ActivateAll<V, R>(e, [&](const auto& f) EDGE_INLINE_LAMBDA {
          Unroll<R>([&](auto r) EDGE_INLINE_LAMBDA { f(sum[r.value], r.value); });
        });
        T* to = out + x;
        Unroll<R>([&](auto r) EDGE_INLINE_LAMBDA {
          const Reg y = S == 1 ? sum[r.value] : V::Ordered(sum[r.value]);
          if constexpr (narrow) {
            V::StorePart(to, y, static_cast<int>(job.cols));
          } else {
            V::Store(to, y);
          }
          to += job.out_h;
        });
      }
    }
  }

  // What the rows of the input add to R rows of outputs.
  template <int R>
  static EDGE_INLINE void Accumulate(const T* in, int64_t in_h, const Reg (&w)[K * K],
                                     Reg (&sum)[R]) {
    Unroll<(R - 1) * S + K>([&](auto i) EDGE_INLINE_LAMBDA {
      ForTaps(in, [&](auto kx, Reg pixels) EDGE_INLINE_LAMBDA {
        Unroll<R>([&](auto r) EDGE_INLINE_LAMBDA {
          constexpr int ky = i.value - r.value * S;
          if constexpr (ky >= 0 && ky < K)
            sum[r.value] = V::Fma(pixels, w[ky * K + kx.value], sum[r.value]);
        });
      });
      in += in_h;
    });
  }

  // f(Index<kx>, pixels) for the pixels that each column of the kernel meets in a row.
  template <class F>
  static EDGE_INLINE void ForTaps(const T* p, const F& f) {
    if constexpr (S == 1) {
      Unroll<K>([&](auto kx) EDGE_INLINE_LAMBDA {
        Reg pixels = V::Load(p + kx.value);
        V::Keep(pixels);
        f(kx, pixels);
      });
    } else {
      Unroll<(K + 1) / 2>([&](auto i) EDGE_INLINE_LAMBDA {
        Reg even, odd;
        V::Unzip(p + 2 * i.value, &even, &odd);
        f(Index<2 * i.value>{}, even);
        if constexpr (2 * i.value + 1 < K) f(Index<2 * i.value + 1>{}, odd);
      });
    }
  }
};

template <class V>
constexpr DepthwiseKernels DepthwiseTable() {
  return {{{DepthwisePlane<V, 3, 1>::Run, DepthwisePlane<V, 3, 2>::Run},
           {DepthwisePlane<V, 5, 1>::Run, DepthwisePlane<V, 5, 2>::Run}}};
}

}  // namespace edge
