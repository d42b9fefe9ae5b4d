// The float16 kernels over a vector type: B filters x NV vectors of pixels stay in registers over
// the whole list of entries, as in conv/conv_impl.h.
//
// A vector type V has: Reg, in which sums are kept, of kLanes pixels; kHalfSums: whether sums are
// float16; Floats, a vector type of float32 for the activations (conv/simd.h); Load and LoadPart,
// Store and StorePart (float16 in memory); Load and Store with floats in memory (exact, and
// rounded); Keep; Set; Add; Fma(a, b, c) = a * b + c; Max, Min as in conv/simd.h; Weights<B>(p)
// with Fma<b>(x, acc); Unzip and Ordered (depthwise_impl.h). With kHalfSums: AddTo(p, x, first),
// which sets kLanes floats to x or adds x to them.
#pragma once
#include "kernels/conv/activation_impl.h"
#include "kernels/conv/simd.h"
#include "kernels/depthwise/depthwise_impl.h"
#include "kernels/half/kernel_table.h"

namespace edge {

// A unit in one row, as ConvRow of conv_impl.h.
template <int B>
struct HalfRow {
  const int32_t *offset, *end;
  const Half* weights;
  const float* bias;
  const Half* in;
  Half* out[B];
  const Half* residual[B];
};

template <class V, int B, int NV>
class HalfTile {
 public:
  static constexpr int kPixels = NV * V::kLanes;

  // As ConvTile::Run.
  static EDGE_NOINLINE void Run(const HalfConvJob& job, int64_t i, int64_t units, int64_t y,
                                int64_t x, int64_t tiles, int last) {
    for (const int64_t end = i + units; i < end; ++i) {
      HalfRow<B> row;
      if (Resolve(job, i, y, &row)) RunUnit(job, row, x, tiles, last);
    }
  }

 private:
  using Reg = typename V::Reg;
  static constexpr int kLanes = V::kLanes;

