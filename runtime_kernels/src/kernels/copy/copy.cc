// kCopy: between layouts, into a halo, and space-to-depth for strided convolutions.
#include <algorithm>
#include <cstring>

#include "kernels/nest.h"
#include "kernels/ops.h"

namespace edge {
namespace {

// out[q] = in[q * s + shift] for q in [0, n), `fill` where that is outside [0, w).
void CopyRow(float* out, int64_t n, const float* in, int64_t w, int64_t s, int64_t shift,
             float fill, const RowOps& rows) {
  const int64_t first = shift >= 0 ? 0 : std::min(n, (-shift + s - 1) / s);
  const int64_t last = shift >= w ? first : std::clamp((w - shift + s - 1) / s, first, n);
  std::fill(out, out + first, fill);
  std::fill(out + last, out + n, fill);
  if (first == last) return;
  const size_t count = static_cast<size_t>(last - first);
  if (s == 1) {
    std::memcpy(out + first, in + first + shift, count * sizeof(float));
  } else {
    rows.take(out + first, in + first * s + shift, static_cast<size_t>(s), count);
  }
}

// All four phases of a stride of 2, two of them from every row of the input.
void CopyPhases(const OpCall& call) {
  const ConstView& in = call.in[0];
  const View& out = call.out;
  const int64_t pad_top = call.op.p[1], pad_left = call.op.p[2];
  // Columns [first, last) of the output have both of theirs inside of the input.
  const int64_t first = std::clamp<int64_t>((pad_left + 1) / 2, 0, out.w);
  const int64_t last = std::clamp<int64_t>((in.w + pad_left) / 2, first, out.w);
  View pairs = out;
  pairs.c = in.c, pairs.h = 2 * out.h;
  ForEachRow(pairs, 2 * static_cast<size_t>(out.w), call.pool,
             [&](int64_t n, int64_t c, int64_t i) {
               const int64_t py = i % 2, r = i / 2, y = 2 * r + py - pad_top;
               float* const rows[2] = {out.Row(n, 2 * py * in.c + c, r),
                                       out.Row(n, (2 * py + 1) * in.c + c, r)};
               if (y < 0 || y >= in.h) {
                 for (float* row : rows) std::fill(row, row + out.w, call.fill);
                 return;
               }
               const float* x = in.Row(n, c, y);
               const auto edge = [&](int64_t begin, int64_t end) {
                 for (int64_t q = begin; q < end; ++q) {
                   for (int64_t px = 0; px < 2; ++px) {
                     const int64_t column = 2 * q + px - pad_left;
                     rows[px][q] = column >= 0 && column < in.w ? x[column] : call.fill;
                   }
                 }
               };
               edge(0, first);
               call.rows.split(rows[0] + first, rows[1] + first, x + 2 * first - pad_left,
                               static_cast<size_t>(last - first));
               edge(last, out.w);
             });
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
  if (s == 2 && out.c == 4 * in.c) return CopyPhases(call);
  const auto rows = [&](int64_t n, int64_t c, int64_t begin, int64_t end) {
    const int64_t phase = c / in.c, py = phase / s, px = phase % s;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t y = r * s + py - pad_top;
      float* row = out.Row(n, c, r);
      if (y < 0 || y >= in.h) {
        std::fill(row, row + out.w, call.fill);
      } else {
        CopyRow(row, out.w, in.Row(n, c % in.c, y), in.w, s, px - pad_left, call.fill, call.rows);
      }
    }
  };
  ForEachRun(out, static_cast<size_t>(out.w), call.pool, rows);
}

}  // namespace edge
