// kAdd and kMul: two inputs with numpy broadcasting, then the activation.
#include <utility>

#include "kernels/activation.h"
#include "kernels/nest.h"
#include "kernels/ops.h"

namespace edge {
namespace {

using VectorRow = void (*)(float* y, const float* a, const float* b, size_t n);
using ScalarRow = void (*)(float* y, const float* a, float b, size_t n);

// Both operations commute, so the broadcast operand can always be the second one.
template <typename F>
void RunBinary(const OpCall& call, VectorRow vector, ScalarRow scalar, F one) {
  const View& out = call.out;
  ConstView a = call.in[0], b = call.in[1];
  const auto dims = DimsOf(out);
  if (a.w != out.w) std::swap(a, b);
  const Nest<3> nest(dims, {StridesOf(out, dims), StridesOf(a, dims), StridesOf(b, dims)});
  const int64_t to = nest.step(0), from_a = nest.step(1), from_b = nest.step(2);
  const auto act = static_cast<ActKind>(call.op.act);
  const float lo = call.op.act_param[0], hi = call.op.act_param[1];
  nest.ForEachRun(call.pool, [&](const std::array<int64_t, 3>& at, size_t n) {
    float* y = out.data + at[0];
    const float* u = a.data + at[1];
    const float* v = b.data + at[2];
    if (to == 1 && from_a == 1 && from_b == 1) {
      vector(y, u, v, n);
    } else if (to == 1 && from_a == 1 && from_b == 0) {
      scalar(y, u, *v, n);
    } else {
      for (int64_t i = 0; i < static_cast<int64_t>(n); ++i) {
        y[i * to] = Activate(act, one(u[i * from_a], v[i * from_b]), lo, hi);
      }
      return;
    }
    call.rows.activate(act, lo, hi, y, y, n);
  });
}

}  // namespace

void RunAdd(const OpCall& call) {
  RunBinary(call, call.rows.add, call.rows.add_scalar, [](float u, float v) { return u + v; });
}

void RunMul(const OpCall& call) {
  RunBinary(call, call.rows.mul, call.rows.mul_scalar, [](float u, float v) { return u * v; });
}

}  // namespace edge
