// kSoftmax: over dim 1 of (n, c, h, w).
#include <algorithm>
#include <limits>

#include "kernels/nest.h"
#include "kernels/ops.h"

namespace edge {
namespace {

// One vector of c contiguous values.
void SoftmaxRow(const RowOps& rows, const float* x, float* y, int64_t c) {
  float most = x[0];
  for (int64_t i = 1; i < c; ++i) most = x[i] > most ? x[i] : most;
  const size_t count = static_cast<size_t>(c);
  rows.add_scalar(y, x, -most, count);
  rows.exp(y, y, count);
  rows.mul_scalar(y, y, 1.0f / rows.sum(y, count), count);
}

// `tile` neighbouring pixels at once; channels are sc apart.
void SoftmaxTile(const RowOps& rows, const float* x, int64_t x_sc, float* y, int64_t y_sc,
                 int64_t c, int64_t tile) {
  constexpr int64_t kTile = 512;
  float shift[kTile], scale[kTile];
  const size_t n = static_cast<size_t>(tile);
  std::fill(shift, shift + tile, -std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < c; ++i) rows.max(shift, x + i * x_sc, 1, n);
  rows.mul_scalar(shift, shift, -1.0f, n);
  std::fill(scale, scale + tile, 0.0f);
  for (int64_t i = 0; i < c; ++i) {
    rows.add(y + i * y_sc, x + i * x_sc, shift, n);
    rows.exp(y + i * y_sc, y + i * y_sc, n);
    rows.accumulate(scale, y + i * y_sc, 1, n);
  }
  for (int64_t i = 0; i < tile; ++i) scale[i] = 1.0f / scale[i];
  for (int64_t i = 0; i < c; ++i) rows.mul(y + i * y_sc, y + i * y_sc, scale, n);
}

}  // namespace

void RunSoftmax(const OpCall& call) {
  constexpr int64_t kTile = 512;
  const ConstView& in = call.in[0];
  View out = call.out;
  const int64_t channels = out.c;
  const bool vectors = out.h == 1 && out.w == 1 && in.sc == 1 && out.sc == 1;
  out.c = 1;  // a row here is a row of pixels with all their channels
  ForEachRow(out, static_cast<size_t>(out.w) * static_cast<size_t>(channels), call.pool,
             [&](int64_t n, int64_t, int64_t r) {
               if (vectors)
                 return SoftmaxRow(call.rows, in.Row(n, 0, 0), out.Row(n, 0, 0), channels);
               for (int64_t q = 0; q < out.w; q += kTile) {
                 SoftmaxTile(call.rows, in.Row(n, 0, r) + q, in.sc, out.Row(n, 0, r) + q, out.sc,
                             channels, std::min<int64_t>(kTile, out.w - q));
               }
             });
}

}  // namespace edge
