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
      return true;
    case OpKind::kDepthwise:
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

// How far a tensor is.
struct Progress {
  int64_t end, base;
  uint32_t chain;  // that writes it, counted from 1
  bool begun;
};

// Walks through a chain as the executor does.
class ChainCheck {
 public:
  ChainCheck(const Plan& plan, uint32_t chain, RowRange* spans, Progress* state)
      : plan_(plan), chain_(plan.chain(chain)), id_(chain + 1), spans_(spans), state_(state) {}

  Status Run() {
    for (uint32_t i = 0; i < chain_.n_ops; ++i) {
      const OpRec& op = Op(i);
      if (op.n_inputs == 0 || !CanChain(op)) return Status::kBadValue;
      if (Writes(op.output)) return Status::kBadValue;  // twice
      state_[op.output] = {0, 0, id_, false};
      spans_[chain_.first_op + i] = {0, plan_.tensor(op.output).dims[2]};
    }
    for (uint32_t band = 0; band < chain_.n_bands; ++band) {
      for (uint32_t i = 0; i < chain_.n_ops; ++i) {
        if (!Step(band, i)) return Status::kBadValue;
      }
    }
    for (uint32_t i = 0; i < chain_.n_ops; ++i) {
      if (state_[Op(i).output].end != plan_.tensor(Op(i).output).dims[2]) return Status::kBadValue;
    }
    return Status::kOk;
  }

  // Of a tensor with a window: that this chain writes it.
  bool Writes(uint32_t tensor) const { return state_[tensor].chain == id_; }

 private:
  const OpRec& Op(uint32_t i) const { return plan_.op(chain_.first_op + i); }

  bool Step(uint32_t number, uint32_t i) {
    const OpRec& op = Op(i);
    const TensorRec& t = plan_.tensor(op.output);
    Progress& out = state_[op.output];
    const Band band = BandOf(plan_, chain_, number, i);
    if (band.end < out.end || band.end > t.dims[2]) return false;
    const RowRange rows = {out.end, band.end};
    if (t.window != 0) {
      if (!out.begun) out.base = -int64_t{t.halo[0]};
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
    if (static_cast<OpKind>(op.op) == OpKind::kConv) {
      if (plan_.tensor(first).window == 0) return true;
      // Which rows the entries read is not said; where they read is checked with them.
      const int64_t base = state_[first].base;
      RowRange& span = spans_[chain_.first_op + i];
      const RowRange own = {rows.begin - base, rows.end - base};
      span = rows.begin == 0
                 ? own
                 : RowRange{std::min(span.begin, own.begin), std::max(span.end, own.end)};
      return state_[first].begun;
    }
    // The padding above is read too.
    if (static_cast<OpKind>(op.op) == OpKind::kDepthwise && plan_.tensor(first).window != 0 &&
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
    if (!Writes(id)) return t.window == 0;
    if (rows.begin == rows.end) return true;
    return rows.end <= state.end && (t.window == 0 || rows.begin >= state.base);
  }

  const Plan& plan_;
  const ChainRec& chain_;
  const uint32_t id_;
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
  return uint64_t{chain.n_bands} * chain.n_ops * 2 <= h.n_index - chain.bands;
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
    ChainCheck check(plan, c, spans, state.get());
    const Status status = check.Run();
    if (status != Status::kOk) return status;
    next = end + plan.chain(c).n_ops;
    for (uint32_t i = end; i < next; ++i) {
      const auto own = [&](uint32_t tensor) { return whole(tensor) || check.Writes(tensor); };
      if (!AllOperands(plan, plan.op(i), own)) return Status::kBadValue;
    }
  }
  return Status::kOk;
}

}  // namespace edge
