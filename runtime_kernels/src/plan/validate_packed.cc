// The weights of kConv, kLinear, kWinograd and kDepthwise, and everything that they read.
#include <algorithm>
#include <memory>
#include <new>

#include "kernels/depthwise/depthwise.h"
#include "kernels/winograd/winograd.h"
#include "plan/limits.h"
#include "plan/overlap.h"
#include "plan/validate.h"

namespace edge {
namespace {

template <typename T>
bool Resolve(const uint8_t* blob, uint64_t size, uint64_t offset, uint64_t count, const T** out) {
  if (offset < sizeof(PackedHeader) || offset > size || offset % 64 != 0) return false;
  if (count > (size - offset) / sizeof(T)) return false;
  *out = reinterpret_cast<const T*>(blob + offset);
  return true;
}

Status CheckRows(const PackedView& packed) {
  if (packed.row_ptr[0] != 0 || packed.row_ptr[packed.n_blocks] != packed.n_entries)
    return Status::kBadValue;
  for (uint32_t i = 0; i < packed.n_blocks; ++i) {
    if (packed.row_ptr[i] > packed.row_ptr[i + 1]) return Status::kBadValue;
  }
  return Status::kOk;
}

// Every output channel belongs to exactly one lane; the unused lanes of a block come last.
Status CheckFilters(const PackedView& packed) {
  const uint64_t lanes = uint64_t{packed.n_blocks} * packed.block;
  std::unique_ptr<bool[]> seen(new (std::nothrow) bool[packed.n_filters]());
  if (seen == nullptr) return Status::kOutOfMemory;
  uint32_t used = 0;
  for (uint64_t i = 0; i < lanes; ++i) {
    const uint32_t filter = packed.filters[i];
    if (filter == kNone) continue;
    if (filter >= packed.n_filters || seen[filter]) return Status::kBadValue;
    if (i % packed.block != 0 && packed.filters[i - 1] == kNone) return Status::kBadValue;
    seen[filter] = true;
    ++used;
  }
  return used == packed.n_filters ? Status::kOk : Status::kBadValue;
}

// What the entries read of every image: offsets from [low, high] for every output pixel, the rows
// of which are `rows` of the input's memory.
Range ReadsOf(const TensorRec& in, const TensorRec& out, RowRange rows, int64_t low, int64_t high) {
  Range reads = ElementsOf(in);
  reads.begin += low + rows.begin * in.stride[2];
  reads.length = high - low + (rows.end - rows.begin - 1) * in.stride[2] + out.dims[3];
  return reads;
}

// Of a plane of the output. A convolution may run a plane as one row, gaps included (CanFlatten in
// conv/schedule.cc).
double Pixels(const TensorRec& in, const TensorRec& out) {
  const int64_t row = out.stride[2] == in.stride[2] && out.stride[2] > out.dims[3]
                          ? out.stride[2]
                          : int64_t{out.dims[3]};
  return static_cast<double>((out.dims[2] - 1) * row + out.dims[3]);
}

Status CheckConvReads(const Plan& plan, const TensorRec& in, const Range& reads) {
  if (in.storage != static_cast<uint32_t>(Storage::kArena)) return Status::kBadValue;
  const int64_t end = reads.begin + (reads.n - 1) * reads.step + reads.length;
  const int64_t arena = static_cast<int64_t>(plan.header().arena_size / sizeof(float));
  return reads.begin >= 0 && end <= arena ? Status::kOk : Status::kBadOffset;
}

// That the op's weights lie in the data section.
Status CheckData(const Plan& plan, const OpRec& op) {
  const uint64_t size = plan.header().data_size;
  const bool inside =
      op.data_off % 64 == 0 && op.data_off <= size && op.data_size <= size - op.data_off;
  return inside ? Status::kOk : Status::kBadOffset;
}

// ResolvePacked, and that the lists are in order.
Status SoundPacked(const Plan& plan, const OpRec& op, PackedView* packed) {
  Status status = ResolvePacked(plan, op, packed);
  if (status == Status::kOk) status = CheckRows(*packed);
  if (status == Status::kOk) status = CheckFilters(*packed);
  return status;
}

}  // namespace

Status ResolvePacked(const Plan& plan, const OpRec& op, PackedView* out) {
  const Status status = CheckData(plan, op);
  if (status != Status::kOk) return status;
  if (op.data_size < sizeof(PackedHeader)) return Status::kBadOffset;
  const uint8_t* blob = plan.data() + op.data_off;
  const PackedHeader& h = *reinterpret_cast<const PackedHeader*>(blob);
  const bool known = h.block == 1 || h.block == 2 || h.block == 4 || h.block == 8 || h.block == 16;
  if (!known || h.n_blocks < 1 || h.n_filters < 1 || h.n_filters > kMaxDim)
    return Status::kBadValue;
  const uint64_t lanes = uint64_t{h.n_blocks} * h.block;
  PackedView view = {h.block, h.n_blocks, h.n_entries, h.n_filters, nullptr,
                     nullptr, nullptr,    nullptr,     nullptr};
  const bool fits =
      Resolve(blob, op.data_size, h.row_ptr_off, uint64_t{h.n_blocks} + 1, &view.row_ptr) &&
      Resolve(blob, op.data_size, h.filters_off, lanes, &view.filters) &&
      Resolve(blob, op.data_size, h.offsets_off, h.n_entries, &view.offsets) &&
      Resolve(blob, op.data_size, h.weights_off, uint64_t{h.n_entries} * h.block, &view.weights) &&
      Resolve(blob, op.data_size, h.bias_off, lanes, &view.bias);
  if (!fits) return Status::kBadOffset;
  *out = view;
  return Status::kOk;
}

Status ValidatePacked(const Plan& plan, const OpRec& op, RowRange span, double* work) {
  PackedView packed;
  Status status = SoundPacked(plan, op, &packed);
  if (status != Status::kOk) return status;
  const TensorRec& in = plan.tensor(plan.index(op.inputs_off));
  const TensorRec& out = plan.tensor(op.output);
  if (out.dims[0] != in.dims[0] || static_cast<uint32_t>(out.dims[1]) != packed.n_filters)
    return Status::kBadValue;
  const bool is_conv = static_cast<OpKind>(op.op) == OpKind::kConv;
  if (!is_conv && (out.dims[2] != 1 || out.dims[3] != 1)) return Status::kBadValue;
  *work += out.dims[0] * Pixels(in, out) * packed.block *
           (static_cast<double>(packed.n_entries) + packed.n_blocks);
  if (packed.n_entries == 0) {
    return is_conv ? CheckConvReads(plan, in, ElementsOf(in)) : Status::kOk;
  }
  const auto [low, high] = std::minmax_element(packed.offsets, packed.offsets + packed.n_entries);
  const Range reads = ReadsOf(in, out, span, *low, *high);
  if (is_conv) {
    *work += (static_cast<double>(*high) - *low) / 16;  // lines that the schedule looks at
    status = CheckConvReads(plan, in, reads);
    if (status != Status::kOk) return status;
  } else {
    if (*low < 0 || *high >= ImageSpan(Stored(in))) return Status::kBadOffset;
  }
  return Disjoint(reads, ElementsOf(out)) ? Status::kOk : Status::kBadValue;
}

Status ValidateWinograd(const Plan& plan, const OpRec& op, double* work) {
  PackedView packed;
  const Status status = SoundPacked(plan, op, &packed);
  if (status != Status::kOk) return status;
  const TensorRec& in = plan.tensor(plan.index(op.inputs_off));
  const TensorRec& out = plan.tensor(op.output);
  const int64_t m = op.p[0], tiles = op.p[3], size = (m + 2) * (m + 2);
  if (packed.n_filters != size * out.dims[1]) return Status::kBadValue;
  if (WinogradSpace(m, in.dims[1], out.dims[1], tiles) > kMaxSpace) return Status::kBadValue;
  for (uint32_t i = 0; i < packed.n_entries; ++i) {
    if (packed.offsets[i] < 0 || packed.offsets[i] > (size * in.dims[1] - 1) * tiles)
      return Status::kBadOffset;
  }
  const double pixels = static_cast<double>(out.dims[0]) * (out.dims[2] + m) * (out.dims[3] + m);
  *work += pixels / static_cast<double>(m * m) *
           (packed.block * (static_cast<double>(packed.n_entries) + packed.n_blocks) +
            static_cast<double>(size * (m + 2)) * (in.dims[1] + out.dims[1]));
  return Status::kOk;
}

Status ResolveDepthwise(const Plan& plan, const OpRec& op, const float** out) {
  const Status status = CheckData(plan, op);
  if (status != Status::kOk) return status;
  const int64_t floats = plan.tensor(op.output).dims[1] * DepthwiseWeights(op.p[0]);
  if (op.data_size != static_cast<uint64_t>(floats) * sizeof(float)) return Status::kBadOffset;
  *out = reinterpret_cast<const float*>(plan.data() + op.data_off);
  return Status::kOk;
}

Status ValidateDepthwise(const Plan& plan, const OpRec& op, double* work) {
  const TensorRec& in = plan.tensor(plan.index(op.inputs_off));
  const TensorRec& out = plan.tensor(op.output);
  const int64_t k = op.p[0], stride = op.p[1], top = op.p[2], left = op.p[3];
  const bool inside = top <= in.halo[0] && left <= in.halo[2] &&
                      (out.dims[2] - 1) * stride - top + k <= in.dims[2] + in.halo[1] &&
                      (out.dims[3] - 1) * stride - left + k <= in.dims[3] + in.halo[3];
  if (in.storage != static_cast<uint32_t>(Storage::kArena) || !inside) return Status::kBadValue;
  *work += Elements(out) * static_cast<double>(k * k);
  const float* weights = nullptr;
  return ResolveDepthwise(plan, op, &weights);
}

}  // namespace edge
