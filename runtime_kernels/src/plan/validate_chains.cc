// Chains: that every band is inside the windows it writes to and reads from.
#include <algorithm>
#include <memory>
#include <new>

#include "plan/bands.h"
#include "plan/limits.h"
#include "plan/validate.h"

namespace edge {
namespace {

bool CanChain(const OpRec& op) {
  switch (static_cast<OpKind>(op.op)) {
    case OpKind::kConv:
    case OpKind::kUnary:
    case OpKind::kAdd:
    case OpKind::kMul:
    case OpKind::kQuantize:
    case OpKind::kDequantize:
    case OpKind::kConvInt8:
      return true;
    case OpKind::kDepthwise:
    case OpKind::kDepthwiseInt8:
      return op.p[0] >= 1 && op.p[1] >= 1;
    case OpKind::kCopy:
      return op.p[0] >= 1;
    case OpKind::kMaxPool:
      return op.p[2] >= 1 && op.p[4] >= 0;
    case OpKind::kConcat:
      return op.p[0] == 1;
    case OpKind::kPixelShuffle:
      return op.p[0] >= 1 && op.p[1] == 0;
    default:
      return false;
  }
}

// But for the name and the tensors.
bool SameOp(const OpRec& a, const OpRec& b) {
  return a.op == b.op && a.act == b.act && a.residual_after_act == b.residual_after_act &&
         std::equal(a.p, a.p + 12, b.p) && a.data_off == b.data_off && a.data_size == b.data_size;
}

// How far a tensor is.
struct Progress {
  int64_t begin, end, base;
  uint32_t chain;  // that writes it, counted from 1,
  uint32_t op;     // and its operation that does
  bool begun;
};

// Walks through a chain as the executor does.
class ChainCheck {
 public:
  // `last`: no other part follows.
  ChainCheck(const Plan& plan, uint32_t chain, bool last, RowRange* spans, Progress* state)
      : plan_(plan),
        chain_(plan.chain(chain)),
        id_(chain + 1),
        last_(last),
        spans_(spans),
        state_(state) {}

  Status Run() {
    for (uint32_t i = 0; i < chain_.n_ops; ++i) {
      const OpRec& op = Op(i);
      if (op.n_inputs == 0 || !CanChain(op) || !Start(i, op)) return Status::kBadValue;
      spans_[chain_.first_op + i] = {0, plan_.tensor(op.output).dims[2]};
    }
    if (chain_.part != 0 && !ContinuesTheOneBefore()) return Status::kBadValue;
    for (uint32_t band = 0; band < chain_.n_bands; ++band) {
      for (uint32_t i = 0; i < chain_.n_ops; ++i) {
        if (!Step(band, i)) return Status::kBadValue;
      }
    }
    for (uint32_t i = 0; i < chain_.n_ops; ++i) {
      const TensorRec& t = plan_.tensor(Op(i).output);
      if (last_ && t.window == 0 && state_[Op(i).output].end != t.dims[2]) return Status::kBadValue;
    }
    return Status::kOk;
  }

  // Of a tensor with a window: that this chain writes it.
  bool Writes(uint32_t tensor) const { return state_[tensor].chain == id_; }

 private:
  const OpRec& Op(uint32_t i) const { return plan_.op(chain_.first_op + i); }
  // Written without a window by several parts of this chain.
  bool IsShared(uint32_t tensor) const {
    const uint32_t writer = state_[tensor].chain;
    return (chain_.part != 0 || !last_) && plan_.tensor(tensor).window == 0 && writer != 0 &&
           writer + chain_.part >= id_;
  }

  // Windows are new, other outputs go on where the part before has ended.
  bool Start(uint32_t i, const OpRec& op) {
    const TensorRec& t = plan_.tensor(op.output);
    Progress& out = state_[op.output];
    const int64_t begin = BeginOf(plan_, chain_, i);
    if (Writes(op.output) || begin > t.dims[2]) return false;  // Writes: twice
    if (t.window != 0) {
      if (out.chain != 0) return false;
    } else if (begin != (chain_.part == 0 ? 0 : out.end)) {
      return false;
    }
    out = {begin, begin, 0, id_, i, false};
    return true;
  }

