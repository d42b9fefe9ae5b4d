// The block-sparse convolution microkernel: B filters x NV vectors of pixels stay in registers over
// the whole list of entries.
#pragma once
#include "kernels/conv/activation_impl.h"
#include "kernels/conv/kernel_table.h"
#include "kernels/conv/simd.h"
#include "kernels/conv/tiles.h"

namespace edge {

// A unit in one row: what it reads and writes for pixel x is at [x]. An unused lane has the
// addresses of a used one before it, whose store comes after its own.
template <int B>
struct ConvRow {
  const int32_t *offset, *end;  // of its entries
  const float* weights;
  const float* bias;
  const float* in;  // before an entry's offset
  float* out[B];
  const float* residual[B];
  float* sums;  // of lane 0
};

template <class V, int B, int NV>
class ConvTile {
 public:
  static constexpr int kPixels = NV * V::kLanes;

  // `units` units of the job, from its i-th on, over `tiles` tiles of row y, from pixel x on. The
  // last vector of the last tile has `last` pixels: may read whole vectors of the input, writes and
  // reads the residual of these pixels only.
  static EDGE_NOINLINE void Run(const ConvJob& job, int64_t i, int64_t units, int64_t y, int64_t x,
                                int64_t tiles, int last) {
    for (const int64_t end = i + units; i < end; ++i) {
      ConvRow<B> row;
      if (Resolve(job, i, y, &row)) RunUnit(job, row, x, tiles, last);
    }
  }

 private:
  using Reg = typename V::Reg;
  static constexpr int kLanes = V::kLanes;

