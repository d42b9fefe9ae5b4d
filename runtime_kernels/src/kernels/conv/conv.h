// The block-sparse convolution and linear kernels: one format (PackedHeader in edge/plan_format.h),
// one template per ISA.
#pragma once
#include <cstddef>
#include <cstdint>

#include "edge/plan_format.h"
#include "edge/thread_pool.h"

namespace edge {

// Packed weights with their offsets resolved to pointers.
struct PackedView {
  uint32_t block;
  uint32_t n_blocks;
  uint32_t n_entries;
  uint32_t n_filters;
  const uint32_t* row_ptr;  // [n_blocks + 1]
  const uint32_t* filters;  // [n_blocks * block]
  const int32_t* offsets;   // [n_entries]
  const float* weights;     // [n_entries * block]
  const float* bias;        // [n_blocks * block]
};

struct Epilogue {
  ActKind act = ActKind::kNone;
  float lo = 0;  // clamp: lo, hi; leaky relu: slope in lo
  float hi = 0;
  bool residual_after_act = false;
};

// Strides in elements; the innermost is 1. Pointers are to element (0, 0, 0, 0).
struct ConvArgs {
  PackedView packed;
  Epilogue epilogue;
  const float* in;
  int64_t in_n, in_h;  // strides of the input (its channel stride is inside the entries' offsets)
  float* out;
  int64_t out_n, out_c, out_h;
  const float* residual;  // or null
  int64_t res_n, res_c, res_h;
  int32_t n, h, w;  // of the output
  // True when stores may also cover the columns between a row's end and the next row's start, in
  // the output and (as reads) the residual: the caller zeroes the output's halo afterwards. Then,
  // when out_h == in_h (and res_h == in_h), a plane can run as one flattened row.
  bool may_write_gaps;
  // True when the input has at least a cache line to read before and after it.
  bool may_read_around;
};

struct LinearArgs {
  PackedView packed;
  Epilogue epilogue;
  const float* in;
  int64_t in_n;
  float* out;
  int64_t out_n, out_c;   // out element (n, f) at n * out_n + f * out_c
  const float* residual;  // or null
  int64_t res_n, res_c;
  int32_t n;  // rows
};

// The last four have the float kernels of the ISA that they extend. kDotprod and kI8mm have kFp16's
// float16 kernels too, where the CPU has it.
enum class Isa : int {
  kFallback = 0,
  kAvx2 = 1,
  kAvx512 = 2,
  kNeon = 3,
  kAvx512Vnni = 4,
  kDotprod = 5,
  kI8mm = 6,
  kFp16 = 7
};
const char* IsaName(Isa isa);
bool IsaSupported(Isa isa);  // compiled in and present on this CPU
// The best supported, or the one named in the environment variable EDGE_ISA (fallback, avx2,
// avx512, avx512vnni, neon, fp16, dotprod, i8mm) when it is supported.
Isa ActiveIsa();
// The one whose float kernels it has.
Isa FloatIsa(Isa isa);

// In which pieces a convolution is run (schedule.h). It depends on everything in `args` but the
// addresses, and takes some microseconds to plan.
struct ConvSchedule;
ConvSchedule PlanConv(const ConvArgs& args, size_t threads, Isa isa);
void Conv(const ConvArgs& args, const ConvSchedule& schedule, ThreadPool* pool, Isa isa);

// Plans and runs.
void Conv(const ConvArgs& args, ThreadPool* pool, Isa isa);
void Linear(const LinearArgs& args, ThreadPool* pool, Isa isa);

}  // namespace edge
