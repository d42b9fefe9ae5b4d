// kAdaptiveAvgPool, as torch.nn.AdaptiveAvgPool2d; the mean over a plane is its 1x1 case.
#include <algorithm>

#include "kernels/nest.h"
#include "kernels/ops.h"

namespace edge {
namespace {

constexpr int64_t kSumRun =
    1024;  // floats added in single precision; their sums are added in double

double Sum(const RowOps& rows, const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i += kSumRun)
    sum += rows.sum(x + i, static_cast<size_t>(std::min(kSumRun, n - i)));
  return sum;
}

// Of `rows` rows of n elements, sh apart.
double SumOfRows(const RowOps& ops, const float* x, int64_t sh, int64_t rows, int64_t n) {
  if (sh == n) return Sum(ops, x, rows * n);
  double sum = 0;
  if (rows * n > kSumRun) {
    for (int64_t y = 0; y < rows; ++y) sum += Sum(ops, x + y * sh, n);
    return sum;
  }
  float all[kSumRun];  // of a small window: one sum instead of one a row
  for (int64_t y = 0; y < rows; ++y) std::copy(x + y * sh, x + y * sh + n, all + y * n);
  return Sum(ops, all, rows * n);
}

}  // namespace

void RunAdaptiveAvgPool(const OpCall& call) {
  const ConstView& in = call.in[0];
  const View& out = call.out;
  const int64_t ih = in.h, iw = in.w;
  const size_t cost = static_cast<size_t>((ih + out.h - 1) / out.h * iw);
  ForEachRow(out, cost, call.pool, [&](int64_t n, int64_t c, int64_t r) {
    const float* plane = in.Plane(n, c);
    const int64_t y0 = r * ih / out.h, y1 = ((r + 1) * ih + out.h - 1) / out.h;
    float* row = out.Row(n, c, r);
    for (int64_t q = 0; q < out.w; ++q) {
      const int64_t x0 = q * iw / out.w, x1 = ((q + 1) * iw + out.w - 1) / out.w;
      const double sum = SumOfRows(call.rows, plane + y0 * in.sh + x0, in.sh, y1 - y0, x1 - x0);
      row[q] = static_cast<float>(sum / static_cast<double>((y1 - y0) * (x1 - x0)));
    }
  });
}

}  // namespace edge
