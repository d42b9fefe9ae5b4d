// Chooses the kernels for this CPU and cuts a convolution or linear layer into jobs for them.
#ifdef EDGE_HAVE_DOTPROD
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "kernels/conv/conv.h"
#include "kernels/conv/kernel_table.h"
#include "kernels/conv/schedule.h"

namespace edge {
namespace {

constexpr Isa kBestFirst[] = {Isa::kAvx512Vnni, Isa::kAvx512, Isa::kAvx2, Isa::kI8mm,
                              Isa::kDotprod,    Isa::kFp16,   Isa::kNeon, Isa::kFallback};

Isa ChooseIsa() {
  if (const char* wanted = std::getenv("EDGE_ISA")) {
    for (Isa isa : kBestFirst) {
      if (std::strcmp(wanted, IsaName(isa)) == 0 && IsaSupported(isa)) return isa;
    }
  }
  for (Isa isa : kBestFirst) {
    if (IsaSupported(isa)) return isa;
  }
  return Isa::kFallback;
}

// One convolution with what all its jobs share.
class ConvRun {
 public:
  ConvRun(const ConvArgs& args, const ConvKernel& kernel, const ConvSchedule& schedule)
      : a_(args),
        kernel_(kernel),
        s_(schedule),
        units_(int64_t{args.packed.n_blocks} * (args.packed.block / kernel.lanes)) {}

  void Tasks(size_t begin, size_t end) const {
    std::unique_ptr<float[]> sums;  // of one task
    if (s_.passes > 1) {  // without memory for the sums there is one pass, which is only slower
      const int64_t size = s_.group_size * kernel_.lanes * s_.strip_rows * SumsRow();
      sums.reset(new (std::nothrow) float[static_cast<size_t>(size)]);
    }
    for (size_t t = begin; t < end; ++t) {
      const int64_t task = static_cast<int64_t>(t);
      const int64_t strip = s_.filters_outer ? task % s_.strips : task / s_.groups;
      const int64_t group = s_.filters_outer ? task / s_.strips : task % s_.groups;
      Task(strip, group, sums.get());
    }
  }

 private:
  // Room for the last vector of a row to be whole.
  int64_t SumsRow() const { return s_.strip_cols + kernel_.vector; }

  void Task(int64_t strip, int64_t group, float* sums) const {
    ConvJob job = StripJob(strip);
    const int64_t first = group * s_.group_size, last = std::min(units_, first + s_.group_size);
    const int64_t passes = sums == nullptr ? 1 : s_.passes;
    job.sums_h = SumsRow();
    job.ranges = passes == 1 ? a_.packed.row_ptr : s_.pass_ptr.data();
    job.range_stride = passes;
    for (int64_t pass = 0; pass < passes; ++pass, ++job.ranges) {
      job.first_pass = pass == 0;
      job.last_pass = pass + 1 == passes;
      const int64_t step = pass == 0 ? UnitsAFetch() : units_;
      for (int64_t unit = first; unit < last; unit += step) {
        job.first_unit = unit;
        job.units = std::min(step, last - unit);
        if (pass == 0) FetchNext(job.in, unit, unit + job.units);
        if (sums != nullptr)
          job.sums = sums + (unit - first) * kernel_.lanes * job.rows * job.sums_h;
        kernel_.run(job);
      }
    }
  }

  // The units that run before more of the next strip is fetched: a few lines' worth.
  int64_t UnitsAFetch() const {
    constexpr int64_t kLinesAFetch = 8;
    const auto lines = static_cast<int64_t>(s_.next_lines.size());
    return lines == 0 ? units_ : std::max<int64_t>(1, kLinesAFetch * units_ / lines);
  }

  // Each unit fetches its share of what the next strip reads.
  void FetchNext(const float* in, int64_t first, int64_t last) const {
    const auto lines = static_cast<int64_t>(s_.next_lines.size());
    for (int64_t i = lines * first / units_; i < lines * last / units_; ++i) {
      __builtin_prefetch(in + s_.next_lines[i], 0, 2);
    }
  }

  ConvJob StripJob(int64_t strip) const {
    const int64_t across = (s_.cols + s_.strip_cols - 1) / s_.strip_cols;
    const int64_t down = (s_.rows + s_.strip_rows - 1) / s_.strip_rows;
    const int64_t n = strip / (across * down);
    const int64_t y = strip / across % down * s_.strip_rows;
    const int64_t x = strip % across * s_.strip_cols;
    ConvJob job{};
    job.packed = &a_.packed;
    job.lanes = kernel_.lanes;
    job.rows = static_cast<int32_t>(std::min<int64_t>(s_.strip_rows, s_.rows - y));
    job.cols = static_cast<int32_t>(std::min<int64_t>(s_.strip_cols, s_.cols - x));
    job.in = a_.in + n * a_.in_n + y * a_.in_h + x;
    job.in_h = a_.in_h;
    job.out = a_.out + n * a_.out_n + y * a_.out_h + x;
    job.out_c = a_.out_c;
    job.out_h = a_.out_h;
    if (a_.residual != nullptr) job.residual = a_.residual + n * a_.res_n + y * a_.res_h + x;
    job.res_c = a_.res_c;
    job.res_h = a_.res_h;
    // Pixels computed again would count their earlier passes twice, or add themselves to the
    // residual that they have replaced.
    job.may_overlap = s_.passes == 1 && a_.residual != a_.out;
    job.epilogue = &a_.epilogue;
    job.aligned = s_.aligned;
    return job;
  }

