// kAvgPool, as torch.nn.AvgPool2d.
#include <algorithm>

#include "kernels/pool/window.h"

namespace edge {
namespace {

// How many taps the window of output `i` has: inside the padded input, or inside the input itself.
int64_t Taps(const WindowAxis& axis, int64_t i, int64_t size, int64_t pad_end, bool with_padding) {
  const int64_t begin = i * axis.stride - axis.pad;
  const int64_t end = std::min(begin + axis.kernel, size + pad_end);
  return with_padding ? end - begin : std::min(end, size) - std::max<int64_t>(begin, 0);
}

}  // namespace

void RunAvgPool(const OpCall& call) {
  const int32_t* p = call.op.p;
  const WindowAxis vertical = {p[0], p[2], p[4], 1}, horizontal = {p[1], p[3], p[5], 1};
  const bool with_padding = p[6] != 0;
  const float fixed = static_cast<float>(p[7]);
  const int64_t pad_bottom = p[8], pad_right = p[9];
  const ConstView& in = call.in[0];
  ForEachWindowTile(call, vertical, horizontal,
                    [&](const float* plane, float* out, int64_t r, int64_t q0, int64_t q1) {
                      ReduceWindows(call.rows, call.rows.accumulate, 0.0f, plane, in.h, in.w, in.sh,
                                    vertical, horizontal, r, q0, q1, out);
                      const int64_t rows = Taps(vertical, r, in.h, pad_bottom, with_padding);
                      for (int64_t q = q0; q < q1; ++q) {
                        out[q] /= fixed != 0
                                      ? fixed
                                      : static_cast<float>(rows * Taps(horizontal, q, in.w,
                                                                       pad_right, with_padding));
                      }
                    });
}

}  // namespace edge
