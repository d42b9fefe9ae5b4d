// kUpsampleBilinear, as torch.nn.functional.interpolate(mode="bilinear").
#include <algorithm>

#include "kernels/nest.h"
#include "kernels/ops.h"

namespace edge {
namespace {

struct Sample {
  int32_t low, high;
  float weight;  // of `high`
};

Sample SampleAt(int64_t dst, float ratio, int32_t size, bool align_corners) {
  const float at = static_cast<float>(dst);
  float src = align_corners ? ratio * at : ratio * (at + 0.5f) - 0.5f;
  src = std::clamp(src, 0.0f, static_cast<float>(size - 1));
  const int32_t low = std::min(static_cast<int32_t>(src), size - 1);
  return {low, std::min(low + 1, size - 1), src - static_cast<float>(low)};
}

}  // namespace

void RunUpsampleBilinear(const OpCall& call) {
  constexpr int64_t kTile = 512;
  const ConstView& in = call.in[0];
  const View& out = call.out;
  const bool align = call.op.p[0] != 0;
  const float rows_ratio = call.op.f[0], columns_ratio = call.op.f[1];
  const size_t rows =
      static_cast<size_t>(out.n) * static_cast<size_t>(out.c) * static_cast<size_t>(out.h);
  const size_t grain = std::max<size_t>(1, kGrainFloats / static_cast<size_t>(out.w));
  call.pool->ParallelFor(rows, grain, [&](size_t begin, size_t end) {
    int32_t left[kTile], right[kTile];
    float weight[kTile];
    for (int64_t q0 = 0; q0 < out.w; q0 += kTile) {
      const int64_t tile = std::min<int64_t>(kTile, out.w - q0);
      for (int64_t i = 0; i < tile; ++i) {
        const Sample s = SampleAt(q0 + i, columns_ratio, in.w, align);
        left[i] = s.low, right[i] = s.high, weight[i] = s.weight;
      }
      for (size_t row = begin; row < end; ++row) {
        const int64_t r = static_cast<int64_t>(row) % out.h,
                      plane = static_cast<int64_t>(row) / out.h;
        const int64_t n = plane / out.c, c = plane % out.c;
        const Sample s = SampleAt(r, rows_ratio, in.h, align);
        call.rows.bilinear(out.Row(n, c, r) + q0, in.Row(n, c, s.low), in.Row(n, c, s.high),
                           s.weight, {left, right, weight}, static_cast<size_t>(tile));
      }
    }
  });
}

}  // namespace edge