  // The operations are those of the part before, but for their windows, which could change places.
  bool ContinuesTheOneBefore() const {
    const ChainRec& before = plan_.chain(id_ - 2);
    if (before.n_ops != chain_.n_ops) return false;
    for (uint32_t i = 0; i < chain_.n_ops; ++i) {
      const OpRec &mine = Op(i), &other = plan_.op(before.first_op + i);
      if (!SameOp(mine, other) || mine.n_inputs != other.n_inputs) return false;
      if (!SamePlace(mine.output, other.output)) return false;
      if (mine.residual != other.residual && (mine.residual == kNone || other.residual == kNone ||
                                              !SamePlace(mine.residual, other.residual)))
        return false;
      for (uint32_t k = 0; k < mine.n_inputs; ++k) {
        if (!SamePlace(plan_.index(mine.inputs_off + k), plan_.index(other.inputs_off + k)))
          return false;
      }
    }
    return true;
  }

  // Whether tensors of this part and of the one before are the same, or windows alike that the same
  // operation writes.
  bool SamePlace(uint32_t mine, uint32_t other) const {
    const TensorRec &a = plan_.tensor(mine), &b = plan_.tensor(other);
    if (a.window == 0 || b.window == 0) return mine == other;
    return SameDims(a, b) && a.type == b.type && a.fill == b.fill && a.window == b.window &&
           std::equal(a.halo, a.halo + 4, b.halo) && std::equal(a.stride, a.stride + 3, b.stride) &&
           state_[mine].chain == id_ && state_[other].chain == id_ - 1 &&
           state_[mine].op == state_[other].op;
  }

  bool Step(uint32_t number, uint32_t i) {
    const OpRec& op = Op(i);
    const TensorRec& t = plan_.tensor(op.output);
    Progress& out = state_[op.output];
    const Band band = BandOf(plan_, chain_, number, i);
    if (band.end < out.end || band.end > t.dims[2]) return false;
    const RowRange rows = {out.end, band.end};
    if (t.window != 0) {
      if (!out.begun) out.base = out.begin == 0 ? -int64_t{t.halo[0]} : out.begin;
      if (band.base < out.base || band.base > rows.begin || (!out.begun && band.base != out.base))
        return false;
      const int64_t below = band.end == t.dims[2] ? t.halo[1] : 0;
      if (band.end + below > band.base + t.window) return false;
      out.base = band.base;
    }
    out.begun = true;
    out.end = band.end;
    return rows.begin == rows.end || Reads(i, op, t, rows);
  }

  bool Reads(uint32_t i, const OpRec& op, const TensorRec& t, RowRange rows) {
    if (static_cast<OpKind>(op.op) == OpKind::kPixelShuffle && rows.begin % op.p[0] != 0)
      return false;
    if (op.residual != kNone && !Holds(op.residual, rows)) return false;
    const uint32_t first = plan_.index(op.inputs_off);
    const auto kind = static_cast<OpKind>(op.op);
    if (kind == OpKind::kConv || kind == OpKind::kConvInt8) {
      if (plan_.tensor(first).window == 0) return !IsShared(first);
      // Which rows the entries read is not said; where they read is checked with them.
      const int64_t base = state_[first].base;
      RowRange& span = spans_[chain_.first_op + i];
      const RowRange own = {rows.begin - base, rows.end - base};
      span = rows.begin == state_[op.output].begin
                 ? own
                 : RowRange{std::min(span.begin, own.begin), std::max(span.end, own.end)};
      return state_[first].begun;
    }
    // The padding above is read too.
    const bool depthwise = kind == OpKind::kDepthwise || kind == OpKind::kDepthwiseInt8;
    if (depthwise && plan_.tensor(first).window != 0 &&
        rows.begin * op.p[1] - op.p[2] < state_[first].base)
      return false;
    for (uint32_t k = 0; k < op.n_inputs; ++k) {
      const uint32_t id = plan_.index(op.inputs_off + k);
      if (!Holds(id, InputRows(op, plan_.tensor(id).dims[2], t.dims[2], rows))) return false;
    }
    return true;
  }