  // False where nothing is to be done.
  static EDGE_INLINE bool Resolve(const ConvJob& job, int64_t i, int64_t y, ConvRow<B>* row) {
    const PackedView& p = *job.packed;
    const int64_t lane = (job.first_unit + i) * B;  // of all
    const uint32_t* filters = p.filters + lane;
    const uint32_t* range = job.ranges + (lane >> __builtin_ctz(p.block)) * job.range_stride;
    const int64_t first = range[0], last = range[1];
    if (filters[0] == kNone) return false;
    if (first == last && !job.first_pass && !job.last_pass) return false;
    row->offset = p.offsets + first;
    row->end = p.offsets + last;
    row->weights = p.weights + first * p.block + (lane & (p.block - 1));
    row->bias = p.bias + lane;
    row->in = job.in + y * job.in_h;
    row->sums = job.sums == nullptr ? nullptr : job.sums + (i * B * job.rows + y) * job.sums_h;
    Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
      const int64_t filter = filters[b.value] == kNone ? filters[0] : filters[b.value];
      row->out[b.value] = job.out + filter * job.out_c + y * job.out_h;
      row->residual[b.value] =
          job.residual == nullptr ? nullptr : job.residual + filter * job.res_c + y * job.res_h;
    });
    return true;
  }

  static EDGE_INLINE void RunUnit(const ConvJob& job, const ConvRow<B>& row, int64_t x,
                                  int64_t tiles, int last) {
    const Epilogue& e = *job.epilogue;
    const bool residual = job.residual != nullptr;
    const int64_t lane_sums = job.rows * job.sums_h;
    for (; tiles > 0; --tiles, x += kPixels) {
      Reg acc[B][NV];
      if (job.first_pass) {
        Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
          const Reg bias = V::Set(row.bias[b.value]);
          Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA { acc[b.value][v.value] = bias; });
        });
      } else {
        float* sums = row.sums + x;
        Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
          Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
            acc[b.value][v.value] = V::Load(sums + v.value * kLanes);
          });
          sums += lane_sums;
        });
      }
      if (job.last_pass) {
        Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
          for (int i = 0; i < kPixels; i += 16)
            __builtin_prefetch(row.out[b.value] + x + kPixels + i, 1);
        });
      }
      if constexpr (B == 1 && V::kMerges) {
        if (job.aligned) {
          AccumulateAligned(row, row.in + x, acc[0]);
        } else {
          Accumulate(row, job.packed->block, row.in + x, acc);
        }
      } else {
        Accumulate(row, job.packed->block, row.in + x, acc);
      }
      if (!job.last_pass) {
        float* sums = row.sums + x;
        Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
          Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
            V::Store(sums + v.value * kLanes, acc[b.value][v.value]);
          });
          sums += lane_sums;
        });
        continue;
      }
      const bool whole = last == kLanes || tiles > 1;
      if (residual && !e.residual_after_act) AddResidual<V>(row.residual, x, whole, last, acc);
      ActivateAll<V, B * NV>(e, [&](const auto& f) EDGE_INLINE_LAMBDA {
        Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
          Unroll<NV>([&](auto v)
                         EDGE_INLINE_LAMBDA { f(acc[b.value][v.value], b.value * NV + v.value); });
        });
      });
      if (residual && e.residual_after_act) AddResidual<V>(row.residual, x, whole, last, acc);
      StoreAll<V>(row.out, x, whole, last, acc);
    }
  }

  static EDGE_INLINE void Accumulate(const ConvRow<B>& row, int64_t stride, const float* in,
                                     Reg (&acc)[B][NV]) {
    const int32_t* const end = row.end;
    const int32_t* offset = row.offset;
    const float* w = row.weights;
    asm("" : "+r"(in));  // or GCC adds it to the offset of every entry in two steps
    if constexpr (V::kEntries == 2) {
#pragma GCC unroll 2
      for (; offset != end; ++offset, w += stride) Entry(in + *offset, w, acc);
    } else {
      for (; offset != end; ++offset, w += stride) Entry(in + *offset, w, acc);
    }
  }

  // One filter alone loads a vector for every multiply-add, and one that crosses a cache line takes
  // two of the cycles that a core has for loads. So the sums of entries that are equally far from
  // the line before them are taken over aligned vectors, and moved to their pixels together.
  static EDGE_INLINE void AccumulateAligned(const ConvRow<B>& row, const float* in,
                                            Reg (&acc)[NV]) {
    const int32_t* offset = row.offset;
    const float* w = row.weights;
    while (offset != row.end) {
      const int32_t first = *offset;
      const auto place = reinterpret_cast<uintptr_t>(in + first) / sizeof(float) % kLanes;
      const float* const line = in - place;
      const auto more = [&]() EDGE_INLINE_LAMBDA {
        ++offset, ++w;
        return offset != row.end && ((*offset ^ first) & (kLanes - 1)) == 0;
      };
      if (place == 0) {
        do AlignedEntry(line + *offset, *w, acc);
        while (more());
        continue;
      }
      Reg sums[NV + 1];
      Unroll<NV + 1>([&](auto v) EDGE_INLINE_LAMBDA { sums[v.value] = V::Set(0.0f); });
      do AlignedEntry(line + *offset, *w, sums);
      while (more());
      const auto from = V::From(static_cast<int>(place));
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
        Reg& sum = acc[v.value];
        sum = V::Add(sum, V::Merge(sums[v.value], sums[v.value + 1], from));
      });
    }
  }

  template <int N>
  static EDGE_INLINE void AlignedEntry(const float* p, float weight, Reg (&sums)[N]) {
    const Reg w = V::Set(weight);
    Unroll<N>([&](auto v) EDGE_INLINE_LAMBDA {
      sums[v.value] = V::Fma(V::LoadAligned(p + v.value * kLanes), w, sums[v.value]);
    });
  }

  static EDGE_INLINE void Entry(const float* p, const float* w, Reg (&acc)[B][NV]) {
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
};

// Runs a job of units of B lanes. A single tile takes all units at once; where there are more, a
// unit's weights, once there, are used for all of them.
template <class V, int B, int NV>
void RunConv(const ConvJob& job) {
  const bool single = job.rows == 1 && job.cols <= ConvTile<V, B, NV>::kPixels;
  const int64_t step = single ? job.units : 1;
  for (int64_t i = 0; i < job.units; i += step) {
    for (int64_t y = 0; y < job.rows; ++y) {
      CutRow<NV, V::kLanes>(job.cols, job.may_overlap,
                            [&](auto nv, int64_t x, int64_t tiles, int last) EDGE_INLINE_LAMBDA {
                              ConvTile<V, B, nv.value>::Run(job, i, step, y, x, tiles, last);
                            });
    }
  }
}

}  // namespace edge
