#include "kernels/conv/schedule.h"

#include <algorithm>

namespace edge {
namespace {

// Half of a common L2: what a task's input or a layer's weights may take there.
constexpr int64_t kCacheBytes = 256 * 1024;

bool CanFlatten(const ConvArgs& a) {
  return a.may_write_gaps && a.out_h == a.in_h && a.out_h >= a.w &&
         (a.residual == nullptr || a.res_h == a.in_h);
}

// How far apart the offsets of one block lie, and of all blocks together; from a sample of blocks.
struct Spans {
  int64_t block = 0;
  int64_t all = 0;
};

Spans SampleSpans(const PackedView& p) {
  constexpr uint32_t kSamples = 8;
  Spans spans;
  int64_t all_lo = INT64_MAX, all_hi = INT64_MIN;
  const uint32_t step = std::max<uint32_t>(1, p.n_blocks / kSamples);
  for (uint32_t b = 0; b < p.n_blocks; b += step) {
    if (p.row_ptr[b] == p.row_ptr[b + 1]) continue;
    const auto range = std::minmax_element(p.offsets + p.row_ptr[b], p.offsets + p.row_ptr[b + 1]);
    const int64_t lo = *range.first, hi = *range.second;
    spans.block = std::max(spans.block, hi - lo + 1);
    all_lo = std::min(all_lo, lo);
    all_hi = std::max(all_hi, hi);
  }
  spans.all = all_hi < all_lo ? 0 : all_hi - all_lo + 1;
  return spans;
}

int64_t DivUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

ConvSchedule PlanConv(const ConvArgs& a, const ConvKernel& kernel, size_t threads) {
  const PackedView& p = a.packed;
  ConvSchedule s{};
  const bool flat = CanFlatten(a);
  s.rows = flat ? 1 : a.h;
  s.cols = flat ? static_cast<int32_t>((a.h - 1) * a.out_h + a.w) : a.w;
  const int64_t units = int64_t{p.n_blocks} * (p.block / kernel.lanes);
  const int64_t plane = int64_t{s.rows} * s.cols;

  // Blocks that look at inputs of their own (depthwise, grouped) gain nothing from a strip staying
  // in cache: run each over its whole plane. Otherwise all blocks pass over a strip before the next
  // one: of a single tile, so that its input stays in L1, when the weights stay in L2; of more
  // tiles when the weights come from further away, to use them more often.
  const Spans spans = SampleSpans(p);
  s.filters_outer = p.n_blocks > 1 && spans.block * 2 <= spans.all;
  int64_t strip = plane;
  if (!s.filters_outer) {
    const int64_t weight_bytes = int64_t{p.n_entries} * (p.block + 1) * 4;
    const int64_t entries = DivUp(p.n_entries, std::max<int64_t>(1, p.n_blocks));
    const int64_t tile_bytes = std::max<int64_t>(1, entries * kernel.tile * 4 / 2);
    const int64_t tiles = weight_bytes <= kCacheBytes ? 1 : kCacheBytes / tile_bytes;
    strip = std::min(plane, std::clamp<int64_t>(tiles, 1, 8) * kernel.tile);
  }
  // As even as whole vectors allow.
  const int64_t across = DivUp(s.cols, strip);
  s.strip_cols = static_cast<int32_t>(
      std::min<int64_t>(s.cols, DivUp(DivUp(s.cols, across), kernel.vector) * kernel.vector));
  s.strip_rows = static_cast<int32_t>(std::clamp<int64_t>(strip / s.strip_cols, 1, s.rows));
  s.strips = int64_t{a.n} * DivUp(s.rows, s.strip_rows) * DivUp(s.cols, s.strip_cols);

  // A few tasks for each thread; whole strips as long as there are enough of them.
  const int64_t wanted = threads > 1 ? 4 * static_cast<int64_t>(threads) : 1;
  s.groups = std::min(units, std::max<int64_t>(1, DivUp(wanted, std::max<int64_t>(1, s.strips))));
  if (s.filters_outer) s.groups = units;
  s.group_size = DivUp(units, std::max<int64_t>(1, s.groups));
  s.groups = s.group_size == 0 ? 0 : DivUp(units, s.group_size);
  return s;
}

}  // namespace edge
