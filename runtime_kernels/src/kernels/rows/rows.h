// Loops over contiguous rows of floats, built once an instruction set: what the ops other than
// convolution are made of.
#pragma once
#include <cstddef>
#include <cstdint>

#include "edge/plan_format.h"

namespace edge {

// Source columns and weight of one bilinear row: y[i] mixes x[left[i]] and x[right[i]], the right
// one by `weight[i]`.
struct BilinearColumns {
  const int32_t* left;
  const int32_t* right;
  const float* weight;
};

// n is in elements; it may be 0. y may be the same pointer as an input, and otherwise does not
// overlap one. Nothing outside the n elements is read or written.
struct RowOps {
  void (*activate)(ActKind act, float lo, float hi, float* y, const float* x, size_t n);
  void (*exp)(float* y, const float* x, size_t n);
  void (*add)(float* y, const float* a, const float* b, size_t n);
  void (*add_scalar)(float* y, const float* a, float b, size_t n);
  void (*mul)(float* y, const float* a, const float* b, size_t n);
  void (*mul_scalar)(float* y, const float* a, float b, size_t n);
  // y[i] = max(y[i], x[i * step]); a NaN on either side wins.
  void (*max)(float* y, const float* x, size_t step, size_t n);
  // y[i] += x[i * step].
  void (*accumulate)(float* y, const float* x, size_t step, size_t n);
  // y[i] = x[i * step].
  void (*take)(float* y, const float* x, size_t step, size_t n);
  // y[i * step] = x[i].
  void (*put)(float* y, const float* x, size_t step, size_t n);
  // y[i * r + k] = x[k][i] for k < r, r being 2 or 4.
  void (*interleave)(float* y, const float* const* x, size_t r, size_t n);
  // even[i] = x[2 * i], odd[i] = x[2 * i + 1].
  void (*split)(float* even, float* odd, const float* x, size_t n);
  float (*sum)(const float* x, size_t n);
  // y = (1 - t) * bilinear(row0) + t * bilinear(row1).
  void (*bilinear)(float* y, const float* row0, const float* row1, float t,
                   const BilinearColumns& columns, size_t n);
};

// The best table for this CPU; EDGE_ISA is obeyed as in edge::ActiveIsa().
const RowOps& ActiveRowOps();

namespace fallback {
extern const RowOps kRowOps;
}
namespace avx2 {
extern const RowOps kRowOps;
}
namespace avx512 {
extern const RowOps kRowOps;
}

}  // namespace edge
