// The executor: owns the arena, runs the ops in order, keeps halos zero.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <tuple>
#include <utility>
#include <vector>

#include "edge/plan.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/schedule.h"
#include "kernels/depthwise/depthwise.h"
#include "kernels/half/half.h"
#include "kernels/int8/int8.h"
#include "kernels/nest.h"
#include "kernels/ops.h"
#include "kernels/winograd/winograd.h"
#include "plan/bands.h"
#include "plan/halo.h"
#include "plan/validate.h"

namespace edge {
namespace {

using OpFunction = void (*)(const OpCall& call);

// By OpKind; the ops with weights and those after them have their own signatures and are called
// apart.
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
constexpr size_t kOpFunctionCount = sizeof(kOpFunctions) / sizeof(kOpFunctions[0]);
static_assert(kOpFunctionCount == static_cast<size_t>(OpKind::kSoftmax) + 1);

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

// The elements of an int8 tensor as what they are.
BasicView<const Quad> Quads(const ConstView& v) {
  return {reinterpret_cast<const Quad*>(v.data), v.n, v.c, v.h, v.w, v.sn, v.sc, v.sh};
}
BasicView<Quad> Quads(const View& v) {
  return {reinterpret_cast<Quad*>(v.data), v.n, v.c, v.h, v.w, v.sn, v.sc, v.sh};
}

// Moves rows, with what is beside them, up in the memory of a tensor.
template <typename T>
void MoveUp(const BasicView<T>& kept, int64_t left, int64_t right, int64_t down, ThreadPool* pool) {
  const int64_t length = (kept.h - 1) * kept.sh + left + kept.w + right;
  const size_t planes = static_cast<size_t>(kept.n) * static_cast<size_t>(kept.c);
  const size_t grain = std::max<size_t>(1, kGrainFloats / static_cast<size_t>(length));
  pool->ParallelFor(planes, grain, [&](size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) {
      const int64_t plane = static_cast<int64_t>(i);
      T* from = kept.Plane(plane / kept.c, plane % kept.c) - left;
      std::memmove(from - down * kept.sh, from, static_cast<size_t>(length) * sizeof(T));
    }
  });
}

RowRange AllRows(const TensorRec& t) { return {0, t.dims[2]}; }

Epilogue EpilogueOf(const OpRec& op) {
  return {static_cast<ActKind>(op.act), op.act_param[0], op.act_param[1],
          op.residual_after_act != 0};
}

Int8Epilogue Int8EpilogueOf(const OpRec& op, const TensorRec& out, int32_t zero) {
  return {static_cast<ActKind>(op.act),
          op.act_param[0],
          op.act_param[1],
          op.residual_after_act != 0,
          op.f[0],
          op.p[1],
          zero,
          !IsInt8(out)};
}

}  // namespace

struct Executor::Impl {
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
  std::unique_ptr<uint64_t[]> places;               // of every tensor: the offset in the arena
  std::unique_ptr<int64_t[]> bases;                 // and the first row in its memory
  std::vector<std::vector<PlannedConv>> schedules;  // of every op
  std::vector<std::shared_ptr<Int8Weights>> int8;   // of every op that has any
  WinogradSpaces spaces;                            // one a thread
  std::vector<uint64_t> times;                      // of every op
  const float* const* inputs = nullptr;             // of this run
  float* const* outputs = nullptr;
  Observer* observer = nullptr;

  ~Impl() { std::free(allocation); }
  Status Allocate();
  Status Prepare();
  template <typename T = float>
  BasicView<T> Output(uint32_t tensor, RowRange rows) const;
  ConstView Input(uint32_t tensor, RowRange rows) const;
  void RunChains(uint32_t first, uint32_t n);
  void RunChain(const ChainRec& chain, const ChainRec& windows);
  void Slide(uint32_t tensor, int64_t base, int64_t end);
  void RunTimed(uint32_t index, RowRange rows);
  void RunOp(uint32_t index, RowRange rows);
  void Report(uint32_t first, uint32_t n, uint64_t wall);
  void RunConv(uint32_t index, RowRange rows, const View& out);
  void RunWinograd(uint32_t index, const View& out);
  size_t Planned(uint32_t op, int64_t size, const ConvArgs& args);
  template <typename F>
  size_t Planned(uint32_t op, int64_t size, const F& make);
  void RunLinear(const OpRec& op, const View& out);
  void RunDepthwise(const OpRec& op, RowRange rows, const View& out);
  bool RunInt8(uint32_t index, RowRange rows, const View& out);
  void RunConvInt8(uint32_t index, RowRange rows, const View& out);
  void RunLinearInt8(uint32_t index, const View& out);
  void RunDepthwiseInt8(const OpRec& op, RowRange rows, const View& out);
  RealView Real(uint32_t tensor, RowRange rows) const;
  bool HasHalf(const OpRec& op) const;
  void RunHalf(uint32_t index, RowRange rows);
  void RunConvHalf(uint32_t index, RowRange rows);
  void RunLinearHalf(const OpRec& op);
  void RunDepthwiseHalf(const OpRec& op, RowRange rows);
};