  static EDGE_INLINE bool Resolve(const HalfConvJob& job, int64_t i, int64_t y, HalfRow<B>* row) {
    const PackedView& p = *job.packed;
    const int64_t lane = (job.first_unit + i) * B;  // of all
    const uint32_t* filters = p.filters + lane;
    const uint32_t* range = p.row_ptr + (lane >> __builtin_ctz(p.block));
    const int64_t first = range[0];
    if (filters[0] == kNone) return false;
    row->offset = p.offsets + first;
    row->end = p.offsets + range[1];
    row->weights = job.weights + first * p.block + (lane & (p.block - 1));
    row->bias = p.bias + lane;
    row->in = job.in + y * job.in_h;
    Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
      const int64_t filter = filters[b.value] == kNone ? filters[0] : filters[b.value];
      row->out[b.value] = job.out + filter * job.out_c + y * job.out_h;
      row->residual[b.value] =
          job.residual == nullptr ? nullptr : job.residual + filter * job.res_c + y * job.res_h;
    });
    return true;
  }

  // f(register, its number) for all of them.
  template <class F>
  static EDGE_INLINE void Each(Reg (&acc)[B][NV], const F& f) {
    Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
      Unroll<NV>([&](auto v)
                     EDGE_INLINE_LAMBDA { f(acc[b.value][v.value], b.value * NV + v.value); });
    });
  }

  static EDGE_INLINE void RunUnit(const HalfConvJob& job, const HalfRow<B>& row, int64_t x,
                                  int64_t tiles, int last) {
    const Epilogue& e = *job.epilogue;
    const bool residual = job.residual != nullptr;
    for (; tiles > 0; --tiles, x += kPixels) {
      Reg acc[B][NV];
      Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
        const Reg bias = V::Set(row.bias[b.value]);
        Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA { acc[b.value][v.value] = bias; });
      });
      Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
        for (int i = 0; i < kPixels; i += 32)
          __builtin_prefetch(row.out[b.value] + x + kPixels + i, 1);
      });
      Sum(row, job.packed->block, row.in + x, acc);
      const bool whole = last == kLanes || tiles > 1;
      if (residual && !e.residual_after_act) AddResidual(row, x, whole, last, acc);
      ActivateAll<V, B * NV>(e, [&](const auto& f) EDGE_INLINE_LAMBDA { Each(acc, f); });
      if (residual && e.residual_after_act) AddResidual(row, x, whole, last, acc);
      StoreAll(row, x, whole, last, acc);
    }
  }

  // Adds up all entries; float16 sums in groups.
  static EDGE_INLINE void Sum(const HalfRow<B>& row, int64_t stride, const Half* in,
                              Reg (&acc)[B][NV]) {
    if constexpr (!V::kHalfSums) {
      Accumulate(row.offset, row.end, row.weights, stride, in, acc);
    } else {
      alignas(64) float sums[B * NV * kLanes];
      asm("" : "=m"(sums));  // GCC does not see that the first group sets them
      const Half* w = row.weights;
      for (const int32_t* offset = row.offset;;) {
        const bool first = offset == row.offset, last = row.end - offset <= kHalfGroup;
        const int32_t* const end = last ? row.end : offset + kHalfGroup;
        Accumulate(offset, end, w, stride, in, acc);
        if (first && last) return;
        Each(acc, [&](Reg& sum, int i) EDGE_INLINE_LAMBDA {
          V::AddTo(sums + i * kLanes, sum, first);
          sum = last ? V::Load(sums + i * kLanes) : V::Set(0.0f);
        });
        if (last) return;
        offset = end, w += kHalfGroup * stride;
      }
    }
  }

  static EDGE_INLINE void Accumulate(const int32_t* offset, const int32_t* end, const Half* w,
                                     int64_t stride, const Half* in, Reg (&acc)[B][NV]) {
    asm("" : "+r"(in));  // or GCC adds it to the offset of every entry in two steps
    for (; offset != end; ++offset, w += stride) {
      const Half* p = in + *offset;
      asm("" : "+r"(p));  // or it computes a second address
      Entry(p, w, acc);
    }
  }

  static EDGE_INLINE void Entry(const Half* p, const Half* w, Reg (&acc)[B][NV]) {
    const typename V::template Weights<B> weights(w);
    if constexpr (B <= NV) {  // weights in registers, pixels pass through one
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
        const Reg pixels = V::Load(p + v.value * kLanes);
        Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
          Reg& sum = acc[b.value][v.value];
          sum = weights.template Fma<b.value>(pixels, sum);
        });
      });
    } else {  // the other way round
      Reg pixels[NV];
      Unroll<NV>([&](auto v)
                     EDGE_INLINE_LAMBDA { pixels[v.value] = V::Load(p + v.value * kLanes); });
      Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
        Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
          Reg& sum = acc[b.value][v.value];
          sum = weights.template Fma<b.value>(pixels[v.value], sum);
        });
      });
    }
  }

  static EDGE_INLINE void AddResidual(const HalfRow<B>& row, int64_t x, bool whole, int last,
                                      Reg (&acc)[B][NV]) {
    Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
      const Half* p = row.residual[b.value] + x;
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
        const Half* at = p + v.value * kLanes;
        Reg& sum = acc[b.value][v.value];
        sum = V::Add(sum, v.value < NV - 1 || whole ? V::Load(at) : V::LoadPart(at, last));
      });
    });
  }

  static EDGE_INLINE void StoreAll(const HalfRow<B>& row, int64_t x, bool whole, int last,
                                   Reg (&acc)[B][NV]) {
    Unroll<B>([&](auto i) EDGE_INLINE_LAMBDA {
      constexpr int b = B - 1 - i.value;  // the last lanes may be unused
      Half* p = row.out[b] + x;
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
        if (v.value < NV - 1 || whole) {
          V::Store(p + v.value * kLanes, acc[b][v.value]);
        } else {
          V::StorePart(p + v.value * kLanes, acc[b][v.value], last);
        }
      });
    });
  }
};

template <class V, int B, int NV>
EDGE_INLINE void RunHalfTile(int vectors, const HalfConvJob& job, int64_t i, int64_t units,
                             int64_t y, int64_t x, int last) {
  if (vectors == NV) {
    HalfTile<V, B, NV>::Run(job, i, units, y, x, 1, last);
  } else if constexpr (NV > 1) {
    RunHalfTile<V, B, NV - 1>(vectors, job, i, units, y, x, last);
  }
}

// Runs a job of units of B lanes in tiles of at most NV vectors, cut as RunConv (conv_impl.h) does.
template <class V, int B, int NV>
void RunConvHalf(const HalfConvJob& job) {
  constexpr int64_t kPixels = HalfTile<V, B, NV>::kPixels;
  const int64_t step = job.rows == 1 && job.cols <= kPixels ? job.units : 1;
  const int64_t whole =
      job.cols % kPixels == 0 || job.cols < kPixels ? job.cols / kPixels : job.cols / kPixels - 1;
  for (int64_t i = 0; i < job.units; i += step) {
    for (int64_t y = 0; y < job.rows; ++y) {
      int64_t x = whole * kPixels;
      if (whole > 0) HalfTile<V, B, NV>::Run(job, i, step, y, 0, whole, V::kLanes);
      while (x < job.cols) {
        const int64_t left = (job.cols - x + V::kLanes - 1) / V::kLanes;
        const int64_t vectors = left <= NV ? left : (left + 1) / 2;
        const int64_t width = vectors * V::kLanes;
        int64_t last = V::kLanes;
        if (x + width > job.cols) {
          if (job.may_overlap && job.cols >= width) {
            x = job.cols - width;
          } else {
            last -= x + width - job.cols;
          }
        }
        RunHalfTile<V, B, NV>(static_cast<int>(vectors), job, i, step, y, x,
                              static_cast<int>(last));
        x += width;
      }
    }
  }
}

