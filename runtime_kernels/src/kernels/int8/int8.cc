// Cuts int8 operations into jobs for the kernels of this CPU.
#include "kernels/int8/int8.h"

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "kernels/conv/schedule.h"
#include "kernels/div_up.h"
#include "kernels/int8/kernel_table.h"
#include "kernels/nest.h"

namespace edge {
namespace {

constexpr int kLinearLanes = 8;

int64_t EntryBytes(const PackedInt8View& p) { return int64_t{p.block} * 4 * p.bits / 8; }

// Calls f(lane, level, i) for every code; it is weight i of the levels.
template <class F>
void ForEachCode(const PackedInt8View& p, const F& f) {
  const int64_t lanes = p.block, bytes = lanes * 4;
  for (int64_t block = 0; block < p.n_blocks; ++block) {
    const int8_t* tables[16];
    for (int64_t lane = 0; lane < lanes; ++lane)
      tables[lane] = p.tables + 16 * p.codebooks[block * lanes + lane];
    for (int64_t entry = p.row_ptr[block]; entry < p.row_ptr[block + 1]; ++entry) {
      const uint8_t* codes = p.weights + entry / 2 * bytes;
      for (int64_t i = 0; i < bytes; ++i)
        f(block * lanes + i / 4, tables[i / 4][codes[i] >> (entry % 2 * 4) & 15],
          entry * bytes + i);
    }
  }
}

bool FitsPairs(const uint8_t* entry, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 2) {
    const int a = static_cast<int8_t>(entry[i]), b = static_cast<int8_t>(entry[i + 1]);
    const int positive = std::max(a, 0) + std::max(b, 0),
              negative = std::min(a, 0) + std::min(b, 0);
    if (positive > 128 || negative < -128) return false;  // 255 * 128 < 2^15
  }
  return true;
}

// The bias of a block whose first entries are for pixels q + 128.
void ShiftBias(const PackedInt8View& p, uint32_t block, uint32_t shifted, int32_t* bias) {
  for (uint32_t lane = 0; lane < p.block; ++lane) {
    int64_t sum = 0;
    for (uint32_t entry = 0; entry < shifted; ++entry) {
      const uint8_t* w = p.weights + (int64_t{p.row_ptr[block] + entry} * p.block + lane) * 4;
      for (int j = 0; j < 4; ++j) sum += static_cast<int8_t>(w[j]);
    }
    const int64_t i = int64_t{block} * p.block + lane;
    bias[i] = static_cast<int32_t>(static_cast<uint32_t>(p.bias[i] - 128 * sum));
  }
}

// Copies a block's entries, those that fit pairs first; returns how many these are.
uint32_t SortByPairs(const PackedInt8View& p, uint32_t block, uint8_t* levels, int32_t* offsets) {
  const int64_t bytes = int64_t{p.block} * 4;
  const int64_t first = p.row_ptr[block], n = p.row_ptr[block + 1] - first;
  int64_t to = 0, fitting = 0;
  for (bool wanted : {true, false}) {
    for (int64_t i = 0; i < n; ++i) {
      const uint8_t* entry = p.weights + (first + i) * bytes;
      if (FitsPairs(entry, bytes) != wanted) continue;
      std::copy(entry, entry + bytes, levels + (first + to) * bytes);
      offsets[first + to++] = p.offsets[p.lists[block] + i];
    }
    if (wanted) fitting = to;
  }
  return static_cast<uint32_t>(fitting);
}

template <typename T>
bool Allocate(size_t n, std::unique_ptr<T[]>* out) {
  out->reset(new (std::nothrow) T[n + 64]());  // kernels load whole vectors
  return *out != nullptr;
}

// Levels in place of codes.
bool DecodeAll(Int8Weights* w) {
  PackedInt8View& p = w->packed;
  if (p.bits == 8) return true;
  if (!Allocate(size_t{p.n_entries} * p.block * 4, &w->levels)) return false;
  uint8_t* levels = w->levels.get();
  ForEachCode(
      p, [levels](int64_t, int8_t level, int64_t i) { levels[i] = static_cast<uint8_t>(level); });
  p.bits = 8;
  p.weights = w->levels.get();
  return true;
}

// The schedule of the float kernels, for the same geometry.
class ConvRun {
 public:
  ConvRun(const Int8ConvArgs& args, const Int8Kernels& kernels, const ConvSchedule& schedule)
      : a_(args),
        p_(args.weights->packed),
        s_(schedule),
        lanes_(kernels.conv[p_.block / 8].lanes),
        run_(kernels.conv[p_.block / 8].run) {}

