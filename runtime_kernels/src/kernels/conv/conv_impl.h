// The block-sparse convolution microkernel: B filters x NV vectors of pixels stay in registers over
// the whole list of entries.
#pragma once
#include "kernels/conv/activation_impl.h"
#include "kernels/conv/kernel_table.h"
#include "kernels/conv/simd.h"

namespace edge {

template <class V, int B, int NV>
class ConvTile {
 public:
  // Pixels [x, x + (NV - 1) * kLanes + last) of row y. May read whole vectors of the input, writes
  // and reads the residual of these pixels only.
  static EDGE_NOINLINE void Run(const ConvJob& job, int64_t y, int64_t x, int last) {
    Reg acc[B][NV];
    if (job.first_pass) {
      Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
        const Reg bias = V::Set(job.bias[b.value]);
        Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA { acc[b.value][v.value] = bias; });
      });
    } else {
      ForSums(job, y, x, [&](auto b, auto v, float* sum) EDGE_INLINE_LAMBDA {
        acc[b.value][v.value] = V::Load(sum);
      });
    }
    Accumulate(job, job.in + y * job.in_h + x, acc);
    if (!job.last_pass) {
      ForSums(job, y, x, [&](auto b, auto v, float* sum) EDGE_INLINE_LAMBDA {
        V::Store(sum, acc[b.value][v.value]);
      });
      return;
    }
    const Epilogue& e = *job.epilogue;
    const bool residual = job.residual != nullptr;
    if (residual && !e.residual_after_act) AddResidual(job, y, x, last, acc);
    ActivateAll(e, acc);
    if (residual && e.residual_after_act) AddResidual(job, y, x, last, acc);
    StoreAll(job, y, x, last, acc);
  }

 private:
  using Reg = typename V::Reg;
  static constexpr int kLanes = V::kLanes;

  template <class F>
  static EDGE_INLINE void ForSums(const ConvJob& job, int64_t y, int64_t x, const F& f) {
    Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
      float* row = job.sums + (b.value * job.rows + y) * job.sums_h + x;
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA { f(b, v, row + v.value * kLanes); });
    });
  }

  static EDGE_INLINE void Accumulate(const ConvJob& job, const float* in, Reg (&acc)[B][NV]) {
    const int32_t* const end = job.offsets + job.n_entries;
    const float* w = job.weights;
    const int64_t stride = job.weights_stride;
    for (const int32_t* offset = job.offsets; offset != end; ++offset, w += stride) {
      const float* p = in + *offset;
      const typename V::template Weights<B> weights(w);
      if constexpr (B <= NV) {  // weights in registers, pixels pass through one
        Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
          Reg pixels = V::Load(p + v.value * kLanes);
          if constexpr (B > 1) V::Keep(pixels);
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
  }

  static EDGE_INLINE void AddResidual(const ConvJob& job, int64_t y, int64_t x, int last,
                                      Reg (&acc)[B][NV]) {
    const float* row = job.residual + y * job.res_h + x;
    Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
      if (job.filters[b.value] == kNone) return;
      const float* r = row + int64_t{job.filters[b.value]} * job.res_c;
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
        const float* p = r + v.value * kLanes;
        const bool whole = v.value < NV - 1 || last == kLanes;
        Reg& sum = acc[b.value][v.value];
        sum = V::Add(sum, whole ? V::Load(p) : V::LoadPart(p, last));
      });
    });
  }

  // The cheap activations in registers; the others through a buffer, which keeps them out of every
  // instance of this template.
  static EDGE_INLINE void ActivateAll(const Epilogue& e, Reg (&acc)[B][NV]) {
    const auto all = [&](const auto& f) EDGE_INLINE_LAMBDA {
      Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
        Unroll<NV>([&](auto v)
                       EDGE_INLINE_LAMBDA { f(acc[b.value][v.value], b.value * NV + v.value); });
      });
    };
    if (e.act == ActKind::kNone) return;
    if (e.act == ActKind::kClamp) {
      const Reg lo = V::Set(e.lo), hi = V::Set(e.hi);
      all([&](Reg& x, int) EDGE_INLINE_LAMBDA { x = V::Min(hi, V::Max(lo, x)); });
      return;
    }
    alignas(64) float buffer[B * NV * kLanes];
    all([&](Reg& x, int i) EDGE_INLINE_LAMBDA { V::Store(buffer + i * kLanes, x); });
    ActivateVectors<V>(buffer, B * NV, e);
    all([&](Reg& x, int i) EDGE_INLINE_LAMBDA { x = V::Load(buffer + i * kLanes); });
  }

  static EDGE_INLINE void StoreAll(const ConvJob& job, int64_t y, int64_t x, int last,
                                   Reg (&acc)[B][NV]) {
    float* row = job.out + y * job.out_h + x;
    Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
      if (job.filters[b.value] == kNone) return;
      float* out = row + int64_t{job.filters[b.value]} * job.out_c;
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
        float* p = out + v.value * kLanes;
        if (v.value < NV - 1 || last == kLanes) {
          V::Store(p, acc[b.value][v.value]);
        } else {
          V::StorePart(p, acc[b.value][v.value], last);
        }
      });
    });
  }
};

template <class V, int B, int NV>
EDGE_INLINE void RunConvTile(int vectors, const ConvJob& job, int64_t y, int64_t x, int last) {
  if (vectors == NV) {
    ConvTile<V, B, NV>::Run(job, y, x, last);
  } else if constexpr (NV > 1) {
    RunConvTile<V, B, NV - 1>(vectors, job, y, x, last);
  }
}

// Runs a job of B lanes in tiles of at most NV vectors.
template <class V, int B, int NV>
void RunConv(const ConvJob& job) {
  for (int64_t y = 0; y < job.rows; ++y) {
    for (int64_t x = 0; x < job.cols;) {
      // Two tiles of about the same size at the end rather than a whole and a narrow one, which
      // would wait for its own sums.
      const int64_t left = (job.cols - x + V::kLanes - 1) / V::kLanes;
      const int64_t vectors = left <= NV ? left : left < 2 * NV ? (left + 1) / 2 : NV;
      const int64_t width = vectors * V::kLanes;
      int64_t last = V::kLanes;
      if (x + width > job.cols) {
        if (job.may_overlap && job.cols >= width) {
          x = job.cols - width;
        } else {
          last -= x + width - job.cols;
        }
      }
      RunConvTile<V, B, NV>(static_cast<int>(vectors), job, y, x, static_cast<int>(last));
      x += width;
    }
  }
}

}  // namespace edge
