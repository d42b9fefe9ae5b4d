// Cuts float16 convolutions, linear layers and depthwise convolutions into jobs for the kernels of
// this CPU.
#include "kernels/half/half.h"

#include <algorithm>

#include "kernels/conv/schedule.h"
#include "kernels/depthwise/depthwise.h"
#include "kernels/div_up.h"
#include "kernels/half/kernel_table.h"
#include "kernels/nest.h"

namespace edge {
namespace {

constexpr int kMaxLanes = 16;

// The schedule of the float kernels, for the same geometry.
class ConvRun {
 public:
  ConvRun(const HalfConvArgs& args, const HalfKernels& kernels, const ConvSchedule& schedule)
      : a_(args), s_(schedule), kernel_(kernels.conv[BlockIndex(args.packed.block)]) {}

  void Tasks(size_t begin, size_t end) const {
    const int64_t units = int64_t{a_.packed.n_blocks} * (a_.packed.block / kernel_.lanes);
    for (size_t t = begin; t < end; ++t) {
      const int64_t task = static_cast<int64_t>(t);
      const int64_t strip = s_.filters_outer ? task % s_.strips : task / s_.groups;
      const int64_t group = s_.filters_outer ? task / s_.strips : task % s_.groups;
      HalfConvJob job = StripJob(strip);
      job.first_unit = group * s_.group_size;
      job.units = std::min(units, job.first_unit + s_.group_size) - job.first_unit;
      kernel_.run(job);
    }
  }

 private:
  HalfConvJob StripJob(int64_t strip) const {
    const int64_t across = DivUp(s_.cols, s_.strip_cols), down = DivUp(s_.rows, s_.strip_rows);
    const int64_t n = strip / (across * down);
    const int64_t y = strip / across % down * s_.strip_rows;
    const int64_t x = strip % across * s_.strip_cols;
    HalfConvJob job = {};
    job.packed = &a_.packed;
    job.weights = a_.weights;
    job.rows = static_cast<int32_t>(std::min<int64_t>(s_.strip_rows, s_.rows - y));
    job.cols = static_cast<int32_t>(std::min<int64_t>(s_.strip_cols, s_.cols - x));
    job.in = a_.in + n * a_.in_n + y * a_.in_h + x, job.in_h = a_.in_h;
    job.out = a_.out + n * a_.out_n + y * a_.out_h + x;
    job.out_c = a_.out_c, job.out_h = a_.out_h;
    if (a_.residual != nullptr) job.residual = a_.residual + n * a_.res_n + y * a_.res_h + x;
    job.res_c = a_.res_c, job.res_h = a_.res_h;
    job.may_overlap = a_.residual != a_.out;
    job.epilogue = &a_.epilogue;
    return job;
  }