  void Tasks(size_t begin, size_t end) const {
    for (size_t t = begin; t < end; ++t) {
      const int64_t task = static_cast<int64_t>(t);
      const int64_t strip = s_.filters_outer ? task % s_.strips : task / s_.groups;
      const int64_t group = s_.filters_outer ? task / s_.strips : task % s_.groups;
      Int8ConvJob job = StripJob(strip);
      const int64_t first = group * s_.group_size;
      const int64_t units = int64_t{p_.n_blocks} * (p_.block / lanes_);
      const int64_t last = std::min(units, first + s_.group_size);
      for (int64_t unit = first; unit < last; ++unit) Unit(unit, &job);
    }
  }

 private:
  Int8ConvJob StripJob(int64_t strip) const {
    const int64_t across = DivUp(s_.cols, s_.strip_cols), down = DivUp(s_.rows, s_.strip_rows);
    const int64_t n = strip / (across * down);
    const int64_t y = strip / across % down * s_.strip_rows;
    const int64_t x = strip % across * s_.strip_cols;
    const int64_t at = n * a_.out_n + y * a_.out_h + x;
    Int8ConvJob job = {};
    job.rows = static_cast<int32_t>(std::min<int64_t>(s_.strip_rows, s_.rows - y));
    job.cols = static_cast<int32_t>(std::min<int64_t>(s_.strip_cols, s_.cols - x));
    job.in = a_.in + n * a_.in_n + y * a_.in_h + x, job.in_h = a_.in_h;
    job.out = static_cast<Quad*>(a_.out) + at;  // an element has four bytes, whatever its type
    job.out_c = a_.out_c, job.out_h = a_.out_h;
    if (a_.residual != nullptr) job.residual = a_.residual + n * a_.res_n + y * a_.res_h + x;
    job.res_c = a_.res_c, job.res_h = a_.res_h;
    job.n_filters = static_cast<int32_t>(p_.n_filters);
    job.may_overlap = a_.residual != a_.out;
    job.epilogue = &a_.epilogue;
    return job;
  }

  void Unit(int64_t unit, Int8ConvJob* job) const {
    const int64_t block = unit * lanes_ / p_.block, lane = unit * lanes_ % p_.block;
    const int64_t at = block * p_.block + lane;
    job->groups = p_.groups + at / 4;
    if (job->groups[0] == kNone) return;
    job->offsets = p_.offsets + p_.lists[block];
    job->n_entries = p_.row_ptr[block + 1] - p_.row_ptr[block];
    job->n_shifted = a_.weights->shifted[block];
    job->weights_stride = EntryBytes(p_);
    job->weights = reinterpret_cast<const int8_t*>(p_.weights) +
                   int64_t{p_.row_ptr[block]} * job->weights_stride + 4 * lane;
    job->bias = p_.bias + at;
    job->scale = p_.scale + at;
    run_(*job);
  }

