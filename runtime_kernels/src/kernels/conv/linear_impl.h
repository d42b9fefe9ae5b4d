// The block-sparse linear microkernels: vectors hold the filters of a block, or, for blocks of 1
// and 2, entries.
#pragma once
#include "kernels/conv/activation_impl.h"
#include "kernels/conv/kernel_table.h"
#include "kernels/conv/simd.h"

namespace edge {

constexpr int kMaxLinearLanes = 16;

// Applies residual and activation to the sums of one row and stores them.
template <class V>
EDGE_NOINLINE void FinishLinear(const LinearJob& job, int64_t n, float* sums) {
  const Epilogue& e = *job.epilogue;
  const auto add_residual = [&]() {
    for (int b = 0; b < job.lanes; ++b) {
      if (job.filters[b] == kNone) continue;
      sums[b] += job.residual[n * job.res_n + job.filters[b] * job.res_c];
    }
  };
  if (job.residual != nullptr && !e.residual_after_act) add_residual();
  if (e.act != ActKind::kNone) {
    ActivateVectors<V>(sums, (job.lanes + V::kLanes - 1) / V::kLanes, e);
  }
  if (job.residual != nullptr && e.residual_after_act) add_residual();
  for (int b = 0; b < job.lanes; ++b) {
    if (job.filters[b] != kNone) job.out[n * job.out_n + job.filters[b] * job.out_c] = sums[b];
  }
}

// ROWS inputs at once over a block of NV * kLanes filters, with U independent sums each to hide the
// latency of the FMA.
template <class V, int NV, int ROWS, int U>
EDGE_NOINLINE void LinearRows(const LinearJob& job, int64_t n) {
  using Reg = typename V::Reg;
  constexpr int kLanes = V::kLanes;
  constexpr int kBlock = NV * kLanes;
  Reg acc[U][ROWS][NV];
  Unroll<U * ROWS * NV>([&](auto i) EDGE_INLINE_LAMBDA {
    constexpr int u = i.value / (ROWS * NV), r = i.value / NV % ROWS, v = i.value % NV;
    acc[u][r][v] = u == 0 ? V::Load(job.bias + v * kLanes) : V::Set(0.0f);
  });
  const float* in = job.in + n * job.in_n;
  const float* w = job.weights;
  const auto entry = [&](auto u, int32_t offset, const float* weights) EDGE_INLINE_LAMBDA {
    Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
      const Reg filters = V::Load(weights + v.value * kLanes);
      Unroll<ROWS>([&](auto r) EDGE_INLINE_LAMBDA {
        Reg& sum = acc[u.value][r.value][v.value];
        sum = V::Fma(filters, V::Set(in[r.value * job.in_n + offset]), sum);
      });
    });
  };
  int64_t e = 0;
  for (; e + U <= job.n_entries; e += U, w += U * kBlock) {
    Unroll<U>([&](auto u)
                  EDGE_INLINE_LAMBDA { entry(u, job.offsets[e + u.value], w + u.value * kBlock); });
  }
  for (; e < job.n_entries; ++e, w += kBlock) entry(Index<0>{}, job.offsets[e], w);
  Unroll<ROWS>([&](auto r) EDGE_INLINE_LAMBDA {
    alignas(64) float sums[kMaxLinearLanes];
    Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
      Unroll<U - 1>([&](auto u) EDGE_INLINE_LAMBDA {
        Reg& sum = acc[0][r.value][v.value];
        sum = V::Add(sum, acc[u.value + 1][r.value][v.value]);
      });
      V::Store(sums + v.value * kLanes, acc[0][r.value][v.value]);
    });
    FinishLinear<V>(job, n + r.value, sums);
  });
}

// Blocks of NV * kLanes filters, four rows at a time.
template <class V, int NV>
void RunLinear(const LinearJob& job) {
  int64_t n = 0;
  for (; n + 4 <= job.rows; n += 4) LinearRows<V, NV, 4, NV == 1 ? 2 : 1>(job, n);
  for (; n < job.rows; ++n) LinearRows<V, NV, 1, NV >= 4 ? 2 : 8 / NV>(job, n);
}

// Blocks of B = 1 or 2 filters: a dot product whose lanes are entries (lane i: filter i % B).
template <class V, int B>
void RunLinearDot(const LinearJob& job) {
  static_assert(B == 1 || B == 2);
  using Reg = typename V::Reg;
  constexpr int kStep = V::kLanes / B;  // entries a vector
  constexpr int kSums = 4;
  for (int64_t n = 0; n < job.rows; ++n) {
    const float* in = job.in + n * job.in_n;
    Reg acc[kSums];
    Unroll<kSums>([&](auto u) EDGE_INLINE_LAMBDA { acc[u.value] = V::Set(0.0f); });
    const auto step = [&](auto u, int64_t e) EDGE_INLINE_LAMBDA {
      Reg x;
      if constexpr (B == 1) {
        x = V::Gather(in, job.offsets + e);
      } else {
        x = V::GatherPairs(in, job.offsets + e);
      }
      acc[u.value] = V::Fma(x, V::Load(job.weights + e * B), acc[u.value]);
    };
    int64_t e = 0;
    for (; e + kSums * kStep <= job.n_entries; e += kSums * kStep) {
      Unroll<kSums>([&](auto u) EDGE_INLINE_LAMBDA { step(u, e + u.value * kStep); });
    }
    for (; e + kStep <= job.n_entries; e += kStep) step(Index<0>{}, e);
    alignas(64) float lanes[V::kLanes];
    V::Store(lanes, V::Add(V::Add(acc[0], acc[1]), V::Add(acc[2], acc[3])));
    alignas(64) float sums[kMaxLinearLanes] = {};
    for (int b = 0; b < B; ++b) sums[b] = job.bias[b];
    for (int i = 0; i < V::kLanes; ++i) sums[i % B] += lanes[i];
    for (; e < job.n_entries; ++e) {
      for (int b = 0; b < B; ++b) sums[b] += job.weights[e * B + b] * in[job.offsets[e]];
    }
    FinishLinear<V>(job, n, sums);
  }
}

}  // namespace edge
