// kMaxPool, as torch.nn.MaxPool2d: padding never wins, NaN always does.
#include <limits>

#include "kernels/pool/window.h"

namespace edge {

void RunMaxPool(const OpCall& call) {
  const int32_t* p = call.op.p;
  const WindowAxis vertical = {p[0], p[2], p[4], p[6]}, horizontal = {p[1], p[3], p[5], p[7]};
  const ConstView& in = call.in[0];
  constexpr float kEmpty = -std::numeric_limits<float>::infinity();
  ForEachWindowTile(call, vertical, horizontal,
                    [&](const float* plane, float* out, int64_t r, int64_t q0, int64_t q1) {
                      ReduceWindows(call.rows, call.rows.max, kEmpty, plane, in.h, in.w, in.sh,
                                    vertical, horizontal, r, q0, q1, out);
                    });
}

}  // namespace edge
