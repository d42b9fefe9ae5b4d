// What an ISA provides to int8.cc. As for conv/kernel_table.h: files compiled with wider -m flags
// include this and no inline function of std::.
#pragma once
#include "kernels/int8/int8.h"

namespace edge {

// Four or eight filters of a block over a rectangle of pixels.
struct Int8ConvJob {
  const int32_t* offsets;  // [n_entries]
  int64_t n_entries;
  int64_t n_shifted;       // entries, the first ones, whose pixels are taken as q + 128
  const int8_t* weights;   // of an entry: [lanes][4]
  int64_t weights_stride;  // from one entry to the next
  const int32_t* bias;     // [lanes]
  const float* scale;      // [lanes]
  const uint32_t* groups;  // [lanes / 4], kNone: unused
  const Quad* in;          // the rectangle's first pixel, before an entry's offset
  int64_t in_h;
  void* out;  // the rectangle's first pixel in the first channels
  int64_t out_c, out_h;
  const Quad* residual;  // the same, or null
  int64_t res_c, res_h;
  int32_t rows, cols;
  int32_t n_filters;  // of the output: channels beyond are not stored as floats
  bool may_overlap;   // as in ConvJob
  const Int8Epilogue* epilogue;
};

// The filters of a block over `rows` inputs.
struct Int8LinearJob {
  const int32_t* offsets;
  int64_t n_entries;
  const uint8_t* weights;  // [n_entries][8][4] levels, or [n_entries / 2][8][4] pairs of codes
  const int8_t* tables;    // of codes, by codebook [2][16]
  const uint8_t* codebooks;
  const Quad* in;
  int64_t in_n;
  int32_t rows;
  int32_t* sums;  // out: [rows][8]
};

// Some rows of a plane of four channels.
struct Int8DepthwiseJob {
  const uint8_t* weights;  // of DepthwiseInt8Weights(k) bytes
  const Quad* in;
  int64_t in_h;
  Quad* out;
  int64_t out_h;
  int64_t rows, cols;
  const Int8Epilogue* epilogue;
};

// Which entries a convolution takes pixels as q + 128 for, unsigned; the bias makes up for it.
enum class Shifted {
  kNone,
  kAll,
  kPairs,  // those of whose products two never leave 16 bits, which come first
};

constexpr int kSmallLevel = 8;  // of fixed point and SP2 with four bits

struct Int8Kernels {
  const char* name;
  Shifted shifted;
  struct {
    int32_t lanes;  // filters computed together
    int32_t tile;   // pixels computed together
    void (*run)(const Int8ConvJob& job);
  } conv[2];       // for blocks of 4, 8 filters
  int32_t vector;  // pixels a vector register
  void (*linear)(const Int8LinearJob& job);
  void (*linear_codes)(const Int8LinearJob& job);
  // The same for levels of at most kSmallLevel and inputs q + 128; null: there is no need.
  void (*linear_small_codes)(const Int8LinearJob& job);
  void (*depthwise[2][2])(const Int8DepthwiseJob& job);  // [k / 5][stride - 1]
  // n pixels of four channels each, missing ones (null) as zeros.
  void (*quantize)(const float* const* channels, Quad* out, int64_t n, float inverse, int32_t zero);
  void (*dequantize)(const Quad* in, float* const* channels, int64_t n, float scale, int32_t zero);
  void (*max)(Quad* out, const Quad* in, int64_t n, int64_t stride);  // out[i] max= in[i * stride]
};

extern const Int8Kernels kFallbackInt8;
extern const Int8Kernels kAvx2Int8;
extern const Int8Kernels kAvx512VnniInt8;
extern const Int8Kernels kDotprodInt8;
extern const Int8Kernels kI8mmInt8;

const Int8Kernels& Int8KernelsOf(Isa isa);

}  // namespace edge