// B filters as vectors F of float32, which has LoadHalf(p) and SetHalf(p) beside what conv/simd.h
// asks for, with U independent sums each.
template <class F, int B>
void RunLinearHalf(const HalfLinearJob& job) {
  using Reg = typename F::Reg;
  constexpr int kLanes = F::kLanes, NV = B / kLanes, U = NV >= 4 ? 2 : 8 / NV;
  Reg acc[U][NV];
  Unroll<U * NV>([&](auto i) EDGE_INLINE_LAMBDA {
    constexpr int u = i.value / NV, v = i.value % NV;
    acc[u][v] = u == 0 ? F::Load(job.bias + v * kLanes) : F::Set(0.0f);
  });
  const Half* w = job.weights;
  const auto entry = [&](auto u, int32_t offset, const Half* weights) EDGE_INLINE_LAMBDA {
    const Reg x = F::SetHalf(job.in + offset);
    Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
      Reg& sum = acc[u.value][v.value];
      sum = F::Fma(F::LoadHalf(weights + v.value * kLanes), x, sum);
    });
  };
  int64_t e = 0;
  for (; e + U <= job.n_entries; e += U, w += U * B) {
    Unroll<U>([&](auto u)
                  EDGE_INLINE_LAMBDA { entry(u, job.offsets[e + u.value], w + u.value * B); });
  }
  for (; e < job.n_entries; ++e, w += B) entry(Index<0>{}, job.offsets[e], w);
  Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
    Unroll<U - 1>([&](auto u) EDGE_INLINE_LAMBDA {
      acc[0][v.value] = F::Add(acc[0][v.value], acc[u.value + 1][v.value]);
    });
    F::Store(job.sums + v.value * kLanes, acc[0][v.value]);
  });
}

// The same with float16 sums: vectors V, which has LoadRow(p) and SetRow(p) beside the others.
template <class V, int B>
void RunLinearSums(const HalfLinearJob& job) {
  using Reg = typename V::Reg;
  constexpr int kLanes = V::kLanes, NV = B / kLanes, U = B == 4 ? 16 : 8 / NV;
  for (int b = 0; b < B; ++b) job.sums[b] = job.bias[b];
  const Half* w = job.weights;
  const auto entry = [&](Reg(&acc)[NV], int32_t offset, const Half* weights) EDGE_INLINE_LAMBDA {
    const Reg x = V::SetRow(job.in + offset);
    Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
      acc[v.value] = V::Fma(V::LoadRow(weights + v.value * kLanes), x, acc[v.value]);
    });
  };
  for (int64_t e = 0; e < job.n_entries;) {
    const int64_t end = job.n_entries - e <= kHalfGroup ? job.n_entries : e + kHalfGroup;
    Reg acc[U][NV];
    Unroll<U * NV>([&](auto i)
                       EDGE_INLINE_LAMBDA { acc[i.value / NV][i.value % NV] = V::Set(0.0f); });
    for (; e + U <= end; e += U, w += U * B) {
      Unroll<U>([&](auto u) EDGE_INLINE_LAMBDA {
        entry(acc[u.value], job.offsets[e + u.value], w + u.value * B);
      });
    }
    for (; e < end; ++e, w += B) entry(acc[0], job.offsets[e], w);
    Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
      Unroll<U - 1>([&](auto u) EDGE_INLINE_LAMBDA {
        acc[0][v.value] = V::Add(acc[0][v.value], acc[u.value + 1][v.value]);
      });
      V::AddTo(job.sums + v.value * kLanes, acc[0][v.value], false);
    });
  }
}

// Blocks of B = 1 or 2 filters: number by number.
template <class F, int B>
void RunLinearHalfScalar(const HalfLinearJob& job) {
  for (int b = 0; b < B; ++b) {
    float sums[4] = {job.bias[b], 0, 0, 0};
    for (int64_t e = 0; e < job.n_entries; ++e) {
      sums[e % 4] += F::One(job.weights[e * B + b].bits) * F::One(job.in[job.offsets[e]].bits);
    }
    job.sums[b] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
}

template <class F>
void WidenHalves(float* y, const Half* x, size_t n) {
  size_t i = 0;
  for (; i + F::kLanes <= n; i += F::kLanes) F::Store(y + i, F::LoadHalf(x + i));
  for (; i < n; ++i) y[i] = F::One(x[i].bits);
}

template <class F>
void NarrowHalves(Half* y, const float* x, size_t n) {
  size_t i = 0;
  for (; i + F::kLanes <= n; i += F::kLanes) F::StoreHalf(y + i, F::Load(x + i));
  for (; i < n; ++i) y[i].bits = F::OneHalf(x[i]);
}

template <class F>
void ActivateFloats(float* x, int count, const Epilogue& e) {
  ActivateVectors<F>(x, count / F::kLanes, e);
}

}  // namespace edge
