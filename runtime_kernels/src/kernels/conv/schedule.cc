#include "kernels/conv/schedule.h"

#include <algorithm>
#include <utility>

#include "kernels/div_up.h"

namespace edge {
namespace {

#ifdef __aarch64__
constexpr int64_t kL1Lines = 1024;  // of a Cortex-A76, and of the large cores after it
#else
constexpr int64_t kL1Lines = 512;
#endif
// Cache lines of the input a pass: a little more than there are costs little where several filters
// use what was read.
constexpr int64_t kPassLines = kL1Lines * 7 / 6, kPassLinesOfFewFilters = kL1Lines * 7 / 8;
constexpr int64_t kL2Bytes = 256 * 1024;        // half of a common L2
constexpr int64_t kLine = 64 / sizeof(float);   // elements
constexpr int64_t kMaxSums = int64_t{1} << 24;  // floats a thread may put away between passes

// As one row the columns between the rows are computed too: not where they are many, and many more
// than what the last vectors of the rows waste.
bool Flattens(const ConvArgs& a, int64_t vector) {
  const int64_t whole = DivUp(a.w, vector) * vector;
  const int64_t widest = whole + std::max(kLine / 4, whole / 32);
  return a.may_write_gaps && a.out_h == a.in_h && a.out_h >= a.w && a.out_h <= widest &&
         (a.residual == nullptr || a.res_h == a.in_h);
}

// The cache lines that a tile reads, as runs [first, last] of lines counted from the element `base`
// after its first pixel.
struct Footprint {
  int64_t base = 0;
  int64_t span = 0;  // elements from the first to the last
  std::vector<std::pair<int64_t, int64_t>> runs;
  int64_t lines = 0;
  bool shared = true;  // by the blocks; not in depthwise and grouped convolutions

