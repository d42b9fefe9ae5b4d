// The executor: owns the arena, runs the ops in order, keeps halos zero.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include "edge/plan.h"
#include "kernels/conv/conv.h"
#include "kernels/ops.h"
#include "plan/halo.h"
#include "plan/validate.h"

namespace edge {
namespace {

using OpFunction = void (*)(const OpCall& call);

// By OpKind; the packed ops have their own signature and are called apart.
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
};
static_assert(sizeof(kOpFunctions) / sizeof(kOpFunctions[0]) ==
              static_cast<size_t>(OpKind::kSoftmax) + 1);

template <typename T>
BasicView<T> ViewOf(const TensorRec& t, T* data) {
  return {data, t.dims[0], t.dims[1], t.dims[2], t.dims[3], t.stride[0], t.stride[1], t.stride[2]};
}

Epilogue EpilogueOf(const OpRec& op) {
  return {static_cast<ActKind>(op.act), op.act_param[0], op.act_param[1],
          op.residual_after_act != 0};
}

}  // namespace

struct Executor::Impl {
  Plan plan;
  ThreadPool* pool = nullptr;
  const RowOps* rows = nullptr;
  Isa isa = Isa::kFallback;
  void* allocation = nullptr;  // the arena with its slack, not yet aligned
  float* arena = nullptr;
  std::unique_ptr<ConstView[]> operands;  // of the running op
  const float* const* inputs = nullptr;   // of this run
  float* const* outputs = nullptr;

  ~Impl() { std::free(allocation); }
  Status Allocate();
  View Output(const TensorRec& t) const;
  ConstView Input(uint32_t tensor) const;
  void RunOp(const OpRec& op);
  void RunConv(const OpRec& op, const TensorRec& out);
  void RunLinear(const OpRec& op, const TensorRec& out);
};

Status Executor::Impl::Allocate() {
  constexpr uint64_t kAlignment = 64;
  const uint64_t bytes = plan.header().arena_size + 2 * kArenaSlack + kAlignment;
  allocation = bytes <= SIZE_MAX ? std::calloc(1, static_cast<size_t>(bytes)) : nullptr;
  uint32_t most = 0;
  for (uint32_t i = 0; i < plan.header().n_ops; ++i) most = std::max(most, plan.op(i).n_inputs);
  operands.reset(new (std::nothrow) ConstView[most]);
  if (allocation == nullptr || operands == nullptr) return Status::kOutOfMemory;
  const uintptr_t start = reinterpret_cast<uintptr_t>(allocation) + kArenaSlack;
  const uintptr_t aligned = (start + kAlignment - 1) / kAlignment * kAlignment;
  arena = reinterpret_cast<float*>(static_cast<char*>(allocation) +
                                   (aligned - reinterpret_cast<uintptr_t>(allocation)));
  return Status::kOk;
}

// Only for tensors that are op outputs: in the arena or the caller's buffers.
View Executor::Impl::Output(const TensorRec& t) const {
  const bool in_arena = t.storage == static_cast<uint32_t>(Storage::kArena);
  return ViewOf(t, in_arena ? arena + t.offset / sizeof(float) : outputs[t.io_index]);
}

ConstView Executor::Impl::Input(uint32_t tensor) const {
  const TensorRec& t = plan.tensor(tensor);
  switch (static_cast<Storage>(t.storage)) {
    case Storage::kInput:
      return ViewOf(t, inputs[t.io_index]);
    case Storage::kConst:
      return ViewOf(t, reinterpret_cast<const float*>(plan.data() + t.offset));
    case Storage::kArena:
    case Storage::kOutput:
      break;
  }
  return ViewOf<const float>(t, Output(t).data);
}

void Executor::Impl::RunConv(const OpRec& op, const TensorRec& out_rec) {
  const ConstView in = Input(plan.index(op.inputs_off));
  const View out = Output(out_rec);
  ConvArgs args = {};
  ResolvePacked(plan, op, &args.packed);
  args.epilogue = EpilogueOf(op);
  args.in = in.data, args.in_n = in.sn, args.in_h = in.sh;
  args.out = out.data, args.out_n = out.sn, args.out_c = out.sc, args.out_h = out.sh;
  args.n = out.n, args.h = out.h, args.w = out.w;
  if (op.residual != kNone) {
    const ConstView residual = Input(op.residual);
    args.residual = residual.data;
    args.res_n = residual.sn, args.res_c = residual.sc, args.res_h = residual.sh;
  }
  args.may_write_gaps = out_rec.storage == static_cast<uint32_t>(Storage::kArena);
  Conv(args, pool, isa);
}

void Executor::Impl::RunLinear(const OpRec& op, const TensorRec& out_rec) {
  const ConstView in = Input(plan.index(op.inputs_off));
  const View out = Output(out_rec);
  LinearArgs args = {};
  ResolvePacked(plan, op, &args.packed);
  args.epilogue = EpilogueOf(op);
  args.in = in.data, args.in_n = in.sn;
  args.out = out.data, args.out_n = out.sn, args.out_c = out.sc;
  args.n = out.n;
  if (op.residual != kNone) {
    const ConstView residual = Input(op.residual);
    args.residual = residual.data;
    args.res_n = residual.sn, args.res_c = residual.sc;
  }
  Linear(args, pool, isa);
}

void Executor::Impl::RunOp(const OpRec& op) {
  const TensorRec& out = plan.tensor(op.output);
  const auto kind = static_cast<OpKind>(op.op);
  if (kind == OpKind::kConv) {
    RunConv(op, out);
  } else if (kind == OpKind::kLinear) {
    RunLinear(op, out);
  } else {
    for (uint32_t i = 0; i < op.n_inputs; ++i) operands[i] = Input(plan.index(op.inputs_off + i));
    kOpFunctions[op.op]({op, operands.get(), Output(out), *rows, pool});
  }
  if (out.storage == static_cast<uint32_t>(Storage::kArena)) ZeroHalo(out, Output(out), pool);
}

Executor::Executor(const Plan& plan, ThreadPool* pool) : impl_(new (std::nothrow) Impl) {
  if (impl_ == nullptr) return;
  impl_->plan = plan;
  impl_->pool = pool;
  impl_->isa = ActiveIsa();
  impl_->rows = &ActiveRowOps();
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
    for (uint32_t i = 0; i < h.n_ops; ++i) {
      const OpRec& op = impl_->plan.op(i);
      const std::string_view name = impl_->plan.name(op);
      if (observer != nullptr) observer->Begin(i, name);
      impl_->RunOp(op);
      if (observer != nullptr) observer->End(i, name);
    }
  } catch (const std::bad_alloc&) {  // a convolution's schedule
    return Status::kOutOfMemory;
  }
  return Status::kOk;
}

}  // namespace edge
