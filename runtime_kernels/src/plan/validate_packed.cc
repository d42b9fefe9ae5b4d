// The weights of convolutions and linear layers, and everything that they read.
#include <algorithm>
#include <cmath>
#include <memory>
#include <new>

#include "kernels/depthwise/depthwise.h"
#include "kernels/winograd/winograd.h"
#include "plan/limits.h"
#include "plan/overlap.h"
#include "plan/validate.h"

namespace edge {
namespace {

template <class Header, typename T>
bool Resolve(const uint8_t* blob, uint64_t size, uint64_t offset, uint64_t count, const T** out) {
  if (offset < sizeof(Header) || offset > size || offset % 64 != 0) return false;
  if (count > (size - offset) / sizeof(T)) return false;
  *out = reinterpret_cast<const T*>(blob + offset);
  return true;
}

template <class Packed>
Status CheckRows(const Packed& packed) {
  if (packed.row_ptr[0] != 0 || packed.row_ptr[packed.n_blocks] != packed.n_entries)
    return Status::kBadValue;
  for (uint32_t i = 0; i < packed.n_blocks; ++i) {
    if (packed.row_ptr[i] > packed.row_ptr[i + 1]) return Status::kBadValue;
  }
  return Status::kOk;
}

// Every one of `count` belongs to exactly one of n_blocks * block lanes; the unused lanes of a
// block come last.
Status CheckEachOnce(const uint32_t* lane_of, uint32_t n_blocks, uint32_t block, uint32_t count) {
  std::unique_ptr<bool[]> seen(new (std::nothrow) bool[count]());
  if (seen == nullptr) return Status::kOutOfMemory;
  uint32_t used = 0;
  for (uint64_t i = 0; i < uint64_t{n_blocks} * block; ++i) {
    const uint32_t one = lane_of[i];
    if (one == kNone) continue;
    if (one >= count || seen[one]) return Status::kBadValue;
    if (i % block != 0 && lane_of[i - 1] == kNone) return Status::kBadValue;
    seen[one] = true;
    ++used;
  }
  return used == count ? Status::kOk : Status::kBadValue;
}

// What the entries read of every image: offsets from [low, high] for every output pixel, the rows
// of which are `rows` of the input's memory.
Range ReadsOf(const TensorRec& in, const TensorRec& out, RowRange rows, int64_t low, int64_t high) {
  Range reads = ElementsOf(in);
  const int64_t size = ElementSize(in);
  reads.begin += size * (low + rows.begin * in.stride[2]);
  reads.length = size * (high - low + (rows.end - rows.begin - 1) * in.stride[2] + out.dims[3]);
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
  const auto arena = static_cast<int64_t>(plan.header().arena_size);
  return reads.begin >= 0 && end <= arena ? Status::kOk : Status::kBadOffset;
}

// That what a convolution or linear layer reads by a list of offsets is there, and is not what it
// writes. Adds the lines that a convolution's schedule looks at to *work.
Status CheckReads(const Plan& plan, const OpRec& op, RowRange span, bool is_conv,
                  const int32_t* offsets, uint32_t n_offsets, double* work) {
  const TensorRec& in = plan.tensor(plan.index(op.inputs_off));
  const TensorRec& out = plan.tensor(op.output);
  if (n_offsets == 0) return is_conv ? CheckConvReads(plan, in, ElementsOf(in)) : Status::kOk;
  const auto [low, high] = std::minmax_element(offsets, offsets + n_offsets);
  const Range reads = ReadsOf(in, out, span, *low, *high);
  if (is_conv) {
    *work += (static_cast<double>(*high) - *low) / 16;
    const Status status = CheckConvReads(plan, in, reads);
    if (status != Status::kOk) return status;
  } else {
    if (*low < 0 || *high >= ImageSpan(Stored(in))) return Status::kBadOffset;
  }
  return Disjoint(reads, ElementsOf(out)) ? Status::kOk : Status::kBadValue;
}

// That the op's weights lie in the data section.
Status CheckData(const Plan& plan, const OpRec& op) {
  const uint64_t size = plan.header().data_size;
  const bool inside =
      op.data_off % 64 == 0 && op.data_off <= size && op.data_size <= size - op.data_off;
  return inside ? Status::kOk : Status::kBadOffset;
}

// That a depthwise convolution reads the input and its halo only.
Status DepthwiseFits(const Plan& plan, const OpRec& op, double* work) {
  const TensorRec& in = plan.tensor(plan.index(op.inputs_off));
  const TensorRec& out = plan.tensor(op.output);
  const int64_t k = op.p[0], stride = op.p[1], top = op.p[2], left = op.p[3];
  const bool inside = top <= in.halo[0] && left <= in.halo[2] &&
                      (out.dims[2] - 1) * stride - top + k <= in.dims[2] + in.halo[1] &&
                      (out.dims[3] - 1) * stride - left + k <= in.dims[3] + in.halo[3];
  if (in.storage != static_cast<uint32_t>(Storage::kArena) || !inside) return Status::kBadValue;
  *work += Elements(out) * static_cast<double>(k * k);
  return Status::kOk;
}

// -128 has no negative, which AVX2 takes, and two products with it may leave 16 bits, as NEON sums
// them.
bool NoneIsLeast(const uint8_t* levels, uint64_t count) {
  return std::find(levels, levels + count, 0x80) == levels + count;
}

// That lists lie among the offsets, scales are finite and no level is -128.
bool SoundLevels(const PackedInt8View& p) {
  for (uint32_t i = 0; i < p.n_blocks; ++i) {
    if (uint64_t{p.lists[i]} + (p.row_ptr[i + 1] - p.row_ptr[i]) > p.n_offsets) return false;
  }
  const uint64_t lanes = uint64_t{p.n_blocks} * p.block;
  if (!std::all_of(p.scale, p.scale + lanes, [](float x) { return std::isfinite(x); }))
    return false;
  if (p.bits == 4) {
    const auto even = [](uint32_t x) { return x % 2 == 0; };
    return std::all_of(p.row_ptr, p.row_ptr + p.n_blocks + 1, even) &&
           std::all_of(p.codebooks, p.codebooks + lanes, [](uint8_t x) { return x < 2; }) &&
           std::find(p.tables, p.tables + 32, -128) == p.tables + 32;
  }
  return NoneIsLeast(p.weights, uint64_t{p.n_entries} * p.block * 4);
}

// ResolvePacked, and that the lists are in order.
Status SoundPacked(const Plan& plan, const OpRec& op, PackedView* packed) {
  Status status = ResolvePacked(plan, op, packed);
  if (status == Status::kOk) status = CheckRows(*packed);
  if (status == Status::kOk)
    status = CheckEachOnce(packed->filters, packed->n_blocks, packed->block, packed->n_filters);
  return status;
}

}  // namespace

Status ResolvePacked(const Plan& plan, const OpRec& op, PackedView* out, const Half** halves) {
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
  const uint64_t weights = uint64_t{h.n_entries} * h.block;
  const Half* half = nullptr;
  const bool fits =
      Resolve<PackedHeader>(blob, op.data_size, h.row_ptr_off, uint64_t{h.n_blocks} + 1,
                            &view.row_ptr) &&
      Resolve<PackedHeader>(blob, op.data_size, h.filters_off, lanes, &view.filters) &&
      Resolve<PackedHeader>(blob, op.data_size, h.offsets_off, h.n_entries, &view.offsets) &&
      (IsHalf(plan.tensor(plan.index(op.inputs_off)))
           ? Resolve<PackedHeader>(blob, op.data_size, h.weights_off, weights, &half)
           : Resolve<PackedHeader>(blob, op.data_size, h.weights_off, weights, &view.weights)) &&
      Resolve<PackedHeader>(blob, op.data_size, h.bias_off, lanes, &view.bias);
  if (!fits) return Status::kBadOffset;
  *out = view;
  if (halves != nullptr) *halves = half;
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
  return CheckReads(plan, op, span, is_conv, packed.offsets, packed.n_entries, work);
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

Status ResolveDepthwiseInt8(const Plan& plan, const OpRec& op, const uint8_t** out) {
  const Status status = CheckData(plan, op);
  if (status != Status::kOk) return status;
  const int64_t bytes = plan.tensor(op.output).dims[1] * DepthwiseInt8Weights(op.p[0]);
  if (op.data_size != static_cast<uint64_t>(bytes)) return Status::kBadOffset;
  *out = plan.data() + op.data_off;
  return Status::kOk;
}

Status ResolvePackedInt8(const Plan& plan, const OpRec& op, PackedInt8View* out) {
  const Status status = CheckData(plan, op);
  if (status != Status::kOk) return status;
  if (op.data_size < sizeof(PackedInt8Header)) return Status::kBadOffset;
  const uint8_t* blob = plan.data() + op.data_off;
  const PackedInt8Header& h = *reinterpret_cast<const PackedInt8Header*>(blob);
  if ((h.block != 4 && h.block != 8) || (h.bits != 4 && h.bits != 8)) return Status::kBadValue;
  if (h.n_blocks < 1 || h.n_filters < 1 || h.n_filters > kMaxDim) return Status::kBadValue;
  const uint64_t lanes = uint64_t{h.n_blocks} * h.block, size = op.data_size;
  PackedInt8View view = {};
  view.block = h.block, view.n_blocks = h.n_blocks, view.n_filters = h.n_filters;
  view.n_offsets = h.n_offsets, view.n_entries = h.n_entries, view.bits = h.bits;
  view.tables = h.tables[0];
  const auto resolve = [&](uint64_t offset, uint64_t count, auto* to) {
    return Resolve<PackedInt8Header>(blob, size, offset, count, to);
  };
  const bool fits =
      resolve(h.row_ptr_off, uint64_t{h.n_blocks} + 1, &view.row_ptr) &&
      resolve(h.lists_off, h.n_blocks, &view.lists) &&
      resolve(h.groups_off, lanes / 4, &view.groups) &&
      resolve(h.offsets_off, h.n_offsets, &view.offsets) &&
      resolve(h.weights_off, uint64_t{h.n_entries} * h.block * h.bits / 2, &view.weights) &&
      resolve(h.bias_off, lanes, &view.bias) && resolve(h.scale_off, lanes, &view.scale) &&
      resolve(h.codebooks_off, lanes, &view.codebooks);
  if (!fits) return Status::kBadOffset;
  *out = view;
  return Status::kOk;
}

Status ValidatePackedInt8(const Plan& plan, const OpRec& op, RowRange span, double* work) {
  PackedInt8View packed = {};
  Status status = ResolvePackedInt8(plan, op, &packed);
  if (status == Status::kOk) status = CheckRows(packed);
  const auto groups = static_cast<uint32_t>(InFours(static_cast<int32_t>(packed.n_filters)));
  if (status == Status::kOk)
    status = CheckEachOnce(packed.groups, packed.n_blocks, packed.block / 4, groups);
  if (status == Status::kOk && !SoundLevels(packed)) status = Status::kBadValue;
  if (status != Status::kOk) return status;
  const TensorRec& in = plan.tensor(plan.index(op.inputs_off));
  const TensorRec& out = plan.tensor(op.output);
  const uint32_t channels = IsInt8(out) ? groups : packed.n_filters;
  if (out.dims[0] != in.dims[0] || static_cast<uint32_t>(out.dims[1]) != channels)
    return Status::kBadValue;
  const bool is_conv = static_cast<OpKind>(op.op) == OpKind::kConvInt8;
  if (!is_conv && (out.dims[2] != 1 || out.dims[3] != 1 || packed.block != 8))
    return Status::kBadValue;
  *work += out.dims[0] * Pixels(in, out) * packed.block *
           (static_cast<double>(packed.n_entries) + packed.n_blocks);
  return CheckReads(plan, op, span, is_conv, packed.offsets, packed.n_offsets, work);
}

Status ValidateDepthwiseInt8(const Plan& plan, const OpRec& op, double* work) {
  const uint8_t* weights = nullptr;
  Status status = DepthwiseFits(plan, op, work);
  if (status == Status::kOk) status = ResolveDepthwiseInt8(plan, op, &weights);
  if (status != Status::kOk) return status;
  for (int64_t i = 0; i < plan.tensor(op.output).dims[1]; ++i) {
    const auto* scale = reinterpret_cast<const float*>(weights + 16);
    const bool finite = std::all_of(scale, scale + 4, [](float x) { return std::isfinite(x); });
    if (!finite || !NoneIsLeast(weights + 32, static_cast<uint64_t>(4 * op.p[0] * op.p[0])))
      return Status::kBadValue;
    weights += DepthwiseInt8Weights(op.p[0]);
  }
  return Status::kOk;
}

Status ValidateDepthwise(const Plan& plan, const OpRec& op, double* work) {
  const float* weights = nullptr;
  const Status status = DepthwiseFits(plan, op, work);
  return status == Status::kOk ? ResolveDepthwise(plan, op, &weights) : status;
}

}  // namespace edge