  const ConvArgs& a_;
  const ConvKernel& kernel_;
  const ConvSchedule& s_;
  const int64_t units_;
};

void LinearBlocks(const LinearArgs& a, const LinearKernel& kernel, size_t begin, size_t end) {
  const PackedView& p = a.packed;
  for (size_t block = begin; block < end; ++block) {
    const uint32_t first = p.row_ptr[block];
    LinearJob job{};
    job.offsets = p.offsets + first;
    job.n_entries = p.row_ptr[block + 1] - first;
    job.weights = p.weights + int64_t{first} * p.block;
    job.bias = p.bias + block * p.block;
    job.filters = p.filters + block * p.block;
    job.lanes = static_cast<int32_t>(p.block);
    job.in = a.in;
    job.in_n = a.in_n;
    job.out = a.out;
    job.out_n = a.out_n;
    job.out_c = a.out_c;
    job.residual = a.residual;
    job.res_n = a.res_n;
    job.res_c = a.res_c;
    job.rows = a.n;
    job.epilogue = &a.epilogue;
    kernel.run(job);
  }
}

void RunConv(const ConvArgs& args, const ConvSchedule& schedule, ThreadPool* pool,
             const ConvKernel& kernel) {
  const ConvRun run(args, kernel, schedule);
  pool->ParallelFor(static_cast<size_t>(schedule.strips * schedule.groups), 1,
                    [&run](size_t begin, size_t end) { run.Tasks(begin, end); });
}

}  // namespace

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kFallback:
      return "fallback";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kNeon:
      return "neon";
    case Isa::kAvx512Vnni:
      return "avx512vnni";
    case Isa::kDotprod:
      return "dotprod";
    case Isa::kI8mm:
      return "i8mm";
    case Isa::kFp16:
      return "fp16";
  }
  return "unknown";
}

bool IsaSupported(Isa isa) {
  switch (isa) {
    case Isa::kFallback:
      return true;
#ifdef EDGE_HAVE_AVX2
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#ifdef EDGE_HAVE_AVX512
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("fma");
#endif
#ifdef EDGE_HAVE_AVX512VNNI
    case Isa::kAvx512Vnni:
      return IsaSupported(Isa::kAvx512) && __builtin_cpu_supports("avx512vnni");
#endif
#ifdef EDGE_HAVE_NEON
    case Isa::kNeon:
      return true;
#endif
#ifdef EDGE_HAVE_FP16
    case Isa::kFp16:
      return (getauxval(AT_HWCAP) & HWCAP_ASIMDHP) != 0;
#endif
#ifdef EDGE_HAVE_DOTPROD
    case Isa::kDotprod:
      return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#endif
#ifdef EDGE_HAVE_I8MM
    case Isa::kI8mm:
      return IsaSupported(Isa::kDotprod) && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#endif
    default:
      return false;
  }
}

Isa FloatIsa(Isa isa) {
  switch (isa) {
    case Isa::kAvx512Vnni:
      return Isa::kAvx512;
    case Isa::kFp16:
    case Isa::kDotprod:
    case Isa::kI8mm:
      return Isa::kNeon;
    default:
      return isa;
  }
}

Isa ActiveIsa() {
  static const Isa isa = ChooseIsa();
  return isa;
}

const KernelTable& KernelsOf(Isa isa) {
  switch (FloatIsa(isa)) {
#ifdef EDGE_HAVE_AVX2
    case Isa::kAvx2:
      return kAvx2Kernels;
#endif
#ifdef EDGE_HAVE_AVX512
    case Isa::kAvx512:
      return kAvx512Kernels;
#endif
#ifdef EDGE_HAVE_NEON
    case Isa::kNeon:
      return kNeonKernels;
#endif
    default:
      return kFallbackKernels;
  }
}

int BlockIndex(uint32_t block) {
  int index = 0;
  while (index + 1 < kBlockSizes && (1u << index) < block) ++index;
  return index;
}

ConvSchedule PlanConv(const ConvArgs& args, size_t threads, Isa isa) {
  return PlanConv(args, KernelsOf(isa).conv[BlockIndex(args.packed.block)], threads);
}

void Conv(const ConvArgs& args, const ConvSchedule& schedule, ThreadPool* pool, Isa isa) {
  RunConv(args, schedule, pool, KernelsOf(isa).conv[BlockIndex(args.packed.block)]);
}

void Conv(const ConvArgs& args, ThreadPool* pool, Isa isa) { ConvWith(args, pool, KernelsOf(isa)); }

void Linear(const LinearArgs& args, ThreadPool* pool, Isa isa) {
  LinearWith(args, pool, KernelsOf(isa));
}

void ConvWith(const ConvArgs& args, ThreadPool* pool, const KernelTable& kernels) {
  if (args.n <= 0 || args.h <= 0 || args.w <= 0 || args.packed.n_blocks == 0) return;
  const ConvKernel& kernel = kernels.conv[BlockIndex(args.packed.block)];
  RunConv(args, PlanConv(args, kernel, pool->threads()), pool, kernel);
}

void LinearWith(const LinearArgs& args, ThreadPool* pool, const KernelTable& kernels) {
  if (args.n <= 0) return;
  const LinearKernel& kernel = kernels.linear[BlockIndex(args.packed.block)];
  // Waking a thread costs some microseconds: give it at least as much to do.
  constexpr int64_t kGrainMacs = 32 * 1024;
  const int64_t blocks = std::max<int64_t>(1, args.packed.n_blocks);
  const int64_t macs = int64_t{args.packed.n_entries} * args.packed.block * args.n / blocks;
  const int64_t grain = std::clamp<int64_t>(kGrainMacs / std::max<int64_t>(1, macs), 1, blocks);
  pool->ParallelFor(args.packed.n_blocks, static_cast<size_t>(grain),
                    [&](size_t begin, size_t end) { LinearBlocks(args, kernel, begin, end); });
}

}  // namespace edge