  const Int8ConvArgs& a_;
  const PackedInt8View& p_;
  const ConvSchedule& s_;
  const int32_t lanes_;
  void (*run_)(const Int8ConvJob& job);
};

// Of NaN the least, as the kernels do.
int8_t Level(float t, int32_t zero) {
  const float least = static_cast<float>(-128 - zero), most = static_cast<float>(127 - zero);
  return static_cast<int8_t>(__builtin_lrintf(std::min(std::max(least, t), most)) + zero);
}

// The outputs of one block and row of a linear layer, in the arithmetic of Int8Finish.
void FinishLinear(const Int8LinearArgs& a, int64_t block, int64_t row, const int32_t* sums) {
  const PackedInt8View& p = a.weights->packed;
  const Int8Epilogue& e = a.epilogue;
  for (int64_t lane = 0; lane < kLinearLanes; ++lane) {
    const int64_t i = block * kLinearLanes + lane;
    const uint32_t group = p.groups[i / 4];
    const int64_t filter = int64_t{group} * 4 + lane % 4;
    if (group == kNone || filter >= p.n_filters) continue;
    const uint32_t sum = static_cast<uint32_t>(sums[lane]) + static_cast<uint32_t>(p.bias[i]);
    float added = 0;
    if (a.residual != nullptr) {
      const Quad quad = a.residual[row * a.res_n + group * a.res_c];
      const int32_t r = static_cast<int8_t>(quad >> (8 * (lane % 4)));
      added = static_cast<float>(r - e.residual_zero) * e.residual_scale;
    }
    float t = static_cast<float>(static_cast<int32_t>(sum)) * p.scale[i];
    if (a.residual != nullptr && !e.residual_after_act) t = t + added;
    if (e.act == ActKind::kClamp) t = std::min(std::max(e.lo, t), e.hi);
    if (e.act == ActKind::kLeakyRelu) t = std::max(0.0f, t) + std::min(0.0f, t) * e.lo;
    if (a.residual != nullptr && e.residual_after_act) t = t + added;
    if (e.to_float) {
      static_cast<float*>(a.out)[row * a.out_n + filter * a.out_c] = t;
    } else {
      Quad* quad = static_cast<Quad*>(a.out) + row * a.out_n + group * a.out_c;
      reinterpret_cast<int8_t*>(quad)[lane % 4] = Level(t, e.zero);
    }
  }
}

void LinearBlocks(const Int8LinearArgs& a, const Int8Kernels& kernels, size_t begin, size_t end) {
  constexpr int32_t kRows = 16;
  int32_t sums[kRows * kLinearLanes];
  const PackedInt8View& p = a.weights->packed;
  const auto run = p.bits == 8              ? kernels.linear
                   : a.weights->small_codes ? kernels.linear_small_codes
                                            : kernels.linear_codes;
  for (size_t block = begin; block < end; ++block) {
    Int8LinearJob job = {};
    job.offsets = p.offsets + p.lists[block];
    job.n_entries = p.row_ptr[block + 1] - p.row_ptr[block];
    job.weights = p.weights + int64_t{p.row_ptr[block]} * EntryBytes(p);
    job.tables = p.tables;
    job.codebooks = p.codebooks + block * kLinearLanes;
    job.in_n = a.in_n;
    job.sums = sums;
    for (int32_t row = 0; row < a.n; row += kRows) {
      job.rows = std::min(kRows, a.n - row);
      job.in = a.in + row * a.in_n;
      run(job);
      for (int32_t i = 0; i < job.rows; ++i) {
        FinishLinear(a, static_cast<int64_t>(block), row + i, sums + kLinearLanes * i);
      }
    }
  }
}

// What channel c = 4 * quad + j of a float tensor has in row y; null where there is none.
template <typename T>
void RowsOf(const BasicView<T>& v, int64_t n, int64_t quad, int64_t y, T* (&rows)[4]) {
  for (int64_t j = 0; j < 4; ++j) {
    rows[j] = 4 * quad + j < v.c ? v.Row(n, 4 * quad + j, y) : nullptr;
  }
}

}  // namespace

const Int8Kernels& Int8KernelsOf(Isa isa) {
  switch (isa) {
#ifdef EDGE_HAVE_AVX2
    case Isa::kAvx2:
    case Isa::kAvx512:
      return kAvx2Int8;
#endif
#ifdef EDGE_HAVE_AVX512VNNI
    case Isa::kAvx512Vnni:
      return kAvx512VnniInt8;
#endif
#ifdef EDGE_HAVE_DOTPROD
    case Isa::kDotprod:
      return kDotprodInt8;
#endif
#ifdef EDGE_HAVE_I8MM
    case Isa::kI8mm:
      return kI8mmInt8;
#endif
    default:
      return kFallbackInt8;
  }
}

bool PrepareLinearInt8(const PackedInt8View& packed, bool in_registers, Isa isa, Int8Weights* out) {
  out->packed = packed;
  if (!in_registers || packed.bits == 8) return DecodeAll(out);
  out->small_codes = Int8KernelsOf(isa).linear_small_codes != nullptr &&
                     std::all_of(packed.tables, packed.tables + 32, [](int8_t level) {
                       return level >= -kSmallLevel && level <= kSmallLevel;
                     });
  if (!out->small_codes) return true;
  const size_t lanes = size_t{packed.n_blocks} * packed.block;
  if (!Allocate(lanes, &out->bias)) return false;
  std::copy(packed.bias, packed.bias + lanes, out->bias.get());
  auto* bias = reinterpret_cast<uint32_t*>(out->bias.get());  // wraps
  ForEachCode(packed, [bias](int64_t lane, int8_t level, int64_t) {
    bias[lane] -= 128u * static_cast<uint32_t>(int32_t{level});
  });
  out->packed.bias = out->bias.get();
  return true;
}

