// Operations on int8 tensors (edge/plan_format.h has their arithmetic). Every path computes the
// same bits.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "edge/plan_format.h"
#include "edge/thread_pool.h"
#include "kernels/conv/conv.h"
#include "kernels/view.h"

namespace edge {

// Four channels of a pixel, the first in the lowest byte.
using Quad = uint32_t;

// Packed int8 weights as a plan holds them, offsets resolved to pointers.
struct PackedInt8View {
  uint32_t block;
  uint32_t n_blocks;
  uint32_t n_filters;
  uint32_t n_offsets;
  uint32_t n_entries;
  uint32_t bits;             // of `weights`
  const int8_t* tables;      // [2][16]
  const uint32_t* row_ptr;   // [n_blocks + 1]
  const uint32_t* lists;     // [n_blocks]
  const uint32_t* groups;    // [n_blocks * block / 4]
  const int32_t* offsets;    // [n_offsets]
  const uint8_t* weights;    // [n_entries * block * 4 * bits / 8]
  const int32_t* bias;       // [n_blocks * block]
  const float* scale;        // [n_blocks * block]
  const uint8_t* codebooks;  // [n_blocks * block]
};

// The same as the kernels of an ISA take them: what must be computed first has memory of its own.
struct Int8Weights {
  PackedInt8View packed;
  // Of every block, how many entries come first whose pixels may be taken as q + 128.
  std::unique_ptr<uint32_t[]> shifted;
  bool small_codes = false;  // of a linear layer, whose pixels are taken as q + 128
  std::unique_ptr<uint8_t[]> levels;
  std::unique_ptr<int32_t[]> offsets;
  std::unique_ptr<uint32_t[]> lists;
  std::unique_ptr<int32_t[]> bias;
};

// For ConvInt8, or for LinearInt8. `in_registers`: codes stay codes, for the kernel to decode as it
// reads them. False without memory.
bool PrepareConvInt8(const PackedInt8View& packed, Isa isa, Int8Weights* out);
bool PrepareLinearInt8(const PackedInt8View& packed, bool in_registers, Isa isa, Int8Weights* out);

struct Int8Epilogue {
  ActKind act;   // kNone, kClamp, kLeakyRelu
  float lo, hi;  // clamp: lo, hi; leaky relu: slope in lo
  bool residual_after_act;
  float residual_scale;
  int32_t residual_zero;
  int32_t zero;   // of the output
  bool to_float;  // the output is float32
};

// Strides in elements, quads or floats. Pointers are to element (0, 0, 0, 0).
struct Int8ConvArgs {
  const Int8Weights* weights;
  Int8Epilogue epilogue;
  const Quad* in;
  int64_t in_n, in_h;
  void* out;
  int64_t out_n, out_c, out_h;
  const Quad* residual;  // or null
  int64_t res_n, res_c, res_h;
  int32_t n, h, w;      // of the output
  bool may_write_gaps;  // as in ConvArgs
};

// Out's h and w are 1.
struct Int8LinearArgs {
  const Int8Weights* weights;
  Int8Epilogue epilogue;
  const Quad* in;
  int64_t in_n;
  void* out;
  int64_t out_n, out_c;
  const Quad* residual;  // or null
  int64_t res_n, res_c;
  int32_t n;  // rows
};

// What a depthwise convolution has for every four channels: i32 bias[4], f32 scale[4], and
// int8[k * k][4].
constexpr int64_t DepthwiseInt8Weights(int64_t k) { return 32 + (4 * k * k + 15) / 16 * 16; }

struct Int8DepthwiseArgs {
  int32_t k, stride;
  const uint8_t* weights;  // [c][DepthwiseInt8Weights(k)]
  Int8Epilogue epilogue;
  BasicView<const Quad> in;  // from the first window's first pixel on
  BasicView<Quad> out;
};

struct ConvSchedule;
ConvSchedule PlanConvInt8(const Int8ConvArgs& args, size_t threads, Isa isa);
void ConvInt8(const Int8ConvArgs& args, const ConvSchedule& schedule, ThreadPool* pool, Isa isa);
void LinearInt8(const Int8LinearArgs& args, ThreadPool* pool, Isa isa);
void DepthwiseInt8(const Int8DepthwiseArgs& args, ThreadPool* pool, Isa isa);
// `inverse`: 1 / scale.
void QuantizeInt8(const ConstView& in, const BasicView<Quad>& out, float inverse, int32_t zero,
                  ThreadPool* pool, Isa isa);
void DequantizeInt8(const BasicView<const Quad>& in, const View& out, float scale, int32_t zero,
                    ThreadPool* pool, Isa isa);
// The mean of every channel's map, into a map of one pixel.
void MeanInt8(const BasicView<const Quad>& in, const BasicView<Quad>& out, float scale,
              int32_t in_zero, int32_t zero, ThreadPool* pool);
// Windows as those of kMaxPool's p.
void MaxPoolInt8(const BasicView<const Quad>& in, const BasicView<Quad>& out, const int32_t* p,
                 ThreadPool* pool, Isa isa);

}  // namespace edge
