// The checks behind Plan::Load. Each looks only at what the checks before it have found sound.
#pragma once
#include <cstdint>

#include "edge/plan.h"
#include "kernels/conv/conv.h"
#include "kernels/half/half.h"
#include "kernels/int8/int8.h"
#include "plan/bands.h"

namespace edge {

// Dims, strides, halo and place of one tensor.
Status ValidateTensor(const Plan& plan, const TensorRec& t);

// That no element of a tensor that is written lies inside another element or in the tensor's own
// halo.
Status ValidateWritten(const TensorRec& t);

// That the op's kind exists, and its name and operands.
Status ValidateReferences(const Plan& plan, const OpRec& op);

// That chains follow each other, and stay inside the windows of the tensors that they alone use.
// For every op spans[i] is set to the rows of the first input's memory at which the op's rows begin
// (and end): those of its output, or of a window.
Status ValidateChains(const Plan& plan, RowRange* spans);

// Shapes and parameters of one op, and the memory that it touches. Adds its multiply-adds to *work.
Status ValidateOp(const Plan& plan, const OpRec& op, RowRange span, double* work);

// kConv and kLinear: the same for their weights.
Status ValidatePacked(const Plan& plan, const OpRec& op, RowRange span, double* work);

// kWinograd: the same.
Status ValidateWinograd(const Plan& plan, const OpRec& op, double* work);

// kDepthwise: the same.
Status ValidateDepthwise(const Plan& plan, const OpRec& op, double* work);

// kConvInt8 and kLinearInt8: the same.
Status ValidatePackedInt8(const Plan& plan, const OpRec& op, RowRange span, double* work);

// kDepthwiseInt8: the same.
Status ValidateDepthwiseInt8(const Plan& plan, const OpRec& op, double* work);

// The weights of a kDepthwise, with room for all its channels.
Status ResolveDepthwise(const Plan& plan, const OpRec& op, const float** out);
Status ResolveDepthwiseInt8(const Plan& plan, const OpRec& op, const uint8_t** out);

// The packed weights of a kConv, kLinear or kWinograd; the offsets inside of the blob are checked,
// what they point to is not. Weights for a float16 input go to `halves`.
Status ResolvePacked(const Plan& plan, const OpRec& op, PackedView* out,
                     const Half** halves = nullptr);
Status ResolvePackedInt8(const Plan& plan, const OpRec& op, PackedInt8View* out);

// Multiply-adds (or comparable steps) of one run of a valid plan.
double PlanWork(const Plan& plan);

inline bool SameDims(const TensorRec& a, const TensorRec& b) {
  return a.dims[0] == b.dims[0] && a.dims[1] == b.dims[1] && a.dims[2] == b.dims[2] &&
         a.dims[3] == b.dims[3];
}

inline bool IsInt8(const TensorRec& t) {
  return t.type == static_cast<uint32_t>(ElementType::kInt8x4);
}

inline bool IsHalf(const TensorRec& t) {
  return t.type == static_cast<uint32_t>(ElementType::kFloat16);
}

// Bytes of an element.
inline int64_t ElementSize(const TensorRec& t) { return IsHalf(t) ? 2 : 4; }

// How many groups of four it takes.
inline int32_t InFours(int32_t channels) { return (channels + 3) / 4; }

inline double Elements(const TensorRec& t) {
  return static_cast<double>(t.dims[0]) * t.dims[1] * t.dims[2] * t.dims[3];
}

// Elements from the first to the last one of image n = 0, gaps included.
inline int64_t ImageSpan(const TensorRec& t) {
  return (t.dims[1] - 1) * t.stride[1] + (t.dims[2] - 1) * t.stride[2] + t.dims[3];
}

}  // namespace edge