bool PrepareConvInt8(const PackedInt8View& packed, Isa isa, Int8Weights* out) {
  out->packed = packed;
  PackedInt8View& p = out->packed;
  const Shifted shifted = Int8KernelsOf(isa).shifted;
  if (!DecodeAll(out) || !Allocate(p.n_blocks, &out->shifted)) return false;
  if (shifted == Shifted::kNone) return true;
  if (!Allocate(size_t{p.n_blocks} * p.block, &out->bias)) return false;
  std::unique_ptr<uint8_t[]> levels;
  if (shifted == Shifted::kPairs &&
      (!Allocate(size_t{p.n_entries} * p.block * 4, &levels) ||
       !Allocate(p.n_entries, &out->offsets) || !Allocate(p.n_blocks, &out->lists))) {
    return false;
  }
  for (uint32_t block = 0; block < p.n_blocks; ++block) {
    out->shifted[block] = shifted == Shifted::kAll
                              ? p.row_ptr[block + 1] - p.row_ptr[block]
                              : SortByPairs(p, block, levels.get(), out->offsets.get());
    if (shifted == Shifted::kPairs) out->lists[block] = p.row_ptr[block];
  }
  if (shifted == Shifted::kPairs) {
    out->levels = std::move(levels);
    p.weights = out->levels.get();
    p.offsets = out->offsets.get();
    p.n_offsets = p.n_entries;
    p.lists = out->lists.get();
  }
  for (uint32_t block = 0; block < p.n_blocks; ++block) {
    ShiftBias(p, block, out->shifted[block], out->bias.get());
  }
  p.bias = out->bias.get();
  return true;
}

ConvSchedule PlanConvInt8(const Int8ConvArgs& a, size_t threads, Isa isa) {
  const PackedInt8View& p = a.weights->packed;
  const Int8Kernels& kernels = Int8KernelsOf(isa);
  std::vector<int32_t> offsets;  // of all blocks, not shared
  offsets.reserve(p.n_entries);
  for (uint32_t block = 0; block < p.n_blocks; ++block) {
    const int32_t* list = p.offsets + p.lists[block];
    offsets.insert(offsets.end(), list, list + (p.row_ptr[block + 1] - p.row_ptr[block]));
  }
  ConvArgs like = {};
  like.packed = {p.block,        p.n_blocks, p.n_entries, p.n_blocks * p.block, p.row_ptr, nullptr,
                 offsets.data(), nullptr,    nullptr};
  like.in_n = a.in_n, like.in_h = a.in_h;
  like.out_n = a.out_n, like.out_c = a.out_c, like.out_h = a.out_h;
  const float present = 0;  // never read
  like.residual = a.residual == nullptr ? nullptr : &present;
  like.res_n = a.res_n, like.res_c = a.res_c, like.res_h = a.res_h;
  like.n = a.n, like.h = a.h, like.w = a.w;
  like.may_write_gaps = a.may_write_gaps;
  const auto& conv = kernels.conv[p.block / 8];
  const ConvKernel kernel = {"", conv.lanes, conv.tile, kernels.vector, nullptr};
  ConvSchedule schedule = PlanConv(like, kernel, threads);
  schedule.passes = 1;
  schedule.pass_ptr.clear();
  return schedule;
}

void ConvInt8(const Int8ConvArgs& args, const ConvSchedule& schedule, ThreadPool* pool, Isa isa) {
  const ConvRun run(args, Int8KernelsOf(isa), schedule);
  pool->ParallelFor(static_cast<size_t>(schedule.strips * schedule.groups), 1,
                    [&run](size_t begin, size_t end) { run.Tasks(begin, end); });
}

void LinearInt8(const Int8LinearArgs& a, ThreadPool* pool, Isa isa) {
  const Int8Kernels& kernels = Int8KernelsOf(isa);
  constexpr int64_t kGrainMacs = 128 * 1024;
  const PackedInt8View& p = a.weights->packed;
  const int64_t blocks = std::max<int64_t>(1, p.n_blocks);
  const int64_t macs = int64_t{p.n_entries} * 32 * a.n / blocks;
  const int64_t grain = std::clamp<int64_t>(kGrainMacs / std::max<int64_t>(1, macs), 1, blocks);
  pool->ParallelFor(p.n_blocks, static_cast<size_t>(grain),
                    [&](size_t begin, size_t end) { LinearBlocks(a, kernels, begin, end); });
}

