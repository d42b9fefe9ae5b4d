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

// One filter over pixels [x, x + count) of one row.
void ConvSpan(const ConvJob& job, int lane, int64_t y, int64_t x, int count) {
  float sum[kTile];
  float* sums =
      job.sums == nullptr ? nullptr : job.sums + (int64_t{lane} * job.rows + y) * job.sums_h + x;
  if (job.first_pass) {
    std::fill(sum, sum + count, job.bias[lane]);
  } else {
    std::copy(sums, sums + count, sum);
  }
  const float* in = job.in + y * job.in_h + x;
  for (int64_t e = 0; e < job.n_entries; ++e) {
    const float w = job.weights[e * job.weights_stride + lane];
    const float* p = in + job.offsets[e];
    for (int i = 0; i < count; ++i) sum[i] += w * p[i];
  }
  if (!job.last_pass) {
    std::copy(sum, sum + count, sums);
    return;
  }
  const int64_t channel = job.filters[lane];
  float* out = job.out + channel * job.out_c + y * job.out_h + x;
  const float* res =
      job.residual == nullptr ? nullptr : job.residual + channel * job.res_c + y * job.res_h + x;
  for (int i = 0; i < count; ++i) {
    out[i] = Finish(sum[i], res == nullptr ? nullptr : res + i, *job.epilogue);
  }
}

void RunConv(const ConvJob& job) {
  for (int lane = 0; lane < job.lanes; ++lane) {
    if (job.filters[lane] == kNone) continue;
    for (int64_t y = 0; y < job.rows; ++y) {
      for (int64_t x = 0; x < job.cols; x += kTile) {
        ConvSpan(job, lane, y, x, static_cast<int>(std::min<int64_t>(kTile, job.cols - x)));
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
