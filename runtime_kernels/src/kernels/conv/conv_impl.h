// The block-sparse convolution microkernel: B filters x NV vectors of pixels stay in registers over
// the whole list of entries.
#pragma once
#include "kernels/conv/activation_impl.h"
#include "kernels/conv/kernel_table.h"
#include "kernels/conv/simd.h"

namespace edge {

// Where the lanes of a job read and write in one row of the output: pixel x is at [x]. An unused
// lane has the addresses of a used one before it, whose store comes after its own.
template <int B>
struct ConvRow {
  const float* in;  // before an entry's offset
  float* out[B];
  const float* residual[B];
  float* sums;  // of lane 0
};

template <class V, int B, int NV>
class ConvTile {
 public:
  static constexpr int kPixels = NV * V::kLanes;

  // `tiles` tiles from pixel x on. The last vector of the last one has `last` pixels: may read
  // whole vectors of the input, writes and reads the residual of these pixels only.
  static EDGE_NOINLINE void Run(const ConvJob& job, const ConvRow<B>& row, int64_t x, int64_t tiles,
                                int last) {
    const Epilogue& e = *job.epilogue;
    const bool residual = job.residual != nullptr;
    const int64_t lane_sums = job.rows * job.sums_h;
    for (; tiles > 0; --tiles, x += kPixels) {
      Reg acc[B][NV];
      if (job.first_pass) {
        Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
          const Reg bias = V::Set(job.bias[b.value]);
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
      Accumulate(job, row.in + x, acc);
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
      if (residual && !e.residual_after_act) AddResidual(row, x, whole, last, acc);
      ActivateAll<V, B * NV>(e, [&](const auto& f) EDGE_INLINE_LAMBDA {
        Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
          Unroll<NV>([&](auto v)
                         EDGE_INLINE_LAMBDA { f(acc[b.value][v.value], b.value * NV + v.value); });
        });
      });
      if (residual && e.residual_after_act) AddResidual(row, x, whole, last, acc);
      StoreAll(row, x, whole, last, acc);
    }
  }

 private:
  using Reg = typename V::Reg;
  static constexpr int kLanes = V::kLanes;

  static EDGE_INLINE void Accumulate(const ConvJob& job, const float* in, Reg (&acc)[B][NV]) {
    const int32_t* const end = job.offsets + job.n_entries;
    const int32_t* offset = job.offsets;
    const float* w = job.weights;
    const int64_t stride = job.weights_stride;
    asm("" : "+r"(in));  // or GCC adds it to the offset of every entry in two steps
    if constexpr (V::kEntries == 2) {
#pragma GCC unroll 2
      for (; offset != end; ++offset, w += stride) Entry(in + *offset, w, acc);
    } else {
      for (; offset != end; ++offset, w += stride) Entry(in + *offset, w, acc);
    }
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

  static EDGE_INLINE void AddResidual(const ConvRow<B>& row, int64_t x, bool whole, int last,
                                      Reg (&acc)[B][NV]) {
    Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
      const float* p = row.residual[b.value] + x;
      Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
        const float* at = p + v.value * kLanes;
        Reg& sum = acc[b.value][v.value];
        sum = V::Add(sum, v.value < NV - 1 || whole ? V::Load(at) : V::LoadPart(at, last));
      });
    });
  }

  static EDGE_INLINE void StoreAll(const ConvRow<B>& row, int64_t x, bool whole, int last,
                                   Reg (&acc)[B][NV]) {
    Unroll<B>([&](auto i) EDGE_INLINE_LAMBDA {
      constexpr int b = B - 1 - i.value;  // the last lanes may be unused
      float* p = row.out[b] + x;
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
EDGE_INLINE void RunConvTile(int vectors, const ConvJob& job, const ConvRow<B>& row, int64_t x,
                             int last) {
  if (vectors == NV) {
    ConvTile<V, B, NV>::Run(job, row, x, 1, last);
  } else if constexpr (NV > 1) {
    RunConvTile<V, B, NV - 1>(vectors, job, row, x, last);
  }
}

// Runs a job of B lanes in tiles of at most NV vectors.
template <class V, int B, int NV>
void RunConv(const ConvJob& job) {
  const bool residual = job.residual != nullptr;
  ConvRow<B> row;
  row.in = job.in;
  row.sums = job.sums;
  Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
    uint32_t filter = job.filters[b.value];
    if (filter == kNone) filter = job.filters[0];
    row.out[b.value] = job.out + int64_t{filter} * job.out_c;
    if (residual) row.residual[b.value] = job.residual + int64_t{filter} * job.res_c;
  });
  constexpr int64_t kPixels = ConvTile<V, B, NV>::kPixels;
  for (int64_t y = 0; y < job.rows; ++y) {
    // Two tiles of about the same size at the end rather than a whole and a narrow one, which would
    // wait for its own sums.
    const int64_t whole =
        job.cols % kPixels == 0 || job.cols < kPixels ? job.cols / kPixels : job.cols / kPixels - 1;
    int64_t x = whole * kPixels;
    if (whole > 0) ConvTile<V, B, NV>::Run(job, row, 0, whole, V::kLanes);
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
      RunConvTile<V, B, NV>(static_cast<int>(vectors), job, row, x, static_cast<int>(last));
      x += width;
    }
    row.in += job.in_h;
    if (job.sums != nullptr) row.sums += job.sums_h;
    Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
      row.out[b.value] += job.out_h;
      if (residual) row.residual[b.value] += job.res_h;
    });
  }
}

}  // namespace edge