void DepthwiseInt8(const Int8DepthwiseArgs& a, ThreadPool* pool, Isa isa) {
  const auto run = Int8KernelsOf(isa).depthwise[a.k / 5][a.stride - 1];
  const auto cost = static_cast<size_t>(a.out.w * a.k);
  ForEachRun(a.out, cost, pool, [&](int64_t n, int64_t c, int64_t begin, int64_t end) {
    Int8DepthwiseJob job = {};
    job.weights = a.weights + c * DepthwiseInt8Weights(a.k);
    job.in = a.in.Row(n, c, begin * a.stride), job.in_h = a.in.sh;
    job.out = a.out.Row(n, c, begin), job.out_h = a.out.sh;
    job.rows = end - begin, job.cols = a.out.w;
    job.epilogue = &a.epilogue;
    run(job);
  });
}

void QuantizeInt8(const ConstView& in, const BasicView<Quad>& out, float inverse, int32_t zero,
                  ThreadPool* pool, Isa isa) {
  const auto run = Int8KernelsOf(isa).quantize;
  ForEachRow(out, 4 * static_cast<size_t>(out.w), pool, [&](int64_t n, int64_t quad, int64_t y) {
    const float* rows[4];
    RowsOf(in, n, quad, y, rows);
    run(rows, out.Row(n, quad, y), out.w, inverse, zero);
  });
}

void DequantizeInt8(const BasicView<const Quad>& in, const View& out, float scale, int32_t zero,
                    ThreadPool* pool, Isa isa) {
  const auto run = Int8KernelsOf(isa).dequantize;
  ForEachRow(in, 4 * static_cast<size_t>(in.w), pool, [&](int64_t n, int64_t quad, int64_t y) {
    float* rows[4];
    RowsOf(out, n, quad, y, rows);
    run(in.Row(n, quad, y), rows, in.w, scale, zero);
  });
}

void MeanInt8(const BasicView<const Quad>& in, const BasicView<Quad>& out, float scale,
              int32_t in_zero, int32_t zero, ThreadPool* pool) {
  const int64_t pixels = int64_t{in.h} * in.w;
  ForEachRow(out, 4 * static_cast<size_t>(pixels), pool, [&](int64_t n, int64_t quad, int64_t) {
    int64_t sums[4] = {};
    for (int64_t y = 0; y < in.h; ++y) {
      const auto* row = reinterpret_cast<const int8_t*>(in.Row(n, quad, y));
      int32_t part[4] = {};  // a row has less than 2^24 pixels
      for (int64_t x = 0; x < in.w; ++x) {
        for (int64_t j = 0; j < 4; ++j) part[j] += row[4 * x + j];
      }
      for (int j = 0; j < 4; ++j) sums[j] += part[j];
    }
    Quad result = 0;
    for (int j = 0; j < 4; ++j) {
      const float t = static_cast<float>(sums[j] - pixels * in_zero) * scale;
      result |= static_cast<Quad>(static_cast<uint8_t>(Level(t, zero))) << (8 * j);
    }
    *out.Row(n, quad, 0) = result;
  });
}

void MaxPoolInt8(const BasicView<const Quad>& in, const BasicView<Quad>& out, const int32_t* p,
                 ThreadPool* pool, Isa isa) {
  const auto max = Int8KernelsOf(isa).max;
  const int64_t kh = p[0], kw = p[1], sh = p[2], sw = p[3], top = p[4], left = p[5];
  const int64_t dh = p[6], dw = p[7];
  const auto cost = static_cast<size_t>(out.w * kh * kw);
  ForEachRow(out, cost, pool, [&](int64_t n, int64_t quad, int64_t r) {
    Quad* row = out.Row(n, quad, r);
    std::fill(row, row + out.w, 0x80808080u);
    for (int64_t i = 0; i < kh; ++i) {
      const int64_t y = r * sh - top + i * dh;
      if (y < 0 || y >= in.h) continue;
      for (int64_t k = 0; k < kw; ++k) {
        const int64_t shift = k * dw - left;  // output q takes column q * sw + shift
        const int64_t first = shift >= 0 ? 0 : DivUp(-shift, sw);
        const int64_t last = std::min<int64_t>(out.w, shift >= in.w ? 0 : DivUp(in.w - shift, sw));
        if (first >= last) continue;
        max(row + first, in.Row(n, quad, y) + first * sw + shift, last - first, sw);
      }
    }
  });
}

}  // namespace edge
