// Plan::Load: the header, the tables and the order of the checks.
#include "edge/plan.h"

#include <cstring>
#include <memory>
#include <new>

#include "plan/limits.h"
#include "plan/validate.h"

namespace edge {
namespace {

// [offset, offset + count * size) lies between the header and the end of the plan, and is aligned.
bool SectionFits(const Header& h, uint64_t offset, uint64_t count, uint64_t size,
                 uint64_t alignment) {
  if (offset < sizeof(Header) || offset > h.total_size || offset % alignment != 0) return false;
  return count <= (h.total_size - offset) / size;
}

Status CheckHeader(const uint8_t* bytes, size_t size) {
  if (size < sizeof(kPlanMagic)) return Status::kTruncated;
  if (std::memcmp(bytes, kPlanMagic, sizeof(kPlanMagic)) != 0) return Status::kNotAPlan;
  if (size < sizeof(Header)) return Status::kTruncated;
  const Header& h = *reinterpret_cast<const Header*>(bytes);
  if (h.version != kPlanVersion) return Status::kWrongVersion;
  if (h.total_size > size) return Status::kTruncated;
  if (h.total_size < size) return Status::kBadValue;
  if (h.n_tensors > kMaxRecords || h.n_ops > kMaxRecords || h.n_chains > h.n_ops)
    return Status::kBadValue;
  if (h.n_inputs > kMaxOperands || h.n_outputs > kMaxOperands || h.n_outputs == 0)
    return Status::kBadValue;
  if (h.n_inputs + h.n_outputs > h.n_index) return Status::kBadValue;
  if (h.arena_size > kMaxArenaBytes || h.arena_size % sizeof(float) != 0) return Status::kBadValue;
  const bool fits = SectionFits(h, h.tensors_off, h.n_tensors, sizeof(TensorRec), 8) &&
                    SectionFits(h, h.ops_off, h.n_ops, sizeof(OpRec), 8) &&
                    SectionFits(h, h.chains_off, h.n_chains, sizeof(ChainRec), 4) &&
                    SectionFits(h, h.index_off, h.n_index, sizeof(uint32_t), 4) &&
                    SectionFits(h, h.strings_off, h.strings_size, 1, 1) &&
                    SectionFits(h, h.data_off, h.data_size, 1, 64);
  return fits ? Status::kOk : Status::kBadOffset;
}

// The i-th input of the plan names a tensor that is stored there, and so do the outputs.
Status CheckEnds(const Plan& plan) {
  const Header& h = plan.header();
  for (uint32_t i = 0; i < h.n_inputs + h.n_outputs; ++i) {
    if (plan.index(i) >= h.n_tensors) return Status::kBadOffset;
    const bool is_input = i < h.n_inputs;
    const TensorRec& t = plan.tensor(plan.index(i));
    if (t.storage != static_cast<uint32_t>(is_input ? Storage::kInput : Storage::kOutput))
      return Status::kBadValue;
    if (t.io_index != (is_input ? i : i - h.n_inputs)) return Status::kBadValue;
  }
  return Status::kOk;
}

Status CheckOps(const Plan& plan) {
  const Header& h = plan.header();
  std::unique_ptr<RowRange[]> spans(new (std::nothrow) RowRange[h.n_ops]);
  if (spans == nullptr) return Status::kOutOfMemory;
  for (uint32_t i = 0; i < h.n_ops; ++i) {
    const Status status = ValidateReferences(plan, plan.op(i));
    if (status != Status::kOk) return status;
  }
  const Status chained = ValidateChains(plan, spans.get());
  if (chained != Status::kOk) return chained;
  bool written[kMaxOperands] = {};
  double work = 0;
  uint64_t blobs = 0;
  for (uint32_t i = 0; i < h.n_ops; ++i) {
    const OpRec& op = plan.op(i);
    if (op.data_size > h.data_size) return Status::kBadOffset;
    blobs += op.data_size;
    if (blobs / kMaxBlobSharing > h.data_size) return Status::kBadValue;
    const Status status = ValidateOp(plan, op, spans[i], &work);
    if (status != Status::kOk) return status;
    if (!(work <= kMaxWork)) return Status::kBadValue;
    const TensorRec& out = plan.tensor(op.output);
    if (out.storage == static_cast<uint32_t>(Storage::kOutput)) written[out.io_index] = true;
  }
  for (uint32_t i = 0; i < h.n_outputs; ++i) {
    if (!written[i]) return Status::kBadValue;
  }
  return Status::kOk;
}

}  // namespace

const char* StatusMessage(Status status) {
  switch (status) {
    case Status::kOk:
      return "no error";
    case Status::kTruncated:
      return "the plan is cut short";
    case Status::kNotAPlan:
      return "this is not an edgectl plan";
    case Status::kWrongVersion:
      return "the plan has another format version: build it again with the same edgectl release as "
             "this runtime";
    case Status::kBadOffset:
      return "the plan is damaged: something in it points outside of its memory";
    case Status::kBadValue:
      return "the plan is damaged: a size, shape or parameter in it makes no sense";
    case Status::kOutOfMemory:
      return "there is not enough memory for the plan's tensors";
    case Status::kBadArgument:
      return "a buffer is missing or not aligned";
  }
  return "unknown error";
}

Status Plan::Load(const void* bytes, size_t size, Plan* out) {
  if (bytes == nullptr || out == nullptr) return Status::kBadArgument;
  if (reinterpret_cast<uintptr_t>(bytes) % alignof(Header) != 0) return Status::kBadArgument;
  Plan plan;
  plan.bytes_ = static_cast<const uint8_t*>(bytes);
  plan.size_ = size;
  Status status = CheckHeader(plan.bytes_, size);
  if (status == Status::kOk) status = CheckEnds(plan);
  if (status != Status::kOk) return status;
  for (uint32_t i = 0; i < plan.header().n_tensors; ++i) {
    status = ValidateTensor(plan, plan.tensor(i));
    if (status != Status::kOk) return status;
  }
  status = CheckOps(plan);
  if (status == Status::kOk) *out = plan;
  return status;
}

const TensorRec& Plan::tensor(uint32_t id) const {
  return reinterpret_cast<const TensorRec*>(bytes_ + header().tensors_off)[id];
}

const OpRec& Plan::op(uint32_t i) const {
  return reinterpret_cast<const OpRec*>(bytes_ + header().ops_off)[i];
}

const ChainRec& Plan::chain(uint32_t i) const {
  return reinterpret_cast<const ChainRec*>(bytes_ + header().chains_off)[i];
}

uint32_t Plan::index(uint32_t i) const {
  return reinterpret_cast<const uint32_t*>(bytes_ + header().index_off)[i];
}

const TensorRec& Plan::input(uint32_t i) const { return tensor(index(i)); }

const TensorRec& Plan::output(uint32_t i) const { return tensor(index(header().n_inputs + i)); }

std::string_view Plan::name(const OpRec& op) const {
  return {reinterpret_cast<const char*>(bytes_ + header().strings_off + op.name_off), op.name_len};
}

}  // namespace edge
