// kCopy: between layouts, into a halo, and space-to-depth for strided convolutions.
#include <algorithm>
#include <cstring>

#include "kernels/nest.h"
#include "kernels/ops.h"

namespace edge {
namespace {

// out[q] = in[q * s + shift] for q in [0, n), zero where that is outside [0, w).
void CopyRow(float* out, int64_t n, const float* in, int64_t w, int64_t s, int64_t shift,
             const RowOps& rows) {
  const int64_t first = shift >= 0 ? 0 : std::min(n, (-shift + s - 1) / s);
  const int64_t last = shift >= w ? first : std::clamp((w - shift + s - 1) / s, first, n);
  std::fill(out, out + first, 0.0f);
  std::fill(out + last, out + n, 0.0f);
  if (first == last) return;
  const size_t count = static_cast<size_t>(last - first);
  if (s == 1) {
    std::memcpy(out + first, in + first + shift, count * sizeof(float));
  } else {
    rows.take(out + first, in + first * s + shift, static_cast<size_t>(s), count);
  }
}

}  // namespace

void CopyElements(const ConstView& in, const View& out, ThreadPool* pool) {
  const auto dims = DimsOf(out);
  const Nest<2> nest(dims, {StridesOf(out, dims), StridesOf(in, dims)});
  const int64_t to = nest.step(0), from = nest.step(1);
  nest.ForEachRun(pool, [&](const std::array<int64_t, 2>& at, size_t n) {
    float* y = out.data + at[0];
    const float* x = in.data + at[1];
    if (to == 1 && from == 1) {
      std::memcpy(y, x, n * sizeof(float));
    } else {
      for (int64_t i = 0; i < static_cast<int64_t>(n); ++i) y[i * to] = x[i * from];
    }
  });
}

void RunCopy(const OpCall& call) {
  const ConstView& in = call.in[0];
  const View& out = call.out;
  const int64_t s = call.op.p[0], pad_top = call.op.p[1], pad_left = call.op.p[2];
  if (s == 1 && pad_top == 0 && pad_left == 0 && DimsOf(in) == DimsOf(out))
    return CopyElements(in, out, call.pool);
  const auto rows = [&](int64_t n, int64_t c, int64_t begin, int64_t end) {
    const int64_t phase = c / in.c, py = phase / s, px = phase % s;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t y = r * s + py - pad_top;
      float* row = out.Row(n, c, r);
      if (y < 0 || y >= in.h) {
        std::fill(row, row + out.w, 0.0f);
      } else {
        CopyRow(row, out.w, in.Row(n, c % in.c, y), in.w, s, px - pad_left, call.rows);
      }
    }
  };
  ForEachRun(out, static_cast<size_t>(out.w), call.pool, rows);
}

}  // namespace edge
