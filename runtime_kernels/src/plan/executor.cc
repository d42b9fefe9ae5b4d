// The executor: owns the arena, runs the ops in order, keeps halos zero.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "edge/plan.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/schedule.h"
#include "kernels/depthwise/depthwise.h"
#include "kernels/nest.h"
#include "kernels/ops.h"
#include "kernels/winograd/winograd.h"
#include "plan/bands.h"
#include "plan/halo.h"
#include "plan/validate.h"

namespace edge {
namespace {

using OpFunction = void (*)(const OpCall& call);

// By OpKind; the ops with weights have their own signatures and are called apart.
constexpr OpFunction kOpFunctions[] = {
    RunCopy,
    nullptr,
    nullptr,
    RunUnary,
    RunAdd,
    RunMul,
    RunConcat,
    RunMaxPool,
    RunAvgPool,
    RunAdaptiveAvgPool,
    RunUpsampleNearest,
    RunUpsampleBilinear,
    RunPixelShuffle,
    RunSoftmax,
    nullptr,
    nullptr,
};
static_assert(sizeof(kOpFunctions) / sizeof(kOpFunctions[0]) ==
              static_cast<size_t>(OpKind::kDepthwise) + 1);

// Rows of a tensor, of whose memory the first is row `base`.
template <typename T>
BasicView<T> ViewOf(const TensorRec& t, T* memory, int64_t base, RowRange rows) {
  return {memory + (rows.begin - base) * t.stride[2],
          t.dims[0],
          t.dims[1],
          static_cast<int32_t>(rows.end - rows.begin),
          t.dims[3],
          t.stride[0],
          t.stride[1],
          t.stride[2]};
}

RowRange AllRows(const TensorRec& t) { return {0, t.dims[2]}; }

Epilogue EpilogueOf(const OpRec& op) {
  return {static_cast<ActKind>(op.act), op.act_param[0], op.act_param[1],
          op.residual_after_act != 0};
}

}  // namespace

struct Executor::Impl {
  class Watch;
  // How to run a convolution of so many rows, or of so many tiles.
  struct PlannedConv {
    int64_t size;
    ConvSchedule schedule;
  };

  Plan plan;
  ThreadPool* pool = nullptr;
  const RowOps* row_ops = nullptr;
  Isa isa = Isa::kFallback;
  void* allocation = nullptr;  // the arena with its slack, not yet aligned
  float* arena = nullptr;
  std::unique_ptr<ConstView[]> operands;            // of the running op
  std::unique_ptr<int64_t[]> bases;                 // of every tensor: the first row in its memory
  std::vector<std::vector<PlannedConv>> schedules;  // of every op
  WinogradSpaces spaces;                            // one a thread
  const float* const* inputs = nullptr;             // of this run
  float* const* outputs = nullptr;

