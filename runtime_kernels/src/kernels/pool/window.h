// Max and average pooling as two passes, columns first: a window of kh x kw costs kh + kw steps a
// pixel.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/nest.h"
#include "kernels/ops.h"

namespace edge {

// A window's geometry along one axis.
struct WindowAxis {
  int64_t kernel, stride, pad, dilation;
  int64_t Span() const { return (kernel - 1) * dilation + 1; }
};

// The widest span a window may have; wider ones are refused when the plan is loaded.
constexpr int64_t kMaxWindowSpan = 2048;
constexpr int64_t kWindowTile = 4096;

// Output columns whose windows fit a tile.
inline int64_t WindowsATile(const WindowAxis& horizontal) {
  return (kWindowTile - horizontal.Span()) / horizontal.stride + 1;
}

// Reduces the windows of outputs [q0, q1) of output row r into out[q0, q1). The plane is h x w;
// fetch(y, x, n) gives n floats of it from (y, x) on. Taps outside of it count as `empty`.
// reduce(y, x, step, n): y[i] = y[i] (+) x[i * step].
template <class Fetch>
void ReduceRows(const RowOps& rows, void (*reduce)(float* y, const float* x, size_t step, size_t n),
                float empty, const Fetch& fetch, int64_t h, int64_t w, const WindowAxis& vertical,
                const WindowAxis& horizontal, int64_t r, int64_t q0, int64_t q1, float* out) {
  float column[kWindowTile];
  const int64_t x0 = q0 * horizontal.stride - horizontal.pad;
  const int64_t span = (q1 - q0 - 1) * horizontal.stride + horizontal.Span();
  const int64_t first = std::clamp<int64_t>(-x0, 0, span),
                last = std::clamp<int64_t>(w - x0, first, span);
  bool any = false;
  for (int64_t k = 0; k < vertical.kernel && first < last; ++k) {
    const int64_t y = r * vertical.stride - vertical.pad + k * vertical.dilation;
    if (y < 0 || y >= h) continue;
    const float* x = fetch(y, x0 + first, last - first);
    (any ? reduce : rows.take)(column + first, x, 1, static_cast<size_t>(last - first));
    any = true;
  }
  std::fill(column, column + (any ? first : span), empty);
  if (any) std::fill(column + last, column + span, empty);
  const size_t n = static_cast<size_t>(q1 - q0), step = static_cast<size_t>(horizontal.stride);
  rows.take(out + q0, column, step, n);
  for (int64_t k = 1; k < horizontal.kernel; ++k)
    reduce(out + q0, column + k * horizontal.dilation, step, n);
}

// The same of a plane of floats with the row stride sh.
inline void ReduceWindows(const RowOps& rows,
                          void (*reduce)(float* y, const float* x, size_t step, size_t n),
                          float empty, const float* in, int64_t h, int64_t w, int64_t sh,
                          const WindowAxis& vertical, const WindowAxis& horizontal, int64_t r,
                          int64_t q0, int64_t q1, float* out) {
  const auto fetch = [&](int64_t y, int64_t x, int64_t) { return in + y * sh + x; };
  ReduceRows(rows, reduce, empty, fetch, h, w, vertical, horizontal, r, q0, q1, out);
}

// Calls body(input plane, output row, r, q0, q1) for tiles of output columns whose windows fit a
// tile.
template <typename F>
void ForEachWindowTile(const OpCall& call, const WindowAxis& vertical, const WindowAxis& horizontal,
                       F body) {
  const ConstView& in = call.in[0];
  const View& out = call.out;
  const int64_t tile = WindowsATile(horizontal);
  const size_t cost =
      static_cast<size_t>(out.w) * static_cast<size_t>(vertical.kernel + horizontal.kernel);
  ForEachRow(out, cost, call.pool, [&](int64_t n, int64_t c, int64_t r) {
    for (int64_t q0 = 0; q0 < out.w; q0 += tile) {
      body(in.Plane(n, c), out.Row(n, c, r), r, q0, std::min<int64_t>(q0 + tile, out.w));
    }
  });
}

}  // namespace edge
