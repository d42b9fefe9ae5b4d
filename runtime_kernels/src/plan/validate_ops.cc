// What makes an op sound: operands, shapes, parameters.
#include <cmath>
#include <vector>

#include "kernels/pool/window.h"
#include "plan/limits.h"
#include "plan/overlap.h"
#include "plan/validate.h"

namespace edge {
namespace {

struct Operands {
  const Plan& plan;
  const OpRec& op;
  const TensorRec& in;  // the first input
  const TensorRec& out;
  RowRange span;

  const TensorRec& input(uint32_t i) const { return plan.tensor(plan.index(op.inputs_off + i)); }
};

Status Require(bool condition) { return condition ? Status::kOk : Status::kBadValue; }

bool Within(int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; }

bool SameBatchAndChannels(const Operands& o) {
  return o.in.dims[0] == o.out.dims[0] && o.in.dims[1] == o.out.dims[1];
}

double Rows(const TensorRec& t) { return Elements(t) / t.dims[3]; }

// What zeroing the halo of a tensor stores.
double HaloElements(const TensorRec& t) {
  const double rows = static_cast<double>(t.halo[0]) + t.halo[1],
               columns = static_cast<double>(t.halo[2]) + t.halo[3];
  return static_cast<double>(t.dims[0]) * t.dims[1] *
         (rows * (columns + t.dims[3]) + columns * t.dims[2]);
}

Status CheckCopy(const Operands& o, double*) {
  const int32_t* p = o.op.p;
  const bool params =
      Within(p[0], 1, 64) && Within(p[1], -kMaxDim, kMaxDim) && Within(p[2], -kMaxDim, kMaxDim);
  return Require(params && o.in.dims[0] == o.out.dims[0] && o.out.dims[1] % o.in.dims[1] == 0 &&
                 o.out.dims[1] / o.in.dims[1] <= p[0] * p[0]);
}

Status CheckSameDims(const Operands& o, double*) { return Require(SameDims(o.in, o.out)); }

Status CheckBroadcast(const Operands& o, double*) {
  const TensorRec& b = o.input(1);
  for (int d = 0; d < 4; ++d) {
    const int32_t x = o.in.dims[d], y = b.dims[d];
    if (o.out.dims[d] != (x == 1 ? y : x) || (y != 1 && y != o.out.dims[d]))
      return Status::kBadValue;
  }
  return Status::kOk;
}

Status CheckConcat(const Operands& o, double*) {
  const int32_t axis = o.op.p[0];
  if (!Within(axis, 0, 3)) return Status::kBadValue;
  int64_t sum = 0;
  for (uint32_t i = 0; i < o.op.n_inputs; ++i) {
    const TensorRec& in = o.input(i);
    for (int d = 0; d < 4; ++d) {
      if (d != axis && in.dims[d] != o.out.dims[d]) return Status::kBadValue;
    }
    sum += in.dims[axis];
  }
  return Require(sum == o.out.dims[axis]);
}

// Every window touches the input, and fits the kernels' tile.
bool WindowsFit(const WindowAxis& axis, int64_t in, int64_t out) {
  if (axis.kernel < 1 || axis.dilation < 1 || axis.stride < 1) return false;
  if (axis.kernel > kMaxWindowSpan || axis.dilation > kMaxWindowSpan || axis.stride > kMaxDim)
    return false;
  if (axis.Span() > kMaxWindowSpan || axis.pad < 0 || axis.pad >= axis.Span()) return false;
  return (out - 1) * axis.stride - axis.pad < in;
}

Status CheckWindows(const Operands& o, const WindowAxis& vertical, const WindowAxis& horizontal,
                    double* work) {
  if (!SameBatchAndChannels(o) || !WindowsFit(vertical, o.in.dims[2], o.out.dims[2]) ||
      !WindowsFit(horizontal, o.in.dims[3], o.out.dims[3])) {
    return Status::kBadValue;
  }
  // The vertical pass runs over all columns from a tile's first window to its last one.
  const int64_t w = o.out.dims[3], tile = WindowsATile(horizontal), tiles = (w + tile - 1) / tile;
  const int64_t columns = (w - tiles) * horizontal.stride + tiles * horizontal.Span();
  *work += Rows(o.out) * static_cast<double>(columns) * static_cast<double>(vertical.kernel);
  *work += Elements(o.out) * static_cast<double>(horizontal.kernel);
  return Status::kOk;
}

Status CheckMaxPool(const Operands& o, double* work) {
  const int32_t* p = o.op.p;
  return CheckWindows(o, {p[0], p[2], p[4], p[6]}, {p[1], p[3], p[5], p[7]}, work);
}

Status CheckAvgPool(const Operands& o, double* work) {
  const int32_t* p = o.op.p;
  if (!Within(p[6], 0, 1) || p[7] < 0 || !Within(p[8], 0, kMaxWindowSpan) ||
      !Within(p[9], 0, kMaxWindowSpan)) {
    return Status::kBadValue;
  }
  return CheckWindows(o, {p[0], p[2], p[4], 1}, {p[1], p[3], p[5], 1}, work);
}

Status CheckAdaptiveAvgPool(const Operands& o, double* work) {
  *work +=
      Elements(o.out) * (o.in.dims[2] / o.out.dims[2] + 2.0) * (o.in.dims[3] / o.out.dims[3] + 2.0);
  return Require(SameBatchAndChannels(o));
}

Status CheckUpsample(const Operands& o, double*) {
  const float* f = o.op.f;
  if (!(std::isfinite(f[0]) && std::isfinite(f[1]) && f[0] >= 0 && f[1] >= 0))
    return Status::kBadValue;
  if (static_cast<OpKind>(o.op.op) == OpKind::kUpsampleBilinear && !Within(o.op.p[0], 0, 1))
    return Status::kBadValue;
  return Require(SameBatchAndChannels(o));
}

Status CheckPixelShuffle(const Operands& o, double* work) {
  const int64_t r = o.op.p[0], top = o.op.p[1], left = o.op.p[2];
  if (!Within(r, 1, 1024) || !Within(top, 0, kMaxDim) || !Within(left, 0, kMaxDim))
    return Status::kBadValue;
  *work += Rows(o.out) * static_cast<double>(r);
  return Require(o.in.dims[0] == o.out.dims[0] && o.in.dims[1] == o.out.dims[1] * r * r &&
                 (o.out.dims[2] - 1 + top) / r < o.in.dims[2] &&
                 (o.out.dims[3] - 1 + left) / r < o.in.dims[3]);
}

Status CheckPacked(const Operands& o, double* work) {
  return ValidatePacked(o.plan, o.op, o.span, work);
}

Status CheckWinograd(const Operands& o, double* work) {
  const int32_t* p = o.op.p;
  const bool params = (p[0] == 2 || p[0] == 4) && Within(p[1], -kMaxDim, kMaxDim) &&
                      Within(p[2], -kMaxDim, kMaxDim) && Within(p[3], 1, kMaxDim);
  if (!params || o.in.dims[0] != o.out.dims[0]) return Status::kBadValue;
  return ValidateWinograd(o.plan, o.op, work);
}

Status CheckDepthwise(const Operands& o, double* work) {
  const int32_t* p = o.op.p;
  const bool params = (p[0] == 3 || p[0] == 5) && Within(p[1], 1, 2) && Within(p[2], 0, p[0]) &&
                      Within(p[3], 0, p[0]);
  if (!params || !SameBatchAndChannels(o)) return Status::kBadValue;
  return ValidateDepthwise(o.plan, o.op, work);
}

bool IsLevel(int32_t x) { return Within(x, -128, 127); }

Status CheckQuantize(const Operands& o, double* work) {
  const bool to = static_cast<OpKind>(o.op.op) == OpKind::kQuantize;
  const TensorRec &real = to ? o.in : o.out, &level = to ? o.out : o.in;
  TensorRec dims = real;
  dims.dims[1] = InFours(real.dims[1]);
  *work += Elements(real);
  return Require(IsInt8(level) && !IsInt8(real) && SameDims(dims, level) && IsLevel(o.op.p[0]) &&
                 std::isfinite(o.op.f[0]));
}

Status CheckPackedInt8(const Operands& o, double* work) {
  const int32_t* p = o.op.p;
  if (!IsInt8(o.in) || !IsLevel(p[0]) || !IsLevel(p[1]) || !Within(p[2], 0, 1) ||
      !std::isfinite(o.op.f[0]))
    return Status::kBadValue;
  return ValidatePackedInt8(o.plan, o.op, o.span, work);
}

Status CheckDepthwiseInt8(const Operands& o, double* work) {
  const int32_t* p = o.op.p;
  const bool params = (p[0] == 3 || p[0] == 5) && Within(p[1], 1, 2) && Within(p[2], 0, p[0]) &&
                      Within(p[3], 0, p[0]) && IsLevel(p[4]);
  if (!params || !SameBatchAndChannels(o) || !IsInt8(o.in) || !IsInt8(o.out))
    return Status::kBadValue;
  return ValidateDepthwiseInt8(o.plan, o.op, work);
}

Status CheckMeanInt8(const Operands& o, double* work) {
  *work += Elements(o.in);
  return Require(SameBatchAndChannels(o) && o.out.dims[2] == 1 && o.out.dims[3] == 1 &&
                 IsInt8(o.in) && IsInt8(o.out) && IsLevel(o.op.p[0]) && IsLevel(o.op.p[1]) &&
                 std::isfinite(o.op.f[0]));
}

// It is added element by element, so it may be overwritten in place.
Status CheckResidual(const Operands& o) {
  if (o.op.residual == kNone) return Status::kOk;
  const TensorRec& residual = o.plan.tensor(o.op.residual);
  TensorRec dims = o.out;
  if (IsInt8(residual) && !IsInt8(o.out)) dims.dims[1] = InFours(o.out.dims[1]);
  return Require(SameDims(residual, dims) && o.op.residual_after_act <= 1 &&
                 (SameView(residual, o.out) || Disjoint(ElementsOf(residual), ElementsOf(o.out))));
}

struct Rule {
  uint32_t min_inputs, max_inputs;
  bool activates;  // act means something
  bool may_be_in_place;
  bool adds;  // a residual, if there is one
  // Of tensors: float32; float32 or float16, all the same, and the same but for the output; the two
  // in any mixture; any, but all the same; that or a mixture of the two; its own rule.
  enum { kFloat, kSame, kEither, kReal, kAny, kAnyOrReal, kInt8 } types;
  Status (*check)(const Operands& operands, double* work);
};

constexpr Rule kRules[] = {
    {1, 1, false, false, false, Rule::kAnyOrReal, CheckCopy},
    {1, 1, true, false, true, Rule::kSame, CheckPacked},
    {1, 1, true, false, true, Rule::kEither, CheckPacked},   // kLinear
    {1, 1, true, true, false, Rule::kReal, CheckSameDims},   // kUnary
    {2, 2, true, true, false, Rule::kReal, CheckBroadcast},  // kAdd
    {2, 2, true, true, false, Rule::kReal, CheckBroadcast},  // kMul
    {1, kMaxOperands, false, false, false, Rule::kAnyOrReal, CheckConcat},
    {1, 1, false, false, false, Rule::kAny, CheckMaxPool},
    {1, 1, false, false, false, Rule::kFloat, CheckAvgPool},
    {1, 1, false, false, false, Rule::kReal, CheckAdaptiveAvgPool},
    {1, 1, false, false, false, Rule::kAny, CheckUpsample},
    {1, 1, false, false, false, Rule::kFloat, CheckUpsample},
    {1, 1, false, false, false, Rule::kReal, CheckPixelShuffle},
    {1, 1, false, false, false, Rule::kFloat, CheckSameDims},  // kSoftmax
    {1, 1, true, false, true, Rule::kFloat, CheckWinograd},
    {1, 1, true, false, false, Rule::kSame, CheckDepthwise},
    {1, 1, false, false, false, Rule::kInt8, CheckQuantize},
    {1, 1, false, false, false, Rule::kInt8, CheckQuantize},  // kDequantize
    {1, 1, true, false, true, Rule::kInt8, CheckPackedInt8},
    {1, 1, true, false, true, Rule::kInt8, CheckPackedInt8},  // kLinearInt8
    {1, 1, true, false, false, Rule::kInt8, CheckDepthwiseInt8},
    {1, 1, false, false, false, Rule::kInt8, CheckMeanInt8},
};
constexpr uint32_t kRuleCount = sizeof(kRules) / sizeof(kRules[0]);
static_assert(kRuleCount == static_cast<uint32_t>(OpKind::kMeanInt8) + 1);

bool ActivationIsSane(const OpRec& op, bool activates) {
  const float lo = op.act_param[0], hi = op.act_param[1];
  if (op.act == static_cast<uint32_t>(ActKind::kNone)) return true;
  if (!activates || op.act > static_cast<uint32_t>(ActKind::kSilu)) return false;
  if (op.act == static_cast<uint32_t>(ActKind::kClamp)) return lo <= hi;  // false for NaN
  return op.act != static_cast<uint32_t>(ActKind::kLeakyRelu) || std::isfinite(lo);
}

bool TypesFit(const Operands& o, const Rule& rule) {
  const uint32_t type = o.in.type;
  const auto is = [](const TensorRec& t, ElementType wanted) {
    return t.type == static_cast<uint32_t>(wanted);
  };
  const auto is_real = [&](const TensorRec& t) {
    return is(t, ElementType::kFloat32) || is(t, ElementType::kFloat16);
  };
  const auto all = [&](const auto& fits) {
    for (uint32_t i = 0; i < o.op.n_inputs; ++i) {
      if (!fits(o.input(i))) return false;
    }
    return fits(o.out);
  };
  if (o.op.residual != kNone) {
    const TensorRec& residual = o.plan.tensor(o.op.residual);
    if (rule.types == Rule::kInt8 ? !IsInt8(residual) : residual.type != type) return false;
  }
  const bool same = all([&](const TensorRec& t) { return t.type == type; });
  switch (rule.types) {
    case Rule::kFloat:
      return same && is(o.in, ElementType::kFloat32);
    case Rule::kSame:
      return same && is_real(o.in);
    case Rule::kEither:
      return is_real(o.in) && (is(o.out, ElementType::kFloat32) || same);
    case Rule::kReal:
      return all(is_real);
    case Rule::kAny:
      return same;
    case Rule::kAnyOrReal:
      return same || all(is_real);
    case Rule::kInt8:
      break;
  }
  // Those that check nothing else about an operand's type have int8 ones, or float32.
  const auto half = [&](const TensorRec& t) { return is(t, ElementType::kFloat16); };
  return o.op.act <= static_cast<uint32_t>(ActKind::kLeakyRelu) && !half(o.in) && !half(o.out);
}

Status CheckMemory(const Operands& o, bool may_be_in_place) {
  const auto storage = static_cast<Storage>(o.out.storage);
  if (storage != Storage::kArena && storage != Storage::kOutput) return Status::kBadValue;
  for (uint32_t i = 0; i < o.op.n_inputs; ++i) {
    if (may_be_in_place && SameView(o.input(i), o.out)) continue;
    if (!Disjoint(ElementsOf(o.input(i)), ElementsOf(o.out))) return Status::kBadValue;
  }
  return ValidateWritten(Stored(o.out));
}

}  // namespace

Status ValidateReferences(const Plan& plan, const OpRec& op) {
  const Header& h = plan.header();
  if (op.op >= kRuleCount) return Status::kBadValue;
  const Rule& rule = kRules[op.op];
  if (op.n_inputs < rule.min_inputs || op.n_inputs > rule.max_inputs) return Status::kBadValue;
  if (op.name_off > h.strings_size || op.name_len > h.strings_size - op.name_off)
    return Status::kBadOffset;
  if (op.name_len > kMaxName) return Status::kBadValue;
  if (op.inputs_off > h.n_index || op.n_inputs > h.n_index - op.inputs_off)
    return Status::kBadOffset;
  if (op.output >= h.n_tensors) return Status::kBadOffset;
  if (op.residual != kNone && op.residual >= h.n_tensors) return Status::kBadOffset;
  for (uint32_t i = 0; i < op.n_inputs; ++i) {
    if (plan.index(op.inputs_off + i) >= h.n_tensors) return Status::kBadOffset;
  }
  return Status::kOk;
}

Status ValidateOp(const Plan& plan, const OpRec& op, RowRange span, double* work) {
  const Rule& rule = kRules[op.op];
  if (!ActivationIsSane(op, rule.activates)) return Status::kBadValue;
  if (op.residual != kNone && !rule.adds) return Status::kBadValue;
  const Operands operands = {plan, op, plan.tensor(plan.index(op.inputs_off)),
                             plan.tensor(op.output), span};
  if (!TypesFit(operands, rule)) return Status::kBadValue;
  Status status = CheckMemory(operands, rule.may_be_in_place);
  if (status == Status::kOk) status = CheckResidual(operands);
  if (status != Status::kOk) return status;
  *work += Elements(operands.out) + HaloElements(operands.out);
  return rule.check(operands, work);
}

double PlanWork(const Plan& plan) {
  double work = 0;
  std::vector<RowRange> spans(plan.header().n_ops);
  if (ValidateChains(plan, spans.data()) != Status::kOk) return 0;
  for (uint32_t i = 0; i < plan.header().n_ops; ++i) ValidateOp(plan, plan.op(i), spans[i], &work);
  return work;
}

}  // namespace edge
