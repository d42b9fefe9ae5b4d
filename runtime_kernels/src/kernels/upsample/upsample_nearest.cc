// kUpsampleNearest, as torch.nn.functional.interpolate(mode="nearest").
#include <algorithm>
#include <cstring>

#include "kernels/nest.h"
#include "kernels/ops.h"

namespace edge {

void RunUpsampleNearest(const OpCall& call) {
  const ConstView& in = call.in[0];
  const View& out = call.out;
  const float rows_ratio = call.op.f[0], columns_ratio = call.op.f[1];
  // With an integer factor every source column is repeated; that vectorises.
  const int64_t factor =
      out.w % in.w == 0 && columns_ratio * static_cast<float>(out.w / in.w) == 1.0f ? out.w / in.w
                                                                                    : 0;
  ForEachRow(out, static_cast<size_t>(out.w), call.pool, [&](int64_t n, int64_t c, int64_t r) {
    const float* x = in.Row(n, c, NearestSource(r, rows_ratio, in.h));
    float* y = out.Row(n, c, r);
    if (factor == 1) {
      std::memcpy(y, x, static_cast<size_t>(out.w) * sizeof(float));
    } else if (factor == 2) {
      for (int64_t i = 0; i < in.w; ++i) y[2 * i] = y[2 * i + 1] = x[i];
    } else if (factor > 2) {
      for (int64_t i = 0; i < in.w; ++i) std::fill(y + i * factor, y + (i + 1) * factor, x[i]);
    } else {
      for (int64_t q = 0; q < out.w; ++q) y[q] = x[NearestSource(q, columns_ratio, in.w)];
    }
  });
}

}  // namespace edge
