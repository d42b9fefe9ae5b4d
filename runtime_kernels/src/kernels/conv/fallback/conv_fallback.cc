// The plain C++ kernels: the specification of all others, and what runs on a CPU without any of
// their instruction sets.
#include <algorithm>

#include "kernels/activation.h"
#include "kernels/conv/kernel_table.h"

namespace edge {
namespace {

constexpr int kMaxLanes = 16;
constexpr int kTile = 64;

float Finish(float sum, const float* residual, const Epilogue& e) {
  if (residual == nullptr) return Activate(e.act, sum, e.lo, e.hi);
  return e.residual_after_act ? Activate(e.act, sum, e.lo, e.hi) + *residual
                              : Activate(e.act, sum + *residual, e.lo, e.hi);
}

// One filter of a unit.
struct Filter {
  const int32_t *offset, *end;
  const float* weight;
  int64_t weights_stride;
  float bias;
  int64_t channel;
  float* sums;
};

// Over pixels [x, x + count) of one row.
void ConvSpan(const ConvJob& job, const Filter& f, int64_t y, int64_t x, int count) {
  float sum[kTile];
  float* sums = f.sums == nullptr ? nullptr : f.sums + y * job.sums_h + x;
  if (job.first_pass) {
    std::fill(sum, sum + count, f.bias);
  } else {
    std::copy(sums, sums + count, sum);
  }
  const float* in = job.in + y * job.in_h + x;
  const float* w = f.weight;
  for (const int32_t* offset = f.offset; offset != f.end; ++offset, w += f.weights_stride) {
    const float* p = in + *offset;
    for (int i = 0; i < count; ++i) sum[i] += *w * p[i];
  }
  if (!job.last_pass) {
    std::copy(sum, sum + count, sums);
    return;
  }
  float* out = job.out + f.channel * job.out_c + y * job.out_h + x;
  const float* res =
      job.residual == nullptr ? nullptr : job.residual + f.channel * job.res_c + y * job.res_h + x;
  for (int i = 0; i < count; ++i) {
    out[i] = Finish(sum[i], res == nullptr ? nullptr : res + i, *job.epilogue);
  }
}

void RunConv(const ConvJob& job) {
  const PackedView& p = *job.packed;
  const int64_t first = job.first_unit * job.lanes;
  for (int64_t i = 0; i < job.units * job.lanes; ++i) {
    const int64_t row = first + i;  // of the packed weights
    if (p.filters[row] == kNone) continue;
    const uint32_t* range = job.ranges + row / p.block * job.range_stride;
    const Filter f = {p.offsets + range[0],
                      p.offsets + range[1],
                      p.weights + int64_t{range[0]} * p.block + row % p.block,
                      p.block,
                      p.bias[row],
                      p.filters[row],
                      job.sums == nullptr ? nullptr : job.sums + i * job.rows * job.sums_h};
    for (int64_t y = 0; y < job.rows; ++y) {
      for (int64_t x = 0; x < job.cols; x += kTile) {
        ConvSpan(job, f, y, x, static_cast<int>(std::min<int64_t>(kTile, job.cols - x)));
      }
    }
  }
}

void RunLinear(const LinearJob& job) {
  for (int64_t n = 0; n < job.rows; ++n) {
    float sum[kMaxLanes];
    std::copy(job.bias, job.bias + job.lanes, sum);
    for (int64_t e = 0; e < job.n_entries; ++e) {
      const float x = job.in[n * job.in_n + job.offsets[e]];
      for (int b = 0; b < job.lanes; ++b) sum[b] += job.weights[e * job.lanes + b] * x;
    }
    for (int b = 0; b < job.lanes; ++b) {
      if (job.filters[b] == kNone) continue;
      const int64_t f = job.filters[b];
      const float* res =
          job.residual == nullptr ? nullptr : job.residual + n * job.res_n + f * job.res_c;
      job.out[n * job.out_n + f * job.out_c] = Finish(sum[b], res, *job.epilogue);
    }
  }
}

}  // namespace

const KernelTable kFallbackKernels = {{{"f32-bsconv-1x64-scalar", 1, kTile, 1, RunConv},
                                       {"f32-bsconv-2x64-scalar", 2, kTile, 1, RunConv},
                                       {"f32-bsconv-4x64-scalar", 4, kTile, 1, RunConv},
                                       {"f32-bsconv-8x64-scalar", 8, kTile, 1, RunConv},
                                       {"f32-bsconv-16x64-scalar", 16, kTile, 1, RunConv}},
                                      {{"f32-bslinear-1-scalar", RunLinear},
                                       {"f32-bslinear-2-scalar", RunLinear},
                                       {"f32-bslinear-4-scalar", RunLinear},
                                       {"f32-bslinear-8-scalar", RunLinear},
                                       {"f32-bslinear-16-scalar", RunLinear}}};

}  // namespace edge
