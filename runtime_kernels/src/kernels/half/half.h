// Operations on float16 tensors (plan_format.h): the block-sparse convolutions and linear layers,
// depthwise convolutions, and what moves, adds and pools their elements.
//
// A sum of products may be kept in float16 over kHalfGroup entries; what so many come to is then
// added up in float32. Where a CPU has no float16 arithmetic all sums are float32. With u = 2^-11,
// M = |bias| + sum |w * x| + |residual| and n entries, an output is within
//
//   u * ((min(n, kHalfGroup) + 4) * M + |output|) + (n + 4) * 2^-25
//
// of the exact one, behind an activation with slopes of at most 1.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/conv/conv.h"
#include "kernels/rows/rows.h"
#include "kernels/view.h"

namespace edge {

struct Half {
  uint16_t bits;
};

constexpr int64_t kHalfGroup = 128;

// Exact.
inline __attribute__((always_inline)) float ToFloat(Half h) {
  const uint32_t magnitude = h.bits & 0x7fffu, sign = (h.bits & 0x8000u) << 16;
  uint32_t bits = magnitude << 13;
  float value;
  if (magnitude >= 0x7c00u) {
    bits |= 0x7f800000u;
  } else {  // subnormal numbers come out right too
    std::memcpy(&value, &bits, sizeof(value));
    value *= 0x1p112f;
    std::memcpy(&bits, &value, sizeof(value));
  }
  bits |= sign;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// To nearest, ties to even; beyond 65504 infinity.
inline __attribute__((always_inline)) Half ToHalf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal: 0.5 has its unit as last bit
    float value;
    std::memcpy(&value, &magnitude, sizeof(value));
    value += 0.5f;
    std::memcpy(&half, &value, sizeof(half));
    half -= 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return {static_cast<uint16_t>(sign | half)};
}

// A tensor of float32 or of float16.
struct RealView {
  void* data;  // element (0, 0, 0, 0)
  int32_t n, c, h, w;
  int64_t sn, sc, sh;
  bool half;

  template <typename T>
  BasicView<T> As() const {
    return {static_cast<T*>(data), n, c, h, w, sn, sc, sh};
  }
};

// Like ConvArgs and LinearArgs (conv/conv.h); the weights of `packed` are none.
struct HalfConvArgs {
  PackedView packed;
  const Half* weights;  // [n_entries * block]
  Epilogue epilogue;
  const Half* in;
  int64_t in_n, in_h;
  Half* out;
  int64_t out_n, out_c, out_h;
  const Half* residual;  // or null
  int64_t res_n, res_c, res_h;
  int32_t n, h, w;
  bool may_write_gaps;
};

struct HalfLinearArgs {
  PackedView packed;
  const Half* weights;
  Epilogue epilogue;
  const Half* in;
  int64_t in_n;
  RealView out;
  const Half* residual;  // or null
  int64_t res_n, res_c;
};

struct HalfDepthwiseArgs {
  int32_t k, stride;     // p of the op
  const float* weights;  // [c][DepthwiseWeights(k)]
  Epilogue epilogue;
  BasicView<const Half> in;  // from the first window's first pixel on
  BasicView<Half> out;
};

// In which pieces it is run; the addresses in `args` do not matter.
ConvSchedule PlanConvHalf(const HalfConvArgs& args, size_t threads, Isa isa);
void ConvHalf(const HalfConvArgs& args, const ConvSchedule& schedule, ThreadPool* pool, Isa isa);
void LinearHalf(const HalfLinearArgs& args, ThreadPool* pool, Isa isa);
void DepthwiseHalf(const HalfDepthwiseArgs& args, ThreadPool* pool, Isa isa);

// The ops without weights, by OpKind; all that plan_format.h lets have float16 tensors.
struct HalfCall {
  const OpRec& op;
  const RealView* in;  // [op.n_inputs]
  RealView out;
  const RowOps& rows;
  ThreadPool* pool;
  Isa isa;
};
void RunHalfOp(const HalfCall& call);

}  // namespace edge
