// What a plan may ask for at most. Far beyond any network for a phone, small enough that 64-bit
// sums of products cannot overflow and that a damaged plan cannot keep the machine busy for hours.
#pragma once
#include <cstdint>

namespace edge {

constexpr int64_t kMaxDim = int64_t{1} << 24;       // exact in a float
constexpr int64_t kMaxElements = int64_t{1} << 30;  // of a tensor; also the largest stride
constexpr uint64_t kMaxArenaBytes = uint64_t{1} << 32;
constexpr int32_t kMaxHalo = 1 << 16;
constexpr uint32_t kMaxRecords = 1u << 20;       // tensors, ops
constexpr uint32_t kMaxOperands = 1024;          // of one op; inputs or outputs of the plan
constexpr uint32_t kMaxName = 4096;              // bytes; hosts may copy every op's
constexpr double kMaxWork = 4e12;                // multiply-adds of one run
constexpr int64_t kMaxSpace = int64_t{1} << 26;  // floats that a thread may take for one op
constexpr uint64_t kMaxBlobSharing = 16;  // packed blobs may be shared by this many ops on average

}  // namespace edge
