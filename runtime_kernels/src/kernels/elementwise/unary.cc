// kUnary: the activation alone.
#include "kernels/activation.h"
#include "kernels/nest.h"
#include "kernels/ops.h"

namespace edge {

void RunUnary(const OpCall& call) {
  const ConstView& in = call.in[0];
  const View& out = call.out;
  const auto act = static_cast<ActKind>(call.op.act);
  const float lo = call.op.act_param[0], hi = call.op.act_param[1];
  const auto dims = DimsOf(out);
  const Nest<2> nest(dims, {StridesOf(out, dims), StridesOf(in, dims)});
  const int64_t to = nest.step(0), from = nest.step(1);
  nest.ForEachRun(call.pool, [&](const std::array<int64_t, 2>& at, size_t n) {
    float* y = out.data + at[0];
    const float* x = in.data + at[1];
    if (to == 1 && from == 1) return call.rows.activate(act, lo, hi, y, x, n);
    for (int64_t i = 0; i < static_cast<int64_t>(n); ++i)
      y[i * to] = Activate(act, x[i * from], lo, hi);
  });
}

}  // namespace edge