  const HalfConvArgs& a_;
  const ConvSchedule& s_;
  const HalfConvKernel& kernel_;
};

// Residual, activation and rounding of one block's sums for one input.
void FinishLinear(const HalfLinearArgs& a, const HalfKernels& kernels, const uint32_t* filters,
                  int64_t n, float* sums) {
  const Epilogue& e = a.epilogue;
  const int64_t lanes = a.packed.block;
  const auto used = [&](const auto& f) {
    for (int64_t i = 0; i < lanes && filters[i] != kNone; ++i) f(i, int64_t{filters[i]});
  };
  const auto add_residual = [&] {
    used([&](int64_t i, int64_t f) { sums[i] += ToFloat(a.residual[n * a.res_n + f * a.res_c]); });
  };
  if (a.residual != nullptr && !e.residual_after_act) add_residual();
  if (e.act != ActKind::kNone) kernels.activate(sums, kMaxLanes, e);
  if (a.residual != nullptr && e.residual_after_act) add_residual();
  used([&](int64_t i, int64_t f) {
    const int64_t at = n * a.out.sn + f * a.out.sc;
    if (a.out.half) {
      static_cast<Half*>(a.out.data)[at] = ToHalf(sums[i]);
    } else {
      static_cast<float*>(a.out.data)[at] = sums[i];
    }
  });
}

void LinearBlocks(const HalfLinearArgs& a, const HalfKernels& kernels, size_t begin, size_t end) {
  const PackedView& p = a.packed;
  const auto run = kernels.linear[BlockIndex(p.block)];
  for (size_t block = begin; block < end; ++block) {
    alignas(64) float sums[kMaxLanes] = {};
    HalfLinearJob job = {};
    job.offsets = p.offsets + p.row_ptr[block];
    job.n_entries = p.row_ptr[block + 1] - p.row_ptr[block];
    job.weights = a.weights + int64_t{p.row_ptr[block]} * p.block;
    job.bias = p.bias + block * p.block;
    job.sums = sums;
    for (int64_t n = 0; n < a.out.n; ++n) {
      job.in = a.in + n * a.in_n;
      run(job);
      FinishLinear(a, kernels, p.filters + block * p.block, n, sums);
    }
  }
}

ConvSchedule PlanWith(const HalfConvArgs& a, size_t threads, const HalfKernels& kernels) {
  const HalfConvKernel& conv = kernels.conv[BlockIndex(a.packed.block)];
  const float present = 0;  // never read
  ConvArgs like = {};
  like.packed = a.packed;
  like.in_n = a.in_n, like.in_h = a.in_h;
  like.out_n = a.out_n, like.out_c = a.out_c, like.out_h = a.out_h;
  like.residual = a.residual == nullptr ? nullptr : &present;
  like.res_n = a.res_n, like.res_c = a.res_c, like.res_h = a.res_h;
  like.n = a.n, like.h = a.h, like.w = a.w;
  like.may_write_gaps = a.may_write_gaps;
  const ConvKernel kernel = {conv.name, conv.lanes, conv.tile, conv.vector, nullptr};
  ConvSchedule schedule = PlanConv(like, kernel, threads);
  schedule.passes = 1;
  schedule.pass_ptr.clear();
  return schedule;
}

void Run(const HalfConvArgs& args, const ConvSchedule& schedule, ThreadPool* pool,
         const HalfKernels& kernels) {
  const ConvRun run(args, kernels, schedule);
  pool->ParallelFor(static_cast<size_t>(schedule.strips * schedule.groups), 1,
                    [&run](size_t begin, size_t end) { run.Tasks(begin, end); });
}

}  // namespace

const HalfKernels& HalfKernelsOf(Isa isa) {
  switch (isa) {
#ifdef EDGE_HAVE_AVX2
    case Isa::kAvx2:
    case Isa::kAvx512:
    case Isa::kAvx512Vnni:
      return kAvx2Half;
#endif
#ifdef EDGE_HAVE_FP16
    case Isa::kFp16:
      return kFp16Half;
    case Isa::kDotprod:
    case Isa::kI8mm:
      return IsaSupported(Isa::kFp16) ? kFp16Half : kNeonHalf;
#endif
#ifdef EDGE_HAVE_NEON
    case Isa::kNeon:
      return kNeonHalf;
#endif
    default:
      return kFallbackHalf;
  }
}

ConvSchedule PlanConvHalf(const HalfConvArgs& args, size_t threads, Isa isa) {
  return PlanWith(args, threads, HalfKernelsOf(isa));
}

void ConvHalf(const HalfConvArgs& args, const ConvSchedule& schedule, ThreadPool* pool, Isa isa) {
  Run(args, schedule, pool, HalfKernelsOf(isa));
}

void ConvHalfWith(const HalfConvArgs& args, ThreadPool* pool, const HalfKernels& kernels) {
  Run(args, PlanWith(args, pool->threads(), kernels), pool, kernels);
}

void LinearHalf(const HalfLinearArgs& args, ThreadPool* pool, Isa isa) {
  LinearHalfWith(args, pool, HalfKernelsOf(isa));
}

void LinearHalfWith(const HalfLinearArgs& a, ThreadPool* pool, const HalfKernels& kernels) {
  constexpr int64_t kGrainMacs = 32 * 1024;  // as LinearWith (conv/dispatch.cc)
  const PackedView& p = a.packed;
  const int64_t blocks = std::max<int64_t>(1, p.n_blocks);
  const int64_t macs = int64_t{p.n_entries} * p.block * a.out.n / blocks;
  const int64_t grain = std::clamp<int64_t>(kGrainMacs / std::max<int64_t>(1, macs), 1, blocks);
  pool->ParallelFor(p.n_blocks, static_cast<size_t>(grain),
                    [&](size_t begin, size_t end) { LinearBlocks(a, kernels, begin, end); });
}

void DepthwiseHalf(const HalfDepthwiseArgs& a, ThreadPool* pool, Isa isa) {
  const auto run = HalfKernelsOf(isa).depthwise[a.k / 5][a.stride - 1];
  const auto cost = static_cast<size_t>(a.out.w * a.k);
  ForEachRun(a.out, cost, pool, [&](int64_t n, int64_t c, int64_t begin, int64_t end) {
    HalfDepthwiseJob job = {};
    job.in = a.in.Row(n, c, begin * a.stride), job.in_h = a.in.sh;
    job.out = a.out.Row(n, c, begin), job.out_h = a.out.sh;
    job.rows = end - begin, job.cols = a.out.w;
    job.weights = a.weights + c * DepthwiseWeights(a.k);
    job.epilogue = &a.epilogue;
    run(job);
  });
}

}  // namespace edge