  // Of `pixels` more.
  int64_t Lines(int64_t pixels) const {
    return lines + static_cast<int64_t>(runs.size()) * DivUp(pixels, kLine);
  }
};

// Calls f(first, last) on the offsets of evenly spread blocks with about `max_entries` entries
// together.
template <class F>
void ForSampleOfBlocks(const PackedView& p, int64_t max_entries, const F& f) {
  const int64_t mean = std::max<int64_t>(1, p.n_entries / p.n_blocks);
  const int64_t wanted = std::clamp<int64_t>(max_entries / mean, 2, 64);
  const uint32_t step = std::max<uint32_t>(1, static_cast<uint32_t>(p.n_blocks / wanted));
  for (uint32_t b = 0; b < p.n_blocks; b += step) {
    if (p.row_ptr[b] != p.row_ptr[b + 1]) {
      f(p.offsets + p.row_ptr[b], p.offsets + p.row_ptr[b + 1]);
    }
  }
}

// Whether runs of entries at the same place in a vector are long enough for moving their sums.
bool Aligned(const PackedView& p, int64_t vector, int64_t max_entries) {
  constexpr int64_t kEntriesARun = 3;
  int64_t entries = 0, runs = 0;
  ForSampleOfBlocks(p, max_entries, [&](const int32_t* first, const int32_t* last) {
    entries += last - first;
    for (const int32_t* o = first; o != last; ++o)
      runs += o == first || ((*o ^ o[-1]) & (vector - 1)) != 0;
  });
  return entries >= kEntriesARun * runs;
}

Footprint TileFootprint(const PackedView& p, int64_t tile, int64_t max_entries) {
  Footprint result;
  int64_t lo = INT64_MAX, hi = INT64_MIN, widest = 0;
  ForSampleOfBlocks(p, max_entries, [&](const int32_t* first, const int32_t* last) {
    const auto range = std::minmax_element(first, last);
    widest = std::max<int64_t>(widest, int64_t{*range.second} - *range.first);
    lo = std::min<int64_t>(lo, *range.first);
    hi = std::max<int64_t>(hi, *range.second);
  });
  if (lo > hi) return result;
  result.base = lo;
  result.span = hi - lo + tile;
  result.shared = widest * 2 >= hi - lo;
  if (!result.shared) return result;
  std::vector<char> touched(static_cast<size_t>((hi - lo + tile) / kLine + 2));
  ForSampleOfBlocks(p, max_entries, [&](const int32_t* first, const int32_t* last) {
    for (const int32_t* o = first; o != last; ++o) {
      const int64_t end = (*o - lo + tile - 1) / kLine;
      for (int64_t line = (*o - lo) / kLine; line <= end; ++line) touched[line] = 1;
    }
  });
  for (size_t i = 0; i + 1 < touched.size(); ++i) {
    if (!touched[i]) continue;
    const size_t first = i;
    while (touched[i + 1]) ++i;  // the last element is never touched
    result.runs.push_back({static_cast<int64_t>(first), static_cast<int64_t>(i)});
    result.lines += static_cast<int64_t>(i - first) + 1;
  }
  return result;
}

struct Cut {
  int64_t tiles = 1;  // a strip
  int64_t passes = 1;
};

// Estimates the cycles that each number of tiles a strip costs beyond the multiply-adds, for one
// sub-block over one tile, and takes the cheapest. Wide strips use a weight more often once it is
// there and read longer pieces of the input's rows; they need more passes, and a pass has to start
// and to put away its sums.
Cut ChooseCut(const Footprint& footprint, const PackedView& p, const ConvKernel& kernel,
              int64_t units, int64_t plane) {
  const int64_t tile = kernel.tile;
  const int64_t pass_lines = kernel.lanes < 4 ? kPassLinesOfFewFilters : kPassLines;
  constexpr double kPassCycles = 100, kL3BytesACycle = 6, kL3LineCycles = 12, kNewRunCycles = 25;
  const double entries = static_cast<double>(p.n_entries) / p.n_blocks;
  const int64_t weight_bytes = int64_t{p.n_entries} * (p.block + 1) * 4;
  Cut best;
  double least = 0;
  for (int64_t tiles = 1; tiles <= 16 && (tiles == 1 || (tiles - 1) * tile < plane); ++tiles) {
    const int64_t lines = footprint.Lines((tiles - 1) * tile);
    const int64_t passes = std::max<int64_t>(1, DivUp(lines, pass_lines));
    const double runs = static_cast<double>(footprint.runs.size());
    double cycles = kPassCycles * static_cast<double>(passes);
    cycles += (static_cast<double>(lines) * kL3LineCycles + runs * kNewRunCycles) /
              static_cast<double>(tiles * units);
    if (weight_bytes > kL2Bytes) {
      cycles += entries * 20 / (kL3BytesACycle * static_cast<double>(tiles));
    }
    if (tiles == 1 || cycles < least) {
      least = cycles;
      best = {tiles, passes};
    }
  }
  return best;
}

// Where the passes begin: the offsets at which about the same number of lines has gone by.
std::vector<int64_t> PassStarts(const Footprint& footprint, int64_t more_pixels, int64_t passes) {
  const int64_t share = DivUp(footprint.Lines(more_pixels), passes);
  std::vector<int64_t> starts;
  int64_t lines = 0;
  for (const auto& run : footprint.runs) {
    for (int64_t line = run.first; line <= run.second; ++line) {
      if (lines++ >= share) {
        starts.push_back(footprint.base + line * kLine);
        lines = 1;
      }
    }
    lines += DivUp(more_pixels, kLine);
  }
  return starts;
}

// The lines of the next strip, counted from this one, that no strip before has read: those whose
// neighbour a row below is not read. The rest is as near as the second-level cache allows already.
std::vector<int32_t> NewLines(const Footprint& footprint, int64_t strip, int64_t row) {
  std::vector<int32_t> lines;
  for (const auto& run : footprint.runs) {
    const int64_t last = run.second + DivUp(strip, kLine);
    for (int64_t line = run.first; line <= last; ++line) {
      const int64_t below = line + row / kLine;
      const auto after = std::upper_bound(
          footprint.runs.begin(), footprint.runs.end(), below,
          [](int64_t value, const std::pair<int64_t, int64_t>& r) { return value < r.first; });
      if (row > strip && after != footprint.runs.begin() &&
          std::prev(after)->second + strip / kLine >= below)
        continue;
      lines.push_back(static_cast<int32_t>(footprint.base + line * kLine + strip));
    }
  }
  return lines;
}

// A list that is not sorted by offset is cut somewhere else, which costs time, not correctness.
void CutEntries(const PackedView& p, const std::vector<int64_t>& starts, ConvSchedule* s) {
  const int64_t passes = static_cast<int64_t>(starts.size()) + 1;
  // Blocks with less than an entry a pass gain nothing, and their table could outgrow the plan.
  if (passes == 1 || passes * p.n_blocks > p.n_entries) return;
  s->passes = passes;
  s->pass_ptr.reserve(static_cast<size_t>(p.n_blocks) * s->passes + 1);
  for (uint32_t b = 0; b < p.n_blocks; ++b) {
    const int32_t* at = p.offsets + p.row_ptr[b];
    s->pass_ptr.push_back(p.row_ptr[b]);
    for (int64_t start : starts) {
      at = std::lower_bound(at, p.offsets + p.row_ptr[b + 1], start);
      s->pass_ptr.push_back(static_cast<uint32_t>(at - p.offsets));
    }
  }
  s->pass_ptr.push_back(p.row_ptr[p.n_blocks]);
}

}  // namespace

ConvSchedule PlanConv(const ConvArgs& a, const ConvKernel& kernel, size_t threads) {
  const PackedView& p = a.packed;
  ConvSchedule s{};
  const bool flat = Flattens(a, kernel.vector);
  s.rows = flat ? 1 : a.h;
  s.cols = flat ? static_cast<int32_t>((a.h - 1) * a.out_h + a.w) : a.w;
  s.passes = 1;
  const int64_t units = int64_t{p.n_blocks} * (p.block / kernel.lanes);
  const int64_t plane = int64_t{s.rows} * s.cols;
  const int64_t tiles = DivUp(plane, kernel.tile);

  // Looking at the entries must stay cheap next to computing them.
  const int64_t max_entries = std::min<int64_t>(16384, p.n_entries * tiles / 64);
  const Footprint footprint = TileFootprint(p, kernel.tile, max_entries);
  s.aligned = kernel.lanes == 1 && a.may_read_around && Aligned(p, kernel.vector, max_entries);
  // Blocks that look at inputs of their own gain nothing from it staying in cache: each runs over
  // its whole plane.
  s.filters_outer = !footprint.shared;
  int64_t strip = plane;
  if (footprint.shared) {
    const Cut cut = ChooseCut(footprint, p, kernel, units, plane);
    strip = std::min(plane, cut.tiles * kernel.tile);
    if (cut.passes > 1) {
      CutEntries(p, PassStarts(footprint, (cut.tiles - 1) * kernel.tile, cut.passes), &s);
    }
  }
  // As even as whole tiles allow.
  s.strip_cols = s.cols;
  if (strip < s.cols) {
    const int64_t even = DivUp(s.cols, DivUp(s.cols, strip));
    const int64_t whole = DivUp(even, kernel.tile) * kernel.tile;
    s.strip_cols = static_cast<int32_t>(std::min<int64_t>(s.cols, whole));
  }
  const int64_t input_bytes = 4 * (footprint.span + (a.h - 1) * a.in_h + a.w);
  if (input_bytes > 2 * kL2Bytes && s.strip_cols < s.cols) {
    s.next_lines = NewLines(footprint, s.strip_cols, a.in_h);
  }
  s.strip_rows = static_cast<int32_t>(std::clamp<int64_t>(strip / s.strip_cols, 1, s.rows));
  s.strips = int64_t{a.n} * DivUp(s.rows, s.strip_rows) * DivUp(s.cols, s.strip_cols);

  // A few tasks for each thread; whole strips as long as there are enough of them.
  const int64_t wanted = threads > 1 ? 4 * static_cast<int64_t>(threads) : 1;
  s.groups = s.filters_outer ? units : std::clamp<int64_t>(DivUp(wanted, s.strips), 1, units);
  s.group_size = DivUp(units, s.groups);
  s.groups = DivUp(units, s.group_size);
  if (s.passes > 1 &&
      s.group_size * kernel.lanes * s.strip_rows * (s.strip_cols + kernel.vector) > kMaxSums) {
    s.passes = 1;
    s.pass_ptr.clear();
  }
  return s;
}

}  // namespace edge