  ~Impl() { std::free(allocation); }
  Status Allocate();
  View Output(uint32_t tensor, RowRange rows) const;
  ConstView Input(uint32_t tensor, RowRange rows) const;
  void RunChain(const ChainRec& chain, Observer* observer);
  void Slide(uint32_t tensor, int64_t base, int64_t end);
  void RunOp(uint32_t index, RowRange rows);
  void RunConv(uint32_t index, RowRange rows, const View& out);
  void RunWinograd(uint32_t index, const View& out);
  size_t Planned(uint32_t op, int64_t size, const ConvArgs& args);
  void RunLinear(const OpRec& op, const View& out);
  void RunDepthwise(const OpRec& op, RowRange rows, const View& out);
};

// Names the op to the observer, if there is one, for as long as it lives.
class Executor::Impl::Watch {
 public:
  Watch(Observer* observer, const Plan& plan, uint32_t op)
      : observer_(observer), op_(op), name_(plan.name(plan.op(op))) {
    if (observer_ != nullptr) observer_->Begin(op_, name_);
  }
  ~Watch() {
    if (observer_ != nullptr) observer_->End(op_, name_);
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  Observer* const observer_;
  const uint32_t op_;
  const std::string_view name_;
};

Status Executor::Impl::Allocate() {
  // A large arena begins with a huge page: convolutions read a few lines of hundreds of planes,
  // each plane in pages of its own.
  constexpr uint64_t kLine = 64, kHugePage = 2 << 20;
  const uint64_t size = plan.header().arena_size + kArenaSlack;
  const uint64_t alignment = size < 2 * kHugePage ? kLine : kHugePage;
  const uint64_t bytes = size + kArenaSlack + alignment;
  allocation = bytes <= SIZE_MAX ? std::calloc(1, static_cast<size_t>(bytes)) : nullptr;
  uint32_t most = 0;
  for (uint32_t i = 0; i < plan.header().n_ops; ++i) most = std::max(most, plan.op(i).n_inputs);
  operands.reset(new (std::nothrow) ConstView[most]);
  bases.reset(new (std::nothrow) int64_t[plan.header().n_tensors]());
  int64_t space = 0;
  for (uint32_t i = 0; i < plan.header().n_ops; ++i) {
    const OpRec& op = plan.op(i);
    if (static_cast<OpKind>(op.op) != OpKind::kWinograd) continue;
    const int64_t c = plan.tensor(plan.index(op.inputs_off)).dims[1],
                  f = plan.tensor(op.output).dims[1];
    space = std::max(space, WinogradSpace(op.p[0], c, f, op.p[3]));
  }
  if (allocation == nullptr || operands == nullptr || bases == nullptr ||
      !spaces.Allocate(pool->threads(), static_cast<size_t>(space)))
    return Status::kOutOfMemory;
  const uintptr_t start = reinterpret_cast<uintptr_t>(allocation) + kArenaSlack;
  const uintptr_t aligned = (start + alignment - 1) / alignment * alignment;
  arena = reinterpret_cast<float*>(static_cast<char*>(allocation) +
                                   (aligned - reinterpret_cast<uintptr_t>(allocation)));
#ifdef MADV_HUGEPAGE  // a wish: systems without huge pages refuse it
  if (alignment == kHugePage) madvise(arena, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
  return Status::kOk;
}

// Only for tensors that are op outputs: in the arena or the caller's buffers.
View Executor::Impl::Output(uint32_t tensor, RowRange rows) const {
  const TensorRec& t = plan.tensor(tensor);
  const bool in_arena = t.storage == static_cast<uint32_t>(Storage::kArena);
  return ViewOf(t, in_arena ? arena + t.offset / sizeof(float) : outputs[t.io_index], bases[tensor],
                rows);
}

ConstView Executor::Impl::Input(uint32_t tensor, RowRange rows) const {
  const TensorRec& t = plan.tensor(tensor);
  switch (static_cast<Storage>(t.storage)) {
    case Storage::kInput:
      return ViewOf(t, inputs[t.io_index], 0, rows);
    case Storage::kConst:
      return ViewOf(t, reinterpret_cast<const float*>(plan.data() + t.offset), 0, rows);
    case Storage::kArena:
    case Storage::kOutput:
      break;
  }
  const View view = Output(tensor, rows);
  return {view.data, view.n, view.c, view.h, view.w, view.sn, view.sc, view.sh};
}

void Executor::Impl::RunConv(uint32_t index, RowRange rows, const View& out) {
  const OpRec& op = plan.op(index);
  const ConstView in = Input(plan.index(op.inputs_off), rows);
  ConvArgs args = {};
  ResolvePacked(plan, op, &args.packed);
  args.epilogue = EpilogueOf(op);
  args.in = in.data, args.in_n = in.sn, args.in_h = in.sh;
  args.out = out.data, args.out_n = out.sn, args.out_c = out.sc, args.out_h = out.sh;
  args.n = out.n, args.h = out.h, args.w = out.w;
  if (op.residual != kNone) {
    const ConstView residual = Input(op.residual, rows);
    args.residual = residual.data;
    args.res_n = residual.sn, args.res_c = residual.sc, args.res_h = residual.sh;
  }
  args.may_write_gaps = plan.tensor(op.output).storage == static_cast<uint32_t>(Storage::kArena);
  Conv(args, schedules[index][Planned(index, out.h, args)].schedule, pool, isa);
}

// The place in schedules[op] of the one for this size, which is planned when first seen.
size_t Executor::Impl::Planned(uint32_t op, int64_t size, const ConvArgs& args) {
  std::vector<PlannedConv>& planned = schedules[op];
  for (size_t i = 0; i < planned.size(); ++i) {
    if (planned[i].size == size) return i;
  }
  planned.push_back({size, PlanConv(args, pool->threads(), isa)});
  return planned.size() - 1;
}

void Executor::Impl::RunWinograd(uint32_t index, const View& out) {
  const OpRec& op = plan.op(index);
  const uint32_t first = plan.index(op.inputs_off);
  WinogradArgs args = {};
  ResolvePacked(plan, op, &args.packed);
  args.epilogue = EpilogueOf(op);
  args.m = op.p[0], args.top = op.p[1], args.left = op.p[2], args.tiles = op.p[3];
  args.in = Input(first, AllRows(plan.tensor(first)));
  args.out = out;
  ConstView residual;
  if (op.residual != kNone) {
    residual = Input(op.residual, AllRows(plan.tensor(op.residual)));
    args.residual = &residual;
  }
  const WinogradBlocks blocks = CutWinograd(args);
  std::array<size_t, 4> places;
  for (size_t end = 0; end < places.size(); ++end) {
    const int64_t tiles = TilesOfBlock(blocks, end / 2 != 0, end % 2 != 0);
    places[end] = Planned(index, tiles, WinogradProduct(args, tiles, arena));
  }
  WinogradSchedules chosen;
  for (size_t end = 0; end < places.size(); ++end)
    chosen[end / 2][end % 2] = &schedules[index][places[end]].schedule;
  Winograd(args, chosen, &spaces, pool, isa);
}

void Executor::Impl::RunLinear(const OpRec& op, const View& out) {
  const uint32_t first = plan.index(op.inputs_off);
  const ConstView in = Input(first, AllRows(plan.tensor(first)));
  LinearArgs args = {};
  ResolvePacked(plan, op, &args.packed);
  args.epilogue = EpilogueOf(op);
  args.in = in.data, args.in_n = in.sn;
  args.out = out.data, args.out_n = out.sn, args.out_c = out.sc;
  args.n = out.n;
  if (op.residual != kNone) {
    const ConstView residual = Input(op.residual, AllRows(plan.tensor(op.residual)));
    args.residual = residual.data;
    args.res_n = residual.sn, args.res_c = residual.sc;
  }
  Linear(args, pool, isa);
}

void Executor::Impl::RunDepthwise(const OpRec& op, RowRange rows, const View& out) {
  const int32_t *p = op.p, k = p[0], stride = p[1];
  DepthwiseArgs args = {};
  args.k = k, args.stride = stride;
  ResolveDepthwise(plan, op, &args.weights);
  args.epilogue = EpilogueOf(op);
  const int64_t first = rows.begin * stride - p[2];
  args.in = Input(plan.index(op.inputs_off), {first, first + (out.h - 1) * stride + k});
  args.in.data -= p[3];
  args.out = out;
  Depthwise(args, pool, isa);
}

// Computes some rows of an op's output.
void Executor::Impl::RunOp(uint32_t index, RowRange rows) {
  const OpRec& op = plan.op(index);
  const TensorRec& t = plan.tensor(op.output);
  const View out = Output(op.output, rows);
  const auto kind = static_cast<OpKind>(op.op);
  if (kind == OpKind::kConv) {
    RunConv(index, rows, out);
  } else if (kind == OpKind::kWinograd) {
    RunWinograd(index, out);
  } else if (kind == OpKind::kLinear) {
    RunLinear(op, out);
  } else if (kind == OpKind::kDepthwise) {
    RunDepthwise(op, rows, out);
  } else if (out.h == t.dims[2]) {
    for (uint32_t i = 0; i < op.n_inputs; ++i) {
      const uint32_t id = plan.index(op.inputs_off + i);
      operands[i] = Input(id, AllRows(plan.tensor(id)));
    }
    kOpFunctions[op.op]({op, operands.get(), out, *row_ops, pool});
  } else {
    int64_t first = 0;
    for (uint32_t i = 0; i < op.n_inputs; ++i) {
      const uint32_t id = plan.index(op.inputs_off + i);
      const RowRange read = InputRows(op, plan.tensor(id).dims[2], t.dims[2], rows);
      operands[i] = Input(id, read);
      if (i == 0) first = read.begin;
    }
    kOpFunctions[op.op]({OpFrom(op, rows, first), operands.get(), out, *row_ops, pool});
  }
  if (t.storage == static_cast<uint32_t>(Storage::kArena)) ZeroHalo(t, out, rows.begin, pool);
}

// Moves the rows from `base` on of a tensor with a window, which is complete up to `end`, to the
// start of its memory.
void Executor::Impl::Slide(uint32_t tensor, int64_t base, int64_t end) {
  const TensorRec& t = plan.tensor(tensor);
  if (end == t.dims[2]) end += t.halo[1];
  const int64_t down = base - bases[tensor];
  if (down == 0) return;
  if (base < end) {
    const View kept = Output(tensor, {base, end});
    const int64_t left = t.halo[2], right = t.halo[3];
    const int64_t length = (kept.h - 1) * kept.sh + left + kept.w + right;
    const size_t planes = static_cast<size_t>(kept.n) * static_cast<size_t>(kept.c);
    const size_t grain = std::max<size_t>(1, kGrainFloats / static_cast<size_t>(length));
    pool->ParallelFor(planes, grain, [&](size_t first, size_t last) {
      for (size_t i = first; i < last; ++i) {
        const int64_t plane = static_cast<int64_t>(i);
        float* from = kept.Plane(plane / kept.c, plane % kept.c) - left;
        std::memmove(from - down * kept.sh, from, static_cast<size_t>(length) * sizeof(float));
      }
    });
  }
  bases[tensor] = base;
}

void Executor::Impl::RunChain(const ChainRec& chain, Observer* observer) {
  const auto output = [&](uint32_t i) { return plan.op(chain.first_op + i).output; };
  for (uint32_t i = 0; i < chain.n_ops; ++i) {
    const TensorRec& t = plan.tensor(output(i));
    bases[output(i)] = t.window == 0 ? 0 : -int64_t{t.halo[0]};
  }
  for (uint32_t number = 0; number < chain.n_bands; ++number) {
    for (uint32_t i = 0; i < chain.n_ops; ++i) {
      const Band band = BandOf(plan, chain, number, i);
      const int64_t begin = number == 0 ? 0 : BandOf(plan, chain, number - 1, i).end;
      const Watch watch(observer, plan, chain.first_op + i);
      if (plan.tensor(output(i)).window != 0) Slide(output(i), band.base, begin);
      if (begin != band.end) RunOp(chain.first_op + i, {begin, band.end});
    }
  }
}

Executor::Executor(const Plan& plan, ThreadPool* pool) : impl_(new (std::nothrow) Impl) {
  if (impl_ == nullptr) return;
  impl_->plan = plan;
  impl_->pool = pool;
  impl_->isa = ActiveIsa();
  impl_->row_ops = &ActiveRowOps();
}

Executor::~Executor() = default;

Status Executor::Create(const Plan& plan, ThreadPool* pool, std::unique_ptr<Executor>* out) {
  if (pool == nullptr || out == nullptr || plan.size() == 0) return Status::kBadArgument;
  std::unique_ptr<Executor> executor(new (std::nothrow) Executor(plan, pool));
  if (executor == nullptr || executor->impl_ == nullptr) return Status::kOutOfMemory;
  const Status status = executor->impl_->Allocate();
  if (status == Status::kOk) *out = std::move(executor);
  return status;
}

Status Executor::Run(const float* const* inputs, size_t n_inputs, float* const* outputs,
                     size_t n_outputs, Observer* observer) {
  const Header& h = impl_->plan.header();
  if (n_inputs < h.n_inputs || n_outputs < h.n_outputs) return Status::kBadArgument;
  if ((h.n_inputs > 0 && inputs == nullptr) || outputs == nullptr) return Status::kBadArgument;
  const auto unusable = [](const float* buffer) {
    return buffer == nullptr || reinterpret_cast<uintptr_t>(buffer) % alignof(float) != 0;
  };
  if (std::any_of(inputs, inputs + h.n_inputs, unusable) ||
      std::any_of(outputs, outputs + h.n_outputs, unusable)) {
    return Status::kBadArgument;
  }
  impl_->inputs = inputs;
  impl_->outputs = outputs;
  try {
    impl_->schedules.resize(h.n_ops);
    uint32_t next_chain = 0;
    for (uint32_t i = 0; i < h.n_ops;) {
      if (next_chain < h.n_chains && impl_->plan.chain(next_chain).first_op == i) {
        const ChainRec& chain = impl_->plan.chain(next_chain++);
        impl_->RunChain(chain, observer);
        i += chain.n_ops;
      } else {
        const Impl::Watch watch(observer, impl_->plan, i);
        impl_->RunOp(i, AllRows(impl_->plan.tensor(impl_->plan.op(i).output)));
        ++i;
      }
    }
  } catch (const std::bad_alloc&) {  // a convolution's schedule
    return Status::kOutOfMemory;
  }
  return Status::kOk;
}

}  // namespace edge