Status Executor::Impl::Allocate() {
  // A large arena begins with a huge page: convolutions read a few lines of hundreds of planes,
  // each plane in pages of its own.
  constexpr uint64_t kLine = 64, kHugePage = 2 << 20;
  const uint64_t size = plan.header().arena_size + kArenaSlack;
  const uint64_t alignment = size < 2 * kHugePage ? kLine : kHugePage;
  const uint64_t bytes = size + kArenaSlack + alignment;
  allocation = bytes <= SIZE_MAX ? std::calloc(1, static_cast<size_t>(bytes)) : nullptr;
  bases.reset(new (std::nothrow) int64_t[plan.header().n_tensors]());
  places.reset(new (std::nothrow) uint64_t[plan.header().n_tensors]());
  int64_t space = 0;
  for (uint32_t i = 0; i < plan.header().n_ops; ++i) {
    const OpRec& op = plan.op(i);
    if (static_cast<OpKind>(op.op) != OpKind::kWinograd) continue;
    const int64_t c = plan.tensor(plan.index(op.inputs_off)).dims[1],
                  f = plan.tensor(op.output).dims[1];
    space = std::max(space, WinogradSpace(op.p[0], c, f, op.p[3]));
  }
  if (allocation == nullptr || bases == nullptr || places == nullptr ||
      !spaces.Allocate(pool->threads(), static_cast<size_t>(space)))
    return Status::kOutOfMemory;
  for (uint32_t i = 0; i < plan.header().n_tensors; ++i) places[i] = plan.tensor(i).offset;
  const uintptr_t start = reinterpret_cast<uintptr_t>(allocation) + kArenaSlack;
  const uintptr_t aligned = (start + alignment - 1) / alignment * alignment;
  arena = reinterpret_cast<float*>(static_cast<char*>(allocation) +
                                   (aligned - reinterpret_cast<uintptr_t>(allocation)));
#ifdef MADV_HUGEPAGE  // a wish: systems without huge pages refuse it
  if (alignment == kHugePage) madvise(arena, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
  return Status::kOk;
}

// What int8 kernels need computed of their weights; parts of a chain share it.
Status Executor::Impl::Prepare() {
  // By data_off and how they are read: the kind, and whether codes stay codes.
  std::map<std::tuple<uint64_t, OpKind, bool>, std::shared_ptr<Int8Weights>> known;
  try {
    int8.resize(plan.header().n_ops);
    for (uint32_t i = 0; i < plan.header().n_ops; ++i) {
      const OpRec& op = plan.op(i);
      const auto kind = static_cast<OpKind>(op.op);
      if (kind != OpKind::kConvInt8 && kind != OpKind::kLinearInt8) continue;
      std::shared_ptr<Int8Weights>& weights = known[{op.data_off, kind, op.p[2] != 0}];
      if (weights == nullptr) {
        weights = std::make_shared<Int8Weights>();
        PackedInt8View packed;
        const Status status = ResolvePackedInt8(plan, op, &packed);
        if (status != Status::kOk) return status;
        const bool prepared = kind == OpKind::kConvInt8
                                  ? PrepareConvInt8(packed, isa, weights.get())
                                  : PrepareLinearInt8(packed, op.p[2] != 0, isa, weights.get());
        if (!prepared) return Status::kOutOfMemory;
      }
      int8[i] = weights;
    }
  } catch (const std::bad_alloc&) {
    return Status::kOutOfMemory;
  }
  return Status::kOk;
}

// Only for tensors that are op outputs: in the arena or the caller's buffers.
template <typename T>
BasicView<T> Executor::Impl::Output(uint32_t tensor, RowRange rows) const {
  const TensorRec& t = plan.tensor(tensor);
  const bool in_arena = t.storage == static_cast<uint32_t>(Storage::kArena);
  void* const memory = in_arena ? reinterpret_cast<char*>(arena) + places[tensor]
                                : static_cast<void*>(outputs[t.io_index]);
  return ViewOf(t, static_cast<T*>(memory), bases[tensor], rows);
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
  args.may_read_around = true;  // it is in the arena
  Conv(args, schedules[index][Planned(index, out.h, args)].schedule, pool, isa);
}

// The place in schedules[op] of the one for this size, which is planned when first seen.
size_t Executor::Impl::Planned(uint32_t op, int64_t size, const ConvArgs& args) {
  return Planned(op, size, [&] { return PlanConv(args, pool->threads(), isa); });
}

template <typename F>
size_t Executor::Impl::Planned(uint32_t op, int64_t size, const F& make) {
  std::vector<PlannedConv>& planned = schedules[op];
  for (size_t i = 0; i < planned.size(); ++i) {
    if (planned[i].size == size) return i;
  }
  planned.push_back({size, make()});
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

void Executor::Impl::RunConvInt8(uint32_t index, RowRange rows, const View& out) {
  const OpRec& op = plan.op(index);
  const ConstView in = Input(plan.index(op.inputs_off), rows);
  const TensorRec& t = plan.tensor(op.output);
  Int8ConvArgs args = {};
  args.weights = int8[index].get();
  args.epilogue = Int8EpilogueOf(op, t, op.p[0]);
  args.in = Quads(in).data, args.in_n = in.sn, args.in_h = in.sh;
  args.out = out.data, args.out_n = out.sn, args.out_c = out.sc, args.out_h = out.sh;
  args.n = out.n, args.h = out.h, args.w = out.w;
  if (op.residual != kNone) {
    const ConstView residual = Input(op.residual, rows);
    args.residual = Quads(residual).data;
    args.res_n = residual.sn, args.res_c = residual.sc, args.res_h = residual.sh;
  }
  args.may_write_gaps = t.storage == static_cast<uint32_t>(Storage::kArena);
  const size_t place =
      Planned(index, out.h, [&] { return PlanConvInt8(args, pool->threads(), isa); });
  ConvInt8(args, schedules[index][place].schedule, pool, isa);
}

void Executor::Impl::RunLinearInt8(uint32_t index, const View& out) {
  const OpRec& op = plan.op(index);
  const uint32_t first = plan.index(op.inputs_off);
  const ConstView in = Input(first, AllRows(plan.tensor(first)));
  Int8LinearArgs args = {};
  args.weights = int8[index].get();
  args.epilogue = Int8EpilogueOf(op, plan.tensor(op.output), op.p[0]);
  args.in = Quads(in).data, args.in_n = in.sn;
  args.out = out.data, args.out_n = out.sn, args.out_c = out.sc;
  args.n = out.n;
  if (op.residual != kNone) {
    const ConstView residual = Input(op.residual, AllRows(plan.tensor(op.residual)));
    args.residual = Quads(residual).data;
    args.res_n = residual.sn, args.res_c = residual.sc;
  }
  LinearInt8(args, pool, isa);
}

void Executor::Impl::RunDepthwiseInt8(const OpRec& op, RowRange rows, const View& out) {
  const int32_t *p = op.p, k = p[0], stride = p[1];
  Int8DepthwiseArgs args = {};
  args.k = k, args.stride = stride;
  ResolveDepthwiseInt8(plan, op, &args.weights);
  args.epilogue = Int8EpilogueOf(op, plan.tensor(op.output), p[4]);
  const int64_t first = rows.begin * stride - p[2];
  args.in = Quads(Input(plan.index(op.inputs_off), {first, first + (out.h - 1) * stride + k}));
  args.in.data -= p[3];
  args.out = Quads(out);
  DepthwiseInt8(args, pool, isa);
}

// False for an op that is none of int8 tensors, or moves their elements only.
bool Executor::Impl::RunInt8(uint32_t index, RowRange rows, const View& out) {
  const OpRec& op = plan.op(index);
  const uint32_t id = plan.index(op.inputs_off);
  const TensorRec& in = plan.tensor(id);
  const auto kind = static_cast<OpKind>(op.op);
  const int32_t* p = op.p;
  if (kind == OpKind::kQuantize) {
    QuantizeInt8(Input(id, rows), Quads(out), op.f[0], p[0], pool, isa);
  } else if (kind == OpKind::kDequantize) {
    DequantizeInt8(Quads(Input(id, rows)), out, op.f[0], p[0], pool, isa);
  } else if (kind == OpKind::kConvInt8) {
    RunConvInt8(index, rows, out);
  } else if (kind == OpKind::kLinearInt8) {
    RunLinearInt8(index, out);
  } else if (kind == OpKind::kDepthwiseInt8) {
    RunDepthwiseInt8(op, rows, out);
  } else if (kind == OpKind::kMeanInt8) {
    MeanInt8(Quads(Input(id, AllRows(in))), Quads(out), op.f[0], p[1], p[0], pool);
  } else if (kind == OpKind::kMaxPool && IsInt8(in)) {
    const int64_t height = plan.tensor(op.output).dims[2];
    const RowRange read = InputRows(op, in.dims[2], height, rows);
    const OpRec part = out.h == height ? op : OpFrom(op, rows, read.begin);
    const RowRange all = out.h == height ? AllRows(in) : read;
    MaxPoolInt8(Quads(Input(id, all)), Quads(out), part.p, pool, isa);
  } else {
    return false;
  }
  return true;
}

RealView Executor::Impl::Real(uint32_t tensor, RowRange rows) const {
  const TensorRec& t = plan.tensor(tensor);
  const auto real = [&](auto* data, const auto& v) {
    return RealView{data, v.n, v.c, v.h, v.w, v.sn, v.sc, v.sh, IsHalf(t)};
  };
  if (IsHalf(t)) {
    const auto view = Output<Half>(tensor, rows);
    return real(view.data, view);
  }
  const ConstView view = Input(tensor, rows);
  return real(const_cast<float*>(view.data), view);  // written where it is an output
}

bool Executor::Impl::HasHalf(const OpRec& op) const {
  bool half = IsHalf(plan.tensor(op.output));
  for (uint32_t i = 0; i < op.n_inputs; ++i)
    half = half || IsHalf(plan.tensor(plan.index(op.inputs_off + i)));
  return half;
}

void Executor::Impl::RunConvHalf(uint32_t index, RowRange rows) {
  const OpRec& op = plan.op(index);
  const auto in = Output<Half>(plan.index(op.inputs_off), rows);
  const auto out = Output<Half>(op.output, rows);
  HalfConvArgs args = {};
  ResolvePacked(plan, op, &args.packed, &args.weights);
  args.epilogue = EpilogueOf(op);
  args.in = in.data, args.in_n = in.sn, args.in_h = in.sh;
  args.out = out.data, args.out_n = out.sn, args.out_c = out.sc, args.out_h = out.sh;
  args.n = out.n, args.h = out.h, args.w = out.w;
  if (op.residual != kNone) {
    const auto residual = Output<Half>(op.residual, rows);
    args.residual = residual.data;
    args.res_n = residual.sn, args.res_c = residual.sc, args.res_h = residual.sh;
  }
  args.may_write_gaps = true;
  const size_t place =
      Planned(index, out.h, [&] { return PlanConvHalf(args, pool->threads(), isa); });
  ConvHalf(args, schedules[index][place].schedule, pool, isa);
}

void Executor::Impl::RunLinearHalf(const OpRec& op) {
  const uint32_t first = plan.index(op.inputs_off);
  const auto in = Output<Half>(first, AllRows(plan.tensor(first)));
  HalfLinearArgs args = {};
  ResolvePacked(plan, op, &args.packed, &args.weights);
  args.epilogue = EpilogueOf(op);
  args.in = in.data, args.in_n = in.sn;
  args.out = Real(op.output, AllRows(plan.tensor(op.output)));
  if (op.residual != kNone) {
    const auto residual = Output<Half>(op.residual, AllRows(plan.tensor(op.residual)));
    args.residual = residual.data;
    args.res_n = residual.sn, args.res_c = residual.sc;
  }
  LinearHalf(args, pool, isa);
}

void Executor::Impl::RunDepthwiseHalf(const OpRec& op, RowRange rows) {
  const int32_t *p = op.p, k = p[0], stride = p[1];
  HalfDepthwiseArgs args = {};
  args.k = k, args.stride = stride;
  ResolveDepthwise(plan, op, &args.weights);
  args.epilogue = EpilogueOf(op);
  const int64_t first = rows.begin * stride - p[2];
  const int64_t last = first + (rows.end - rows.begin - 1) * stride + k;
  const auto in = Output<Half>(plan.index(op.inputs_off), {first, last});
  args.in = {in.data - p[3], in.n, in.c, in.h, in.w, in.sn, in.sc, in.sh};
  args.out = Output<Half>(op.output, rows);
  DepthwiseHalf(args, pool, isa);
}

// An op with a float16 tensor.
void Executor::Impl::RunHalf(uint32_t index, RowRange rows) {
  const OpRec& op = plan.op(index);
  const auto kind = static_cast<OpKind>(op.op);
  if (kind == OpKind::kConv) return RunConvHalf(index, rows);
  if (kind == OpKind::kLinear) return RunLinearHalf(op);
  if (kind == OpKind::kDepthwise) return RunDepthwiseHalf(op, rows);
  const int64_t height = plan.tensor(op.output).dims[2];
  const bool whole = rows.end - rows.begin == height;
  std::vector<RealView> operands;
  int64_t first = 0;
  for (uint32_t i = 0; i < op.n_inputs; ++i) {
    const uint32_t id = plan.index(op.inputs_off + i);
    const TensorRec& in = plan.tensor(id);
    const RowRange read = whole ? AllRows(in) : InputRows(op, in.dims[2], height, rows);
    operands.push_back(Real(id, read));
    if (i == 0) first = read.begin;
  }
  const OpRec part = whole ? op : OpFrom(op, rows, first);
  RunHalfOp({part, operands.data(), Real(op.output, rows), *row_ops, pool, isa});
}

// Computes some rows of an op's output.
void Executor::Impl::RunOp(uint32_t index, RowRange rows) {
  const OpRec& op = plan.op(index);
  const TensorRec& t = plan.tensor(op.output);
  const bool in_arena = t.storage == static_cast<uint32_t>(Storage::kArena);
  if (HasHalf(op)) {
    RunHalf(index, rows);
    if (IsHalf(t)) return FillHalo(t, Output<Half>(op.output, rows), rows.begin, pool);
    if (in_arena) FillHalo(t, Output(op.output, rows), rows.begin, pool);
    return;
  }
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
  } else if (!RunInt8(index, rows, out)) {
    const bool whole = out.h == t.dims[2];
    std::vector<ConstView> operands;
    int64_t first = 0;
    for (uint32_t i = 0; i < op.n_inputs; ++i) {
      const uint32_t id = plan.index(op.inputs_off + i);
      const TensorRec& in = plan.tensor(id);
      const RowRange read = whole ? AllRows(in) : InputRows(op, in.dims[2], t.dims[2], rows);
      operands.push_back(Input(id, read));
      if (i == 0) first = read.begin;
    }
    const OpRec part = whole ? op : OpFrom(op, rows, first);
    kOpFunctions[op.op]({part, operands.data(), out, *row_ops, pool, FillOf(t)});
  }
  if (in_arena) FillHalo(t, out, rows.begin, pool);
}

// Moves the rows from `base` on of a tensor with a window, which is complete up to `end`, to the
// start of its memory.
void Executor::Impl::Slide(uint32_t tensor, int64_t base, int64_t end) {
  const TensorRec& t = plan.tensor(tensor);
  if (end == t.dims[2]) end += t.halo[1];
  const int64_t down = base - bases[tensor];
  if (down == 0) return;
  if (base < end) {
    if (IsHalf(t)) {
      MoveUp(Output<Half>(tensor, {base, end}), t.halo[2], t.halo[3], down, pool);
    } else {
      MoveUp(Output(tensor, {base, end}), t.halo[2], t.halo[3], down, pool);
    }
  }
  bases[tensor] = base;
}

// RunOp, and adds the time to the op's when somebody looks.
void Executor::Impl::RunTimed(uint32_t index, RowRange rows) {
  const uint64_t start = observer == nullptr ? 0 : observer->Now();
  RunOp(index, rows);
  if (observer != nullptr) times[index] += observer->Now() - start;
}

// Tells the observer what ops [first, first + n) took, which ran for `wall` together.
void Executor::Impl::Report(uint32_t first, uint32_t n, uint64_t wall) {
  double sum = 0;
  for (uint32_t i = first; i < first + n; ++i) sum += static_cast<double>(times[i]);
  for (uint32_t i = first; i < first + n; ++i) {
    const double share = sum > 0 ? static_cast<double>(times[i]) / sum : 0;
    const auto time = static_cast<uint64_t>(share * static_cast<double>(wall));
    observer->Took(i, plan.name(plan.op(i)), time);
  }
}

// In the windows of another part, or in its own.
void Executor::Impl::RunChain(const ChainRec& chain, const ChainRec& windows) {
  const auto output = [&](uint32_t i) { return plan.op(chain.first_op + i).output; };
  for (uint32_t i = 0; i < chain.n_ops; ++i) {
    const TensorRec& t = plan.tensor(output(i));
    if (t.window == 0) continue;
    const int64_t begin = BeginOf(plan, chain, i);
    places[output(i)] = plan.tensor(plan.op(windows.first_op + i).output).offset;
    bases[output(i)] = begin == 0 ? -int64_t{t.halo[0]} : begin;
  }
  for (uint32_t number = 0; number < chain.n_bands; ++number) {
    for (uint32_t i = 0; i < chain.n_ops; ++i) {
      const Band band = BandOf(plan, chain, number, i);
      const int64_t begin =
          number == 0 ? BeginOf(plan, chain, i) : BandOf(plan, chain, number - 1, i).end;
      if (plan.tensor(output(i)).window != 0) Slide(output(i), band.base, begin);
      if (begin != band.end) RunTimed(chain.first_op + i, {begin, band.end});
    }
  }
}

// The parts of a chain, chains [first, first + n), each on a thread. A part takes the windows that
// were used last, which may still be in the thread's cache.
void Executor::Impl::RunChains(uint32_t first, uint32_t n) {
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::vector<uint32_t> unused;
  for (uint32_t i = n; i-- > 0;) unused.push_back(first + i);
  pool->ParallelFor(n, 1, [&](size_t begin, size_t end) {
    try {
      uint32_t windows;
      {
        const std::lock_guard<std::mutex> lock(mutex);
        windows = unused.back();
        unused.pop_back();
      }
      for (size_t i = begin; i < end; ++i)
        RunChain(plan.chain(first + static_cast<uint32_t>(i)), plan.chain(windows));
      const std::lock_guard<std::mutex> lock(mutex);
      unused.push_back(windows);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  });
  if (failed) throw std::bad_alloc();
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
  Status status = executor->impl_->Allocate();
  if (status == Status::kOk) status = executor->impl_->Prepare();
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
  impl_->observer = observer;
  const Plan& plan = impl_->plan;
  try {
    impl_->schedules.resize(h.n_ops);
    if (observer != nullptr) impl_->times.assign(h.n_ops, 0);
    uint32_t chain = 0;
    for (uint32_t i = 0; i < h.n_ops;) {
      const uint64_t start = observer == nullptr ? 0 : observer->Now();
      uint32_t n_ops = 1, n_chains = 0;
      if (chain < h.n_chains && plan.chain(chain).first_op == i) {
        do ++n_chains;
        while (chain + n_chains < h.n_chains && plan.chain(chain + n_chains).part != 0);
        impl_->RunChains(chain, n_chains);
        n_ops = n_chains * plan.chain(chain).n_ops;
        chain += n_chains;
      } else {
        impl_->RunTimed(i, AllRows(plan.tensor(plan.op(i).output)));
      }
      if (observer != nullptr) impl_->Report(i, n_ops, observer->Now() - start);
      i += n_ops;
    }
  } catch (const std::bad_alloc&) {  // a convolution's schedule
    return Status::kOutOfMemory;
  }
  return Status::kOk;
}

}  // namespace edge