  // The rows of the tensor are complete, and still there.
  bool Holds(uint32_t id, RowRange rows) const {
    const TensorRec& t = plan_.tensor(id);
    const Progress& state = state_[id];
    if (IsShared(id)) return false;
    if (!Writes(id)) return t.window == 0;
    if (rows.begin == rows.end) return true;
    return rows.end <= state.end && (t.window == 0 || rows.begin >= state.base);
  }

  const Plan& plan_;
  const ChainRec& chain_;
  const uint32_t id_;
  const bool last_;
  RowRange* const spans_;
  Progress* const state_;
};

bool HasWindow(const Plan& plan, uint32_t tensor) { return plan.tensor(tensor).window != 0; }

// Calls f(tensor) for all operands; false as soon as it is.
template <class F>
bool AllOperands(const Plan& plan, const OpRec& op, const F& f) {
  for (uint32_t i = 0; i < op.n_inputs; ++i) {
    if (!f(plan.index(op.inputs_off + i))) return false;
  }
  return f(op.output) && (op.residual == kNone || f(op.residual));
}

bool Fits(const Header& h, const ChainRec& chain, uint32_t from) {
  if (chain.first_op < from || chain.first_op > h.n_ops) return false;
  if (chain.n_ops < 1 || chain.n_ops > h.n_ops - chain.first_op) return false;
  if (chain.n_bands < 1 || chain.bands > h.n_index) return false;
  if (chain.part != 0 && chain.first_op != from) return false;
  return (uint64_t{chain.n_bands} * 2 + 1) * chain.n_ops <= h.n_index - chain.bands;
}

// Every part may run in the windows of every other one: each reads all rows that one of them does.
void ShareSpans(const Plan& plan, uint32_t last, RowRange* spans) {
  const ChainRec& chain = plan.chain(last);
  for (uint32_t i = 0; i < chain.n_ops; ++i) {
    RowRange all = spans[chain.first_op + i];
    const auto each = [&](const auto& f) {
      for (uint32_t part = 0; part <= chain.part; ++part)
        f(&spans[plan.chain(last - part).first_op + i]);
    };
    each([&](const RowRange* span) {
      all = {std::min(all.begin, span->begin), std::max(all.end, span->end)};
    });
    each([&](RowRange* span) { *span = all; });
  }
}

}  // namespace

Status ValidateChains(const Plan& plan, RowRange* spans) {
  const Header& h = plan.header();
  std::unique_ptr<Progress[]> state(new (std::nothrow) Progress[h.n_tensors]());
  if (state == nullptr) return Status::kOutOfMemory;
  const auto whole = [&](uint32_t tensor) { return !HasWindow(plan, tensor); };
  uint32_t next = 0;
  for (uint32_t c = 0; c <= h.n_chains; ++c) {
    const uint32_t end = c < h.n_chains ? plan.chain(c).first_op : h.n_ops;
    if (c < h.n_chains && !Fits(h, plan.chain(c), next)) return Status::kBadValue;
    for (uint32_t i = next; i < end; ++i) {
      if (!AllOperands(plan, plan.op(i), whole)) return Status::kBadValue;
      spans[i] = {0, plan.tensor(plan.op(i).output).dims[2]};
    }
    if (c == h.n_chains) break;
    const uint32_t part = plan.chain(c).part;
    if (part != 0 && (c == 0 || plan.chain(c - 1).part + 1 != part)) return Status::kBadValue;
    const bool last = c + 1 == h.n_chains || plan.chain(c + 1).part == 0;
    ChainCheck check(plan, c, last, spans, state.get());
    const Status status = check.Run();
    if (status != Status::kOk) return status;
    if (last) ShareSpans(plan, c, spans);
    next = end + plan.chain(c).n_ops;
    for (uint32_t i = end; i < next; ++i) {
      const auto own = [&](uint32_t tensor) { return whole(tensor) || check.Writes(tensor); };
      if (!AllOperands(plan, plan.op(i), own)) return Status::kBadValue;
    }
  }
  return Status::kOk;
}

}  // namespace edge
