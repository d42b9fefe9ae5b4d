// kPixelShuffle: depth to space, with the first rows and columns cropped.
#include <algorithm>

#include "kernels/nest.h"
#include "kernels/ops.h"

namespace edge {

void RunPixelShuffle(const OpCall& call) {
  const ConstView& in = call.in[0];
  const View& out = call.out;
  const int64_t r = call.op.p[0], crop_top = call.op.p[1], crop_left = call.op.p[2];
  const bool whole = (r == 2 || r == 4) && crop_left == 0 && out.w % r == 0;
  ForEachRow(out, static_cast<size_t>(out.w), call.pool, [&](int64_t n, int64_t c, int64_t y) {
    const int64_t phase_y = (y + crop_top) % r, in_y = (y + crop_top) / r;
    float* row = out.Row(n, c, y);
    if (whole) {
      const float* phases[4];
      for (int64_t x = 0; x < r; ++x) phases[x] = in.Row(n, (c * r + phase_y) * r + x, in_y);
      call.rows.interleave(row, phases, static_cast<size_t>(r), static_cast<size_t>(out.w / r));
      return;
    }
    for (int64_t phase_x = 0; phase_x < r; ++phase_x) {
      // The first output column of this phase, and where it comes from.
      const int64_t first = ((phase_x - crop_left) % r + r) % r;
      if (first >= out.w) continue;
      const int64_t count = (out.w - first + r - 1) / r;
      const float* x = in.Row(n, (c * r + phase_y) * r + phase_x, in_y) + (first + crop_left) / r;
      call.rows.put(row + first, x, static_cast<size_t>(r), static_cast<size_t>(count));
    }
  });
}

}  // namespace edge
